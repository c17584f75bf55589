"""Readings over a real Mosquitto: stored before they are acknowledged, and none lost while either side is away."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pandas as pd
import pytest

from features.errors import StorageError
from features.store import ReadingStore
from serving.inflow.desk import UNKNOWN
from serving.inflow.inflow import Inflow
from serving.inflow.settings import InflowSettings
from serving.metrics import Metrics
from tests.serving.inflow.brokers import Server, mosquitto
from tests.serving.inflow.conftest import NOW, TRAFFIC

TOPIC = "towncast/traffic/R001/volume"


def inflow_of(data_dir: Path, server: Server, **changed: Any) -> Inflow:
    settings = InflowSettings(**{"data_dir": data_dir, "mqtt_url": f"mqtt://127.0.0.1:{server.port}", **changed})
    return Inflow(settings, Metrics(), now=NOW.timestamp)


def payload(value: float, *, minutes_ago: float) -> dict[str, Any]:
    return {"timestamp": (NOW - pd.Timedelta(minutes=minutes_ago)).isoformat(), "value": value}


async def send(server: Server, *messages: tuple[str, Any], **login: str) -> None:
    async with aiomqtt.Client("127.0.0.1", server.port, **login) as client:
        for topic, content in messages:
            await client.publish(topic, content if isinstance(content, bytes) else json.dumps(content), qos=1)


def volumes(data_dir: Path) -> list[float]:
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    found = store.readings(sites=["R001"], quantities=["volume"], start=NOW - pd.Timedelta("19min"))
    return found["value"].tolist()


async def until(ready: Callable[[], bool], *, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not ready():
            await asyncio.sleep(0.02)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await work()

    asyncio.run(whole())


def test_messages_are_stored_and_poison_is_quarantined(data_dir: Path, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "mosquitto") as server:

        async def work() -> None:
            inflow = inflow_of(data_dir, server)
            await inflow.start()
            await until(lambda: inflow.states() == {"mqtt": "following"})
            await send(
                server,
                (TOPIC, payload(1.0, minutes_ago=9)),
                (TOPIC, [payload(2.0, minutes_ago=8), payload(-3.0, minutes_ago=7)]),
                (TOPIC, b"\xff{not json"),
                (TOPIC, {**payload(4.0, minutes_ago=6), "site": "R002"}),
                ("towncast/nothing/R001/volume", payload(5.0, minutes_ago=5)),
                ("towncast/traffic/R%30%301/volume", payload(6.0, minutes_ago=4)),
            )
            await until(lambda: volumes(data_dir) == [1.0, 2.0, 6.0])
            await inflow.close()
            await inflow.close()

        run(work)
    kept = ReadingStore(data_dir / "readings", TRAFFIC).quarantine().set_index("reason")["raw"].to_dict()
    assert set(kept) == {"outside 0 to 20000 veh/h (volume)", "not an object", "site differs from the topic's"}
    assert "not json" in kept["not an object"]
    assert ReadingStore(data_dir / "readings", UNKNOWN).quarantine()["reason"].tolist() == ["unknown domain"]


def test_nothing_is_lost_while_either_side_is_away(data_dir: Path, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "mosquitto") as server:

        async def work() -> None:
            first = inflow_of(data_dir, server)
            await first.start()
            await until(lambda: first.states() == {"mqtt": "following"})
            await first.close()
            # The broker keeps our session.
            await send(server, (TOPIC, payload(1.0, minutes_ago=9)))
            second = inflow_of(data_dir, server)
            await second.start()
            await until(lambda: volumes(data_dir) == [1.0])
            # Without time to write its sessions the broker would forget them.
            await asyncio.sleep(1.2)
            server.kill()
            await until(lambda: second.states() == {"mqtt": "waiting"})
            server.start()
            await send(server, (TOPIC, payload(2.0, minutes_ago=8)))
            await until(lambda: volumes(data_dir) == [1.0, 2.0])
            await second.close()

        run(work)


def test_what_is_not_stored_is_not_acknowledged(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between the two gets the message again."""
    with mosquitto(tmp_path / "mosquitto") as server:

        async def work() -> None:
            failing = inflow_of(data_dir, server)
            tries = []

            async def refuse(items: list[Any], **options: Any) -> Any:
                tries.append(items)
                raise StorageError("The disk is full", remedy="Free some space.")

            monkeypatch.setattr(failing.desk, "take", refuse)
            await failing.start()
            await until(lambda: failing.states() == {"mqtt": "following"})
            await send(server, (TOPIC, payload(1.0, minutes_ago=9)))
            await until(lambda: len(tries) >= 2)
            await failing.close()
            assert volumes(data_dir) == []
            sound = inflow_of(data_dir, server)
            await sound.start()
            await until(lambda: volumes(data_dir) == [1.0])
            await sound.close()

        run(work)


def test_a_password_is_wanted_and_a_wrong_one_only_waits(data_dir: Path, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "mosquitto", password="open sesame") as server:

        async def work() -> None:
            wrong = inflow_of(data_dir, server, mqtt_username="sensor", mqtt_password="guess")
            await wrong.start()
            await asyncio.sleep(0.3)
            assert wrong.states() == {"mqtt": "waiting"}
            await wrong.close()
            right = inflow_of(data_dir, server, mqtt_username="sensor", mqtt_password="open sesame")
            await right.start()
            await until(lambda: right.states() == {"mqtt": "following"})
            login = {"username": "sensor", "password": "open sesame"}
            await send(server, (TOPIC, payload(1.0, minutes_ago=9)), **login)
            await until(lambda: volumes(data_dir) == [1.0])
            await right.close()

        run(work)


def test_one_worker_follows_and_another_takes_over(data_dir: Path, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "mosquitto") as server:

        async def work() -> None:
            first, second = inflow_of(data_dir, server), inflow_of(data_dir, server)
            await first.start()
            await until(lambda: first.states() == {"mqtt": "following"})
            await second.start()
            await asyncio.sleep(0.1)
            assert second.states() == {"mqtt": "standby"}
            await first.close()
            await until(lambda: second.states() == {"mqtt": "following"})
            await second.close()

        run(work)
