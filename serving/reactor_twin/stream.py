"""The reactor's stream in JetStream: each message is answered once, also over crashes of the twin or the broker.

Three things hold that promise. The broker gives one message at a time and gives it again until it is acknowledged,
which is after all answers are stored. An answer carries the sequence of what it answers, so that after an interruption
of any length the last one on each subject tells what was answered already. And the twin's memory is written by
compare-and-set: of two twins on one consumer the slower one stops.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    KeyValueConfig,
    StorageType,
    StreamConfig,
)

from serving.reactor_twin.broker import Broker, MessagingError
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.subjects import Subjects

INPUT_HEADER = "Towncast-Input"
REASON_HEADER = "Towncast-Reason"
SUBJECT_HEADER = "Towncast-Subject"
LENGTH_HEADER = "Towncast-Length"
MEMORY_BUCKET = "towncast_reactor"
_PULL_S = 1.0
# JetStream's error codes of a compare-and-set that found another revision.
_WRONG_LAST_SEQUENCE = (10071, 10164)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamIdentity:
    """Which stream it is: one that was made anew counts from 1 again.

    Attributes:
        name: Its name.
        created: When it was made, as the broker says.
    """

    name: str
    created: str


class ReactorStream:
    """What the twin reads and writes, on a broker that may come and go.

    Args:
        broker: Where it is.
        subjects: The reactor's subjects.
        settings: Names and limits.
    """

    def __init__(self, broker: Broker, subjects: Subjects, settings: ReactorSettings) -> None:
        self.broker = broker
        self.subjects = subjects
        self._settings = settings
        self._opening = asyncio.Lock()
        self._opened_at = 0
        self._identity: StreamIdentity | None = None
        self._pulled: JetStreamContext.PullSubscription | None = None
        self._revision = 0
        self._answered: dict[str, int] = {}

    @property
    def identity(self) -> StreamIdentity:
        """Which stream is open."""
        assert self._identity is not None, "open it first"
        return self._identity

    @property
    def _pull(self) -> JetStreamContext.PullSubscription:
        assert self._pulled is not None, "open it first"
        return self._pulled

    async def open(self) -> None:
        """Find or make stream, consumer and memory, and learn what was answered already.

        Raises:
            MessagingError: JetStream is off, or what is there is not usable.
        """
        await self._check_jetstream()
        await self.broker.persist(self._keep_open)

    async def next_message(self) -> Msg | None:
        """The oldest message that is not acknowledged; None where there was none for a second, or the broker was away.

        Raises:
            MessagingError: The broker does not let us in any more.
        """

        async def attempt() -> Msg | None:
            await self._keep_open()
            try:
                return (await self._pull.fetch(1, timeout=_PULL_S))[0]
            except TimeoutError:
                return None
            except nats.errors.Error:
                self._opened_at = 0
                raise

        return await self.broker.persist(attempt)

    async def answer(self, subject: str, payload: bytes, *, to: int, headers: dict[str, str] | None = None) -> None:
        """Store an answer, once, whatever happens to the broker meanwhile.

        Args:
            subject: One of `Subjects.written`.
            payload: The message.
            to: Sequence in the stream of the message that is answered.
            headers: More headers.

        Raises:
            MessagingError: The broker refuses it.
        """
        asked = self.identity
        message_id = f"{asked.name}:{asked.created}:{to}:{subject}"
        tried = False

        async def attempt() -> None:
            nonlocal tried
            await self._keep_open()
            # In a stream that was made anew meanwhile the number would mean another message.
            number = to if self.identity == asked else 0
            # The broker may have stored it and gone before it said so.
            if tried:
                self._answered[subject] = await self._last_answered(subject)
            tried = True
            if number == 0 or number > self._answered[subject]:
                known = {"Nats-Msg-Id": message_id, INPUT_HEADER: str(number), **(headers or {})}
                await self.broker.jetstream.publish(subject, payload, headers=known)
                self._answered[subject] = max(number, self._answered[subject])

        await self.broker.persist(attempt)

    async def recall(self) -> bytes | None:
        """What the twin last remembered, or None where it never did."""
        stored, self._revision = await self.broker.persist(self._stored)
        return stored

    async def remember(self, memory: bytes) -> None:
        """Keep the twin's memory on the broker.

        Raises:
            MessagingError: Another twin has written there since.
        """

        async def attempt() -> int:
            await self._keep_open()
            headers = {"Nats-Expected-Last-Subject-Sequence": str(self._revision)}
            try:
                stored = await self.broker.jetstream.publish(self._memory_subject, memory, headers=headers)
            except nats.js.errors.APIError as error:
                if error.err_code not in _WRONG_LAST_SEQUENCE:
                    raise
                return await self._own_revision(memory) or await attempt()
            return stored.seq

        self._revision = await self.broker.persist(attempt)

    async def _own_revision(self, memory: bytes) -> int:
        """The revision of what we wrote without being told so; 0 where the broker has lost all memory.

        Raises:
            MessagingError: It is not ours.
        """
        stored, revision = await self._stored()
        if stored == memory:
            return revision
        if stored is None and self._revision != 0:
            self._revision = 0
            return 0
        raise MessagingError(
            "Another twin works for the same consumer",
            found=self._settings.reactor_durable,
            remedy="Run one alone, or give this one a name of its own in TOWNCAST_REACTOR_DURABLE.",
        )

    @property
    def _memory_subject(self) -> str:
        return f"$KV.{MEMORY_BUCKET}.{self._settings.reactor_durable}"

    async def _stored(self) -> tuple[bytes | None, int]:
        """The memory on the broker and its revision; None and 0 where there is none."""
        try:
            last = await self.broker.jetstream.get_last_msg(f"KV_{MEMORY_BUCKET}", self._memory_subject)
        except nats.js.errors.NotFoundError:
            return None, 0
        return last.data, last.seq or 0

    async def _check_jetstream(self) -> None:
        """Say at once what waiting would not mend.

        Raises:
            MessagingError: The server runs without JetStream.
        """
        try:
            await self.broker.jetstream.account_info()
        except nats.js.errors.ServiceUnavailableError as error:
            raise MessagingError(
                "The broker runs without JetStream",
                found=self.broker.shown_url,
                remedy="Start it with a store: nats-server -js -sd FOLDER.",
            ) from error
        except (TimeoutError, nats.errors.Error):
            # It went away again; what follows waits for it.
            return

    async def _keep_open(self) -> None:
        async with self._opening:
            if self._opened_at != self.broker.times_connected:
                await self._open()

    async def _open(self) -> None:
        opened_at = self.broker.times_connected
        jetstream = self.broker.jetstream
        identity = await self._find_stream(jetstream)
        await self._find_consumer(jetstream, identity.name)
        await self._find_bucket(jetstream)
        if self._pulled is not None:
            with contextlib.suppress(nats.errors.BadSubscriptionError, nats.errors.ConnectionClosedError):
                await self._pulled.unsubscribe()
        self._pulled = await jetstream.pull_subscribe_bind(
            consumer=self._settings.reactor_durable, stream=identity.name
        )
        self._identity = identity
        self._answered = {subject: await self._last_answered(subject) for subject in self.subjects.written}
        self._opened_at = opened_at

    async def _find_stream(self, jetstream: JetStreamContext) -> StreamIdentity:
        """The stream that keeps our subjects, made if there is none.

        Raises:
            MessagingError: A stream has our name and other subjects, or ours are spread over several streams.
        """
        try:
            name = await jetstream.find_stream_name_by_subject(self.subjects.temp)
            info = await jetstream.stream_info(name)
        except nats.js.errors.NotFoundError:
            info = await self._make_stream(jetstream)
        for subject in self.subjects.written:
            if await _stream_of(jetstream, subject) != info.config.name:
                raise MessagingError(
                    "The reactor's subjects are not all kept by one stream",
                    found=f"{self.subjects.temp} in {info.config.name}, {subject} not",
                    remedy=f"Let the stream keep {self.subjects.everything}.",
                )
        return StreamIdentity(name=str(info.config.name), created=str(info.created))

    async def _make_stream(self, jetstream: JetStreamContext) -> nats.js.api.StreamInfo:
        settings = self._settings
        config = StreamConfig(
            name=settings.reactor_stream,
            subjects=[self.subjects.everything],
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_age=3600.0 * settings.reactor_keep_h,
            duplicate_window=min(settings.reactor_duplicate_window_s, 3600.0 * settings.reactor_keep_h),
        )
        try:
            return await jetstream.add_stream(config)
        except nats.js.errors.BadRequestError as error:
            raise MessagingError(
                "The stream cannot be made",
                found=f"{settings.reactor_stream}: {error.description}",
                remedy=f"Set TOWNCAST_REACTOR_STREAM to a free name, or let it keep {self.subjects.everything}.",
            ) from error

    async def _find_consumer(self, jetstream: JetStreamContext, stream: str) -> None:
        """Make the durable consumer if there is none.

        Raises:
            MessagingError: There is one that does something else.
        """
        settings = self._settings
        wanted = ConsumerConfig(
            durable_name=settings.reactor_durable,
            filter_subject=self.subjects.consumed,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=settings.reactor_ack_wait_s,
            deliver_policy=DeliverPolicy.ALL if settings.reactor_start == "all" else DeliverPolicy.NEW,
            # One at a time: what was not acknowledged comes before all that is newer.
            max_ack_pending=1,
            max_deliver=-1,
        )
        try:
            info = await jetstream.consumer_info(stream, settings.reactor_durable)
        except nats.js.errors.NotFoundError:
            await jetstream.add_consumer(stream, wanted)
            return
        found = info.config
        same = (found.filter_subject, found.ack_policy, found.max_ack_pending, found.deliver_subject) == (
            *(wanted.filter_subject, wanted.ack_policy, wanted.max_ack_pending),
            None,
        )
        if not same:
            raise MessagingError(
                "There is a consumer of this name that does something else",
                found=settings.reactor_durable,
                remedy="Remove it (nats consumer rm), or set TOWNCAST_REACTOR_DURABLE to another name.",
            )

    async def _find_bucket(self, jetstream: JetStreamContext) -> None:
        """Make the key-value bucket of the memory if there is none: a stream that keeps the last value of each key."""
        try:
            await jetstream.key_value(MEMORY_BUCKET)
        except nats.js.errors.NotFoundError:
            config = KeyValueConfig(bucket=MEMORY_BUCKET, history=1, storage=StorageType.FILE)
            await jetstream.create_key_value(config)

    async def _last_answered(self, subject: str) -> int:
        """Sequence of the message that the last answer on `subject` answers; 0 where there is none."""
        try:
            last = await self.broker.jetstream.get_last_msg(self.identity.name, subject)
        except nats.js.errors.NotFoundError:
            return 0
        return int((last.headers or {}).get(INPUT_HEADER, "0"))


async def _stream_of(jetstream: JetStreamContext, subject: str) -> str | None:
    try:
        return await jetstream.find_stream_name_by_subject(subject)
    except nats.js.errors.NotFoundError:
        return None
