"""Drift of inputs and forecasts, hour of the week by hour of the week: it explains an error, and triggers nothing.

City data repeat by the week, and no week looks like the year: compared as they are, a healthy week differs from the
training year nearly always. So each value is first taken as its distance from the reference's median of the same hour
of the week, in units of that hour's spread, and then distances are compared with distances. Comparing within each hour
instead would leave one value of a recent week for each of 168 comparisons: nothing could be measured.
Hours of the week are those of UTC: after a change of the clocks a steep hour stands out for as long as the reference
remembers the other time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.report import DriftLine, DriftOf, Measure

VALUE_COLUMNS: tuple[str, ...] = ("site", "name", "valid_s", "value")
"""Columns of a table of inputs or of forecasts: where, what (a channel or the target), when [s since 1970], value."""

HOURS = 168
_HOUR_S = 3600
# 1970 began on a Thursday.
_FIRST_MONDAY_S = 4 * 86400
_FEWEST = 48
_FEWEST_IN_HOUR = 6
_BINS = 10
_LEAST_SHARE = 1e-3
_MAD_TO_DEVIATION = 1.4826
Float64Array = npt.NDArray[np.float64]


def hour_of_week(moment_s: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Hour of the week of moments, 0 for the first of Monday in UTC; a step's end belongs to the hour before it.

    Args:
        moment_s: Ends of steps [s since 1970].
    """
    hour: npt.NDArray[np.int64] = (moment_s - 1 - _FIRST_MONDAY_S) // _HOUR_S % HOURS
    return hour


def drift_lines(
    reference: pd.DataFrame, recent: pd.DataFrame, *, of: DriftOf, settings: DetectionSettings | None = None
) -> tuple[DriftLine, ...]:
    """How far recent values have moved from those of the reference: three measures for each site and name.

    Args:
        reference: Columns `VALUE_COLUMNS`, such as the champion's training period.
        recent: The same columns, a week or more.
        of: What the values are; it chooses the threshold.
        settings: Thresholds.

    Returns:
        A line each for PSI, the Kolmogorov-Smirnov statistic and the Wasserstein distance over the reference's standard
        deviation; NaN where either side has fewer than two days of hours. Names that the reference lacks have no line.
    """
    settings = settings or DetectionSettings()
    threshold = settings.feature_drift_threshold if of == "feature" else settings.prediction_drift_threshold
    before = {key: rows for key, rows in reference.groupby(["site", "name"], sort=True)}
    after = {key: rows for key, rows in recent.groupby(["site", "name"], sort=True)}
    return tuple(
        DriftLine(of=of, site=str(site), name=str(name), measure=measure, value=value, threshold=threshold)
        for (site, name), rows in before.items()
        for measure, value in _measures(rows, after.get((site, name)))
    )


def _measures(reference: pd.DataFrame, recent: pd.DataFrame | None) -> Iterator[tuple[Measure, float]]:
    before, after = (np.empty(0), np.empty(0)) if recent is None else conditioned(reference, recent)
    known = min(len(before), len(after)) >= _FEWEST
    yield "psi", psi(before, after) if known else np.nan
    yield "ks", kolmogorov_smirnov(before, after) if known else np.nan
    yield "wasserstein", wasserstein(before, after) if known else np.nan


def conditioned(reference: pd.DataFrame, recent: pd.DataFrame) -> tuple[Float64Array, Float64Array]:
    """Both tables' values as distances from the reference's median of their hour of the week, over its spread.

    Args:
        reference: Columns `valid_s` and `value` of one site and name.
        recent: The same.

    Returns:
        Distances of the reference, and of what is recent, without those that are missing.
    """
    reference, recent = (rows[np.isfinite(rows["value"])] for rows in (reference, recent))
    if reference.empty or recent.empty:
        return np.empty(0), np.empty(0)
    hour, value = _hours(reference), reference["value"].to_numpy(dtype=np.float64)
    median_W, spread_W = _usual(hour, value)
    later = _hours(recent)
    after = (recent["value"].to_numpy(dtype=np.float64) - median_W[later]) / spread_W[later]
    return (value - median_W[hour]) / spread_W[hour], after


def _hours(rows: pd.DataFrame) -> npt.NDArray[np.int64]:
    return hour_of_week(rows["valid_s"].to_numpy(dtype=np.int64))


def _usual(hour: npt.NDArray[np.int64], value: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Median of each hour of the week, and spread around it of that hour and those beside it."""
    beside = np.concatenate([(hour + shift) % HOURS for shift in (-1, 0, 1)])
    median_W, around_W = _medians(hour, value), _medians(beside, np.tile(value, 3))
    few = np.bincount(hour, minlength=HOURS) < _FEWEST_IN_HOUR
    median_W = np.where(few, np.where(np.isfinite(around_W), around_W, np.median(value)), median_W)
    spread_W = _medians(beside, np.tile(np.abs(value - median_W[hour]), 3))
    # Rain falls in few hours: where most values are equal, all hours together say what is usual.
    whole = float(np.std(value - median_W[hour]))
    least = max(0.1 * whole, 1e-9 * max(1.0, float(np.abs(value).max())))
    spread_W = np.fmax(np.nan_to_num(spread_W, nan=whole) * _MAD_TO_DEVIATION, least)
    return median_W, spread_W


def _medians(hour: npt.NDArray[np.int64], value: Float64Array) -> Float64Array:
    """Median of each hour of the week, NaN where there is no value."""
    medians = pd.Series(value).groupby(hour).median().reindex(np.arange(HOURS))
    return np.asarray(medians, dtype=np.float64)


def psi(reference: Float64Array, recent: Float64Array) -> float:
    """Population stability index over the reference's deciles; a share of nothing counts as 0.1 %."""
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _BINS + 1)[1:-1]))
    shares = [np.bincount(np.searchsorted(edges, part), minlength=len(edges) + 1) for part in (reference, recent)]
    before, after = (np.maximum(count / count.sum(), _LEAST_SHARE) for count in shares)
    return float(np.sum((after - before) * np.log(after / before)))


def kolmogorov_smirnov(reference: Float64Array, recent: Float64Array) -> float:
    """Largest distance between the two distribution functions."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(reference, recent, method="asymp").statistic)


def wasserstein(reference: Float64Array, recent: Float64Array) -> float:
    """Wasserstein distance over the reference's standard deviation; NaN where the reference never changes."""
    from scipy.stats import wasserstein_distance

    spread = float(np.std(reference))
    return float(wasserstein_distance(reference, recent)) / spread if spread > 0 else np.nan
