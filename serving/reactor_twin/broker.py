"""A connection to NATS that is never given up: what fails for a while is tried again until it is done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from features.errors import TowncastError

if TYPE_CHECKING:
    from nats.aio.client import Server
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
REQUEST_TIMEOUT_S = 2.0
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 5.0
# What passes by itself: the broker is away, is starting, or its disk is full.
_PASSING = (
    TimeoutError,
    OSError,
    nats.errors.NoRespondersError,
    nats.errors.StaleConnectionError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
    nats.js.errors.ServerError,
)


class MessagingError(TowncastError):
    """The broker cannot be used as it is set up; waiting would not help."""


def backoff_s(attempt: int) -> float:
    """Time to wait after a number of failures [s]: doubled each time, at most five seconds."""
    return min(_FIRST_DELAY_S * 2.0 ** min(attempt, 10), _LONGEST_DELAY_S)


class Broker:
    """One client of a NATS server, connected anew as often as it takes.

    Args:
        url: Where the server is, with user and password where it wants them.
        shown_url: The same for people, without the password.
        name: What the server's own lists call this client.
    """

    def __init__(self, url: str, *, shown_url: str, name: str) -> None:
        self.shown_url = shown_url
        self._url = url
        self._name = name
        self._client = Client()
        self._connecting = asyncio.Lock()
        self._told = False
        self._begun = False
        self.times_connected = 0

    @property
    def connected(self) -> bool:
        """Whether the server is there, as far as is known."""
        return bool(self._client.is_connected)

    @property
    def jetstream(self) -> JetStreamContext:
        """The JetStream of the present connection."""
        return self._client.jetstream(timeout=REQUEST_TIMEOUT_S)

    async def connect(self) -> None:
        """Connect, for ever if need be.

        Raises:
            MessagingError: The address cannot be, or the server refuses who we are.
        """
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def failed(error: Exception) -> None:
            if "authorization" in str(error).lower() and not refused.done():
                refused.set_exception(self._refusal(error))
            self._tell_lost(error)

        self._client = Client()
        self._begun = True
        connecting = asyncio.ensure_future(
            self._client.connect(
                servers=self._url,
                name=self._name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                reconnect_to_server_handler=_wait_longer,
                connect_timeout=2,
                ping_interval=10,
                error_cb=failed,
                reconnected_cb=self._note_connected,
            )
        )
        try:
            await asyncio.wait({connecting, refused}, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                await refused
            await connecting
        except (nats.errors.Error, ValueError) as error:
            self._begun = False
            raise MessagingError(
                "The address of the broker cannot be used",
                found=f"{self.shown_url}: {error}",
                remedy="Write it like nats://127.0.0.1:4222.",
            ) from error
        finally:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, nats.errors.Error, ValueError):
                await connecting
            # Nobody waits for it any more: a later refusal shows as a closed connection.
            refused.cancel()
        await self._note_connected()

    async def persist(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `attempt`, which is made again for as long as the broker is away.

        Raises:
            MessagingError: The broker refuses who we are, or what is asked.
        """
        for failures in itertools.count():
            try:
                with self._closing_is_an_error():
                    result = await attempt()
            except _PASSING as error:
                self._tell_lost(error)
                await asyncio.sleep(backoff_s(failures))
                await self._reconnect()
            except nats.errors.Error as error:
                raise MessagingError(
                    "The broker refuses what the twin asks",
                    found=str(error),
                    remedy=f"Look at the permissions and limits of the account at {self.shown_url}.",
                ) from error
            else:
                self._tell_found()
                _heed_cancellation()
                return result
            _heed_cancellation()
        raise AssertionError("counting never ends")

    async def acknowledge(self, message: Msg) -> None:
        """Tell the broker that a message is done; if that is lost it comes again."""

        async def attempt() -> None:
            # By the present client: the one that the message came with may be closed.
            await self._client.publish(message.reply)

        await self.persist(attempt)

    async def _reconnect(self) -> None:
        """A new client, where the old one gave up; those who ask at the same time share it."""
        async with self._connecting:
            if self._client.is_closed:
                await self.connect()

    @contextlib.contextmanager
    def _closing_is_an_error(self) -> Iterator[None]:
        """Inside, a connection that is closed is a `ConnectionClosedError` and not a cancellation of the task."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._client.is_closed and task is not None and not task.cancelling():
                raise nats.errors.ConnectionClosedError from None
            raise

    async def flush(self, *, timeout_s: float) -> None:
        """Send what waits to be sent, unless the server is away."""
        if not self.connected:
            return
        with contextlib.suppress(*_PASSING, nats.errors.Error):
            async with asyncio.timeout(timeout_s):
                await self._client.flush()

    async def close(self) -> None:
        """End the connection, also twice, and where there never was one."""
        if not self._begun:
            return
        with contextlib.suppress(*_PASSING, nats.errors.Error):
            await self._client.close()

    def _tell_lost(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            if isinstance(error, nats.js.errors.NoStreamResponseError):
                _LOG.warning("Waiting for a stream that keeps our subjects: a twin that is started makes it")
            else:
                _LOG.warning("Waiting for the broker at %s: %s", self.shown_url, str(error) or type(error).__name__)

    def _tell_found(self) -> None:
        if self._told:
            self._told = False
            _LOG.warning("The broker at %s answers again", self.shown_url)

    async def _note_connected(self) -> None:
        self.times_connected += 1

    def _refusal(self, error: Exception) -> MessagingError:
        return MessagingError(
            "The broker refuses to let us in",
            found=f"{self.shown_url}: {error}",
            remedy="Put the right user and password into TOWNCAST_NATS_URL (nats://user:password@host:4222).",
        )


def _heed_cancellation() -> None:
    """End a task that was cancelled: the client's requests, and Python 3.11's `wait_for`, may swallow that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _wait_longer(servers: list[Server], info: dict[str, Any]) -> tuple[Server | None, float]:
    return servers[0], backoff_s(servers[0].reconnects)
