"""Evidence of harm in realised errors: how far each look is above what the same hours of the week usually show.

Time is cut into weeks from Monday on, in UTC, and weeks into hours. What is usual in a week comes from the weeks before
it: their median weekly error gives the level (a harmed week among them moves it little), and their mean error by step
ahead and hour of the week, in units of their own week's, gives the shape. So a Sunday night is compared with Sunday
nights, and part of a week with the same part. A look at a moment takes the error of the last hours, over several spans,
over the usual: a long span is sure, a short one is soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import HOURS

WEEK_S = 7 * 86400
HOUR_S = 3600
# 1970 began on a Thursday.
_FIRST_MONDAY_S = 4 * 86400
SPANS_H: tuple[int, ...] = (24, 48, 96, 168)
LOOKED_BACK = 5
# Steps ahead are taken together where there are more of them than this.
_MOST_BANDS = 8
_BESIDE_H = 2
# One wild hour does not make a shape.
_MOST_RATIO = 6.0
_LEAST_SHAPE = 0.2
# A week with less of its usual actuals has no level.
_FEWEST_SHARE = 0.3
_LEAST_RATIO = 1e-3
# Of healthy weeks, those above this quantile are the conspicuous ones; no signal counts below harm and a quarter more.
_CONSPICUOUS = 0.9
_LEAST_OVER_HARM = 1.25
# With fewer healthy weeks than this, only what is far off counts.
_FEWEST_HEALTHY = 8
_CAUTIOUS_LIMIT = 1.5
NOTHING = -np.inf
Float64Array = npt.NDArray[np.float64]


def monday_before(moment_s: float) -> int:
    """The last Monday midnight, UTC, before or at a moment [s since 1970]."""
    return int((moment_s - _FIRST_MONDAY_S) // WEEK_S) * WEEK_S + _FIRST_MONDAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGrid:
    """One site's errors by band of steps ahead (P) and hour (T), summed over the forecasts of that hour.

    Attributes:
        begin_s: A Monday midnight, UTC [s since 1970].
        error_PT: Absolute errors [unit].
        outside_PT: Actuals outside their interval.
        count_PT: Forecast steps with an actual.
    """

    begin_s: int
    error_PT: Float64Array
    outside_PT: Float64Array
    count_PT: Float64Array

    @property
    def weeks(self) -> int:
        """How many weeks there are."""
        return int(self.error_PT.shape[1]) // HOURS

    def by_week(self, values_PT: Float64Array) -> Float64Array:
        """Values as bands, weeks, hours of the week: (P, W, 168)."""
        return values_PT.reshape(len(values_PT), -1, HOURS)


def error_grid(rows: pd.DataFrame, *, begin_s: int, weeks: int, bands: npt.NDArray[np.int64]) -> ErrorGrid:
    """Put one site's realised steps on the grid.

    Args:
        rows: Columns of `REALISED_COLUMNS`.
        begin_s: A Monday midnight, UTC [s since 1970].
        weeks: How many weeks the grid has; rows outside are passed over.
        bands: Last step of each band, ascending (P).
    """
    hour = (rows["valid_s"].to_numpy(dtype=np.int64) - 1 - begin_s) // HOUR_S
    band = np.searchsorted(bands, rows["steps"].to_numpy(dtype=np.int64))
    actual, median, lower, upper = (
        rows[name].to_numpy(dtype=np.float64) for name in ("actual", "median", "lower", "upper")
    )
    error = np.abs(actual - median)
    hours = weeks * HOURS
    counts = (hour >= 0) & (hour < hours) & (band < len(bands)) & np.isfinite(error)
    cell = band[counts] * hours + hour[counts]

    def summed(values: Float64Array | None) -> Float64Array:
        sums = np.bincount(cell, weights=values, minlength=len(bands) * hours)
        return sums.astype(np.float64).reshape(len(bands), hours)

    outside = ((actual < lower) | (actual > upper)).astype(np.float64)
    return ErrorGrid(
        begin_s=begin_s, error_PT=summed(error[counts]), outside_PT=summed(outside[counts]), count_PT=summed(None)
    )


def step_bands(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Last step of each band of steps ahead: every step its own, or some neighbours together where there are many."""
    known = np.unique(steps)
    if len(known) <= _MOST_BANDS:
        return known
    return np.unique(known[np.linspace(0, len(known) - 1, _MOST_BANDS + 1).round().astype(np.int64)[1:]])


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualErrors:
    """What is usual, week by week (W).

    Attributes:
        level_W: Mean absolute error of each week, NaN where there are too few actuals [unit].
        usual_W: Median of the levels of the weeks before, NaN where there are too few [unit].
        expected_PT: Usual error of a forecast step of each band and hour, NaN as `usual_W` [unit].
        usual_count: Forecast steps with an actual that an hour usually has.
    """

    level_W: Float64Array
    usual_W: Float64Array
    expected_PT: Float64Array
    usual_count: float

    @property
    def ratio_W(self) -> Float64Array:
        """Each week's error over its usual."""
        return self.level_W / self.usual_W


