"""Sessions in Redis: they outlive the process, and several workers share them.

A session is three keys, which expire together by the clock of Redis: its record (JSON), its history and its log (lists
of JSON). Two sorted sets hold the ids of the living and of those that expired last. Changes are optimistic: a worker
watches the record, computes, and writes all or, where another worker was faster, begins anew
(https://redis.io/docs/latest/develop/using-commands/transactions/, "Optimistic locking using check-and-set").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from serving.redis_address import unreadable_address
from serving.sessions.errors import (
    SessionBusyError,
    SessionStoreError,
    expired_session,
    too_many_sessions,
    unknown_session,
)
from serving.sessions.session import Change, Entry, HistoryEntry, LogEntry, Page, Session
from serving.sessions.stores import SessionLimits, page_of

_LIVING = "towncast:sessions:living"
_EXPIRED = "towncast:sessions:expired"
# What stands before an id. None begins with another, so whatever is asked for as an id, no key is taken for another's.
_RECORD, _HISTORY, _LOG = "towncast:session:", "towncast:session-history:", "towncast:session-log:"
# Each failed attempt means that another change went through, so this many must have come together.
_ATTEMPTS = 200
_TIMEOUT_S = 2.0
_SESSION_JSON = TypeAdapter(Session)
_HISTORY_JSON = TypeAdapter(HistoryEntry)
_LOG_JSON = TypeAdapter(LogEntry)


class RedisStore:
    """Keeps sessions in Redis 6 or later, not in a cluster. The constructor connects nothing.

    Args:
        url: Address, such as `redis://localhost:6379/0`.
        limits: How much is kept, and how long.
        clock: Seconds since 1970; orders sessions by their last use, their end is decided by Redis.

    Raises:
        InvalidParameterError: The address cannot be one.
    """

    def __init__(self, url: str, limits: SessionLimits, *, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self._clock = clock
        try:
            self._redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                # No silent second try: a step whose answer was lost may have been taken.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise unreadable_address("TOWNCAST_SESSIONS_REDIS_URL", "sessions'", error) from error

    def add(self, begun: Change) -> None:
        """Keep a new session, as `SessionStore` says."""
        session_id = begun.session.session_id
        with _store_errors(), self._redis.pipeline() as pipe:
            pipe.zcard(_LIVING)
            self._write(pipe, begun)
            before, *_ = pipe.execute()
            if before >= self.limits.sessions:
                # Written first and taken back, so that two workers together cannot go beyond the limit.
                self._redis.delete(*_keys(session_id))
                self._redis.zrem(_LIVING, session_id)
                raise too_many_sessions(self.limits.sessions)

    def read(self, session_id: str) -> Session:
        """The session as it is."""
        return self._used(session_id)[0]

    def update(self, session_id: str, change: Callable[[Session], Change]) -> Change:
        """Change a session as a whole, or begin anew where another worker came first."""
        record_key, history_key, _ = _keys(session_id)
        with _store_errors(), self._redis.pipeline() as pipe:
            for _attempt in range(_ATTEMPTS):
                try:
                    pipe.watch(record_key)  # type: ignore[no-untyped-call]
                    made = change(self._session(session_id, cast("str | None", pipe.get(record_key))))
                    pipe.multi()
                    if made.fresh:
                        pipe.delete(history_key)
                    self._write(pipe, made)
                    pipe.execute()
                except WatchError as error:
                    _raise_lost(error)
                    continue
                return made
        remedy = "Send one request after the other, or use a session for each client."
        raise SessionBusyError("Too many changes of the session came at once", found=repr(session_id), remedy=remedy)

    def history(self, session_id: str, *, start: int, limit: int) -> Page[HistoryEntry]:
        """A page of the history, as `SessionStore` says."""
        session, rows = self._used(session_id, _keys(session_id)[1])
        return _page(session, rows, _HISTORY_JSON, total=session.steps + 1, start=start, limit=limit)

    def log(self, session_id: str, *, start: int, limit: int) -> Page[LogEntry]:
        """A page of the log, as `SessionStore` says."""
        session, rows = self._used(session_id, _keys(session_id)[2])
        return _page(session, rows, _LOG_JSON, total=session.logged, start=start, limit=limit)

    def sweep(self) -> list[str]:
        """Forget the ids of what has expired; of several workers, one gets each of them."""
        swept = []
        with _store_errors(), self._redis.pipeline() as pipe:
            due = cast("list[str]", self._redis.zrangebyscore(_LIVING, "-inf", self._clock()))
            for session_id in due:
                if self._redis.exists(_keys(session_id)[0]):
                    continue
                pipe.zrem(_LIVING, session_id)
                pipe.zadd(_EXPIRED, {session_id: self._clock()})
                removed, _ = pipe.execute()
                if removed:
                    swept.append(session_id)
            self._redis.zremrangebyrank(_EXPIRED, 0, -self.limits.sessions - 1)
        return swept

    def close(self) -> None:
        """Close the connections; the sessions stay."""
        self._redis.close()

    def _used(self, session_id: str, list_key: str = "") -> tuple[Session, list[str]]:
        """A session that is used now, and what one of its lists holds at the same moment."""
        with _store_errors(), self._redis.pipeline() as pipe:
            pipe.get(_keys(session_id)[0])
            self._prolong(pipe, session_id)
            if list_key:
                pipe.lrange(list_key, 0, -1)
            answers = pipe.execute()
            session = self._session(session_id, answers[0])
            # Not before it is known to live: an expired one must not count as living because somebody asks for it.
            self._redis.zadd(_LIVING, {session_id: self._expires_s()})
        return session, answers[-1]

    def _session(self, session_id: str, record: str | None) -> Session:
        """The session in a record.

        Raises:
            UnknownSessionError: There is no record, and was none.
            SessionExpiredError: There was one.
        """
        if record is not None:
            return _SESSION_JSON.validate_json(record)
        if any(self._redis.zscore(ids, session_id) is not None for ids in (_LIVING, _EXPIRED)):
            raise expired_session(session_id, self.limits.ttl_s)
        raise unknown_session(session_id)

    def _write(self, pipe: Any, made: Change) -> None:
        """Queue the commands that write a change and begin the session's time to live anew."""
        session_id = made.session.session_id
        record_key, history_key, log_key = _keys(session_id)
        pipe.set(record_key, _SESSION_JSON.dump_json(made.session))
        if made.history:
            pipe.rpush(history_key, *map(_HISTORY_JSON.dump_json, made.history))
            pipe.ltrim(history_key, -self.limits.history, -1)
        if made.log:
            pipe.rpush(log_key, *map(_LOG_JSON.dump_json, made.log))
            pipe.ltrim(log_key, -self.limits.log, -1)
        pipe.zadd(_LIVING, {session_id: self._expires_s()})
        self._prolong(pipe, session_id)

    def _prolong(self, pipe: Any, session_id: str) -> None:
        """Queue the commands that begin a session's time to live anew, if it lives."""
        for key in _keys(session_id):
            pipe.pexpire(key, max(1, round(self.limits.ttl_s * 1000)))

    def _expires_s(self) -> float:
        return self._clock() + self.limits.ttl_s


