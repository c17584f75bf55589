"""towncast under measurement: readings, features, a registry and a key in a data folder, and `towncast serve` on it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from benchmarks.load import Call
from benchmarks.server_process import ServerFailedError, ServerProcess, ask, free_port
from benchmarks.serving_peers.peers import Windows, protocol_call
from benchmarks.serving_subject import TRAFFIC, make_town, random_lstm
from features.card import registered_name
from features.feast_repository import FeatureRepository
from serving.artifacts import Artifact

ROOT = Path(__file__).parents[1]
HOURS = 72
# On, and never reached.
_REQUESTS_PER_MINUTE = 1_000_000_000
_PATIENCE_S = 120.0
_SCOPES = ("predict", "data", "readings", "metrics", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What `towncast serve` finds.

    Attributes:
        folder: Data folder.
        artifact: The graph and the card that version 1 and 2 of the model were registered from.
        repository: Features of the roads.
        roads: Their names.
        key: API key with all scopes that benchmarks need.
    """

    folder: Path
    artifact: Artifact
    repository: FeatureRepository
    roads: tuple[str, ...]
    key: str

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is."""
        return f"sqlite:///{self.folder / 'mlflow' / 'mlflow.db'}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request of ours has."""
        return {"X-API-Key": self.key}

    def environment(self, **changes: object) -> dict[str, str]:
        """Variables of the server: all that protects and watches is on, and one domain is served."""
        settings = {
            "data_dir": self.folder,
            "tracking_uri": self.tracking_uri,
            "domains": TRAFFIC.name,
            "security": "on",
            "requests_per_minute": _REQUESTS_PER_MINUTE,
            "batch_limit": 1000,
            **changes,
        }
        return {f"TOWNCAST_{name.upper()}": str(value) for name, value in settings.items()}


def install(folder: Path, *, roads: int) -> Installation:
    """Make readings, features, a registry with two versions of one graph of which the first is champion, and a key."""
    from serving.security.keys import KeyStore

    folder.mkdir(parents=True, exist_ok=True)
    repository = make_town(folder, roads=roads, hours=HOURS)
    sites = repository.readings.sites()
    artifact = random_lstm(folder / "model", sites=list(sites.values()))
    keys = KeyStore(f"sqlite:///{folder / 'keys.db'}")
    _, key = keys.add("benchmark", _SCOPES, requests_per_minute=_REQUESTS_PER_MINUTE)
    keys.close()
    made = Installation(folder=folder, artifact=artifact, repository=repository, roads=tuple(sites), key=key)
    for _ in range(2):
        register(made)
    promote(made, 1)
    return made


def register(installation: Installation) -> None:
    """Register the graph as a further version."""
    from training.registry import ModelRegistry
    from training.tracking import Tracking

    tracking = Tracking(installation.tracking_uri)
    artifact = installation.artifact
    with tracking.run(TRAFFIC, name="benchmark", tags={}) as run_id:
        ModelRegistry(tracking).register(run_id, artifact.folder, artifact.card, TRAFFIC)


def promote(installation: Installation, version: int) -> None:
    """Make a version champion."""
    from training.registry import ModelRegistry
    from training.tracking import Tracking

    registry = ModelRegistry(Tracking(installation.tracking_uri))
    registry.promote(registry.version(registered_name(TRAFFIC.name), version), reason="benchmark")


def towncast(installation: Installation, *words: str, **changes: object) -> tuple[list[str], dict[str, str]]:
    """A command line of towncast in the benchmark's domain, and its environment."""
    return [sys.executable, "-m", "benchmarks.serving_process", *words], installation.environment(**changes)


