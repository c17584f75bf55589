"""What a session is: plain data, so that any worker can go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from features.errors import TowncastError

Level = Literal["INFO", "ERROR"]
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One simulation, between two steps.

    Attributes:
        session_id: A random UUID; who knows it may use the session.
        process: Name of the process.
        parameters: All parameters by name, in their units.
        initial_state: States that do not begin at their default.
        state: All states by name, in their units.
        time_s: Simulated time since the start or the last reset [s].
        steps: Steps since then.
        logged: Entries that its log ever had.
        created_s: When it began [s since 1970].
    """

    session_id: str
    process: str
    parameters: Mapping[str, float]
    initial_state: Mapping[str, float]
    state: Mapping[str, float]
    time_s: float
    steps: int
    logged: int
    created_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """What one step did; step 0 is the start.

    Attributes:
        step: Its number.
        time_s: Simulated time after it [s].
        control: What the control was held at; None at the start.
        delta_time_s: How long [s]; None at the start.
        state: The states after it.
    """

    step: int
    time_s: float
    control: float | None
    delta_time_s: float | None
    state: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One line of a session's log.

    Attributes:
        moment_s: When it was written [s since 1970].
        level: How much it matters.
        message: What happened.
    """

    moment_s: float
    level: Level
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What becomes of a session, all of it together or nothing.

    Attributes:
        session: The session after it.
        history: Entries that its history gets.
        log: Entries that its log gets.
        fresh: Whether the history before is forgotten.
        error: Why nothing but the log changes.
    """

    session: Session
    history: tuple[HistoryEntry, ...] = ()
    log: tuple[LogEntry, ...] = ()
    fresh: bool = False
    error: TowncastError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Entry]):
    """Some entries of a history or a log, which both number theirs from 0.

    Attributes:
        session: Whose they are.
        entries: The entries, the oldest first.
        first: Number of the first of them.
        total: How many there ever were.
        dropped: How many of the oldest have been dropped, because there is room for the newest only.
    """

    session: Session
    entries: tuple[Entry, ...]
    first: int
    total: int
    dropped: int

    @property
    def following(self) -> int | None:
        """Number of the entry to go on from; None where these are the last."""
        after = self.first + len(self.entries)
        return after if after < self.total else None
