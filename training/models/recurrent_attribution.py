"""What the recurrent family looks at: expected gradients of its correction, summed over named groups of its features.

The gradient is taken at the features and not at the raw window: a window has gaps, and codes such as the weekday's
number, between which there is nothing to differentiate. What is explained is the correction, the median less the
seasonal profile: the profile alone moves a forecast so much more than all else that nothing else would be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from features.vocabulary import Float32Array, Window
from training.explain import Attribution, gradient_shap, sum_by_name
from training.models.context import LEVEL_STEPS
from training.models.neural import ResidualRecurrent
from training.models.onnx_graph import window_tensors

PROFILE = "seasonal profile"
GAPS = "gaps in the readings"
HOUR, WEEKDAY, YEAR, HOLIDAY = "hour of day", "day of week", "time of year", "holiday"
_LEAD, _WEATHER_KNOWN = "hours ahead", "weather ahead is known"
# In the order of `CalendarFeatures`: cycles of the hour and of the year, weekdays, flags and the holiday's vector.
_CALENDAR = (HOUR,) * 4 + (YEAR,) * 2 + (WEEKDAY,) * 7 + (HOLIDAY,) * 3
# What one number cannot say: these have no high and low.
_WITHOUT_LEVEL = {HOUR, WEEKDAY, YEAR, HOLIDAY, _LEAD, _WEATHER_KNOWN}


def feature_groups(network: ResidualRecurrent) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Group of each column of the past, and of the hours ahead, in the order of `ResidualRecurrent.inputs`."""
    domain, target = network.domain, network.target.name
    recent, nearby = f"recent {target}", f"{domain.target.name} nearby"
    weather = tuple(domain.inputs[index].name for index in network.weather)
    neighbours = len(network.neighbours)
    calendar = _CALENDAR + (HOLIDAY,) * (network.calendar.size - len(_CALENDAR))
    past = (recent, recent, PROFILE, GAPS, recent, *(nearby,) * neighbours, *weather, *calendar)
    state = (recent,) * 16 + (GAPS, GAPS, *weather) + (nearby,) * (2 * neighbours)
    levels = (PROFILE,) * 8 + (recent, *(_LEAD,) * 3, recent, recent)
    ahead = (*levels, *calendar, *state, *domain.static_names)
    if network.ahead:
        forecasts = tuple(f"{name} ahead" for name in domain.known_ahead)
        ahead += (*forecasts, *forecasts, _WEATHER_KNOWN)
    if network.context is not None:
        ahead += (recent,) * (len(LEVEL_STEPS) + 9) + _repeated(weather, 3)
        ahead += (*(recent,) * 7, PROFILE, PROFILE, *_repeated(weather, 3))
        ahead += _repeated([f"{name} ahead" for name in domain.known_ahead], 5)
    return past, ahead


def _repeated(names: Sequence[str], times: int) -> tuple[str, ...]:
    """Each name so many times before the next."""
    return tuple(name for name in names for _ in range(times))


def attribute(network: ResidualRecurrent, windows: Window, *, rng: np.random.Generator) -> Attribution:
    """Shapley values of the network's groups of features for its correction of the profile at the domain's horizons.

    Args:
        network: Fitted.
        windows: What is explained, each against the others.
        rng: Source of all draws.
    """
    steps = [steps - 1 for steps in network.domain.horizons.values()]
    with torch.inference_mode():
        past, ahead, profile, scale = network.inputs(*window_tensors(windows))
    # Tensors of the inference mode cannot be differentiated: the explainer gets copies.
    inputs = [part.clone() for part in (past, ahead[:, steps], profile[:, steps], scale)]
    found = gradient_shap(_Correction(network), inputs, rng=rng)
    of_past, of_ahead = feature_groups(network)
    assert (past.shape[2], ahead.shape[2]) == (len(of_past), len(of_ahead)), "a feature of the network has no name"
    columns = np.concatenate(
        [found[0].sum(axis=1), found[1].sum(axis=1), found[2].sum(axis=1)[:, None], found[3]], axis=1
    )
    groups = (*of_past, *of_ahead, PROFILE, PROFILE)
    names, value_BNF = sum_by_name(columns.transpose(0, 2, 1), groups)
    kept = [index for index, name in enumerate(names) if name != _LEAD]
    return Attribution(
        explains="the median forecast less the seasonal profile",
        method="expected gradients (SHAP) of the features, in groups",
        unit=network.target.unit,
        features=tuple(names[index] for index in kept),
        horizons=tuple(network.domain.horizons),
        value_NBF=value_BNF.transpose(1, 0, 2)[:, :, kept],
        level_BF=_levels(past, ahead, of_past, of_ahead, names)[:, kept],
    )


class _Correction(nn.Module):
    """Features to the median less the profile at some leads (B, N) [unit of the target]."""

    def __init__(self, network: ResidualRecurrent) -> None:
        super().__init__()
        self.network = network

    def forward(self, past: Tensor, ahead: Tensor, profile: Tensor, scale: Tensor) -> Tensor:
        ratio = torch.stack([member(past, ahead) for member in self.network.members]).mean(dim=0)
        median = self.network.levels.index(0.5)
        return self.network.to_units(ratio, profile, scale)[:, :, median] - profile


def _levels(
    past: Tensor, ahead: Tensor, of_past: tuple[str, ...], of_ahead: tuple[str, ...], names: tuple[str, ...]
) -> Float32Array:
    """Mean of each group's columns over all steps, NaN for groups that have no high and low: (B, F)."""
    values = np.concatenate([past.mean(dim=1).numpy(), ahead.mean(dim=1).numpy()], axis=1)
    columns = (*of_past, *of_ahead)
    means = [values[:, [name == other for other in columns]].mean(axis=1) for name in names]
    levels: Float32Array = np.stack(means, axis=1).astype(np.float32)
    levels[:, [name in _WITHOUT_LEVEL for name in names]] = np.nan
    return levels
