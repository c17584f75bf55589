"""A PostgreSQL of one's own on loopback, from the programs that are installed; gone at the end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg


def _program(name: str) -> str | None:
    """Path of a program of PostgreSQL: of the PATH, or where Debian keeps it."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(kept[-1]) if kept else None)


def postgres_is_there() -> bool:
    """Whether its programs are installed."""
    return None not in map(_program, ("initdb", "postgres", "pg_ctl"))


def _as_its_user() -> list[str]:
    """PostgreSQL does not run as root."""
    return ["runuser", "-u", "postgres", "--"] if Path("/proc/self").stat().st_uid == 0 else []


def _run(program: str, *words: str) -> None:
    subprocess.run([*_as_its_user(), str(_program(program)), *words], check=True, capture_output=True, cwd="/")


@contextmanager
def postgres_server(*, sync: bool = True) -> Iterator[int]:
    """The port of a server with its own settings, and a superuser `town` without a password.

    Args:
        sync: Whether it brings what it is told to the disk before it says so.
    """
    # Not in a folder of the caller, which may be root's alone.
    with tempfile.TemporaryDirectory(prefix="towncast-postgres-") as folder:
        if _as_its_user():
            shutil.chown(folder, "postgres")
        _run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "town", "--no-sync")
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            port = int(opened.getsockname()[1])
        words = [str(_program("postgres")), "-D", f"{folder}/data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
        words += [] if sync else ["-F"]
        silent = subprocess.DEVNULL
        with subprocess.Popen([*_as_its_user(), *words], stdout=silent, stderr=silent, cwd="/") as server:
            try:
                while server.poll() is None and not _answers(port):
                    time.sleep(0.05)
                yield port
            finally:
                _run("pg_ctl", "-D", f"{folder}/data", "stop", "-m", "immediate")
                server.wait()


def _answers(port: int) -> bool:
    try:
        with closing(psycopg.connect(_address(port, "postgres"))):
            return True
    except psycopg.OperationalError:
        return False


def _address(port: int, database: str) -> str:
    return f"postgresql://town@127.0.0.1:{port}/{database}"


def new_database(port: int, name: str) -> str:
    """SQLAlchemy address of an empty database that is made now; one of this name is removed before."""
    with psycopg.connect(_address(port, "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    return _address(port, name).replace("postgresql:", "postgresql+psycopg:")
