"""A town whose traffic is a daily wave: graphs that know it, and an MLflow store to be champion in."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from features.card import GRAPH_FILE, TRAINED_UNTIL, Card, ParityCertificate
from features.domains import DOMAINS
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from features.windows import Panel, build_panel
from pipelines.promote import Outcome, Settler, judge_version, settle
from pipelines.settings import Settings
from training.forecaster import LEVELS, predict_set
from training.gate import GateRules, Verdict
from training.graph_forecaster import open_graph
from training.models.seasonal import SeasonalForecaster
from training.registry import ModelRegistry, Registered
from training.tracking import Tracking
from training.window_set import WindowSet

TRAFFIC = DOMAINS["traffic"]
SITES = [Site(name="R1"), Site(name="R2")]
ORIGINS = 4 * 168
START = pd.Timestamp("2025-01-01", tz="UTC")


def volumes(hours: int, *, seed: int) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """A daily wave that a graph can know by heart, and noise of 50 veh/h that none can."""
    moments = pd.date_range(START, periods=hours, freq="h")
    noise = np.random.default_rng(seed).normal(0, 50, hours)
    return moments, 1000 + 500 * np.sin(moments.hour / 24 * 2 * np.pi) + noise


def readings_of(hours: int, sites: list[Site]) -> pd.DataFrame:
    parts = []
    for seed, site in enumerate(sites):
        moments, value = volumes(hours, seed=seed)
        parts.append(
            make_readings(
                site=site.name,
                quantity="volume",
                valid_at=moments,
                available_at=moments,
                value=value,
                source="sensor:test",
            )
        )
    return join_readings(parts)


@pytest.fixture(scope="session")
def wave_readings() -> Callable[[int, list[Site]], pd.DataFrame]:
    """Makes hourly readings of some sites from 2025-01-01 on."""
    return readings_of


@pytest.fixture(scope="session")
def panel() -> Panel:
    first_s = int(START.timestamp()) + (TRAFFIC.history_steps - 1) * 3600
    hours = TRAFFIC.history_steps + ORIGINS + TRAFFIC.horizon_steps
    last_s = first_s + (ORIGINS - 1) * 3600
    return build_panel(TRAFFIC, SITES, readings_of(hours, SITES), first_origin_s=first_s, last_origin_s=last_s)


@pytest.fixture(scope="session")
def windows(panel: Panel) -> WindowSet:
    """Four weeks of origins at both sites."""
    origins = np.arange(panel.first_origin, panel.last_origin + 1)
    return WindowSet(
        panel=panel,
        target=TRAFFIC.target,
        target_ST=panel.target_ST(),
        site_index_B=np.repeat([0, 1], len(origins)),
        origin_B=np.tile(origins, 2),
    )


@pytest.fixture(scope="session")
def naive_BH(windows: WindowSet) -> np.ndarray:
    profile = SeasonalForecaster(TRAFFIC)
    return predict_set(profile, windows)[:, :, profile.levels.index(0.5)]


def wave_graph(*, offset: float = 0.0, spread: float = 50.0) -> onnx.ModelProto:
    """The daily wave plus `offset`, with quantiles for noise of `spread` [veh/h]."""
    constants = {
        "begin": np.array([0]),
        "end": np.array([1]),
        "axis": np.array([2]),
        "turn": np.array(2 * np.pi / 24, dtype=np.float32),
        "height": np.array(500.0, dtype=np.float32),
        "quantile": np.array([1000 + offset + spread * NormalDist().inv_cdf(level) for level in LEVELS]).astype("f4"),
    }
    nodes = [
        helper.make_node("Slice", ["future", "begin", "end", "axis"], ["hour"]),
        helper.make_node("Mul", ["hour", "turn"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["sine"]),
        helper.make_node("Mul", ["sine", "height"], ["wave"]),
        helper.make_node("Add", ["wave", "quantile"], ["quantiles"]),
    ]
    shapes = {
        "history": [TRAFFIC.history_steps, len(TRAFFIC.history_channels)],
        "future": [TRAFFIC.horizon_steps, len(TRAFFIC.future_channels)],
        "static": [len(TRAFFIC.static_channels)],
    }
    graph = helper.make_graph(
        nodes,
        "wave",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", TRAFFIC.horizon_steps, len(LEVELS)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def wave_card(panel: Panel) -> Card:
    """The card of a model that was trained until the first origin of the windows."""
    return Card(
        model="traffic-wave",
        domain=TRAFFIC.name,
        family="wave",
        target=TRAFFIC.target.name,
        unit=TRAFFIC.target.unit,
        step_s=TRAFFIC.step_s,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=LEVELS,
        sites=tuple(SITES),
        input_range={},
        parity=ParityCertificate(windows=64, largest_relative=1e-7, tolerance=1e-4, batch_hash="0"),
        trained={"readings": "measured", TRAINED_UNTIL: str(panel.moments_s[panel.first_origin])},
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make its tables: once, then copied."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    Tracking(f"sqlite:///{path}").connect()
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path) -> Settings:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Settings(data_dir=tmp_path / "var", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    return ModelRegistry(Tracking(settings.tracking_uri))


@pytest.fixture
def enter(
    registry: ModelRegistry, panel: Panel, windows: WindowSet, naive_BH: np.ndarray, tmp_path: Path
) -> Callable[..., tuple[Registered, Verdict, Outcome]]:
    """Registers the wave, or another graph, and sends it through the gate, as a training does."""

    def send(
        graph: onnx.ModelProto | None = None,
        *,
        offset: float = 0.0,
        spread: float = 50.0,
        approval: bool = False,
        gated: bool = True,
        settler: Settler = settle,
        **card: object,
    ) -> tuple[Registered, Verdict, Outcome]:
        folder = tmp_path / "artifact"
        dataclasses.replace(wave_card(panel), **card).save(folder)  # type: ignore[arg-type]
        model = graph or wave_graph(offset=offset, spread=spread)
        (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
        opened = open_graph(folder)
        with registry.tracking.run(TRAFFIC, name="wave", tags={}) as run_id:
            registered = registry.register(run_id, folder, opened.card, TRAFFIC)
            if not gated:
                registry.promote(registered, reason="set by the test")
                return registered, None, "promoted"  # type: ignore[return-value]
            verdict = judge_version(
                registry,
                registered,
                opened,
                windows,
                quantiles_BHQ=opened.predict_set(windows),
                naive_BH=naive_BH,
                rules=GateRules(),
            )
            outcome = settler(registry, registered, verdict, run_id=run_id, require_approval=approval)
        return registered, verdict, outcome

    return send
