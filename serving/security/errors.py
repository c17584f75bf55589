"""Why a request is refused before it is answered. `serving.errors` maps each to its status."""

from __future__ import annotations

from features.errors import TowncastError
from serving.request_context import Caller


class UnauthorizedError(TowncastError):
    """Nobody, or nobody known, asks.

    Args:
        fact: What is wrong.
        reason: One word for logs and figures: `missing`, `malformed`, `unknown`, `expired`, `revoked`, `forged`.
        remedy: What to do about it.
    """

    def __init__(self, fact: str, *, reason: str, remedy: str) -> None:
        super().__init__(fact, remedy=remedy)
        self.reason = reason


class ForbiddenError(TowncastError):
    """The caller is known, and may not do this.

    Args:
        scope: What they lack.
        caller: Who they are.
    """

    def __init__(self, scope: str, *, caller: Caller) -> None:
        super().__init__(
            f"This needs the scope {scope}", remedy=f"Use a key or a token that has {scope}, or ask for one."
        )
        self.scope = scope
        self.caller = caller


class RateLimitedError(TowncastError):
    """The caller's requests of this minute are used up."""


class BodyTimeoutError(TowncastError):
    """A request's body comes too slowly."""


class RequestTimeoutError(TowncastError):
    """A request took longer than any may."""


class LongUrlError(TowncastError):
    """A request's address is longer than any that there is."""


class UnsoundPathError(TowncastError):
    """A request's path climbs out of where it begins, or holds what no name holds."""
