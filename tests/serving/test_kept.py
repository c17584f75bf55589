"""Forecasts are made once for a site's window and a model, and kept until either changes."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from serving.app import create_app
from serving.artifacts import Artifact
from serving.forecasts_ahead import ForecastsAhead
from serving.memory import WindowMemory
from serving.news import ForecastsMade
from serving.places import Place
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService, Question
from serving.settings import ServingSettings
from serving.shared_forecasts import SharedForecasts
from serving.town import Town
from serving.window_source import WindowSource
from tests.serving.redis_server import RedisServer

NOW = pd.Timestamp("2026-02-06T09:20:00Z")


class CountingRuntime(InProcessRuntime):
    """Notes the sites of each run."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.runs: list[tuple[str, ...]] = []

    async def answer(self, window: Any, *, levels: Any = None) -> Any:
        self.runs.append(tuple(window.sites))
        return await super().answer(window, levels=levels)


@pytest.fixture
def counting(artifact: Artifact) -> CountingRuntime:
    return CountingRuntime(artifact)


@pytest.fixture
def keeping(make_service: Callable[..., ForecastService], counting: CountingRuntime) -> Callable[..., ForecastService]:
    return lambda **changes: make_service(runtime=FailoverRuntime([counting]), keep_s=300.0, **changes)


def ask(site: str, horizon: str = "24h") -> Question:
    return Question(place=Place(name=site), horizon=horizon)


async def started(service: ForecastService, counting: CountingRuntime) -> None:
    await service.start()
    counting.runs.clear()


async def closed(service: ForecastService) -> None:
    await service.close()
    await service.windows.close()


def test_a_forecast_is_made_once_and_then_looked_up(
    keeping: Callable[..., ForecastService], counting: CountingRuntime
) -> None:
    service = keeping()

    async def run() -> None:
        await started(service, counting)
        assert service.kept(ask("R001")) is None
        first = await service.forecast(ask("R001"))
        second = await service.forecast(ask("R001", "2h"))
        looked_up = service.kept(ask("R001"))
        assert [first.came, second.came, looked_up.came if looked_up else None] == ["made", "kept", "kept"]
        assert looked_up is not None
        assert (looked_up.forecast.value_BHQ == first.forecast.value_BHQ).all()
        assert second.forecast.value_BHQ.shape[1] == 2
        assert counting.runs == [("R001",)]
        await closed(service)

    asyncio.run(run())


def test_equal_requests_at_a_time_share_one_run(
    keeping: Callable[..., ForecastService], counting: CountingRuntime
) -> None:
    service = keeping()

    async def run() -> None:
        await started(service, counting)
        results = await asyncio.gather(*(service.forecast(ask("R002")) for _ in range(20)))
        assert sorted({result.came for result in results}) == ["joined", "made"]
        assert counting.runs == [("R002",)]
        await closed(service)

    asyncio.run(run())


def test_who_hangs_up_does_not_spoil_it_for_those_who_joined(
    keeping: Callable[..., ForecastService], counting: CountingRuntime
) -> None:
    service = keeping()

    async def run() -> None:
        await started(service, counting)
        first = asyncio.create_task(service.forecast(ask("R001")))
        await asyncio.sleep(0)
        joined = asyncio.create_task(service.forecast(ask("R001")))
        await asyncio.sleep(0)
        first.cancel()
        assert (await joined).came == "joined"
        await closed(service)

    asyncio.run(run())


def test_a_kept_forecast_ends(keeping: Callable[..., ForecastService], counting: CountingRuntime) -> None:
    service = keeping()

    async def run() -> None:
        await started(service, counting)
        await service.forecast(ask("R001"))
        service._kept._clock = lambda: time.monotonic() + 301.0
        assert service.kept(ask("R001")) is None
        await closed(service)

    asyncio.run(run())


@pytest.fixture
def roads(tmp_path: Path) -> tuple[ReadingStore, FeatureRepository]:
    """Two roads with readings of their own, which a test may add to."""
    store = ReadingStore(tmp_path / "readings", DOMAINS["traffic"])
    for site in ("R001", "R002"):
        moments = pd.date_range(end=NOW.floor("h"), periods=10 * 168, freq="h")
        add(store, site, moments, moments.hour + 100.0)
    repository = FeatureRepository(tmp_path / "feast", store)
    repository.apply()
    repository.materialise(as_of=NOW)
    return store, repository


def add(store: ReadingStore, site: str, moments: pd.DatetimeIndex, values: Any) -> None:
    readings = make_readings(site=site, quantity="volume", valid_at=moments, value=values, source="sensor:test")
    store.append(check_readings(readings, DOMAINS["traffic"]), [Site(name=site, timezone="Asia/Kolkata")])


