"""A server under measurement: its processes, pinned to cores, with its log in a file and its memory counted."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from benchmarks.load import Call

_GRACE_S = 15.0


class ServerFailedError(Exception):
    """A server ended or did not get ready; the message has the end of its log."""


def free_port() -> int:
    """A port of loopback that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(port: int, call: Call, *, timeout_s: float = 30.0) -> httpx.Response:
    """One call on a connection of its own.

    Raises:
        httpx.HTTPError: There is no answer.
    """
    headers = {"Content-Type": "application/json", **(call.headers or {})}
    address, method = f"http://127.0.0.1:{port}{call.path}", "POST" if call.body else "GET"
    return httpx.request(method, address, content=call.body, headers=headers, timeout=timeout_s, trust_env=False)


class ServerProcess:
    """A child with all that it starts, in a process group of its own.

    Args:
        command: What to run.
        log: File for its output.
        environment: Variables beside those of this process.
        folder: Its working folder.
        cores: Processor cores that it may use, by default all.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:
        self.command = list(command)
        self.log = log
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})}
        self.folder = folder
        self.cores = list(cores) if cores is not None else None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its children inherit its cores."""
        pinned = (
            ["taskset", "--cpu-list", ",".join(map(str, self.cores)), *self.command] if self.cores else self.command
        )
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                pinned,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def process_id(self) -> int:
        """Of the process that was started."""
        if self._process is None:
            raise ServerFailedError("the server was not started")
        return self._process.pid

    def processes(self) -> list[psutil.Process]:
        """It and all its descendants that run."""
        try:
            first = psutil.Process(self.process_id)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory_mb(self) -> float:
        """Resident memory of all its processes; pages that several of them share are counted once [MB]."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += process.memory_full_info().pss
        return total / 1e6

    def processor_s(self) -> float:
        """Processor time of all its processes since they began [s]."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def wait_for(self, port: int, call: Call, *, timeout_s: float = 120.0) -> None:
        """Wait until a call is answered with 200.

        Raises:
            ServerFailedError: The server ended, or did not answer so in time.
        """
        end, found = time.monotonic() + timeout_s, "nothing answered"
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                raise ServerFailedError(f"the server ended: {self.last_words()}")
            try:
                answer = ask(port, call, timeout_s=5.0)
                if answer.status_code == httpx.codes.OK:
                    return
                found = f"status {answer.status_code} {answer.text[:200]}"
            except httpx.HTTPError as error:
                found = repr(error)
            time.sleep(0.2)
        raise ServerFailedError(f"not ready after {timeout_s:g} s: {found}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return " | ".join(text.strip().splitlines()[-5:])[-600:]

    def stop(self) -> None:
        """Stop it and all that it started; twice does nothing."""
        process, started = self._process, self.processes() if self._process else []
        self._process = None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        psutil.wait_procs(started, timeout=_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for left in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()
