"""How far retrainings have come: a file each, written whole after every step; and the lock that lets one run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from features.errors import TowncastError
from features.files import make_folder, storage_errors, whole_file
from serving.monitoring.report import Trigger

Step = Literal["ingest", "simulate", "materialise", "tune", "train", "release", "done"]
STEPS: tuple[Step, ...] = ("ingest", "simulate", "materialise", "tune", "train", "release")
Release = Literal["champion", "canary", "shadow", "awaiting approval", "refused"]
_LOG = logging.getLogger(__name__)


class RetrainingRunningError(TowncastError):
    """Another training or retraining of the domain is running."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """How far one target has come.

    Attributes:
        target: What is forecast.
        recipe: How it is trained.
        version: In the registry, None until it is trained.
        release: What became of it, None until that is decided.
        verdict: The gate's, as plain data.
        note: Why it was released as it was.
    """

    target: str
    recipe: str
    version: int | None = None
    release: Release | None = None
    verdict: dict[str, Any] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingState:
    """How far a retraining has come.

    Attributes:
        id: Unique; ascends with time.
        domain: What is retrained.
        trigger: Why.
        began_s: When it began, on the caller's clock [s since 1970].
        updated_s: When this was written [s since 1970].
        step: What is being done; `done` at the end.
        targets: The domain's targets.
        data: Folder or file of a published data set, empty for ingested readings.
        recipe: Asked for by name, empty for the champions'.
        trials: Of the search for a better recipe, 0 for none.
        brought: Whether readings came in by it, which the online store must be told of.
        attempts: How often it was begun.
        process: Who runs it.
        error: Why the last attempt failed.
        given_up: Why it is not taken up again, empty where it is.
    """

    id: str
    domain: str
    trigger: Trigger
    began_s: float
    updated_s: float
    step: Step = "ingest"
    targets: tuple[TargetState, ...] = ()
    data: str = ""
    recipe: str = ""
    trials: int = 0
    brought: bool = False
    attempts: int = 0
    process: int = 0
    error: str = ""
    given_up: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether the next call takes it up again."""
        return self.step != "done" and not self.given_up

    def with_target(self, one: TargetState) -> RetrainingState:
        """The same with another state of a target."""
        targets = tuple(one if before.target == one.target else before for before in self.targets)
        return replace(self, targets=targets)


_STATE = TypeAdapter(RetrainingState)


class RetrainingStore:
    """The states of all retrainings.

    Args:
        root: Their folder; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def save(self, state: RetrainingState) -> RetrainingState:
        """Write a state, whole; the same with its moment.

        Raises:
            StorageError: The folder cannot be written or the disk is full; what was there stays.
        """
        state = replace(state, updated_s=time.time())
        with whole_file(self.root / f"{state.id}.json") as temporary:
            # Not pydantic's writer: a verdict may hold figures that are not finite.
            temporary.write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        return state

    def states(self, domain: str) -> list[RetrainingState]:
        """All retrainings of a domain, newest first; one that cannot be read is left out, and the log says so."""
        found = []
        for path in sorted(self.root.glob(f"{domain}-[0-9]*.json"), reverse=True):
            try:
                found.append(_STATE.validate_python(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                _LOG.warning("The state of a retraining cannot be read: %s: %s", path, error)
        return found

    def latest(self, domain: str) -> RetrainingState | None:
        """The newest retraining of a domain, None where there was none."""
        return next(iter(self.states(domain)), None)

    @contextlib.contextmanager
    def alone(self, domain: str, *, wait_s: float) -> Iterator[None]:
        """Let one training or retraining of a domain at a time into the block; a process that dies lets go.

        Raises:
            RetrainingRunningError: Another one is in it for longer than may be waited.
            StorageError: The folder cannot be written.
        """
        make_folder(self.root)
        lock = FileLock(self.root / f".{domain}.lock", timeout=wait_s)
        try:
            with storage_errors(self.root):
                lock.acquire()
        except Timeout as error:
            raise RetrainingRunningError(
                f"Another training or retraining of {domain} is running",
                found=self._holder(domain),
                remedy="Wait for it, or let a retraining wait with --wait SECONDS; nothing was begun.",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _holder(self, domain: str) -> str | None:
        state = self.latest(domain)
        if state is None or not state.unfinished:
            return None
        since = datetime.fromtimestamp(state.updated_s, tz=UTC)
        return f"process {state.process}, at the step {state.step} since {since:%Y-%m-%d %H:%M:%S} UTC"


def new_state(
    domain: str,
    targets: tuple[TargetState, ...],
    trigger: Trigger,
    *,
    now_s: float,
    data: str,
    recipe: str,
    trials: int,
) -> RetrainingState:
    """A retraining that has not begun yet."""
    stamp = f"{datetime.fromtimestamp(now_s, tz=UTC):%Y%m%dT%H%M%S}"
    return RetrainingState(
        # The replay of a year may run on another clock than this machine's: of equal moments the later sorts last.
        id=f"{domain}-{stamp}-{time.time_ns():016x}",
        domain=domain,
        trigger=trigger,
        began_s=now_s,
        updated_s=now_s,
        targets=targets,
        data=data,
        recipe=recipe,
        trials=trials,
        process=os.getpid(),
    )
