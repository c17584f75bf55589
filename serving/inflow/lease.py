"""Of several workers on a machine one follows the brokers; where it ends, whatever way, another takes over."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from features.files import make_folder

_LOOK_AGAIN_S = 1.0


class Lease:
    """A lock file that the operating system frees with the process.

    Args:
        path: The file; made at the first try.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: FileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock is not None

    async def acquire(self) -> None:
        """Wait until this process has it.

        Raises:
            StorageError: The folder cannot be written.
        """
        make_folder(self._path.parent)
        lock = FileLock(self._path, timeout=0, thread_local=False)
        while True:
            with contextlib.suppress(Timeout):
                lock.acquire()
                self._lock = lock
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    def release(self) -> None:
        """Let it go, also twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
