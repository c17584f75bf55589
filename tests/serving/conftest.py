"""Small towns for the serving tests: places with ten weeks of readings, and real graphs that copy last week."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pandas as pd
import pytest
from fastapi import FastAPI
from onnx import TensorProto, helper, numpy_helper

from features.adaptive_intervals import AdaptiveIntervals
from features.card import INTERVALS_UNTIL, Card, ParityCertificate, SpeedRelation
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Domain, Site
from serving.app import create_app
from serving.artifacts import Artifact, open_artifact
from serving.memory import WindowMemory
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.window_source import WindowSource

TRAFFIC = DOMAINS["traffic"]
NOW = pd.Timestamp("2026-02-06T09:20:00Z")
LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)
OFFSETS = (-50.0, -40.0, 0.0, 40.0, 50.0)
SITES = [
    Site(name="R001", latitude=23.0225, longitude=72.5714, timezone="Asia/Kolkata", neighbours=("R002",)),
    Site(name="R002", latitude=23.05, longitude=72.60, timezone="Asia/Kolkata", attributes={"lanes": 3.0}),
]


def last_week_graph(domain: Domain, target: str, *, width: float, ahead: str = "") -> onnx.ModelProto:
    """The target at the same hour last week (100 where missing) + 2 x hour of day + 0.1 x last value, and offsets.

    Args:
        domain: Gives lengths and channels.
        target: What is copied.
        width: Half of the 95 % interval.
        ahead: A channel known ahead that is added, 0 where missing.
    """
    length, horizon = domain.history_steps, domain.horizon_steps
    channel = [quantity.name for quantity in domain.inputs].index(target)
    constants = {
        "week": np.array([length - 168, channel]),
        "week_end": np.array([length - 168 + horizon, channel + 1]),
        "last": np.array([length - 1, channel]),
        "last_end": np.array([length, channel + 1]),
        "axes": np.array([1, 2]),
        "hour": np.array([0]),
        "hour_end": np.array([1]),
        "hour_axis": np.array([2]),
        "per_hour": np.array(2.0, dtype=np.float32),
        "per_unit": np.array(0.1, dtype=np.float32),
        "unknown": np.array(100.0, dtype=np.float32),
        "offsets": np.array(OFFSETS, dtype=np.float32) * np.float32(width / 50.0),
    }
    nodes = [
        helper.make_node("IsNaN", ["history"], ["missing"]),
        helper.make_node("Where", ["missing", "unknown", "history"], ["known"]),
        helper.make_node("Slice", ["known", "week", "week_end", "axes"], ["copied"]),
        helper.make_node("Slice", ["known", "last", "last_end", "axes"], ["newest"]),
        helper.make_node("Slice", ["future", "hour", "hour_end", "hour_axis"], ["clock"]),
        helper.make_node("Mul", ["clock", "per_hour"], ["by_hour"]),
        helper.make_node("Mul", ["newest", "per_unit"], ["by_newest"]),
        helper.make_node("Add", ["copied", "by_hour"], ["first_sum"]),
        helper.make_node("Add", ["first_sum", "by_newest"], ["without_weather"]),
    ]
    if ahead:
        position = domain.future_channels.index(ahead)
        constants |= {
            "weather": np.array([position]),
            "weather_end": np.array([position + 1]),
            "nothing": np.array(0.0, dtype=np.float32),
        }
        nodes += [
            helper.make_node("Slice", ["future", "weather", "weather_end", "hour_axis"], ["forecast"]),
            helper.make_node("IsNaN", ["forecast"], ["no_forecast"]),
            helper.make_node("Where", ["no_forecast", "nothing", "forecast"], ["by_weather"]),
            helper.make_node("Add", ["without_weather", "by_weather"], ["median"]),
        ]
    nodes.append(helper.make_node("Add", ["median" if ahead else "without_weather", "offsets"], ["quantiles"]))
    shapes = {"history": [length, len(domain.history_channels)], "future": [horizon, len(domain.future_channels)]}
    shapes["static"] = [len(domain.static_channels)]
    graph = helper.make_graph(
        nodes,
        "last_week",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", horizon, len(LEVELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def card_of(domain: Domain, target: str, *, family: str, sites: Sequence[Site]) -> Card:
    quantity = domain.quantity(target)
    suffix = "" if quantity == domain.target else f"-{target}"
    return Card(
        model=f"{domain.name}-{family}{suffix}",
        domain=domain.name,
        family=family,
        target=target,
        unit=quantity.unit,
        step_s=3600,
        history_steps=domain.history_steps,
        horizon_steps=domain.horizon_steps,
        history_channels=domain.history_channels,
        future_channels=domain.future_channels,
        static_channels=domain.static_channels,
        levels=LEVELS,
        sites=tuple(sites),
        input_range={target: (0.0, 2000.0), "temperature": (0.0, 20.0)},
        parity=ParityCertificate(windows=8, largest_relative=1e-7, tolerance=1e-5, batch_hash="0"),
    )


@pytest.fixture(scope="session")
def make_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """Makes the artifact of a target: its family, its interval's half width, the weather that it reads, its sites."""

    def make(
        domain: str, target: str, *, family: str = "lstm", width: float = 50.0, ahead: str = "", sites: Sequence[Site]
    ) -> Artifact:
        folder = tmp_path_factory.mktemp("artifact")
        onnx.save(last_week_graph(DOMAINS[domain], target, width=width, ahead=ahead), folder / "model.onnx")
        card = card_of(DOMAINS[domain], target, family=family, sites=sites)
        if domain == "traffic":
            relation = SpeedRelation(free_flow_km_per_h=80.0, capacity_veh_per_h=2500.0, measured=True)
            card = replace(card, speed={"R001": relation})
        card.save(folder)
        return open_artifact(folder, version="3")

    return make


