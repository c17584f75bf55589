"""Weights on disk: written whole, read without running any code, and refused in words when they are damaged."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from features.errors import ArtifactError
from features.files import whole_file

# What torch raises for a file that is missing, cut off, or something else.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError)


def write_weights(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values.

    Raises:
        StorageError: The folder cannot be written or the disk is full.
    """
    # torch reports a full disk as a RuntimeError without a cause: it writes to memory here.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


@contextmanager
def reading_weights(path: Path, *more: type[Exception]) -> Iterator[dict[str, Any]]:
    """What `write_weights` wrote; what fails in the block because of it is an error of the file.

    Args:
        path: The file.
        *more: What else a damaged file can raise.

    Raises:
        ArtifactError: It is missing, damaged, or of another model.
    """
    damage: tuple[type[Exception], ...] = (*UNREADABLE, *more)
    try:
        yield torch.load(path, map_location="cpu", weights_only=True)
    except damage as error:
        raise ArtifactError("The weights cannot be read", found=str(path), remedy="Train the model again.") from error