def start_gateway(
    installation: Installation,
    log: Path,
    *,
    cores: Sequence[int] | None = None,
    workers: int = 1,
    torchserve: bool = False,
    changes: Mapping[str, object] | None = None,
) -> tuple[ServerProcess, int]:
    """Start `towncast serve`, and wait until it answers; the caller stops it.

    Args:
        installation: What it serves.
        log: File for its output.
        cores: Processor cores that it may use, by default all.
        workers: Processes that answer.
        torchserve: Whether it hosts the model in TorchServe.
        changes: Settings, without their prefix.

    Raises:
        ServerFailedError: It does not get ready.
    """
    port = free_port()
    words = ["serve", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--torchserve" if torchserve else "--no-torchserve"]
    words += ["--workers", str(workers)] if workers > 1 else []
    command, variables = towncast(installation, *words, **(changes or {}))
    process = ServerProcess(command, log=log, environment=variables, folder=ROOT, cores=cores)
    process.start()
    try:
        _wait_for_all(process, port, site_call(installation, installation.roads[0]), workers)
    except BaseException:
        process.stop()
        raise
    return process, port


def _wait_for_all(process: ServerProcess, port: int, call: Call, workers: int) -> None:
    """Wait until so many answers in a row, each on a connection of its own, are good that every worker gave some."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        process.wait_for(port, call)
        if workers == 1 or all(ask(port, call).status_code == httpx.codes.OK for _ in range(20 * workers)):
            return
        if time.monotonic() > end:
            raise ServerFailedError(f"not all workers answer after {_PATIENCE_S:g} s: {process.last_words()}")
        time.sleep(0.5)


def site_call(installation: Installation, road: str, headers: Mapping[str, str] | None = None) -> Call:
    """The question about a road, a day ahead."""
    body = json.dumps({"location": {"road_id": road}, "forecast_horizon": "24h"}).encode()
    return Call(path="/predict/traffic", body=body, headers={**installation.headers, **(headers or {})})


def batch_call(installation: Installation, roads: Sequence[str]) -> Call:
    """The questions about many roads in one request."""
    questions = [{"location": {"road_id": road}, "forecast_horizon": "24h"} for road in roads]
    body = json.dumps({"requests": questions}).encode()
    return Call(path="/predict/traffic/batch", body=body, headers=installation.headers)


def infer_call(installation: Installation, window: Windows) -> Call:
    """A window in the body, by the Open Inference Protocol."""
    return protocol_call(f"/v2/models/{registered_name(TRAFFIC.name)}/infer", window, headers=installation.headers)


def window_at(installation: Installation, road: str, *, origin_s: int) -> Windows:
    """The window of a road that the API cuts for itself."""
    window = installation.repository.online_window(road, origin_s=origin_s)
    arrays: tuple[npt.NDArray[np.float32], ...] = (window.history_BLK[0], window.future_BHK[0], window.static_BS[0])
    return dict(zip(("history", "future", "static"), arrays, strict=True))


def present_origin_s() -> int:
    """The step that has begun last [s since 1970]."""
    return int(time.time()) // TRAFFIC.step_s * TRAFFIC.step_s


def reply_differences(reply: Mapping[str, Any], quantiles: npt.NDArray[np.float32]) -> float:
    """Largest difference between a reply's whole vehicles and the graph's quantiles, rounded likewise.

    Args:
        reply: Of `/predict/traffic`, with intervals of 95 %.
        quantiles: Shape (H, Q), levels as the card's.
    """
    entries = reply["predictions"]
    found = np.array(
        [
            (one["confidence_interval"]["lower"], one["traffic_volume"], one["confidence_interval"]["upper"])
            for one in entries
        ]
    )
    lower, median, upper = (quantiles[: len(entries), level] for level in (0, 2, 4))
    expected = np.stack([np.floor(lower), np.rint(median), np.ceil(upper)], axis=1)
    return float(np.abs(found - expected).max())


def inference_times_ms(port: int, installation: Installation, *, requests: int) -> list[float]:
    """What replies say of their inference, one after the other [ms]."""
    calls = [site_call(installation, installation.roads[index % len(installation.roads)]) for index in range(requests)]
    return [float(ask(port, call).json()["inference_time_ms"]) for call in calls]
