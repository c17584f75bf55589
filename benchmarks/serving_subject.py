"""What `benchmarks.serving` measures: a model, a town of readings, and the API in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.card import Card, ParityCertificate
from features.domains import DOMAINS
from features.errors import ArtifactError
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Domain, Float32Array, Site
from serving.artifacts import Artifact, open_artifact
from serving.loading import champion
from serving.settings import ServingSettings

TRAFFIC = DOMAINS["traffic"]
LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)
_LAYERS = (128, 128)
_DENSE = (64, 32)
_STEPS = 24
_RANGES = {"volume": (100.0, 4000.0), "temperature": (0.0, 30.0), "pressure": (980.0, 1040.0)}


def find_artifact(settings: ServingSettings, folder: Path) -> Artifact:
    """The champion of traffic, or a random graph of the design document's size where there is none."""
    try:
        return champion(settings, TRAFFIC.name)
    except ArtifactError:
        return random_lstm(folder)


def random_lstm(folder: Path, *, sites: Sequence[Site] = ()) -> Artifact:
    """An LSTM with random weights: the document's 128, 128, dense 64, 32, over the last 24 steps of the window.

    Args:
        folder: Where it is written.
        sites: That its card says it was trained on.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    channels, horizon = len(TRAFFIC.history_channels), TRAFFIC.horizon_steps
    length, outputs = TRAFFIC.history_steps, TRAFFIC.horizon_steps * len(LEVELS)
    values: dict[str, Float32Array | np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {
        "start": np.array([length - _STEPS]),
        "end": np.array([length]),
        "steps": np.array([1]),
        "first": np.array([0]),
        "zero": np.zeros((), dtype=np.float32),
        "scale": np.array(1e-3, dtype=np.float32),
        # So that other windows give other forecasts, by whole vehicles.
        "spread": np.array(100.0, dtype=np.float32),
        "shape": np.array([-1, horizon, len(LEVELS)]),
        "base": np.array([800, 850, 1000, 1150, 1200], dtype=np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["history", "start", "end", "steps"], ["recent"]),
        helper.make_node("IsNaN", ["recent"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "recent"], ["known"]),
        helper.make_node("Mul", ["known", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["state0"], perm=[1, 0, 2]),
    ]
    size = channels
    for index, hidden in enumerate(_LAYERS):
        for name, shape in (("W", (1, 4 * hidden, size)), ("R", (1, 4 * hidden, hidden)), ("B", (1, 8 * hidden))):
            values[f"{name}{index}"] = rng.normal(0, 0.1, shape).astype(np.float32)
        weights = [f"{name}{index}" for name in "WRB"]
        nodes.append(
            helper.make_node("LSTM", [f"state{index}", *weights], [f"all{index}", f"last{index}"], hidden_size=hidden)
        )
        nodes.append(helper.make_node("Squeeze", [f"all{index}", "steps"], [f"state{index + 1}"]))
        size = hidden
    nodes.append(helper.make_node("Squeeze", [f"last{len(_LAYERS) - 1}", "first"], ["dense0"]))
    for index, width in enumerate((*_DENSE, outputs)):
        values[f"M{index}"] = rng.normal(0, 0.1, (size, width)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"dense{index}", f"M{index}"], [f"product{index}"]))
        nodes.append(helper.make_node("Relu", [f"product{index}"], [f"dense{index + 1}"]))
        size = width
    nodes.append(helper.make_node("Reshape", [f"dense{len(_DENSE) + 1}", "shape"], ["shaped"]))
    nodes.append(helper.make_node("Mul", ["shaped", "spread"], ["varied"]))
    nodes.append(helper.make_node("Add", ["varied", "base"], ["quantiles"]))
    shapes = {"history": [length, channels], "future": [horizon, len(TRAFFIC.future_channels)]}
    shapes["static"] = [len(TRAFFIC.static_channels)]
    graph = helper.make_graph(
        nodes,
        "random_lstm",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", horizon, len(LEVELS)])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    _card(sites).save(folder)
    return open_artifact(folder, version="0")


def _card(sites: Sequence[Site]) -> Card:
    return Card(
        model="traffic-random-lstm",
        domain=TRAFFIC.name,
        family="lstm",
        target=TRAFFIC.target.name,
        unit=TRAFFIC.target.unit,
        step_s=TRAFFIC.step_s,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=LEVELS,
        sites=tuple(sites),
        input_range={},
        # Nothing was exported, so there is nothing that the graph could differ from.
        parity=ParityCertificate(windows=1, largest_relative=0.0, tolerance=0.0, batch_hash="random"),
    )


def make_town(folder: Path, *, roads: int, domain: Domain = TRAFFIC, hours: int = 0) -> FeatureRepository:
    """A Feast repository with hourly readings of some roads, or other sites, up to now.

    What is known ahead is there for the whole horizon.

    Args:
        folder: Where it lies.
        roads: How many.
        domain: Whose readings.
        hours: How many of each quantity; 0 for ten weeks.
    """
    rng = np.random.default_rng(1)
    store = ReadingStore(folder / "readings", domain)
    now = pd.Timestamp.now("UTC")
    hour, hours = now.floor("h"), hours or 10 * domain.season_steps
    names = [f"R{index:03d}" for index in range(1, roads + 1)]
    parts = []
    for name in names:
        for quantity in domain.inputs:
            ahead = domain.horizon_steps if quantity.name in domain.known_ahead else 0
            moments = pd.date_range(end=hour + pd.Timedelta(hours=ahead), periods=hours + ahead, freq="h")
            low, high = _RANGES.get(quantity.name, (max(quantity.lower, 1.0), min(quantity.upper, 50.0)))
            parts.append(
                make_readings(
                    site=name,
                    quantity=quantity.name,
                    valid_at=moments,
                    available_at=moments.where(moments <= hour, hour),
                    value=rng.uniform(low, high, len(moments)),
                    source="sensor:benchmark",
                )
            )
    near = names[: domain.neighbour_count + 1]
    sites = [
        Site(name=name, timezone="Asia/Kolkata", country="IN", neighbours=tuple(one for one in near if one != name))
        for name in names
    ]
    store.append(check_readings(join_readings(parts), domain), sites)
    repository = FeatureRepository(folder / "feast", store)
    repository.apply()
    repository.materialise(as_of=now)
    return repository


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """Where the child finds what it serves."""

    folder: Path
    artifact_folder: Path
    version: str


@contextlib.contextmanager
def served(town: Town, *, torchserve_url: str = "") -> Iterator[int]:
    """The API in a child with one uvicorn worker on loopback; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(town, port, torchserve_url), daemon=True)
    child.start()
    try:
        _wait_ready(port, runtime="torchserve" if torchserve_url else "in_process")
        yield port
    finally:
        child.terminate()
        child.join()


def _serve(town: Town, port: int, torchserve_url: str) -> None:
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    from serving.app import create_app, run_app
    from serving.loading import build_service, open_windows

    settings = ServingSettings(data_dir=town.folder, torchserve_url=torchserve_url, torchserve_timeout_s=30.0)
    artifact = open_artifact(town.artifact_folder, version=town.version)
    service = build_service(settings, artifact, open_windows(settings, TRAFFIC))
    run_app(create_app(settings, services=[service]), host="127.0.0.1", port=port, log_level="error")


def _wait_ready(port: int, *, runtime: str) -> None:
    import httpx

    for _ in range(600):
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2.0, trust_env=False)
            if answer.status_code == httpx.codes.OK and _traffic_runtimes(answer.json())[runtime]:
                return
        time.sleep(0.1)
    raise TimeoutError(f"the API on port {port} did not get ready with {runtime}")


def _traffic_runtimes(ready: dict[str, Any]) -> dict[str, bool]:
    runtimes: dict[str, bool] = ready["domains"][TRAFFIC.name]["models"][TRAFFIC.target.name]["runtimes"]
    return runtimes


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="towncast-benchmark-") as name:
        yield Path(name)
