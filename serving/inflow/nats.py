"""Readings over NATS JetStream: a durable consumer, whose messages are acknowledged once they are stored."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, StorageType, StreamConfig

from features.errors import TowncastError
from serving.inflow.desk import ReadingDesk
from serving.inflow.messages import Message, deliver
from serving.inflow.settings import InflowSettings
from serving.reactor_twin.broker import Broker

_LOG = logging.getLogger(__name__)
TRANSPORT = "nats"
SUBJECTS = "towncast.readings.*"
_TOGETHER = 500
_PULL_S = 1.0
_LINGER_S = 0.03
_ACK_WITHIN_S = 30.0
_TRY_AGAIN_S = 5.0


class NatsReadings:
    """Follows `towncast.readings.<domain>`; a message is an item or a list of items.

    A message is acknowledged after the desk has stored or quarantined all of it, so that it comes again if the process
    dies before.

    Args:
        desk: Takes the readings.
        settings: Where the broker is, and names there.
    """

    def __init__(self, desk: ReadingDesk, settings: InflowSettings) -> None:
        self._desk = desk
        self._settings = settings
        self._broker: Broker | None = None
        self._pulled: JetStreamContext.PullSubscription | None = None
        self._opened_at = 0

    @property
    def connected(self) -> bool:
        """Whether the broker is there and our consumer with it, as far as is known."""
        return self._broker is not None and self._broker.connected and self._pulled is not None

    async def follow(self) -> None:
        """Take readings until cancelled; a broker that is away, or refuses, is tried again."""
        while True:
            broker = Broker(self._settings.nats_url, shown_url=self._settings.shown_nats_url, name="towncast-readings")
            self._broker, self._pulled, self._opened_at = broker, None, 0
            try:
                await broker.connect()
                while True:
                    await self._take(broker, await broker.persist(self._next))
            except TowncastError as error:
                _LOG.warning("Readings from NATS cannot be followed, and are tried again: %s", error)
            finally:
                self._pulled = None
                await broker.close()
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _next(self) -> list[Msg]:
        """The oldest messages that are not acknowledged; none where there were none for a second."""
        pulled = await self._open()
        found: list[Msg] = []
        try:
            # A pull of many waits for many: the first comes at once, and those that are there already with it.
            found += await pulled.fetch(1, timeout=_PULL_S)
            found += await pulled.fetch(_TOGETHER, timeout=_LINGER_S)
            return found
        except TimeoutError:
            return found
        except nats.errors.Error:
            self._opened_at = 0
            raise

    async def _take(self, broker: Broker, messages: list[Msg]) -> None:
        if not messages:
            return
        found = [Message(payload=one.data, given={"domain": one.subject.rpartition(".")[2]}) for one in messages]
        await deliver(self._desk, found, transport=TRANSPORT)
        for one in messages:
            await broker.acknowledge(one)

    async def _open(self) -> JetStreamContext.PullSubscription:
        """The consumer, found or made once a connection."""
        broker = self._broker
        assert broker is not None, "follow opens it"
        if self._pulled is None or self._opened_at != broker.times_connected:
            opened_at, jetstream = broker.times_connected, broker.jetstream
            if self._pulled is not None:
                with contextlib.suppress(nats.errors.Error):
                    await self._pulled.unsubscribe()
            stream = await self._find_stream(jetstream)
            await jetstream.add_consumer(
                stream,
                ConsumerConfig(
                    durable_name=self._settings.nats_readings_durable,
                    filter_subject=SUBJECTS,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=_ACK_WITHIN_S,
                    max_ack_pending=4 * _TOGETHER,
                    max_deliver=-1,
                ),
            )
            durable = self._settings.nats_readings_durable
            self._pulled = await jetstream.pull_subscribe_bind(consumer=durable, stream=stream)
            self._opened_at = opened_at
        return self._pulled

    async def _find_stream(self, jetstream: JetStreamContext) -> str:
        """Name of the stream that keeps our subjects, made if there is none."""
        try:
            return str(await jetstream.find_stream_name_by_subject(SUBJECTS))
        except nats.js.errors.NotFoundError:
            name = self._settings.nats_readings_stream
            config = StreamConfig(
                name=name,
                subjects=[SUBJECTS],
                storage=StorageType.FILE,
                discard=DiscardPolicy.OLD,
                max_age=3600.0 * self._settings.nats_readings_keep_h,
            )
            await jetstream.add_stream(config)
            return name
