"""A real Redis for tests."""

import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry


class RedisServer:
    """A Redis of the test's own, which writes no file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the port that it had or on a free one; one that another took in the meantime is left to him."""
        while True:
            port = self.port or free_port()
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            self._process = subprocess.Popen(
                ["redis-server", *options], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if self._answers(port):
                self.port = port
                return

    def _answers(self, port: int) -> bool:
        assert self._process is not None
        with closing(Redis(port=port, retry=Retry(NoBackoff(), 0))) as client:
            while self._process.poll() is None:
                try:
                    found: Any = client.info("server")
                except RedisConnectionError:
                    time.sleep(0.02)
                    continue
                if found["process_id"] == self._process.pid:
                    return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
    return port
