"""What can be wrong about a session."""

from __future__ import annotations

from features.errors import TowncastError


class UnknownSessionError(TowncastError):
    """There is no session of this id, and none that expired lately had it."""


class SessionExpiredError(TowncastError):
    """The session was not used for too long and is gone."""


class SessionLimitError(TowncastError):
    """There are as many sessions as may be at once."""


class SessionBusyError(TowncastError):
    """So many changes of a session came together that this one found no turn; nothing was changed by it."""


class SessionStoreError(TowncastError):
    """The store of sessions does not answer, or holds what is no session."""


def unknown_session(session_id: str) -> UnknownSessionError:
    """The error of an id that no session has. It names no other: an id is all that protects a session."""
    return UnknownSessionError(
        "There is no session of this id", found=repr(session_id[:64]), remedy="Begin a new session."
    )


def expired_session(session_id: str, ttl_s: float) -> SessionExpiredError:
    """The error of a session that was left alone for `ttl_s` [s]."""
    fact = f"The session has expired: it was not used for {ttl_s:g} seconds"
    return SessionExpiredError(fact, found=repr(session_id[:64]), remedy="Begin a new session.")


def too_many_sessions(limit: int) -> SessionLimitError:
    """The error of one session more than `limit`."""
    remedy = "Wait until some expire, or set TOWNCAST_SESSION_LIMIT."
    return SessionLimitError("There are as many sessions as may be", found=limit, remedy=remedy)
