"""What every request passes before it is answered, and every reply after."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from features.errors import TowncastError
from serving.errors import BodyTooLargeError, MediaTypeError, refusal
from serving.request_context import CALLER, REQUEST_ID, Caller
from serving.schemas import REQUEST_ID_LENGTH
from serving.security.audit import CLIENT, RefusalAudit
from serving.security.errors import (
    BodyTimeoutError,
    ForbiddenError,
    LongUrlError,
    RateLimitedError,
    RequestTimeoutError,
    UnauthorizedError,
    UnsoundPathError,
)
from serving.security.exchange import Deadlines, Exchange, too_large
from serving.security.guard import Guard
from serving.security.limits import ASK, Limits, reset_s
from serving.security.scopes import PUBLIC, needed_scope
from serving.security.settings import is_loopback
from serving.text import new_id

_LOG = logging.getLogger(__name__)
_LONGEST_URL: Final = 8192
_KEPT_PATHS: Final = 4096
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
_BEARER: Final = "bearer"
# How often a request asks for a share that others have used up when its turn comes.
_ASKED: Final = 3
# What figures call the errors of this package.
_REASONS: Final[tuple[tuple[type[TowncastError], str], ...]] = (
    (UnauthorizedError, "unauthorized"),
    (ForbiddenError, "forbidden"),
    (RateLimitedError, "rate"),
    (BodyTooLargeError, "body"),
    (MediaTypeError, "body"),
    (BodyTimeoutError, "body"),
    (RequestTimeoutError, "timeout"),
    (LongUrlError, "url"),
    (UnsoundPathError, "url"),
)
REALM: Final = 'Bearer realm="towncast"'


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """Largest bodies [byte].

    Attributes:
        usual: Of any path that is not named here.
        batch: Of paths that end in `/batch`.
        infer: Of paths that end in `/infer`.
        readings: Of `/readings`.
    """

    usual: int = 65536
    batch: int = 1048576
    infer: int = 16777216
    readings: int = 4194304

    def of(self, path: str) -> int:
        """The limit of a path."""
        if path.endswith("/batch"):
            return self.batch
        if path.endswith("/infer"):
            return self.infer
        return self.readings if path.rstrip("/").endswith("/readings") else self.usual


class Gateway:
    """ASGI middleware, the outermost: request id, caller, rate limit, body, time.

    A refusal is in the envelope of every error. Replies get `X-Request-Id`, and the rate limit's headers where there is
    one. A WebSocket says who it is by the same headers or, because pages cannot set any, by the subprotocols `bearer`
    and the key or token: `new WebSocket(url, ["bearer", key])`.

    Args:
        app: The app behind it.
        guard: Says who asks.
        limits: Counts requests.
        body_limits: Largest bodies.
        deadlines: Ends requests that take too long.
        loopback_only: Refuse, where nobody must say who they are, what reaches us at another address than loopback.
        count_refusal: Called with the reason of each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        guard: Guard,
        limits: Limits,
        body_limits: BodyLimits,
        deadlines: Deadlines,
        loopback_only: bool,
        count_refusal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.app = app
        self._guard = guard
        self._limits = limits
        self._body_limits = body_limits
        self._deadlines = deadlines
        self._loopback_only = loopback_only
        self._count_refusal = count_refusal
        self._refusals = RefusalAudit()
        self._known: dict[str, tuple[str, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        now_s = time.time()
        api_key = authorization = encoding = announced = given_id = None
        for name, value in scope["headers"]:
            # A second key is not chosen from: what stands before us may have looked at the other one.
            if name == b"x-api-key":
                api_key = value if api_key is None else b""
            elif name == b"authorization":
                authorization = value if authorization is None else b""
            elif name == b"content-length":
                announced = value
            elif name == b"content-encoding":
                encoding = value
            elif name == b"x-request-id":
                given_id = value
        request_id = _request_id(given_id)
        REQUEST_ID.set(request_id)
        CALLER.set(None)
        exchange = Exchange(receive, send, [(b"x-request-id", request_id.encode()), _NO_SNIFFING])
        self._deadlines.begin(exchange)
        try:
            needed, exchange.limit_bytes = self._admit_path(scope)
            if needed != PUBLIC:
                caller = self._guard.admit_one(api_key, authorization, scope=needed)
                CALLER.set(caller)
                if caller.requests_per_minute:
                    await self._count(caller, exchange.headers, now_s)
            if encoding is not None:
                _check_encoding(encoding, scope["method"])
            if announced is not None and announced.isdigit() and int(announced) > exchange.limit_bytes:
                exchange.close = True
                raise too_large(int(announced), exchange.limit_bytes)
            await self.app(scope, exchange.receive, exchange.send)
        except TowncastError as error:
            if exchange.started:
                raise
            await self._refuse(error, scope, exchange, now_s)
        except asyncio.CancelledError:
            if not exchange.overdue:
                raise
            await self._end(scope, exchange, now_s)
        finally:
            self._deadlines.end(exchange)

    def _admit_path(self, scope: Scope) -> tuple[str, int]:
        """The scope that the request needs, and the limit of its body [byte].

        Raises:
            TowncastError: There can be nothing at this address, or we should not be asked at it.
        """
        path: str = scope["path"]
        if len(path) + len(scope["query_string"]) > _LONGEST_URL:
            raise LongUrlError("The URL is too long", remedy=f"Use at most {_LONGEST_URL} characters.")
        client = scope.get("client")
        CLIENT.set(client[0] if client else "")
        if self._loopback_only and not _ours_alone(scope.get("server")):
            raise UnauthorizedError(
                "This address can be reached from elsewhere, and nobody would have to say who they are",
                reason="missing",
                remedy="Set TOWNCAST_HOST to the address that is listened on, or TOWNCAST_SECURITY to on, or to off.",
            )
        known = self._known.get(path)
        if known is None:
            known = self._look_up(path, scope.get("root_path", ""))
            if len(self._known) >= _KEPT_PATHS:
                self._known.clear()
            self._known[path] = known
        return known

    def _look_up(self, path: str, root: str) -> tuple[str, int]:
        """As `_admit_path`, of a path that is asked for the first time.

        Raises:
            UnsoundPathError: It leaves the place that it begins in, or holds what no name holds.
        """
        plain = unquote(path)
        if not plain.isprintable() or {".", ".."} & set(plain.replace("\\", "/").split("/")):
            raise UnsoundPathError("Nothing is at such a path", remedy="See /docs for the paths that there are.")
        asked = path.removeprefix(root) if root and path.startswith(f"{root}/") else path
        return needed_scope(asked), self._body_limits.of(asked)

    async def _count(self, caller: Caller, headers: list[tuple[bytes, bytes]], now_s: float) -> None:
        """Count the request, and say in the reply's headers what is left.

        Raises:
            RateLimitedError: There were too many.
        """
        name, limit = caller.name if self._guard.asks else CLIENT.get(), caller.requests_per_minute
        left = self._limits.take(name, limit, now_s)
        for _ in range(_ASKED):
            if left != ASK:
                break
            await self._limits.ask(name)
            left = self._limits.take(name, limit, now_s)
        headers += (
            (b"x-ratelimit-limit", b"%d" % limit),
            (b"x-ratelimit-remaining", b"%d" % max(0, left)),
            (b"x-ratelimit-reset", b"%d" % reset_s(now_s)),
        )
        if left < 0:
            raise RateLimitedError(
                f"The limit is {limit} requests a minute",
                remedy="Wait until X-RateLimit-Reset, or ask for a higher one.",
            )

    async def _end(self, scope: Scope, exchange: Exchange, now_s: float) -> None:
        """Answer a request that took too long, if its reply has not begun."""
        if exchange.started:
            # Too late for a status: the connection ends, so that half a reply is not taken for a whole one.
            _LOG.warning("Request %s took too long and was cut off", REQUEST_ID.get())
            return
        error: TowncastError
        if exchange.overdue == "body":
            fact = f"The body did not come in {self._deadlines.body_s:g} s"
            error = BodyTimeoutError(fact, remedy="Send it faster, or in smaller parts.")
        else:
            fact = f"The request took longer than {self._deadlines.request_s:g} s"
            error = RequestTimeoutError(fact, remedy="Try again, or ask for less at once.")
        await self._refuse(error, scope, exchange, now_s)

    async def _refuse(self, error: TowncastError, scope: Scope, exchange: Exchange, now_s: float) -> None:
        headers = self._noted(error, now_s, path=scope["path"])
        await refusal(error).reply(headers)(scope, exchange.receive, exchange.send)

    def _noted(self, error: TowncastError, now_s: float, *, path: str) -> dict[str, str]:
        """Count a refusal and write it down; the headers that go with it."""
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "")
        if reason:
            self._count_refusal(reason)
        headers: dict[str, str] = {}
        if isinstance(error, UnauthorizedError):
            given = "" if error.reason == "missing" else ', error="invalid_token"'
            headers["WWW-Authenticate"] = REALM + given
            self._refusals.write(error.reason, client=CLIENT.get(), now_s=now_s, path=path)
        elif isinstance(error, ForbiddenError):
            CALLER.set(error.caller)
            headers["WWW-Authenticate"] = f'{REALM}, error="insufficient_scope", scope="{error.scope}"'
            self._refusals.write(reason, client=CLIENT.get(), now_s=now_s, path=path, scope=error.scope)
        elif isinstance(error, RateLimitedError):
            headers["Retry-After"] = str(max(1, math.ceil(reset_s(now_s) - now_s)))
            self._refusals.write(reason, client=CLIENT.get(), now_s=now_s, path=path)
        elif isinstance(error, MediaTypeError):
            headers["Accept-Encoding"] = "identity"
        return headers

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        now_s = time.time()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        REQUEST_ID.set(request_id)
        CALLER.set(None)
        offered: list[str] = list(scope.get("subprotocols", ()))
        authorization = headers.get(b"authorization")
        if bearer := _BEARER in offered:
            begin = offered.index(_BEARER)
            _, *given = offered[begin : begin + 2]
            # Taken out, so that nothing behind us can show it.
            scope = {**scope, "subprotocols": offered[:begin] + offered[begin + 2 :]}
            if authorization is None:
                authorization = b"Bearer " + "".join(given).encode()

        async def accepting(message: Message) -> None:
            if bearer and message["type"] == "websocket.accept" and not message.get("subprotocol"):
                # A page that offers protocols hangs up where none of them is chosen.
                message = {**message, "subprotocol": _BEARER}
            await send(message)

        more: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode())]
        try:
            needed, _ = self._admit_path(scope)
            caller = self._guard.admit_one(headers.get(b"x-api-key"), authorization, scope=needed)
            CALLER.set(caller)
            if caller.requests_per_minute:
                await self._count(caller, more, now_s)
        except TowncastError as error:
            await self._refuse_websocket(error, scope, receive, send, more)
            return
        await self.app(scope, receive, accepting)

    async def _refuse_websocket(
        self, error: TowncastError, scope: Scope, receive: Receive, send: Send, more: list[tuple[bytes, bytes]]
    ) -> None:
        """Refuse before it is accepted: by an ordinary reply where the server can send one, else by a close code."""
        told = self._noted(error, time.time(), path=scope["path"])
        refused = refusal(error)
        await receive()
        if "websocket.http.response" in scope.get("extensions", {}):
            headers = told | {name.decode(): value.decode() for name, value in more}
            await refused.reply(headers)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4000 + refused.status, "reason": error.fact[:100]})


def _check_encoding(encoding: bytes, method: str) -> None:
    """Refuse compressed bodies: a small one could become one of any size.

    Raises:
        MediaTypeError: It is compressed.
    """
    if method not in _WITHOUT_BODY and encoding.strip().lower() not in (b"", b"identity"):
        found = encoding.decode("latin-1")[:100]
        raise MediaTypeError(
            "The body is compressed", found=found, remedy="Send it as it is, without Content-Encoding."
        )


def _request_id(given: bytes | None) -> str:
    """The given one if it can be repeated, or a new one."""
    if given is not None and 0 < len(given) <= REQUEST_ID_LENGTH:
        text = given.decode("latin-1")
        if text.isascii() and text.isprintable():
            return text
    return new_id("req")


def _ours_alone(server: tuple[str, int | None] | None) -> bool:
    return server is None or _cannot_be_reached(server[0])


@lru_cache(maxsize=64)
def _cannot_be_reached(host: str) -> bool:
    """Whether the address that we were reached at is loopback, a file, or no address at all, as within a process."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return is_loopback(host)