@pytest.fixture(scope="session")
def artifact(make_artifact: Callable[..., Artifact]) -> Artifact:
    return make_artifact("traffic", "volume", sites=[SITES[0]])


@pytest.fixture(scope="session")
def adaptive(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same graph with intervals that learnt for two months from errors, about twice as large from 15 to 16 h."""
    folder = Path(shutil.copytree(artifact.folder, tmp_path_factory.mktemp("adaptive") / "model"))
    intervals, rng = AdaptiveIntervals(("R001",), (2, 6, 12, 24), LEVELS), np.random.default_rng(0)
    hour = (15 + np.arange(24)[None, :]) % 24  # as a forecast from 9:00 UTC has them
    quantiles = np.broadcast_to(800.0 + np.array(OFFSETS, dtype=np.float32), (1, 24, 5)).astype(np.float32)
    for _ in range(60):
        errors = rng.normal(0, np.where(hour == 15, 200.0, 100.0)).astype(np.float32)
        intervals.update(quantiles, 800.0 + errors, ("R001",), hour)
    intervals.save(folder)
    replace(artifact.card, trained={INTERVALS_UNTIL: "1770280800"}).save(folder)
    return open_artifact(folder, version="3")


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the folder that it is run in."""
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))


Values = Callable[[pd.DatetimeIndex], Any]


@pytest.fixture(scope="session")
def make_town(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FeatureRepository]:
    """Makes the features of a domain, ten weeks up to now: values by site and quantity, and hours ahead of some."""

    def make(
        domain: str,
        sites: Sequence[Site],
        values: Mapping[tuple[str, str], Values],
        *,
        hours_ahead: Mapping[str, int] | None = None,
    ) -> FeatureRepository:
        folder = tmp_path_factory.mktemp("town")
        store = ReadingStore(folder / "readings", DOMAINS[domain])
        parts = []
        for (site, quantity), value in values.items():
            ahead = (hours_ahead or {}).get(quantity, 0)
            moments = pd.date_range(end=NOW.floor("h") + pd.Timedelta(hours=ahead), periods=10 * 168 + ahead, freq="h")
            known = moments.where(moments <= NOW, NOW.floor("h"))
            parts.append(
                make_readings(
                    site=site,
                    quantity=quantity,
                    valid_at=moments,
                    available_at=known,
                    value=np.broadcast_to(value(moments), len(moments)),
                    source="sensor:test",
                )
            )
        store.append(check_readings(join_readings(parts), DOMAINS[domain]), list(sites))
        made = FeatureRepository(folder / "feast", store)
        made.apply()
        made.materialise(as_of=NOW)
        return made

    return make


def volume_at(site: str) -> Values:
    """A volume that says which site and hour of the week it is from."""
    return lambda moments: 500.0 + 1000.0 * (site == "R002") + (moments.dayofweek * 24 + moments.hour).to_numpy(float)


