"""A town that trains in a second: roads whose deviations from the daily shape last for hours. Also run as a process."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnx
import pandas as pd
from mlflow import MlflowClient
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from features.domains import DOMAINS
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.registry import Registry
from features.store import ReadingStore
from features.vocabulary import Domain, Forecast, Quantity, Site, Window
from pipelines.retrain import retrain
from pipelines.retraining_outcome import RetrainOutcome
from pipelines.schedule_settings import ScheduleSettings
from serving.monitoring.report import Trigger
from training.families import FAMILIES
from training.forecaster import LEVELS, forecast_of
from training.recipes import RECIPES, Recipe, SeasonalRecipe
from training.registry import ModelRegistry
from training.window_set import Splits

TOWN = Domain(
    name="town",
    entity="road",
    targets=(
        Quantity(name="flow", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0),
        Quantity(name="queue", unit="veh", aggregation="mean", lower=0.0, upper=20_000.0),
    ),
    covariates=(),
    history_steps=8 * 168,
    horizon_steps=6,
    horizons={"2h": 2, "6h": 6},
    families=("fading", "seasonal"),
)
SITES = [Site(name="A"), Site(name="B")]
QUIET = Console(quiet=True)
BY_HAND = Trigger(kind="manual", sites=(), reason="asked for by the test")
START = pd.Timestamp("2025-01-06", tz="UTC")


class FadingForecaster:
    """The usual value of each hour of the day, times the present deviation, which fades: three things to learn."""

    name, saw_validation, levels = "fading", False, LEVELS

    def __init__(self, domain: Domain, *, target: Quantity) -> None:
        self.domain, self.target = domain, target
        self.channel = domain.targets.index(target)
        self.hour = len(domain.measured_channels)

    def fit(self, splits: Splits, *, seed: int) -> None:
        windows = splits.train.windows(np.arange(0, len(splits.train), 5))
        target_BH = splits.train.targets()[::5]
        hour = windows.future_BHK[:, :, 0].astype(int)
        logs = np.log(target_BH)
        self.usual = np.array([logs[hour == one].mean() for one in range(24)], dtype=np.float32)
        now_B, ahead_BH = self._deviation(windows), logs - self.usual[hour]
        self.fade = (ahead_BH * now_B[:, None]).mean(axis=0) / (now_B**2).mean()
        self.spread = (ahead_BH - now_B[:, None] * self.fade).std(axis=0)

    def _deviation(self, windows: Window) -> np.ndarray:
        last = windows.history_BLK[:, -1]
        return np.log(last[:, self.channel]) - self.usual[last[:, self.hour].astype(int)]

    def _widths(self) -> np.ndarray:
        return np.outer(self.spread, [NormalDist().inv_cdf(level) for level in LEVELS]).astype(np.float32)

    def predict(self, windows: Window) -> Forecast:
        median = self.usual[windows.future_BHK[:, :, 0].astype(int)] + np.outer(self._deviation(windows), self.fade)
        return forecast_of(self, windows, np.exp(median[:, :, None] + self._widths()).astype(np.float32))  # type: ignore[arg-type]

    def onnx_model(self, sample: Window) -> onnx.ModelProto:
        length, horizon = self.domain.history_steps, self.domain.horizon_steps
        constants = {
            "now": np.array([length - 1, self.channel]),
            "now_end": np.array([length, self.channel + 1]),
            "clock": np.array([length - 1, self.hour]),
            "clock_end": np.array([length, self.hour + 1]),
            "axes": np.array([1, 2]),
            "first": np.array([0]),
            "second": np.array([1]),
            "last_axis": np.array([2]),
            "usual": self.usual,
            "fade": self.fade[None].astype(np.float32),
            "widths": self._widths()[None],
        }
        nodes = [
            helper.make_node("Slice", ["history", "now", "now_end", "axes"], ["value3"]),
            helper.make_node("Reshape", ["value3", "column"], ["value"]),
            helper.make_node("Slice", ["history", "clock", "clock_end", "axes"], ["hour3"]),
            helper.make_node("Reshape", ["hour3", "column"], ["hour"]),
            helper.make_node("Cast", ["hour"], ["hour_now"], to=TensorProto.INT64),
            helper.make_node("Gather", ["usual", "hour_now"], ["usual_now"]),
            helper.make_node("Log", ["value"], ["log"]),
            helper.make_node("Sub", ["log", "usual_now"], ["deviation"]),
            helper.make_node("Mul", ["deviation", "fade"], ["fading"]),
            helper.make_node("Slice", ["future", "first", "second", "last_axis"], ["ahead3"]),
            helper.make_node("Squeeze", ["ahead3", "last_axis"], ["ahead"]),
            helper.make_node("Cast", ["ahead"], ["hour_ahead"], to=TensorProto.INT64),
            helper.make_node("Gather", ["usual", "hour_ahead"], ["usual_ahead"]),
            helper.make_node("Add", ["usual_ahead", "fading"], ["median"]),
            helper.make_node("Unsqueeze", ["median", "last_axis"], ["median3"]),
            helper.make_node("Add", ["median3", "widths"], ["logs"]),
            helper.make_node("Exp", ["logs"], ["quantiles"]),
        ]
        constants["column"] = np.array([-1, 1])
        shapes = {
            "history": [length, len(self.domain.history_channels)],
            "future": [horizon, len(self.domain.future_channels)],
            "static": [len(self.domain.static_channels)],
        }
        graph = helper.make_graph(
            nodes,
            "fading",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
            [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", horizon, len(LEVELS)])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        raise NotImplementedError


def enter_town() -> None:
    """Register the town, unless it is."""
    if "town" not in DOMAINS:
        DOMAINS.register("town", TOWN)
        FAMILIES.register("fading", lambda domain, target, recipe, place: FadingForecaster(domain, target=target))
        recipes: Registry[Recipe] = RECIPES.register("town", Registry("town recipe"))
        recipes.register("quick", Recipe(name="quick", family="fading", config=SeasonalRecipe()))


def town_readings(*, weeks: int, seed: int = 5) -> pd.DataFrame:
    """Hourly readings of both quantities at both roads from 2025-01-06 on."""
    rng = np.random.default_rng(seed)
    hours = weeks * 168
    moments = pd.date_range(START, periods=hours, freq="h")
    shape = 1000 + 600 * np.sin(2 * np.pi * (moments.hour.to_numpy() - 6) / 24)
    parts = []
    for site in SITES:
        for quantity, scale in (("flow", 1.0), ("queue", 0.1)):
            deviation = np.zeros(hours)
            for hour in range(1, hours):
                deviation[hour] = 0.95 * deviation[hour - 1] + 0.1 * rng.normal()
            value = scale * shape * np.exp(deviation)
            parts.append(
                make_readings(site=site.name, quantity=quantity, valid_at=moments, value=value, source="sensor:test")
            )
    return join_readings(parts)


def fill(settings: ScheduleSettings, *, weeks: int = 20) -> None:
    """Put readings into the store."""
    store = ReadingStore(settings.readings_dir, TOWN)
    store.append(check_readings(town_readings(weeks=weeks), TOWN), SITES)


def settings_at(folder: Path, **facts: object) -> ScheduleSettings:
    return ScheduleSettings(
        data_dir=folder / "var",
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        **facts,  # type: ignore[arg-type]
    )


def die(*_: object, **__: object) -> None:
    """End this process as a loss of power does."""
    os.kill(os.getpid(), signal.SIGKILL)


def retrain_town(
    settings: ScheduleSettings, *, die_at: str = "", on_step: Callable[[str, str], None] | None = None, **facts: object
) -> RetrainOutcome:
    """Retrain; this process is killed where it begins the step `die_at`, a target's with `step:target`."""

    def listen(step: str, target: str) -> None:
        here = f"{step}:{target}" if target else step
        if die_at == here:
            die()
        if die_at == f"{here}, without MLflow":
            Path(settings.tracking_uri.removeprefix("sqlite:///")).rename(settings.data_dir.parent / "aside.db")

    # Moments inside a step: registered and not judged, in the history and not yet an alias.
    if die_at == "registered":
        ModelRegistry.keep_verdict = die  # type: ignore[method-assign]
    elif die_at == "written in the history":
        MlflowClient.set_registered_model_alias = die  # type: ignore[method-assign]

    return retrain(
        "town",
        trigger=BY_HAND,
        settings=settings,
        console=QUIET,
        on_step=on_step or listen,
        **facts,  # type: ignore[arg-type]
    )


def run(folder: str, die_at: str = "", *, attempts: int = 20) -> None:
    """One retraining in a process of its own; writes what became of it beside the store."""
    enter_town()
    try:
        outcome = retrain_town(settings_at(Path(folder), retrain_attempts=attempts), die_at=die_at)
    except Exception as error:
        told = {"error": type(error).__name__, "text": str(error)}
    else:
        told = {one.target: [one.version, one.release] for one in outcome.targets} | {"resumed": outcome.resumed}
    Path(folder, f"told-{os.getpid()}.json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    run(*sys.argv[1:])
