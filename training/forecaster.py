"""What a forecaster promises, and the check that every family passes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from onnx import ModelProto

from features.vocabulary import Domain, Float32Array, Forecast, Quantity, Window
from training.window_set import Splits, WindowSet

LEVELS: tuple[float, ...] = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


@runtime_checkable
class Forecaster(Protocol):
    """Learns from windows and forecasts from windows.

    Attributes:
        domain: Gives lengths and channels of its windows.
        target: What it forecasts, one of the domain's targets.
        levels: Quantile levels of its graph's output, ascending.
    """

    domain: Domain
    target: Quantity
    levels: tuple[float, ...]

    @property
    def name(self) -> str:
        """Family, such as `lstm`."""
        ...

    @property
    def saw_validation(self) -> bool:
        """Whether weights were fitted on the validation windows too, once these had calibrated the intervals."""
        ...

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Learn from `splits.train`, using `splits.validation` to stop and to calibrate, then perhaps to learn from.

        The test is for others to judge.
        The same seed and the same windows give the same forecaster.
        """

    def predict(self, windows: Window) -> Forecast:
        """Quantiles of the target for every step of the horizon: finite, ordered by level, within bounds."""

    def onnx_model(self, sample: Window) -> ModelProto:
        """The whole forecaster as a graph from `history`, `future` and `static` to `quantiles`.

        The number of windows is free; history and horizon lengths are the domain's.

        Args:
            sample: Windows to trace with, two at least.
        """

    def save(self, folder: Path) -> None:
        """Write what `load` needs into `folder`."""

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""


def predict_with(
    forecaster: Forecaster, graph: torch.nn.Module, windows: Window, *, batch_size: int = 1024
) -> Forecast:
    """Forecast by running a forecaster's graph in torch."""
    graph.eval()
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(windows), batch_size):
            rows = slice(begin, begin + batch_size)
            arrays = (windows.history_BLK[rows], windows.future_BHK[rows], windows.static_BS[rows])
            parts.append(graph(*(torch.from_numpy(array) for array in arrays)).numpy())
    return forecast_of(forecaster, windows, np.concatenate(parts))


def forecast_of(forecaster: Forecaster, windows: Window, quantiles_BHQ: Float32Array) -> Forecast:
    """A forecaster's quantiles [unit of its target], with what they are."""
    return Forecast(
        quantity=forecaster.target.name,
        unit=forecaster.target.unit,
        sites=windows.sites,
        origins=windows.origins,
        step_s=forecaster.domain.step_s,
        levels=forecaster.levels,
        value_BHQ=quantiles_BHQ,
        model=f"{forecaster.domain.name}-{forecaster.name}",
    )


def predict_set(forecaster: Forecaster, windows: WindowSet, *, batch_size: int = 1024) -> Float32Array:
    """Quantiles of a whole window set, cut batch by batch: shape (B, H, Q) [unit of the target]."""
    parts = [
        forecaster.predict(windows.windows(np.arange(begin, min(begin + batch_size, len(windows))))).value_BHQ
        for begin in range(0, len(windows), batch_size)
    ]
    return np.concatenate(parts)


def check_forecaster(forecaster: Forecaster, splits: Splits, folder: Path) -> None:
    """Hold a forecaster to its promises, on given splits.

    Raises:
        AssertionError: A promise is broken; the message says which.
    """
    forecaster.fit(splits, seed=7)
    windows = splits.test.windows(np.arange(min(32, len(splits.test))))
    forecast = _kept(forecaster, windows, "ordinary windows")
    assert np.array_equal(forecaster.predict(windows).value_BHQ, forecast.value_BHQ), "two predictions differ"
    for situation, harder in hard_windows(forecaster.domain, windows).items():
        _kept(forecaster, harder, situation)

    forecaster.save(folder)
    restored = type(forecaster)(forecaster.domain, target=forecaster.target)  # type: ignore[call-arg]
    restored.load(folder)
    assert np.array_equal(restored.predict(windows).value_BHQ, forecast.value_BHQ), "save and load change the forecast"


def _kept(forecaster: Forecaster, windows: Window, situation: str) -> Forecast:
    """A forecast that is finite, ordered and within bounds."""
    forecast, target = forecaster.predict(windows), forecaster.target
    expected = (len(windows), forecaster.domain.horizon_steps, len(forecaster.levels))
    assert forecast.value_BHQ.shape == expected, f"{situation}: a forecast is {forecast.value_BHQ.shape}"
    assert np.isfinite(forecast.value_BHQ).all(), f"{situation}: a forecast is not finite"
    assert (np.diff(forecast.value_BHQ, axis=2) >= 0).all(), f"{situation}: quantiles are not ordered by level"
    assert forecast.value_BHQ.min() >= target.lower, f"{situation}: a forecast is below the quantity's bound"
    assert forecast.value_BHQ.max() <= target.upper, f"{situation}: a forecast is above the quantity's bound"
    return forecast


def hard_windows(domain: Domain, windows: Window) -> dict[str, Window]:
    """Windows as they come on bad days, by what is wrong with them; each must still be answered."""
    measured = len(domain.measured_channels)
    month = min(30 * 86400 // domain.step_s, domain.history_steps)
    cases: dict[str, Window] = {}

    def case(situation: str, *, steps: slice, channels: slice, value: float) -> None:
        history = windows.history_BLK.copy()
        history[:, steps, channels] = value
        cases[situation] = replace(windows, history_BLK=history)

    everything, all_steps = slice(0, measured), slice(None)
    case("no reading at all", steps=all_steps, channels=everything, value=np.nan)
    case("a gap of a month", steps=slice(-month, None), channels=everything, value=np.nan)
    case("a history of two days", steps=slice(None, -48), channels=everything, value=np.nan)
    case("a site that stands still", steps=all_steps, channels=slice(0, len(domain.targets)), value=0.0)
    case("a constant series", steps=all_steps, channels=slice(0, len(domain.targets)), value=42.0)
    if domain.covariates:
        first = len(domain.targets)
        case("a covariate that is missing", steps=all_steps, channels=slice(first, first + 1), value=np.nan)
    if domain.known_ahead:
        future = windows.future_BHK.copy()
        future[:, :, -len(domain.known_ahead) :] = np.nan
        cases["no weather ahead"] = replace(windows, future_BHK=future)
        # Some of the covariates, for some of the steps.
        future = future.copy()
        future[:, ::2, -1] = 1.0
        cases["some weather ahead"] = replace(windows, future_BHK=future)
    return cases
