"""Readings over a real NATS JetStream: acknowledged once stored, none lost while either side is away."""

import asyncio
import json
from pathlib import Path
from typing import Any

import nats

from features.store import ReadingStore
from serving.inflow.inflow import Inflow
from serving.inflow.settings import InflowSettings
from serving.metrics import Metrics
from serving.reactor_twin.local_broker import LocalBroker
from tests.serving.inflow.conftest import NOW, TRAFFIC
from tests.serving.inflow.test_mqtt import payload, until, volumes

SUBJECT = "towncast.readings.traffic"


def inflow_of(data_dir: Path, url: str) -> Inflow:
    return Inflow(InflowSettings(data_dir=data_dir, nats_url=url), Metrics(), now=NOW.timestamp)


def item(value: float, *, minutes_ago: float) -> dict[str, Any]:
    return {"site": "R001", "quantity": "volume", **payload(value, minutes_ago=minutes_ago)}


async def send(url: str, *contents: Any) -> None:
    client = await nats.connect(url)
    for content in contents:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        await client.jetstream().publish(SUBJECT, sent)
    await client.close()


async def unacknowledged(url: str) -> int:
    client = await nats.connect(url)
    info = await client.jetstream().consumer_info("towncast-readings", "towncast-readings")
    await client.close()
    return (info.num_pending or 0) + (info.num_ack_pending or 0)


def test_messages_are_stored_acknowledged_and_poison_is_quarantined(data_dir: Path, tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "nats") as broker:

        async def work() -> None:
            inflow = inflow_of(data_dir, broker.url)
            await inflow.start()
            await until(lambda: inflow.states() == {"nats": "following"})
            many = [item(2.0, minutes_ago=8), item(float("nan"), minutes_ago=7), {**item(9, minutes_ago=1), "x": 1}]
            await send(broker.url, item(1.0, minutes_ago=9), many, b"\x00\xff")
            await until(lambda: volumes(data_dir) == [1.0, 2.0])
            async with asyncio.timeout(20):
                while await unacknowledged(broker.url):
                    await asyncio.sleep(0.02)
            await inflow.close()

        asyncio.run(work())
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    assert sorted(store.quarantine()["reason"]) == ["not a number", "not an object", "unknown field 'x'"]


def test_nothing_is_lost_while_either_side_is_away(data_dir: Path, tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "nats") as broker:

        async def work() -> None:
            first = inflow_of(data_dir, broker.url)
            await first.start()
            await until(lambda: first.states() == {"nats": "following"})
            await first.close()
            await send(broker.url, item(1.0, minutes_ago=9))
            second = inflow_of(data_dir, broker.url)
            await second.start()
            await until(lambda: volumes(data_dir) == [1.0])
            broker.kill()
            await until(lambda: second.states() == {"nats": "waiting"})
            broker.start()
            await send(broker.url, item(2.0, minutes_ago=8))
            await until(lambda: volumes(data_dir) == [1.0, 2.0])
            await second.close()

        asyncio.run(work())
