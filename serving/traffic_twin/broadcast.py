"""One message to any number of WebSocket clients, none of which can hold up another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

_LOG = logging.getLogger(__name__)
# RFC 6455, section 7.4, and IANA's registry of close codes.
_POLICY, _FAILED, _TRY_LATER = 1008, 1011, 1013
# A client has nothing to say; what browsers send of themselves is far below this.
_MOST_MESSAGES_PER_S = 50
_CLOSE_S = 1.0
_LONGEST_REASON_BYTES = 123


class _Client:
    """A connection and what waits to be sent to it."""

    def __init__(self, connection: ServerConnection, outbox_messages: int) -> None:
        self.connection = connection
        self.outbox: asyncio.Queue[bytes] = asyncio.Queue(maxsize=outbox_messages)

    @property
    def name(self) -> str:
        address = self.connection.remote_address
        return f"{address[0]}:{address[1]}" if address else "a client"


class Broadcaster:
    """Sends each message to every client, and the latest to one that comes late.

    Every client has an outbox of its own and a task that empties it. Where the outbox is full the client reads more
    slowly than messages come, and is dropped. What clients send is not read; who sends too much, or no WebSocket
    frames at all, is dropped too.

    Args:
        outbox_messages: Most messages that may wait for a client.
    """

    def __init__(self, *, outbox_messages: int = 32) -> None:
        self._outbox_messages = outbox_messages
        self._clients: set[_Client] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._latest: bytes | None = None
        self._end: tuple[int, str] | None = None

    def __len__(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    @property
    def latest(self) -> bytes | None:
        """The last message."""
        return self._latest

    def publish(self, message: bytes) -> None:
        """Give a message to every client's outbox; waits for nobody.

        Args:
            message: JSON, encoded once for all.
        """
        self._latest = message
        for client in list(self._clients):
            try:
                client.outbox.put_nowait(message)
            except asyncio.QueueFull:
                _LOG.warning("%s reads too slowly and is dropped: %d messages wait", client.name, client.outbox.qsize())
                self._drop(client, _TRY_LATER, "too slow")

    async def handle(self, connection: ServerConnection) -> None:
        """Serve a client until it leaves, or is dropped."""
        if self._end is not None:
            await _close(connection, *self._end)
            return
        client = _Client(connection, self._outbox_messages)
        if self._latest is not None:
            client.outbox.put_nowait(self._latest)
        self._clients.add(client)
        sending = asyncio.create_task(_send(client))
        try:
            await self._listen(client)
        except ConnectionClosed as closed:
            # Who was dropped on purpose was told of already, and who left has nothing wrong with it.
            if client in self._clients and closed.sent is not None and not closed.rcvd_then_sent:
                _LOG.warning("%s is dropped: %s", client.name, closed)
        finally:
            self._clients.discard(client)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _listen(self, client: _Client) -> None:
        """Read and forget."""
        loop = asyncio.get_running_loop()
        since_s, number = loop.time(), 0
        async for _ in client.connection:
            if loop.time() - since_s > 1.0:
                since_s, number = loop.time(), 0
            number += 1
            if number > _MOST_MESSAGES_PER_S:
                _LOG.warning("%s sends too many messages and is dropped", client.name)
                self._drop(client, _POLICY, "too many messages")
                return

    def _drop(self, client: _Client, code: int, reason: str) -> None:
        self._clients.discard(client)
        task = asyncio.get_running_loop().create_task(_close(client.connection, code, reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def fail(self, reason: str) -> None:
        """Tell all clients, and those that still come, that the twin has failed."""
        await self.close(_FAILED, reason)

    async def close(self, code: int, reason: str) -> None:
        """Send goodbye to all clients, and to those that still come."""
        self._end = (code, reason)
        for client in list(self._clients):
            self._drop(client, code, reason)
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _send(client: _Client) -> None:
    # Who is gone is noticed where its messages are read.
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.connection.send(await client.outbox.get(), text=True)


async def _close(connection: ServerConnection, code: int, reason: str) -> None:
    """Close politely for a moment, then for good: a client that does not read gets no goodbye either."""
    short = reason.encode()[:_LONGEST_REASON_BYTES].decode(errors="ignore")
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.close(code, short)
    except TimeoutError:
        connection.transport.abort()
