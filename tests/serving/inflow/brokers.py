"""Real servers for these tests, each a child process on a free port of loopback."""

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """A program that listens on a port; it can be killed and started again there."""

    def __init__(self, words: list[str], port: int) -> None:
        self.port = port
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, f"{self._words[0]} has ended"
                assert time.monotonic() < deadline, f"{self._words[0]} does not listen"
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def mosquitto(folder: Path, *, password: str = "") -> Server:
    """Mosquitto that keeps its sessions in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_on_changes true",
        "autosave_interval 1",
        "user root",
        "log_dest none",
    ]
    if password:
        words = ["mosquitto_passwd", "-b", "-c", str(folder / "users"), "sensor", password]
        subprocess.run(words, check=True, capture_output=True)
        lines += ["allow_anonymous false", f"password_file {folder}/users"]
    else:
        lines.append("allow_anonymous true")
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    return Server(["mosquitto", "-c", str(folder / "mosquitto.conf")], port)


def redis_server(folder: Path, *, password: str = "") -> Server:
    """Redis that writes nothing to disk."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    return Server([*words, *(["--requirepass", password] if password else [])], port)
