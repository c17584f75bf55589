"""The folder in which several workers share their figures; free of the client library, which looks for it at import."""

from __future__ import annotations

import os
from pathlib import Path

from features.files import make_folder, storage_errors

# The client library's own name is no sign: Feast sets it, to a folder of its own, wherever it is imported.
_OURS = "TOWNCAST_METRICS_DIR"
_LIBRARYS = "PROMETHEUS_MULTIPROC_DIR"


def share_figures(folder: Path) -> None:
    """Have the workers that are started from now on share their figures in a folder; what lies in it is removed.

    To be called by the process that starts the workers. They take it from their environment, and must find it there
    before anything imports `prometheus_client`.

    Raises:
        StorageError: The folder cannot be written.
    """
    make_folder(folder)
    with storage_errors(folder):
        for file in folder.glob("*.db"):
            file.unlink()
    os.environ[_OURS] = os.environ[_LIBRARYS] = str(folder.absolute())


def shared_folder() -> Path | None:
    """The folder in which this process shares its figures; None where it keeps them to itself."""
    folder = os.environ.get(_OURS)
    return Path(folder) if folder else None
