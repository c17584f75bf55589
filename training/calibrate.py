"""Adaptive intervals over a forecaster's windows: learnt on validation, walked over the test as serving will."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.adaptive_intervals import AdaptiveConfig, AdaptiveIntervals
from features.vocabulary import CALENDAR_CHANNELS, Float32Array
from training.forecaster import Forecaster, predict_set
from training.window_set import Splits, WindowSet

_DAY_S = 86400


def start_intervals(
    windows: WindowSet, levels: tuple[float, ...], *, config: AdaptiveConfig | None = None
) -> AdaptiveIntervals:
    """Intervals without any memory yet, with cells for the sites of `windows` and bands that end at the horizons."""
    sites = tuple(site.name for site in windows.panel.sites)
    return AdaptiveIntervals(sites, tuple(sorted(windows.panel.domain.horizons.values())), levels, config)


def adapt_to_test(forecaster: Forecaster, splits: Splits) -> tuple[AdaptiveIntervals, Float32Array]:
    """Walk a fitted forecaster's intervals over the validation weeks and then the test.

    The validation weeks are passed over where the weights have seen them: errors there would look too small.

    Returns:
        The intervals after the test's last reading, ready to serve, and the test's forecasts as they would have been
        served, shape (B, H, Q) [unit of the target].
    """
    intervals = start_intervals(splits.test, forecaster.levels)
    if not forecaster.saw_validation:
        walk_intervals(intervals, splits.validation, predict_set(forecaster, splits.validation))
    return intervals, walk_intervals(intervals, splits.test, predict_set(forecaster, splits.test))


def walk_intervals(intervals: AdaptiveIntervals, windows: WindowSet, quantiles_BHQ: Float32Array) -> Float32Array:
    """Adjust forecasts day after day, each day with what the days before taught.

    Args:
        intervals: Where it begins; it has learnt from `windows` afterwards.
        windows: What is forecast.
        quantiles_BHQ: The forecasts of `windows` before any adjustment [unit of the target].

    Returns:
        The forecasts as they would have been served, same shape.
    """
    panel, target = windows.panel, windows.target
    hour_BH, names, target_BH = hours_ahead(windows), _names(windows), windows.targets()
    step_s = panel.domain.step_s
    origin_s = panel.start_s + windows.origin_B * step_s
    valid_BH = origin_s[:, None] + step_s * np.arange(1, quantiles_BHQ.shape[1] + 1)
    day_B, day_BH = origin_s // _DAY_S, valid_BH // _DAY_S
    order = np.argsort(day_B, kind="stable")
    adjusted = np.empty_like(quantiles_BHQ)
    for day in np.arange(day_B.min(), day_BH.max() + 1):
        begin, end = np.searchsorted(day_B[order], [day, day + 1])
        rows = order[begin:end]
        if len(rows):
            adjusted[rows] = intervals.adjust(
                quantiles_BHQ[rows],
                tuple(names[row] for row in rows),
                hour_BH[rows],
                lower=target.lower,
                upper=target.upper,
            )
        # What came in on this day is known on the next: of all forecasts that reach into it.
        first = int(np.searchsorted(day_B[order], day - quantiles_BHQ.shape[1] * step_s // _DAY_S - 1))
        reaching = order[first:end]
        came_BH = day_BH[reaching] == day
        chosen = reaching[came_BH.any(axis=1)]
        if len(chosen):
            came = np.where(day_BH[chosen] == day, target_BH[chosen], np.nan)
            intervals.update(quantiles_BHQ[chosen], came, tuple(names[row] for row in chosen), hour_BH[chosen])
    return adjusted


def adapt_from_nothing(quantiles_BHQ: Float32Array, windows: WindowSet, levels: tuple[float, ...]) -> Float32Array:
    """The forecasts of `windows` with intervals that begin without a memory: for judging a graph alone."""
    return walk_intervals(start_intervals(windows, levels), windows, quantiles_BHQ)


def hours_ahead(windows: WindowSet) -> npt.NDArray[np.float32]:
    """Local hour of day of each step ahead, shape (B, H)."""
    panel = windows.panel
    channel = len(panel.domain.measured_channels) + CALENDAR_CHANNELS.index("hour_of_day")
    ahead = windows.origin_B[:, None] + np.arange(1, panel.domain.horizon_steps + 1)
    hours: npt.NDArray[np.float32] = panel.value_STK[windows.site_index_B[:, None], ahead, channel]
    return hours


def _names(windows: WindowSet) -> list[str]:
    return [windows.panel.sites[index].name for index in windows.site_index_B]
