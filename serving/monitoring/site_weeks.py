"""A site's realised forecasts, week by week and version by version."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

WEEK_S = 7 * 86400
# What is needed of realised forecasts here.
SCORED_COLUMNS = ("model_version", "origin_s", "valid_s", "actual", "median", "lower", "upper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How forecasts did.

    Attributes:
        steps: Forecast steps with an actual.
        error: Mean absolute error [unit].
        bias: Mean of forecast minus actual [unit].
        mape_percent: Mean absolute percentage error, NaN where all actuals are zero.
        coverage: Share of the actuals inside the interval (0 to 1).
    """

    steps: int
    error: float
    bias: float
    mape_percent: float
    coverage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """One week of a site.

    Attributes:
        begin: Its Monday, by the site's calendar.
        score: How the forecasts of its moments did.
        model_versions: What made them, in order of time.
    """

    begin: pd.Timestamp
    score: Score
    model_versions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSpan:
    """How one version did at a site.

    Attributes:
        model_version: Which.
        since_s: Begin of its first forecast with an actual [s since 1970].
        until_s: Begin of its last one [s since 1970].
        score: How its forecasts did.
    """

    model_version: str
    since_s: int
    until_s: int
    score: Score


def weeks_of(realised: pd.DataFrame, *, timezone: str) -> tuple[Week, ...]:
    """A site's weeks, Monday to Sunday by its own calendar, oldest first; weeks without an actual are left out.

    Args:
        realised: Rows of one site with SCORED_COLUMNS, see `serving.monitoring.realised`.
        timezone: The site's.
    """
    known = realised.dropna(subset=["actual", "median"]).sort_values("valid_s")
    if known.empty:
        return ()
    local = pd.to_datetime(known["valid_s"], unit="s", utc=True).dt.tz_convert(timezone).dt.tz_localize(None)
    monday = local.dt.normalize() - pd.to_timedelta(local.dt.dayofweek, unit="D")
    found = []
    for begin, rows in known.groupby(monday.to_numpy()):
        # A zone may skip its midnight: then the week begins with the first moment that there is.
        moment = pd.Timestamp(str(begin)).tz_localize(timezone, ambiguous=True, nonexistent="shift_forward")
        found.append(Week(begin=moment, score=score_of(rows), model_versions=tuple(rows["model_version"].unique())))
    return tuple(found)


def versions_of(realised: pd.DataFrame) -> tuple[VersionSpan, ...]:
    """A site's model versions in order of time.

    Args:
        realised: Rows of one site with SCORED_COLUMNS, see `serving.monitoring.realised`.
    """
    known = realised.dropna(subset=["actual", "median"])
    spans = [
        VersionSpan(
            model_version=str(version),
            since_s=int(rows["origin_s"].min()),
            until_s=int(rows["origin_s"].max()),
            score=score_of(rows),
        )
        for version, rows in known.groupby("model_version")
    ]
    return tuple(sorted(spans, key=lambda span: (span.since_s, span.until_s)))


def score_of(rows: pd.DataFrame) -> Score:
    """How forecasts with actuals did."""
    actual = rows["actual"].to_numpy(dtype=np.float64)
    median = rows["median"].to_numpy(dtype=np.float64)
    lower, upper = rows["lower"].to_numpy(dtype=np.float64), rows["upper"].to_numpy(dtype=np.float64)
    off, some, bounded = median - actual, actual != 0, np.isfinite(lower) & np.isfinite(upper)
    inside = (lower <= actual) & (actual <= upper)
    return Score(
        steps=len(rows),
        error=float(np.abs(off).mean()),
        bias=float(off.mean()),
        mape_percent=float(100 * np.abs(off[some] / actual[some]).mean()) if some.any() else math.nan,
        coverage=float(inside[bounded].mean()) if bounded.any() else math.nan,
    )
