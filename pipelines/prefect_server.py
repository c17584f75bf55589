"""Prefect as the jobs use it: without a server for one run, or with a server of our own and its pages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from features.errors import TowncastError
from features.files import make_folder

PORT = 4200
# The first start makes the tables of its database [s].
_READY_S = 180.0
_STOP_S = 20.0


class PrefectError(TowncastError):
    """Prefect is not there, or does not start."""


def prepare_environment(home: Path) -> None:
    """Tell Prefect where its files are, and to tell nobody else; to be called before it is imported.

    Args:
        home: Folder of its database, unless `PREFECT_HOME` names one.

    Raises:
        PrefectError: It is not installed.
        StorageError: The folder cannot be made.
    """
    if os.environ.get("PREFECT_HOME") is None:
        os.environ["PREFECT_HOME"] = str(make_folder(home).absolute())
    for name, value in (
        # One run without a server starts a passing one, in a process of its own.
        ("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true"),
        ("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180"),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "false"),
        ("DO_NOT_TRACK", "1"),
    ):
        os.environ.setdefault(name, value)
    from importlib.util import find_spec

    if find_spec("prefect") is None:
        raise PrefectError(
            "Prefect is not installed",
            remedy='Install it with: pip install "towncast[monitor]"; or leave --prefect out.',
        )


@contextlib.contextmanager
def prefect_server(*, port: int = PORT, log: Path) -> Iterator[str]:
    """Prefect's server on loopback with its pages, for as long as the block runs; its address.

    Where `PREFECT_API_URL` names a server, that one is used, and none is started.

    Args:
        port: On 127.0.0.1.
        log: File for what it says.

    Raises:
        PrefectError: It does not start.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield given
        return
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    make_folder(log.parent)
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}/api"
            _wait(process, url, log)
            os.environ["PREFECT_API_URL"] = url
            yield url
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise PrefectError(
                "Prefect's server ended by itself", found=f"status {process.returncode}", remedy=f"See {log}."
            )
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise PrefectError("Prefect's server is not ready", found=f"after {_READY_S:.0f} s", remedy=f"See {log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
