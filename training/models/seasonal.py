"""The naive bar: the same hour of the week, from the last eight weeks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from features.vocabulary import Domain, Forecast, Quantity, Window
from training.explain import Attribution, additive_shap
from training.forecaster import LEVELS, predict_with
from training.models.onnx_graph import as_onnx
from training.models.window_graph import SEASONS, SeasonalLags, day_profiles, used
from training.window_set import Splits


class SeasonalGraph(nn.Module):
    """Raw windows to quantiles of the same hour of the week over the last weeks; the median is the seasonal profile."""

    def __init__(self, domain: Domain, target: Quantity, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.channel = domain.targets.index(target)
        self.lags = SeasonalLags(domain, recent_steps=24)
        self.levels = levels
        self.lower, self.upper = max(target.lower, -1e30), min(target.upper, 1e30)

    def forward(self, history: Tensor, future: Tensor, static: Tensor) -> Tensor:
        """Windows (B, L, K), (B, H, C), (B, S) to quantiles (B, H, Q) [unit of the target]."""
        daily = self.lags.before_ahead(history, future, self.channel)
        profile = day_profiles(daily)[:, -1]
        weeks = daily[:, 6::7]
        # A missing week counts as the profile: it narrows the interval, but leaves the median as it is.
        filled = torch.where(torch.isfinite(weeks), weeks, profile[:, None].expand(-1, SEASONS, -1))
        ordered = torch.sort(filled, dim=1).values
        quantiles = []
        for level in self.levels:
            position = level * (SEASONS - 1)
            below, share = int(position), position - int(position)
            above = min(below + 1, SEASONS - 1)
            quantiles.append(ordered[:, below] * (1 - share) + ordered[:, above] * share)
        values = torch.stack(quantiles, dim=2)
        values = torch.clamp(torch.sort(values, dim=2).values, self.lower, self.upper)
        return used(values, static)


class SeasonalForecaster:
    """The seasonal profile as a forecaster: nothing to learn.

    Args:
        domain: Gives lengths and channels.
        target: What it forecasts, by default the domain's first target.
        levels: Quantile levels.
    """

    name = "seasonal"
    saw_validation = False

    def __init__(self, domain: Domain, *, target: Quantity | None = None, levels: tuple[float, ...] = LEVELS) -> None:
        self.domain = domain
        self.target = target or domain.target
        self.levels = levels

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Nothing is learnt."""

    def predict(self, windows: Window) -> Forecast:
        """Quantiles over the last eight weeks."""
        return predict_with(self, self.graph(), windows)

    def graph(self) -> nn.Module:
        """The module that is exported."""
        return SeasonalGraph(self.domain, self.target, self.levels)

    def onnx_model(self, sample: Window) -> ModelProto:
        """The graph, exported."""
        return as_onnx(self.graph(), sample)

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Its one term, see `training.explain`."""
        median_BH = self.predict(windows).at_level(0.5)
        steps = [steps - 1 for steps in self.domain.horizons.values()]
        features, value_NBF = additive_shap({"seasonal profile": median_BH[:, steps].T})
        return Attribution(
            explains="the median forecast",
            method="additive terms",
            unit=self.target.unit,
            features=features,
            horizons=tuple(self.domain.horizons),
            value_NBF=value_NBF,
            level_BF=median_BH.mean(axis=1, keepdims=True),
        )

    def save(self, folder: Path) -> None:
        """Nothing is kept."""

    def load(self, folder: Path) -> None:
        """Nothing was kept."""