@pytest.fixture(scope="session")
def repository(make_town: Callable[..., FeatureRepository]) -> FeatureRepository:
    values = {("R001", "volume"): volume_at("R001"), ("R002", "volume"): volume_at("R002")}
    warm: dict[tuple[str, str], Values] = {(site, "temperature"): lambda moments: 25.0 for site in ("R001", "R002")}
    return make_town("traffic", SITES, values | warm)


@pytest.fixture(scope="session")
def service_of() -> Callable[..., ForecastService]:
    """Makes a service of an artifact over features; keywords replace arguments of the service or of its windows."""

    def make(artifact: Artifact, repository: FeatureRepository, **changes: Any) -> ForecastService:
        memory = changes.pop("memory", None) or WindowMemory(repository)
        of_windows = {name: changes.pop(name) for name in ("refresh_s", "now") if name in changes}
        windows = changes.pop("windows", None) or WindowSource(memory, **{"now": NOW.timestamp, **of_windows})
        runtime = changes.pop("runtime", None) or FailoverRuntime([InProcessRuntime(artifact)])
        return ForecastService(artifact=artifact, windows=windows, runtime=runtime, **changes)

    return make


@pytest.fixture(scope="session")
def make_service(
    artifact: Artifact, repository: FeatureRepository, service_of: Callable[..., ForecastService]
) -> Callable[..., ForecastService]:
    """Makes services of the roads; keywords replace arguments of the service or of its windows."""
    return lambda **changes: service_of(changes.pop("artifact", artifact), repository, **changes)


