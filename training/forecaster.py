"""What a forecaster promises, and the check that every family passes."""

from __future__ import annotations

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

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Learn from `splits.train`, using `splits.validation` to stop and to calibrate; never the test.

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
    forecast = forecaster.predict(windows)
    target = forecaster.target
    assert forecast.value_BHQ.shape == (len(windows), forecaster.domain.horizon_steps, len(forecaster.levels))
    assert np.isfinite(forecast.value_BHQ).all(), "a forecast is not finite"
    assert (np.diff(forecast.value_BHQ, axis=2) >= 0).all(), "quantiles are not ordered by level"
    assert forecast.value_BHQ.min() >= target.lower, "a forecast is below the quantity's bound"
    assert forecast.value_BHQ.max() <= target.upper, "a forecast is above the quantity's bound"
    again = forecaster.predict(windows)
    assert np.array_equal(again.value_BHQ, forecast.value_BHQ), "two predictions of the same windows differ"

    holed = windows.history_BLK.copy()
    holed[:, :, : len(forecaster.domain.measured_channels)] = np.nan
    empty = Window(
        history_BLK=holed,
        future_BHK=windows.future_BHK,
        static_BS=windows.static_BS,
        sites=windows.sites,
        origins=windows.origins,
    )
    assert np.isfinite(forecaster.predict(empty).value_BHQ).all(), "without any reading a forecast is not finite"

    forecaster.save(folder)
    restored = type(forecaster)(forecaster.domain, target=target)  # type: ignore[call-arg]
    restored.load(folder)
    assert np.array_equal(restored.predict(windows).value_BHQ, forecast.value_BHQ), "save and load change the forecast"
