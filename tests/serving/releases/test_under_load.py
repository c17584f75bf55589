"""Over the wire: versions come and go under load, and every request is answered."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from serving.app import create_app
from serving.releases.plans import CanaryLimits
from serving.routes.releases import release_routes
from serving.settings import ServingSettings

NAME = "towncast-traffic"
BODY = {"location": {"road_id": "R001"}, "forecast_horizon": "24h"}
OTHER = {"location": {"road_id": "R002"}, "forecast_horizon": "6h"}


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app on a free port of loopback, served by a uvicorn of its own."""
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


class Load:
    """Clients that ask without a pause, alone and in batches, and keep what they got."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(base_url=url, timeout=30)
        self.answers: Counter[str] = Counter()
        self.refused: list[str] = []
        self.ended = False

    async def ask(self, number: int) -> None:
        while not self.ended:
            if number == 0:
                reply = await self.client.post("/predict/traffic/batch", json={"requests": [BODY, OTHER] * 4})
                results = reply.json().get("results", [reply.json()])
            else:
                reply = await self.client.post("/predict/traffic", json=BODY if number % 2 else OTHER)
                results = [reply.json()]
            for result in results:
                if reply.status_code == 200 and "model_version" in result:
                    self.answers[result["model_version"]] += 1
                else:
                    self.refused.append(f"{reply.status_code} {result}")

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for what /health/ready says of the roads."""
        for _ in range(600):
            reply = await self.client.get("/health/ready")
            if reply.status_code == 200 and holds(reply.json()["domains"]["traffic"]["models"]["volume"]):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(reply.text)

    async def until_version(self, role: str, version: int) -> None:
        await self.until(lambda state: state["versions"].get(role) == f"traffic-lstm-v{version}")


@pytest.mark.parametrize("keep_s", [0.0, 300.0], ids=["made", "kept"])
def test_no_request_fails_while_versions_come_and_go(
    models: Any, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch, keep_s: float
) -> None:
    first = models.put("good")
    second, third, failing, fifth = (models.put(kind) for kind in ("other", "other", "failing", "good"))
    damaged = models.put("other", damaged=True)
    models.crown(first)
    for name, value in (("ALIAS_REFRESH_S", "0.05"), ("RELEASE_GRACE_S", "0.2"), ("RELEASE_RETRY_S", "0.2")):
        monkeypatch.setenv(f"TOWNCAST_{name}", value)
    limits = CanaryLimits(latency_floor_s=10.0)  # two busy cores are no fault of a canary's

    async def change(load: Load) -> None:
        await asyncio.to_thread(models.crown, second)
        await load.until_version("champion", second)
        await asyncio.to_thread(models.releases.set_challenger, NAME, third, share_percent=50)
        await load.until_version("challenger", third)
        await asyncio.to_thread(models.releases.start_canary, NAME, failing, steps_percent=(100.0,), minimum_s=600)
        await load.until_version("canary", failing)
        await load.until(lambda state: "canary" not in state["versions"])
        await asyncio.to_thread(models.crown, damaged)
        await load.until(lambda state: "champion" in state["faults"])
        await asyncio.to_thread(models.crown, second)
        await load.until(lambda state: not state["faults"])
        await asyncio.to_thread(
            models.releases.start_canary,
            NAME,
            fifth,
            steps_percent=(50.0, 100.0),
            minimum_s=0.1,
            minimum_requests=5,
            limits=limits,
        )
        await load.until_version("champion", fifth)
        await asyncio.to_thread(models.releases.stop, NAME, "challenger")
        await load.until(lambda state: state["versions"] == {"champion": f"traffic-lstm-v{fifth}"})

    async def run(url: str) -> Load:
        load = Load(url)
        await load.until_version("champion", first)
        asking = [asyncio.create_task(load.ask(number)) for number in range(4)]
        try:
            await asyncio.wait_for(change(load), 90)
        finally:
            load.ended = True
            await asyncio.gather(*asking)
            await load.client.aclose()
        return load

    with served(create_app(settings.model_copy(update={"keep_forecasts_s": keep_s}))) as url:
        load = asyncio.run(run(url))
    assert load.refused == []
    assert {f"traffic-lstm-v{version}" for version in (first, second, fifth)} <= set(load.answers)
    assert f"traffic-lstm-v{failing}" not in load.answers
    outcomes = [line.outcome for line in models.releases.standing(NAME).decisions]
    assert outcomes == ["rolled back", "advanced", "promoted"]


def test_releases_are_told_over_http(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))
    second, third = models.put("other"), models.put("good")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.set_shadow(NAME, second)
            models.releases.start_canary(NAME, third, steps_percent=(50.0, 100.0))
            await eventually(lambda: len(release.roles()) == 3)
            app = FastAPI()
            app.include_router(release_routes(town))
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://town") as client:
                reply = (await client.get("/releases")).json()
            assert reply["registry"] == "answers"
            (told,) = reply["releases"]
            assert (told["domain"], told["target"], told["model"]) == ("traffic", "volume", NAME)
            roles = {role["role"]: (role["model_version"], role["share"]) for role in told["roles"]}
            assert set(roles) == {"champion", "canary", "shadow"}
            assert roles["shadow"] == ("traffic-lstm-v2", 0)
            assert roles["champion"][1] + roles["canary"][1] == pytest.approx(1.0)
            assert told["canary"]["steps_percent"] == [50.0, 100.0]
            assert told["faults"] == {}

    asyncio.run(follow())
