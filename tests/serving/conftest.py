"""A small town for the serving tests: two roads, ten weeks of readings, and a real graph that copies last week."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import httpx
import numpy as np
import onnx
import pandas as pd
import pytest
from fastapi import FastAPI
from onnx import TensorProto, helper, numpy_helper

from features.card import Card, ParityCertificate, SpeedRelation
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from serving.app import create_app
from serving.artifacts import Artifact, open_artifact
from serving.memory import WindowMemory
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService
from serving.settings import ServingSettings

TRAFFIC = DOMAINS["traffic"]
NOW = pd.Timestamp("2026-02-06T09:20:00Z")
LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)
OFFSETS = (-50.0, -40.0, 0.0, 40.0, 50.0)
SITES = [
    Site(name="R001", latitude=23.0225, longitude=72.5714, timezone="Asia/Kolkata", neighbours=("R002",)),
    Site(name="R002", latitude=23.05, longitude=72.60, timezone="Asia/Kolkata", attributes={"lanes": 3.0}),
]


def last_week_graph() -> onnx.ModelProto:
    """Volume of the same hour last week (100 where missing) + 2 x hour of day + 0.1 x last volume, and offsets."""
    length, horizon = TRAFFIC.history_steps, TRAFFIC.horizon_steps
    constants = {
        "week": np.array([length - 168, 0]),
        "week_end": np.array([length - 168 + horizon, 1]),
        "last": np.array([length - 1, 0]),
        "last_end": np.array([length, 1]),
        "axes": np.array([1, 2]),
        "hour": np.array([0]),
        "hour_end": np.array([1]),
        "hour_axis": np.array([2]),
        "per_hour": np.array(2.0, dtype=np.float32),
        "per_vehicle": np.array(0.1, dtype=np.float32),
        "unknown": np.array(100.0, dtype=np.float32),
        "offsets": np.array(OFFSETS, dtype=np.float32),
    }
    nodes = [
        helper.make_node("IsNaN", ["history"], ["missing"]),
        helper.make_node("Where", ["missing", "unknown", "history"], ["known"]),
        helper.make_node("Slice", ["known", "week", "week_end", "axes"], ["copied"]),
        helper.make_node("Slice", ["known", "last", "last_end", "axes"], ["newest"]),
        helper.make_node("Slice", ["future", "hour", "hour_end", "hour_axis"], ["clock"]),
        helper.make_node("Mul", ["clock", "per_hour"], ["by_hour"]),
        helper.make_node("Mul", ["newest", "per_vehicle"], ["by_newest"]),
        helper.make_node("Add", ["copied", "by_hour"], ["first_sum"]),
        helper.make_node("Add", ["first_sum", "by_newest"], ["median"]),
        helper.make_node("Add", ["median", "offsets"], ["quantiles"]),
    ]
    shapes = {"history": [length, len(TRAFFIC.history_channels)], "future": [horizon, len(TRAFFIC.future_channels)]}
    shapes["static"] = [len(TRAFFIC.static_channels)]
    graph = helper.make_graph(
        nodes,
        "last_week",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", horizon, len(LEVELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def traffic_card() -> Card:
    return Card(
        model="traffic-lstm",
        domain="traffic",
        family="lstm",
        target="volume",
        unit="veh/h",
        step_s=3600,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=LEVELS,
        sites=(SITES[0],),
        input_range={"volume": (0.0, 2000.0), "temperature": (0.0, 20.0)},
        parity=ParityCertificate(windows=8, largest_relative=1e-7, tolerance=1e-5, batch_hash="0"),
        speed={"R001": SpeedRelation(free_flow_km_per_h=80.0, capacity_veh_per_h=2500.0, measured=True)},
    )


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("artifact")
    onnx.save(last_week_graph(), folder / "model.onnx")
    traffic_card().save(folder)
    return open_artifact(folder, version="3")


def volume_at(moments: pd.DatetimeIndex, site: str) -> np.ndarray:
    """A volume that says which site and hour of the week it is from."""
    return 500.0 + 1000.0 * (site == "R002") + (moments.dayofweek * 24 + moments.hour).to_numpy(dtype=float)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepository:
    folder = tmp_path_factory.mktemp("town")
    store = ReadingStore(folder / "readings", TRAFFIC)
    moments = pd.date_range(end=NOW.floor("h"), periods=10 * 168, freq="h")
    parts = [
        make_readings(site=site, quantity=quantity, valid_at=moments, value=value, source="sensor:test")
        for site in ("R001", "R002")
        for quantity, value in (("volume", volume_at(moments, site)), ("temperature", 25.0 + 0.0 * moments.hour))
    ]
    store.append(check_readings(join_readings(parts), TRAFFIC), SITES)
    made = FeatureRepository(folder / "feast", store)
    made.apply()
    made.materialise(as_of=NOW)
    return made


@pytest.fixture
def make_service(artifact: Artifact, repository: FeatureRepository) -> Callable[..., ForecastService]:
    """Makes services of the small town; keywords replace arguments of the service."""

    def make(**changes: object) -> ForecastService:
        arguments = {
            "domain": TRAFFIC,
            "artifact": artifact,
            "memory": WindowMemory(repository),
            "runtime": FailoverRuntime([InProcessRuntime(artifact)]),
            "now": NOW.timestamp,
        }
        return ForecastService(**{**arguments, **changes})  # type: ignore[arg-type]

    return make


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


@pytest.fixture
def open_api() -> type[Api]:
    return Api


@pytest.fixture
def api(make_service: Callable[..., ForecastService]) -> Iterator[Api]:
    with Api(create_app(ServingSettings(), service=make_service())) as opened:
        yield opened


@pytest.fixture
def now_s() -> float:
    """The moment at which requests are made: 9:20 UTC on Friday, 6 February 2026; the last reading is of 9:00."""
    return NOW.timestamp()
