"""What goes wrong outside a job, as errors that say the remedy."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from features.errors import StorageError

_FULL_WORDS = ("disk is full", "No space left", "File too large")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def job_errors() -> Iterator[None]:
    """Refusals of MLflow, of a database or of the disk as a `StorageError`."""
    import duckdb
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(str(error.filename or error)) from error
    except (MlflowException, SQLAlchemyError, sqlite3.Error, duckdb.Error) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if any(words in str(error) for words in _FULL_WORDS):
            raise _full(first) from error
        raise StorageError(
            "MLflow, or a database, does not answer",
            found=first,
            remedy="Bring it back, or see TOWNCAST_TRACKING_URI; then run the same command again: it goes on.",
        ) from error


def _full(found: str) -> StorageError:
    return StorageError(
        "The disk is full", found=found, remedy="Free some space, then run the same command again: it goes on."
    )


def refuse_missing_registry(tracking_uri: str) -> None:
    """Refuse to begin where the registry's file is gone: MLflow would make an empty one, without a champion.

    Raises:
        StorageError: It is gone.
    """
    if not tracking_uri.startswith("sqlite:///"):
        return
    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if not path.exists():
        raise StorageError(
            "The registry of models is gone",
            found=f"no file {path}",
            remedy="Bring it back, or see TOWNCAST_TRACKING_URI; then run the same command again: it goes on.",
        )
