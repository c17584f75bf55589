"""One request on its way through the gateway: its body counted and timed, its reply given more headers."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.types import Message, Receive, Send

from serving.errors import BodyTooLargeError

_CLOSE: Final = (b"connection", b"close")


class Exchange:
    """A request and its reply.

    Args:
        receive: The server's.
        send: The server's.
        headers: What every reply gets.
    """

    __slots__ = (
        "_receive",
        "_send",
        "body_since_s",
        "close",
        "headers",
        "limit_bytes",
        "overdue",
        "reading",
        "received",
        "since_s",
        "started",
        "task",
        "whole",
    )

    def __init__(self, receive: Receive, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._receive = receive
        self._send = send
        self.headers = headers
        self.limit_bytes = 0
        self.received = 0
        # Whether the whole body was received, whether it is waited for, and since when.
        self.whole = False
        self.reading = False
        self.body_since_s = 0.0
        # Whether the reply has begun, and whether the connection is to end with it.
        self.started = False
        self.close = False
        # What took too long: the `body`, or the `request`.
        self.overdue = ""
        self.since_s = 0.0
        self.task: asyncio.Task[object] | None = None

    async def receive(self) -> Message:
        """What the app receives.

        Raises:
            BodyTooLargeError: More of the body came than may.
        """
        if self.whole:
            return await self._receive()
        if not self.body_since_s:
            self.body_since_s = time.monotonic()
        self.reading = True
        try:
            message = await self._receive()
        finally:
            self.reading = False
        self.received += len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.received > self.limit_bytes:
            # What is left of the body would be taken for the next request, or would have to be read in vain.
            self.close = True
            raise too_large(self.received, self.limit_bytes)
        return message

    async def send(self, message: Message) -> None:
        """What the app sends."""
        if message["type"] == "http.response.start":
            self.started = True
            # Copies: a reply that is sent often may be one object.
            headers = [*message.get("headers", ()), *self.headers]
            if self.close:
                headers.append(_CLOSE)
            message = {**message, "headers": headers}
        await self._send(message)


class Deadlines:
    """Ends requests that take too long. One timer looks after all: a timer each would cost more than the rest of this.

    Args:
        body_s: Longest time for a body to come in [s].
        request_s: Longest time of a request [s].
    """

    def __init__(self, *, body_s: float, request_s: float) -> None:
        self.body_s = body_s
        self.request_s = request_s
        self._look_s = min(0.25, body_s / 8, request_s / 8)
        self._running: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, exchange: Exchange) -> None:
        """Look after a request from now on."""
        exchange.task = task = asyncio.current_task()
        assert task is not None
        exchange.since_s = time.monotonic()
        self._running.add(exchange)
        if self._timer is None or self._loop is not task.get_loop():
            self._loop = task.get_loop()
            self._timer = self._loop.call_later(self._look_s, self._look)

    def end(self, exchange: Exchange) -> None:
        """Look after a request no longer."""
        self._running.discard(exchange)
        if exchange.overdue and exchange.task is not None:
            exchange.task.uncancel()

    def _look(self) -> None:
        now_s = time.monotonic()
        for exchange in self._running:
            if exchange.overdue or exchange.task is None:
                continue
            if exchange.reading and now_s - exchange.body_since_s >= self.body_s:
                exchange.overdue = "body"
            elif now_s - exchange.since_s >= self.request_s:
                exchange.overdue = "request"
            if exchange.overdue:
                exchange.close = True
                exchange.task.cancel()
        assert self._loop is not None
        self._timer = self._loop.call_later(self._look_s, self._look) if self._running else None


def too_large(found: int, limit_bytes: int) -> BodyTooLargeError:
    """The error of a body over the limit."""
    return BodyTooLargeError(
        "The body is too large", found=f"{found} bytes", remedy=f"Send at most {limit_bytes} bytes."
    )
