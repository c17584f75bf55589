"""The figures of all workers of a machine, in files beside the data; the lock of who tells the registry of a canary.

Each worker writes its own file, whole, and reads the others'. Workers that share no data folder know only their own
figures: each may roll back by them, and each may advance by them; the steps are in the registry, so that two who
advance at a time write the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from features.files import make_folder, storage_errors, whole_file
from serving.releases.figures import Beside, Counts, Matched

_LOG = logging.getLogger(__name__)
_FORGET_S = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleEntry:
    """What one worker's version of a role did since it was loaded; see `serving.releases.release.RoleFigures`."""

    version: str
    model_version: str
    counts: Counts = field(default_factory=Counts)
    matched: Matched = field(default_factory=Matched)
    beside: Beside = field(default_factory=Beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEntry:
    """What one worker tells the others.

    Attributes:
        at_s: When it was written [s since 1970].
        plan: Id of the canary's plan, "" for none.
        step: Its step.
        canary: The canary's answers in this step.
        champion: The champion's since the first step.
        matched: Since the first step.
        roles: By role.
    """

    at_s: float
    plan: str = ""
    step: int = 0
    canary: Counts = field(default_factory=Counts)
    champion: Counts = field(default_factory=Counts)
    matched: Matched = field(default_factory=Matched)
    roles: Mapping[str, RoleEntry] = field(default_factory=dict)


_ENTRY = TypeAdapter(BoardEntry)


class Board:
    """One model's figures.

    Args:
        folder: Shared by the workers of a machine; made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / f"figures-{os.getpid()}-{uuid.uuid4().hex[:8]}.json"

    def write(self, entry: BoardEntry) -> None:
        """Write this process's figures.

        Raises:
            StorageError: The folder cannot be written.
        """
        with whole_file(self._own) as temporary:
            temporary.write_bytes(_ENTRY.dump_json(entry))

    def others(self) -> list[BoardEntry]:
        """The figures of the other processes, of those that have ended too."""
        return self._read(but=self._own)

    def entries(self, *, newest_s: float) -> list[BoardEntry]:
        """All figures that were written within the last `newest_s` seconds."""
        oldest = time.time() - newest_s
        return [entry for entry in self._read() if entry.at_s >= oldest]

    def _read(self, but: Path | None = None) -> list[BoardEntry]:
        found = []
        for path in sorted(self.folder.glob("figures-*.json")):
            if path == but:
                continue
            try:
                entry = _ENTRY.validate_json(path.read_bytes())
                if entry.at_s < time.time() - _FORGET_S:
                    path.unlink(missing_ok=True)
                found.append(entry)
            except FileNotFoundError:
                continue  # another worker took it away
            except (OSError, ValidationError) as error:
                _LOG.warning("Figures of another worker cannot be read: %s: %s", path, error)
        return found

    def stop(self, plan: str) -> None:
        """Tell all workers of this machine that a canary is rolled back, even where the registry is away.

        Raises:
            StorageError: The folder cannot be written.
        """
        with whole_file(self.folder / f"stopped-{plan}") as temporary:
            temporary.write_text("", encoding="utf-8")

    def is_stopped(self, plan: str) -> bool:
        """Whether a worker has rolled a canary back."""
        return (self.folder / f"stopped-{plan}").exists()

    @contextlib.contextmanager
    def leading(self, *, wait: bool = False) -> Iterator[bool]:
        """Whether this process is the one that may tell the registry, for as long as the block runs.

        Args:
            wait: Until the one that may now is done, in place of False.

        Raises:
            StorageError: The folder cannot be written.
        """
        make_folder(self.folder)
        with storage_errors(self.folder):
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)


def sum_roles(entries: list[BoardEntry]) -> dict[str, RoleEntry]:
    """The figures of each role, summed over the workers; of the version that the newest entry has in the role."""
    summed: dict[str, RoleEntry] = {}
    for entry in sorted(entries, key=lambda one: one.at_s, reverse=True):
        for role, own in entry.roles.items():
            if role not in summed:
                summed[role] = own
            elif summed[role].version == own.version:
                before = summed[role]
                summed[role] = replace(
                    before,
                    counts=before.counts + own.counts,
                    matched=before.matched + own.matched,
                    beside=before.beside + own.beside,
                )
    return summed
