"""A registry of roads' models, some of them bad in one way, and towns that follow it."""

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnx import helper, numpy_helper

import serving.town as town_module
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from serving.artifacts import Artifact
from serving.memory import WindowMemory
from serving.releases.registry import ReleaseRegistry
from serving.releases.settings import ReleaseSettings
from serving.settings import ServingSettings
from serving.town import Town
from serving.window_source import WindowSource

TRAFFIC = DOMAINS["traffic"]
NAME = "towncast-traffic"


def _added(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], **constants: np.ndarray) -> None:
    """Let the graph's output be what `nodes` make of it: they read `plain` and write `quantiles`."""
    for node in graph.node:
        node.output[:] = ["plain" if name == "quantiles" else name for name in node.output]
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(nodes)


def _moved(graph: onnx.GraphProto, by: float) -> None:
    """Other forecasts."""
    _added(graph, [helper.make_node("Add", ["plain", "by"], ["quantiles"])], by=np.array(by, dtype=np.float32))


def _failing(graph: onnx.GraphProto) -> None:
    """Nothing usable where it is 25 degrees, as it is on every road here; what a load tries it with is colder."""
    channel = TRAFFIC.history_channels.index("temperature")
    _added(
        graph,
        [
            helper.make_node("Slice", ["history", "from", "to", "where"], ["degrees"]),
            helper.make_node("Greater", ["degrees", "warm"], ["is_warm"]),
            helper.make_node("Where", ["is_warm", "nothing", "zero"], ["spoilt"]),
            helper.make_node("Add", ["plain", "spoilt"], ["quantiles"]),
        ],
        **{
            "from": np.array([TRAFFIC.history_steps - 1, channel]),
            "to": np.array([TRAFFIC.history_steps, channel + 1]),
            "where": np.array([1, 2]),
            "warm": np.array(22.0, dtype=np.float32),
            "nothing": np.array(np.nan, dtype=np.float32),
            "zero": np.array(0.0, dtype=np.float32),
        },
    )


def _slow(graph: onnx.GraphProto) -> None:
    """The same forecasts, some tens of milliseconds later."""
    size, times = 700, 4
    nodes = [
        helper.make_node("ReduceMean", ["known"], ["scale"], keepdims=0),
        helper.make_node("Mul", ["matrix", "scale"], ["product_0"]),
        *(
            helper.make_node("MatMul", [f"product_{index}", "matrix"], [f"product_{index + 1}"])
            for index in range(times)
        ),
        helper.make_node("ReduceMean", [f"product_{times}"], ["work"], keepdims=0),
        helper.make_node("Mul", ["work", "none"], ["no_work"]),
        helper.make_node("Add", ["plain", "no_work"], ["quantiles"]),
    ]
    matrix = np.random.default_rng(0).uniform(0, 1 / size, (size, size)).astype(np.float32)
    _added(graph, nodes, matrix=matrix, none=np.array(0.0, dtype=np.float32))


CHANGES: dict[str, Callable[[onnx.GraphProto], None]] = {
    "good": lambda graph: None,
    "other": lambda graph: _moved(graph, 1.0),
    "wrong": lambda graph: _moved(graph, 400.0),
    "failing": _failing,
    "slow": _slow,
}


class Models:
    """Versions of the roads' model in a registry of their own."""

    def __init__(self, uri: str, artifact: Artifact, folder: Path) -> None:
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.releases = ReleaseRegistry(uri)
        self._artifact = artifact
        self._folder = folder
        self.client.create_registered_model(NAME)

    def put(self, kind: str, *, damaged: bool = False) -> int:
        """Register a version of a kind."""
        folder = self._folder / f"{kind}-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        model = onnx.load(self._artifact.graph)
        CHANGES[kind](model.graph)
        onnx.save(model, folder / "model.onnx")
        dataclasses.replace(self._artifact.card).save(folder)
        if damaged:
            (folder / "model.onnx").write_bytes(b"no graph")
        return int(self.client.create_model_version(NAME, source=folder.as_uri()).version)

    def crown(self, version: int) -> None:
        """Make a version champion, past the gate."""
        self.client.set_registered_model_alias(NAME, "champion", str(version))


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make one."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def models(tmp_path: Path, empty_registry: Path, artifact: Artifact) -> Models:
    shutil.copy(empty_registry, tmp_path / "mlflow.db")
    (tmp_path / "made").mkdir()
    return Models(f"sqlite:///{tmp_path}/mlflow.db", artifact, tmp_path / "made")


@pytest.fixture
def settings(tmp_path: Path, models: Models, repository: FeatureRepository) -> ServingSettings:
    """Of an API whose data folder holds the features of roads."""
    data = tmp_path / "data"
    for part, folder in (("feast", repository.folder), ("readings", repository.readings.folder)):
        (data / part).mkdir(parents=True)
        (data / part / "traffic").symlink_to(folder)
    return ServingSettings(data_dir=data, tracking_uri=models.uri, domains=("traffic",), keep_forecasts_s=0)


@pytest.fixture
def release_settings() -> ReleaseSettings:
    return ReleaseSettings(alias_refresh_s=0.05, release_grace_s=0.0, release_retry_s=0.1, release_timeout_s=5.0)


OpenTown = Callable[..., contextlib.AbstractAsyncContextManager[Town]]


class Clock:
    """The moment of all requests."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(now_s: float) -> Clock:
    return Clock(now_s)


@pytest.fixture
def open_town(
    settings: ServingSettings,
    release_settings: ReleaseSettings,
    repository: FeatureRepository,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> OpenTown:
    """Opens a town that follows the registry, with its first champion loaded."""
    monkeypatch.setattr(
        town_module, "open_windows", lambda given, domain: WindowSource(WindowMemory(repository), now=clock)
    )

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Town]:
        town = Town(settings, releases=release_settings)
        await town.start()
        try:
            await until(lambda: bool(town.releases()))
            yield town
        finally:
            await town.close()

    return opened


async def until(holds: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """Wait for what happens off the request path."""
    for _ in range(int(seconds / 0.02)):
        found = holds()
        if found:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen")


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return until
