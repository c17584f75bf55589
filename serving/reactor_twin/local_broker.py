"""A broker of our own on loopback, for demonstrations, benchmarks and tests: the real `nats-server`, as a child."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from features.files import make_folder, storage_errors
from serving.reactor_twin.broker import MessagingError

LOOPBACK = "127.0.0.1"
_READY_WITHIN_S = 20.0


def find_nats_server() -> str | None:
    """The program `nats-server`, if it is installed; Debian puts it where users' paths do not look."""
    return shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")


class LocalBroker:
    """One `nats-server` with JetStream, whose store outlives it and whose port stays the same.

    Args:
        folder: Its own folder: store, log and ports. Made by `start`.
        jetstream: Whether it has a store.
        options: More words of its command line.
    """

    def __init__(self, folder: Path, *, jetstream: bool = True, options: Sequence[str] = ()) -> None:
        self.folder = folder.absolute()
        self.jetstream = jetstream
        self.options = tuple(options)
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens; known once it was started."""
        return f"nats://{LOOPBACK}:{self._port}"

    def start(self) -> None:
        """Start it and wait until it listens, on the port that it had before.

        Raises:
            MessagingError: `nats-server` is not installed, or does not start.
            StorageError: The folder cannot be written.
        """
        program = find_nats_server()
        if program is None:
            raise MessagingError(
                "There is no nats-server", found="not on PATH", remedy="Install it: apt-get install nats-server."
            )
        make_folder(self.folder)
        ports = str(-1 if self._port is None else self._port)
        words = [program, "-a", LOOPBACK, "-p", ports, "--ports_file_dir", str(self.folder), *self.options]
        if self.jetstream:
            words += ["-js", "-sd", str(self.folder / "store")]
        with storage_errors(self.folder), (self.folder / "nats.log").open("ab") as log:
            # A group of its own: Ctrl-C in a terminal ends us, and we end it.
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._await_ready(self._process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline and process.poll() is None:
            self._port = self._port or self._told_port(process.pid)
            if self._port is not None and _listens(self._port):
                return
            time.sleep(0.01)
        self.stop()
        tail = (self.folder / "nats.log").read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        raise MessagingError(
            "The nats-server does not start",
            found="; ".join(tail) or "nothing in its log",
            remedy=f"Look into {self.folder / 'nats.log'}.",
        )

    def _told_port(self, process_id: int) -> int | None:
        """The port that it chose; the file is there before it is written."""
        path = self.folder / f"nats-server_{process_id}.ports"
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["nats"][0].rpartition(":")[2])
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def kill(self) -> None:
        """End it as a power cut would, without a chance to put anything in order."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, also twice."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            os.kill(process.pid, number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False
