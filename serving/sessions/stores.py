"""Where sessions are kept: the contract, and the memory of one process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from serving.sessions.errors import SessionStoreError, expired_session, too_many_sessions, unknown_session
from serving.sessions.session import Change, Entry, HistoryEntry, LogEntry, Page, Session

if TYPE_CHECKING:
    from serving.settings import ServingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How much is kept, and how long.

    Attributes:
        ttl_s: How long a session lives after its last use [s].
        sessions: Most sessions at once.
        history: Newest entries of each history that are kept.
        log: Newest entries of each log that are kept.
    """

    ttl_s: float = 3600.0
    sessions: int = 1000
    history: int = 1000
    log: int = 200


class SessionStore(Protocol):
    """Keeps sessions until they are not used for a while. Any thread may call it; every use is a renewal.

    All methods that name a session raise:
        UnknownSessionError: There is none of this id.
        SessionExpiredError: There was one.
        SessionStoreError: The store does not answer.
    """

    @property
    def limits(self) -> SessionLimits:
        """How much is kept, and how long."""

    def add(self, begun: Change) -> None:
        """Keep a new session.

        Raises:
            SessionLimitError: There are too many.
        """

    def read(self, session_id: str) -> Session:
        """The session as it is."""

    def update(self, session_id: str, change: Callable[[Session], Change]) -> Change:
        """Change a session as a whole; what changes at the same time comes wholly before or wholly after.

        Args:
            session_id: Which one.
            change: Gives the change of the session as it is. It may be asked again, about a later state, where
                another worker came first, and should do nothing but answer.

        Raises:
            SessionBusyError: Others came first too often.
        """

    def history(self, session_id: str, *, start: int, limit: int) -> Page[HistoryEntry]:
        """At most `limit` entries of the history from number `start`, or from the oldest that is kept."""

    def log(self, session_id: str, *, start: int, limit: int) -> Page[LogEntry]:
        """At most `limit` entries of the log from number `start`, or from the oldest that is kept."""

    def sweep(self) -> list[str]:
        """Forget what has expired, and return the ids that no sweep returned before."""

    def close(self) -> None:
        """Give back what the store holds."""


class NoStore:
    """Keeps nothing, and says so: where several workers answer, the next request may come to another one.

    Args:
        limits: Of the store that there is not.
        workers: How many answer.
    """

    def __init__(self, limits: SessionLimits, workers: int) -> None:
        self.limits = limits
        self._workers = workers

    def _refuse(self) -> SessionStoreError:
        return SessionStoreError(
            "Sessions need a store that all workers share",
            found=f"{self._workers} workers and no Redis",
            remedy="Set TOWNCAST_SESSIONS_REDIS_URL, or serve with one worker.",
        )

    def add(self, begun: Change) -> None:
        """Refuse."""
        raise self._refuse()

    def read(self, session_id: str) -> Session:
        """Refuse."""
        raise self._refuse()

    def update(self, session_id: str, change: Callable[[Session], Change]) -> Change:
        """Refuse."""
        raise self._refuse()

    def history(self, session_id: str, *, start: int, limit: int) -> Page[HistoryEntry]:
        """Refuse."""
        raise self._refuse()

    def log(self, session_id: str, *, start: int, limit: int) -> Page[LogEntry]:
        """Refuse."""
        raise self._refuse()

    def sweep(self) -> list[str]:
        """Forget nothing."""
        return []

    def close(self) -> None:
        """Give back nothing."""


def open_store(settings: ServingSettings, *, clock: Callable[[], float] = time.time) -> SessionStore:
    """The store that the settings name: Redis where there is an address, else memory. Nothing is connected yet."""
    limits = SessionLimits(
        ttl_s=settings.session_ttl_s,
        sessions=settings.session_limit,
        history=settings.session_history_limit,
        log=settings.session_log_limit,
    )
    if not settings.sessions_redis_url:
        return MemoryStore(limits, clock=clock) if settings.workers == 1 else NoStore(limits, settings.workers)
    from serving.sessions.redis_store import RedisStore

    return RedisStore(settings.sessions_redis_url, limits, clock=clock)