def _keys(session_id: str) -> tuple[str, str, str]:
    """Keys of the record, the history and the log."""
    return _RECORD + session_id, _HISTORY + session_id, _LOG + session_id


def _page(
    session: Session, rows: Sequence[str], adapter: TypeAdapter[Entry], *, total: int, start: int, limit: int
) -> Page[Entry]:
    raw = page_of(session, rows, count=len(rows), total=total, start=start, limit=limit)
    with _store_errors():
        entries = tuple(adapter.validate_json(row) for row in raw.entries)
    return Page(session=session, entries=entries, first=raw.first, total=raw.total, dropped=raw.dropped)


def _raise_lost(error: WatchError) -> None:
    """Raise where a connection broke: redis-py says then, too, that the watched key changed, and invites to try again.

    Raises:
        SessionStoreError: It did, and whether the change was written is not known.
    """
    if isinstance(error.__context__, RedisConnectionError | RedisTimeoutError):
        fact = "The store of sessions went away while it was changing the session"
        remedy = "Look at the session's state before you send the request again: the change may have been made."
        raise SessionStoreError(fact, found=str(error.__context__), remedy=remedy) from error


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn what Redis and its records can do to us into a `SessionStoreError`."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError) as error:
        fact, remedy = "The store of sessions does not answer", "See that Redis runs at TOWNCAST_SESSIONS_REDIS_URL."
        raise SessionStoreError(fact, found=str(error), remedy=remedy) from error
    except (RedisError, ValidationError) as error:
        fact, remedy = "The store of sessions holds or does what it should not", "See the log, and begin a new session."
        raise SessionStoreError(fact, found=str(error), remedy=remedy) from error
