"""What belongs to the request that is being answered, wherever its reply is made."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        name: Name of the key or subject of the token; `loopback` where nobody must say who they are.
        scopes: What they may do, see `serving.security`.
        requests_per_minute: Their rate limit; 0 for none.
    """

    name: str
    scopes: frozenset[str]
    requests_per_minute: int = 0


# Identifier of the request: its `X-Request-Id`, or one that was made for it.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