class Api:
    """A synchronous client of an app that runs in this process, with its lifespan."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._runner = asyncio.Runner()
        self._lifespan = app.router.lifespan_context(app)

    def __enter__(self) -> "Api":
        self._runner.run(self._lifespan.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://town") as client:
                return await client.request(method, path, **arguments)

        return self._runner.run(send())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)


@pytest.fixture(scope="session")
def open_api() -> type[Api]:
    return Api


@pytest.fixture
def api(make_service: Callable[..., ForecastService]) -> Iterator[Api]:
    with Api(create_app(ServingSettings(), services=[make_service()])) as opened:
        yield opened


@pytest.fixture(scope="session")
def now_s() -> float:
    """The moment at which requests are made: 9:20 UTC on Friday, 6 February 2026; the last reading is of 9:00."""
    return NOW.timestamp()


def _hour(moments: pd.DatetimeIndex) -> Any:
    return moments.hour.to_numpy(float)


def _every(hours: int, values: Values) -> Values:
    """Values of every so many hours, missing between."""
    return lambda moments: np.where(moments.hour % hours == 0, values(moments), np.nan)


def _until(hours_ago: int, values: Values) -> Values:
    """Values that end some hours ago, as where a sensor has failed."""
    return lambda moments: np.where(moments <= NOW - pd.Timedelta(hours=hours_ago), values(moments), np.nan)


STATIONS = [
    Site(name="P001", latitude=23.0225, longitude=72.5714, timezone="Asia/Kolkata", country="IN"),
    Site(name="P002", latitude=23.10, longitude=72.60, timezone="Asia/Kolkata", country="IN"),
    Site(name="P003", latitude=23.20, longitude=72.70, timezone="Asia/Kolkata", country="IN"),
]


@pytest.fixture(scope="session")
def pollution_repository(make_town: Callable[..., FeatureRepository]) -> FeatureRepository:
    """P001 measures all and has 12 hours of weather ahead; P002 has no PM10; P003 measures every third hour."""
    values: dict[tuple[str, str], Values] = {
        ("P001", "pm2_5"): lambda moments: 40.0 + _hour(moments),
        ("P001", "pm10"): lambda moments: 90.0 + 2 * _hour(moments),
        ("P001", "temperature"): lambda moments: 10.0 + _hour(moments) / 10,
        ("P002", "pm2_5"): lambda moments: 55.0,
        ("P003", "pm2_5"): _every(3, lambda moments: 30.0 + _hour(moments)),
        ("P003", "pm10"): _until(40, lambda moments: 60.0 + _hour(moments)),
    }
    return make_town("pollution", STATIONS, values, hours_ahead={"temperature": 12})


@pytest.fixture(scope="session")
def make_pollution(
    make_artifact: Callable[..., Artifact],
    pollution_repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
) -> Callable[..., list[ForecastService]]:
    """Makes the services of both concentrations, over one source of windows."""

    def make(*, ahead: str = "temperature") -> list[ForecastService]:
        windows = WindowSource(WindowMemory(pollution_repository), now=NOW.timestamp)
        return [
            service_of(
                make_artifact("pollution", target, family="xgb", width=10.0, ahead=ahead, sites=STATIONS[:1]),
                pollution_repository,
                windows=windows,
            )
            for target in ("pm2_5", "pm10")
        ]

    return make


@pytest.fixture(scope="session")
def water_repository(make_town: Callable[..., FeatureRepository]) -> FeatureRepository:
    """Z001, half an hour off UTC, and Z002, whose clocks change; both with weather for a day ahead."""
    zones = [Site(name="Z001", timezone="Asia/Kolkata", country="IN"), Site(name="Z002", timezone="Europe/Rome")]
    values: dict[tuple[str, str], Values] = {}
    for zone in zones:
        values[zone.name, "inflow"] = lambda moments: 10.0 + _hour(moments) / 10
        values[zone.name, "temperature"] = lambda moments: 10.0
    return make_town("water", zones, values, hours_ahead={"temperature": 24})


@pytest.fixture(scope="session")
def make_water(
    make_artifact: Callable[..., Artifact],
    water_repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
) -> Callable[[], list[ForecastService]]:
    """Makes the service of water demand."""
    artifact = make_artifact("water", "inflow", family="prophet", width=2.0, ahead="temperature", sites=[])
    return lambda: [service_of(artifact, water_repository)]


@pytest.fixture(scope="session")
def demand_repository(make_town: Callable[..., FeatureRepository]) -> FeatureRepository:
    """ramp_1 has a baseline of its own; dock_2 has not; dock_3 was never used."""
    points = [
        Site(name="ramp_1", timezone="US/Central", attributes={"baseline_veh_per_hour": 600.0}),
        Site(name="dock_2", timezone="US/Central"),
        Site(name="dock_3", timezone="US/Central"),
    ]
    values: dict[tuple[str, str], Values] = {
        ("ramp_1", "trips"): lambda moments: 500.0 + 10 * _hour(moments),
        ("dock_2", "trips"): lambda moments: 100.0 + _hour(moments),
        ("dock_3", "trips"): lambda moments: 0.0,
    }
    return make_town("demand", points, values)


@pytest.fixture(scope="session")
def make_demand(
    make_artifact: Callable[..., Artifact],
    demand_repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
) -> Callable[[], list[ForecastService]]:
    """Makes the service of travel demand."""
    artifact = make_artifact("demand", "trips", family="gru", width=20.0, ahead="temperature", sites=[])
    return lambda: [service_of(artifact, demand_repository)]


@pytest.fixture(scope="module")
def whole_town(
    make_service: Callable[..., ForecastService],
    make_pollution: Callable[..., list[ForecastService]],
    make_water: Callable[[], list[ForecastService]],
    make_demand: Callable[[], list[ForecastService]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """The API with a model of every target of every domain."""
    services = [make_service(), *make_pollution(), *make_water(), *make_demand()]
    with Api(create_app(ServingSettings(data_dir=tmp_path_factory.mktemp("town")), services=services)) as opened:
        yield opened


@pytest.fixture(scope="session")
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a test's coroutine."""
    return lambda work: asyncio.run(asyncio.wait_for(work, timeout=100))


QUIET = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync")  # fmt: skip


def find_browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, "No Chromium on PATH: install it, as with `apt-get install chromium`."
    return found


@pytest.fixture(scope="session")
def open_page() -> Callable[..., AbstractAsyncContextManager[Any]]:
    """Opens a page of an address in a browser of its own, which may ask nothing of anybody else."""

    @contextlib.asynccontextmanager
    async def opened(
        address: str, query: str = "", *, page_path: str = "/dashboard", **options: Any
    ) -> AsyncIterator[Any]:
        from playwright.async_api import async_playwright

        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=find_browser(), args=QUIET.split())
            shape = {"viewport": {"width": 1400, "height": 1000}, "color_scheme": "light", "timezone_id": "UTC"}
            page = await browser.new_page(**{**shape, **options})
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            requests: list[str] = []
            page.on("request", lambda request: requests.append(request.url))
            await page.goto(f"http://{address}{page_path}{query}")
            yield page
            await browser.close()
            assert not errors
            assert all(url.startswith(f"http://{address}/") for url in requests), "something came from elsewhere"

    return opened