def page_of(session: Session, kept: Iterable[Entry], *, count: int, total: int, start: int, limit: int) -> Page[Entry]:
    """A page of the newest `count` of `total` entries."""
    dropped = total - count
    first = min(max(start, dropped), total)
    entries = tuple(islice(kept, first - dropped, first - dropped + limit))
    return Page(session=session, entries=entries, first=first, total=total, dropped=dropped)


@dataclass(slots=True, kw_only=True)
class _Kept:
    session: Session
    history: deque[HistoryEntry]
    log: deque[LogEntry]
    expires_s: float
    turn: threading.Lock = field(default_factory=threading.Lock)


class MemoryStore:
    """Keeps sessions in the memory of this process, until it ends.

    Args:
        limits: How much is kept, and how long.
        clock: Seconds since 1970.
    """

    def __init__(self, limits: SessionLimits, *, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self._clock = clock
        # The longest unused first, so that a sweep looks at those alone that have expired.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._expired: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, begun: Change) -> None:
        """Keep a new session, as `SessionStore` says."""
        kept = _Kept(
            session=begun.session,
            history=deque(begun.history, maxlen=self.limits.history),
            log=deque(begun.log, maxlen=self.limits.log),
            expires_s=self._clock() + self.limits.ttl_s,
        )
        with self._lock:
            if len(self._kept) >= self.limits.sessions:
                raise too_many_sessions(self.limits.sessions)
            self._kept[begun.session.session_id] = kept

    def read(self, session_id: str) -> Session:
        """The session as it is."""
        return self._renewed(session_id).session

    def update(self, session_id: str, change: Callable[[Session], Change]) -> Change:
        """Change a session as a whole, one change after the other."""
        kept = self._renewed(session_id)
        with kept.turn:
            made = change(kept.session)
            kept.session = made.session
            if made.fresh:
                kept.history.clear()
            kept.history.extend(made.history)
            kept.log.extend(made.log)
        return made

    def history(self, session_id: str, *, start: int, limit: int) -> Page[HistoryEntry]:
        """A page of the history, as `SessionStore` says."""
        kept = self._renewed(session_id)
        with kept.turn:
            total = kept.session.steps + 1
            return page_of(kept.session, kept.history, count=len(kept.history), total=total, start=start, limit=limit)

    def log(self, session_id: str, *, start: int, limit: int) -> Page[LogEntry]:
        """A page of the log, as `SessionStore` says."""
        kept = self._renewed(session_id)
        with kept.turn:
            total = kept.session.logged
            return page_of(kept.session, kept.log, count=len(kept.log), total=total, start=start, limit=limit)

    def sweep(self) -> list[str]:
        """Forget what has expired."""
        swept = []
        with self._lock:
            now_s = self._clock()
            while self._kept and next(iter(self._kept.values())).expires_s <= now_s:
                session_id, _ = self._kept.popitem(last=False)
                self._expired[session_id] = None
                swept.append(session_id)
            while len(self._expired) > self.limits.sessions:
                self._expired.popitem(last=False)
        return swept

    def close(self) -> None:
        """Forget all sessions."""
        with self._lock:
            self._kept.clear()
            self._expired.clear()

    def _renewed(self, session_id: str) -> _Kept:
        """A session that is used now.

        Raises:
            UnknownSessionError: There is none of this id.
            SessionExpiredError: There was one.
        """
        with self._lock:
            kept, now_s = self._kept.get(session_id), self._clock()
            if kept is None and session_id not in self._expired:
                raise unknown_session(session_id)
            if kept is None or kept.expires_s <= now_s:
                raise expired_session(session_id, self.limits.ttl_s)
            kept.expires_s = now_s + self.limits.ttl_s
            self._kept.move_to_end(session_id)
        return kept
