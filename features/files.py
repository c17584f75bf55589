"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from features.errors import StorageError


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write at `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            fact, remedy = (
                "The disk is full",
                "Free some space, then run the same command again; nothing was half-written.",
            )
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            fact, remedy = "The folder cannot be written", "Give this user write access, or name another folder."
        elif error.errno in {errno.ENOTDIR, errno.EEXIST}:
            fact, remedy = "A file stands where a folder is needed", "Move that file away, or name another folder."
        elif error.errno == errno.EISDIR:
            fact, remedy = "A folder stands where a file is needed", "Move that folder away, or name another file."
        else:
            raise
        raise StorageError(fact, found=str(path), remedy=remedy) from error


def make_folder(path: Path) -> Path:
    """Create `path` and its parents if needed, and return it.

    Raises:
        StorageError: It cannot be created.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def age_s(path: Path) -> float:
    """How long ago a file was written [s]; where it was not, or clocks ran back, for ever."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
    return age if age >= 0 else math.inf


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        StorageError: The folder cannot be written or the disk is full.
    """
    make_folder(path.parent)
    with storage_errors(path.parent):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        with storage_errors(path):
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