def usual_errors(grid: ErrorGrid, settings: DetectionSettings) -> UsualErrors:
    """What each week of a grid is compared with, from the weeks before it alone."""
    error_PWH, count_PWH = grid.by_week(grid.error_PT), grid.by_week(grid.count_PT)
    count_W = count_PWH.sum(axis=(0, 2))
    usual_count = float(np.median(count_W[count_W > 0])) if count_W.any() else 0.0
    known = count_W >= max(_FEWEST_SHARE * usual_count, 1.0)
    level_W = np.where(known, error_PWH.sum(axis=(0, 2)) / np.maximum(count_W, 1.0), np.nan)
    usual_W = np.full(grid.weeks, np.nan)
    for week in range(grid.weeks):
        before = level_W[max(0, week - settings.reference_weeks) : week]
        before = before[np.isfinite(before)]
        if len(before) >= settings.fewest_reference_weeks:
            usual_W[week] = np.median(before)
    expected_PWH = usual_W[:, None] * _shapes(error_PWH, count_PWH, level_W, settings.reference_weeks)
    return UsualErrors(
        level_W=level_W,
        usual_W=usual_W,
        expected_PT=expected_PWH.reshape(grid.error_PT.shape),
        usual_count=usual_count / HOURS,
    )


def _shapes(
    error_PWH: Float64Array, count_PWH: Float64Array, level_W: Float64Array, reference_weeks: int
) -> Float64Array:
    """What error each band and hour of a week usually has over that of its whole week, by the weeks before it."""
    level = np.nan_to_num(level_W)[None, :, None]
    known = (count_PWH > 0) & (level > 0)
    ratio = error_PWH / np.maximum(count_PWH, 1.0) / np.where(level > 0, level, 1.0)
    total = _before(np.where(known, np.minimum(ratio, _MOST_RATIO), 0.0), reference_weeks)
    count = _before(known.astype(np.float64), reference_weeks)
    band = total.sum(axis=2, keepdims=True) / np.maximum(count.sum(axis=2, keepdims=True), 1.0)
    # An hour that never had an actual is taken as its band.
    unknown = np.where(band > 0, band, 1.0)
    shape: Float64Array = np.where(count > 0.5, total / np.maximum(count, 1.0), unknown)
    return np.maximum(shape, _LEAST_SHAPE)


def _before(values_PWH: Float64Array, weeks: int) -> Float64Array:
    """Sum of each hour of the week and those beside it over so many weeks before each week."""
    sums = np.concatenate([np.zeros_like(values_PWH[:, :1]), values_PWH.cumsum(axis=1)], axis=1)[:, :-1]
    sums[:, weeks:] -= sums[:, :-weeks].copy()
    beside: Float64Array = sum(np.roll(sums, shift, axis=2) for shift in range(-_BESIDE_H, _BESIDE_H + 1))  # type: ignore[assignment]
    return beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What looks at one site see, every some hours (N looks, K spans).

    Attributes:
        signal_FN: Logarithms of the error over the usual, then of the share outside the interval over what the interval
            promises, for each span (F = 2 K); `NOTHING` where there are too few actuals.
        recent_N: Error of the last day over the usual, NaN where there are too few actuals.
    """

    signal_FN: Float64Array
    recent_N: Float64Array


def looks_at(grid: ErrorGrid, usual: UsualErrors, *, nominal_coverage: float, settings: DetectionSettings) -> Looks:
    """Every look at a grid, the first one `look_every_h` after its begin.

    Args:
        grid: Errors of one site.
        usual: What they are compared with.
        nominal_coverage: What the interval promises (0 to 1).
        settings: How often, and how many actuals a look needs.
    """
    known_PT = np.isfinite(usual.expected_PT) & (grid.count_PT > 0)
    sums = [
        np.concatenate([[0.0], np.where(known_PT, part, 0.0).sum(axis=0).cumsum()])
        for part in (grid.error_PT, usual.expected_PT * grid.count_PT, grid.outside_PT, grid.count_PT)
    ]
    hour = np.arange(settings.look_every_h, grid.error_PT.shape[1] + 1, settings.look_every_h)
    errors, misses = [], []
    recent_N = np.full(len(hour), np.nan)
    for span in SPANS_H:
        error, expected, outside, count = (part[hour] - part[np.maximum(hour - span, 0)] for part in sums)
        enough = (count >= max(settings.fewest_window_share * usual.usual_count * span, 1.0)) & (expected > 0)
        ratio = error / np.where(enough, expected, 1.0)
        share = outside / np.where(enough, count, 1.0) / max(1 - nominal_coverage, 1e-3)
        errors.append(np.where(enough, np.log(np.maximum(ratio, _LEAST_RATIO)), NOTHING))
        misses.append(np.where(enough, np.log(np.maximum(share, _LEAST_RATIO)), NOTHING))
        if span == SPANS_H[0]:
            recent_N = np.where(enough, ratio, np.nan)
    return Looks(signal_FN=np.stack(errors + misses), recent_N=recent_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What healthy weeks show.

    Attributes:
        usual_F: Each signal's size in the most conspicuous of healthy weeks: a score is in units of it.
        limit: From which score on a look counts as evidence.
        weeks: Of how many healthy weeks of sites this is.
    """

    usual_F: Float64Array
    limit: float
    weeks: int