def test_a_reading_renews_the_forecast_of_its_road_alone(
    roads: tuple[ReadingStore, FeatureRepository], artifact: Artifact, counting: CountingRuntime
) -> None:
    store, repository = roads
    windows = WindowSource(WindowMemory(repository), now=NOW.timestamp)
    service = ForecastService(artifact=artifact, windows=windows, runtime=FailoverRuntime([counting]), keep_s=300.0)

    async def run() -> None:
        town = Town(ServingSettings(), services=[service])
        ahead = ForecastsAhead(town)
        told: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        town.news.listen(lambda event: told.put_nowait(event.sites) if isinstance(event, ForecastsMade) else None)
        ahead.start()
        await town.start()
        assert await asyncio.wait_for(told.get(), 10) == {"R001", "R002"}
        before = {site: service.kept(ask(site)) for site in ("R001", "R002")}
        counting.runs.clear()
        add(store, "R001", pd.DatetimeIndex([NOW.floor("h") + pd.Timedelta(minutes=10)]), [900.0])
        repository.push(["R001"], as_of=NOW + pd.Timedelta(hours=1))
        windows.now = (NOW + pd.Timedelta(hours=1)).timestamp
        await windows.notice(["R001"])
        # The hour has changed as well: both windows are new, and both forecasts are made without being asked for.
        assert await asyncio.wait_for(told.get(), 10) == {"R001", "R002"}
        assert counting.runs == [("R001", "R002")]
        after = {site: service.kept(ask(site)) for site in ("R001", "R002")}
        for site in before:
            first, second = before[site], after[site]
            assert first is not None
            assert second is not None
            assert first.run.name != second.run.name
        counting.runs.clear()
        add(store, "R002", pd.DatetimeIndex([NOW.floor("h") + pd.Timedelta(minutes=59)]), [300.0])
        repository.push(["R002"], as_of=NOW + pd.Timedelta(hours=1))
        await windows.notice(["R002"])
        assert await asyncio.wait_for(told.get(), 10) == {"R002"}
        assert counting.runs == [("R002",)]
        kept = service.kept(ask("R001"))
        assert kept is not None
        assert kept.run is after["R001"].run  # type: ignore[union-attr]
        await ahead.close()
        await town.close()

    asyncio.run(run())


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


def test_workers_share_forecasts_and_make_their_own_where_redis_is_away(
    make_service: Callable[..., ForecastService], artifact: Artifact, redis: RedisServer
) -> None:
    async def run() -> None:
        runtimes = [CountingRuntime(artifact), CountingRuntime(artifact)]
        shared = [SharedForecasts(redis.url, keep_s=300.0) for _ in runtimes]
        workers = [
            make_service(runtime=FailoverRuntime([runtime]), keep_s=300.0, shared=one)
            for runtime, one in zip(runtimes, shared, strict=True)
        ]
        for worker, runtime in zip(workers, runtimes, strict=True):
            await started(worker, runtime)
        made = await workers[0].forecast(ask("R001"))
        taken = await workers[1].forecast(ask("R001"))
        assert (made.forecast.value_BHQ == taken.forecast.value_BHQ).all()
        assert taken.quality.runtime == "in_process"
        assert [runtime.runs for runtime in runtimes] == [[("R001",)], []]
        assert (await workers[0].make_ahead(["R001", "R002"])).keys() == {"R001", "R002"}
        assert (await workers[1].make_ahead(["R001", "R002"])).keys() == {"R001", "R002"}
        assert runtimes[1].runs == []
        redis.kill()
        for worker in workers:
            worker._kept._runs.clear()
        assert (await workers[1].forecast(ask("R001"))).came == "made"
        assert runtimes[1].runs == [("R001",)]
        for worker, one in zip(workers, shared, strict=True):
            await closed(worker)
            await one.close()

    asyncio.run(run())


def test_a_reply_from_a_kept_forecast_is_that_of_a_new_one(
    keeping: Callable[..., ForecastService], counting: CountingRuntime, open_api: Any
) -> None:
    body = {"location": {"road_id": "R001"}, "forecast_horizon": "6h", "request_id": 'with "quotes" and \\'}
    with open_api(create_app(ServingSettings(forecast_ahead=False), services=[keeping()])) as api:
        counting.runs.clear()
        replies = [api.request("POST", "/predict/traffic", json=body).json() for _ in range(3)]
        other = api.request("POST", "/predict/traffic", json={**body, "include_confidence": False}).json()
    for reply in replies:
        del reply["inference_time_ms"]
    assert replies[0] == replies[1] == replies[2]
    assert replies[0]["request_id"] == body["request_id"]
    assert "confidence_interval" in replies[0]["predictions"][0]
    assert "confidence_interval" not in other["predictions"][0]
    assert counting.runs == [("R001",)]
