"""The error tree. Every message says the fact, the value found, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TowncastError(Exception):
    """Root of all errors that towncast raises on purpose.

    Args:
        fact: What is wrong, as a full sentence without the final stop.
        found: The value that was found, if there is one.
        remedy: What the reader can do about it, as a full sentence.
    """

    def __init__(self, fact: str, *, found: Any = None, remedy: str) -> None:
        self.fact = fact
        self.found = found
        self.remedy = remedy
        middle = "" if found is None else f" (found: {found})"
        super().__init__(f"{fact}{middle}. {remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross from worker processes: they are copied as they are, not made anew from their message."""
        return _copied, (type(self), self.args, self.__dict__)


def _copied(kind: type[TowncastError], args: tuple[Any, ...], state: dict[str, Any]) -> TowncastError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidParameterError(TowncastError):
    """A request names a value outside what is allowed.

    Args:
        parameter: Dotted name of the parameter.
        provided: The value that was given.
        allowed: The allowed values, or a description of them.
        fact: What is wrong.
        remedy: What to send instead.
        nearest: Allowed names that look like the one that was given.
    """

    def __init__(
        self,
        *,
        parameter: str,
        provided: Any,
        allowed: Sequence[Any] | str,
        fact: str,
        remedy: str,
        nearest: Sequence[str] = (),
    ) -> None:
        super().__init__(fact, found=repr(provided), remedy=remedy)
        self.parameter = parameter
        self.provided = provided
        self.allowed = allowed
        self.nearest = list(nearest)


class UnknownNameError(TowncastError):
    """A name is in no registry; the nearest known ones are in `nearest`."""

    def __init__(self, *, kind: str, name: str, nearest: Sequence[str], known: Sequence[str]) -> None:
        shown = ", ".join(nearest or list(known)[:5]) or "none yet"
        remedy = f"Did you mean: {shown}?" if nearest else f"Known are: {shown}."
        super().__init__(f"There is no {kind} of this name", found=repr(name), remedy=remedy)
        self.kind = kind
        self.name = name
        self.nearest = list(nearest)


class DuplicateNameError(TowncastError):
    """A name is registered twice."""


class DataError(TowncastError):
    """A data file or feed cannot be read as what it claims to be."""


class UnitError(DataError):
    """A unit is unknown, or cannot be converted to the canonical one."""


class NotEnoughDataError(DataError):
    """There are too few readings for what was asked."""


class StorageError(TowncastError):
    """A folder cannot be written, or the disk is full; nothing was half-written."""


class ArtifactError(TowncastError):
    """An artifact is missing, damaged, or lacks its parity certificate."""


class ParityError(ArtifactError):
    """An exported graph does not reproduce the forecaster it came from."""


class PromotionError(TowncastError):
    """A version cannot become champion: the gate, a missing approval, or the history stands against it."""


class RuntimeUnavailableError(TowncastError):
    """The runtime that should answer cannot; another may."""


class DeviceError(TowncastError):
    """An accelerator was asked for and is not there."""


class SearchError(TowncastError):
    """A search for a recipe cannot go on; its finished trials are kept."""