def calibrate(
    looks_S: Sequence[Looks], ratio_SW: Float64Array, *, week: int, settings: DetectionSettings
) -> Calibration:
    """Learn from the healthy weeks of all sites before a week what they show.

    A week is healthy whose error is no harm; one after a harmed week does not count, since looks reach back.
    Weeks are taken whole, by their most conspicuous look: looks within a week say nearly the same.

    Args:
        looks_S: Looks at each site, on one grid.
        ratio_SW: Error of each week over its usual, NaN where unknown.
        week: The first week that is not learnt from.
        settings: How many weeks, and how many false alarms are tolerated.
    """
    begin = max(0, week - settings.calibration_weeks)
    healthy_SW = ratio_SW[:, begin:week] <= settings.harm_ratio
    harmed_SW = ratio_SW[:, begin:week] > settings.harm_ratio
    healthy_SW[:, 1:] &= ~harmed_SW[:, :-1]
    floor = np.log(settings.harm_ratio) * _LEAST_OVER_HARM
    highest = [_by_week(looks.signal_FN, settings)[:, begin:week] for looks in looks_S]
    shown_FM = np.concatenate([part[:, healthy] for part, healthy in zip(highest, healthy_SW, strict=True)], axis=1)
    shown_FM = shown_FM[:, np.isfinite(shown_FM).all(axis=0)]
    weeks = shown_FM.shape[1]
    if weeks < _FEWEST_HEALTHY:
        return Calibration(usual_F=np.full(2 * len(SPANS_H), floor), limit=_CAUTIOUS_LIMIT, weeks=weeks)
    usual_F = np.maximum(np.quantile(shown_FM, _CONSPICUOUS, axis=1), floor)
    confirmed = [_by_week(confirmed_scores(scores(looks, usual_F, settings)), settings) for looks in looks_S]
    score_M = np.sort(
        np.concatenate([part[begin:week][healthy] for part, healthy in zip(confirmed, healthy_SW, strict=True)])
    )
    rank = int(np.ceil((1 - settings.false_alarm_share) * (len(score_M) + 1)))
    limit = max(1.0, float(score_M[min(rank, len(score_M)) - 1]))
    return Calibration(usual_F=usual_F, limit=limit, weeks=weeks)


def scores(looks: Looks, usual_F: Float64Array, settings: DetectionSettings) -> Float64Array:
    """The strongest signal of each look; `NOTHING` where the last day alone is no harm, which ends an alarm soon."""
    strongest = (looks.signal_FN / usual_F[:, None]).max(axis=0)
    return np.where(looks.recent_N > settings.harm_ratio, strongest, NOTHING)


def confirmed_scores(score_N: Float64Array) -> Float64Array:
    """Scores with hysteresis: the latest look has it, and so has another one of the last five."""
    before = np.concatenate([np.full(LOOKED_BACK - 1, NOTHING), score_N])
    last = np.lib.stride_tricks.sliding_window_view(before, LOOKED_BACK)
    confirmed: Float64Array = np.minimum(score_N, np.sort(last, axis=1)[:, -2])
    return confirmed


def _by_week(values: Float64Array, settings: DetectionSettings) -> Float64Array:
    """The highest of each week's looks, along the last axis."""
    highest: Float64Array = values.reshape(*values.shape[:-1], -1, HOURS // settings.look_every_h).max(axis=-1)
    return highest
