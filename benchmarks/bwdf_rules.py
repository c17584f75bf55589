"""The rules of the Battle of Water Demand Forecasting: weeks, submissions, performance indicators, ranks.

Alvisi et al. 2025, doi:10.1061/JWRMD5.WRENG-6887. Four weeks of 168 hours from a local midnight on. By area and week:
PI1 and PI2 are the mean and the largest absolute error of the first 24 hours, PI3 is the mean absolute error of the
others [L/s]. Every entry is ranked in each cell of area, week and indicator; the mean rank decides.

Array names carry their axes: E entries, W weeks, H hours, A areas, I indicators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from features.errors import DataError

Float64Array = npt.NDArray[np.float64]

TIMEZONE = "Europe/Rome"
WEEKS = tuple(pd.Timestamp(day) for day in ("2022-07-25", "2022-10-31", "2023-01-16", "2023-03-06"))
HOURS = 168
AREAS = tuple(f"DMA {number}" for number in range(1, 11))
SUBMISSIONS_FILE = "BWDFCompetitorsSolutions.xlsx"
UNIT = "L/s"
_FIRST_HOURS = 24
_STAMP_FORMAT = "%d/%m/%Y %H:%M"
_PROFILE_WEEKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an entry comes among others.

    Attributes:
        mean_rank: Over all cells.
        place: One more than the number of entries whose mean rank is lower.
        entries: How many were ranked, itself included.
        by_week: Its mean rank in each week.
        indicators: Its means of PI1, PI2 and PI3 [L/s].
        others: Mean ranks of the others beside it, in their order.
    """

    mean_rank: float
    place: int
    entries: int
    by_week: tuple[float, ...]
    indicators: tuple[float, float, float]
    others: tuple[float, ...]


def read_submissions(folder: Path) -> Float64Array:
    """The competition's entries (E, W, H, A), the winner first, NaN where one has no number [L/s].

    Args:
        folder: Where the workbook lies, or a folder above it.

    Raises:
        DataError: The workbook is missing or cannot be read, or a sheet has other columns or hours than asked for.
    """
    found = sorted(folder.glob(f"**/{SUBMISSIONS_FILE}"))
    if not found:
        raise DataError(
            "The submissions of the competition are not here",
            found=str(folder),
            remedy=f"Put {SUBMISSIONS_FILE} beside the inflow, from doi:10.1061/JWRMD5.WRENG-6887.",
        )
    try:
        sheets = pd.read_excel(found[0], sheet_name=None)
    except (ValueError, OSError, KeyError) as error:
        raise DataError(
            "The workbook cannot be read", found=f"{found[0]}: {error}", remedy="Fetch the file again."
        ) from error
    return np.stack([_submission(table, name) for name, table in sheets.items()])


def _submission(table: pd.DataFrame, name: str) -> Float64Array:
    columns = [f"{area} ({UNIT})" for area in AREAS]
    expected = [moment for week in WEEKS for moment in pd.date_range(week, periods=HOURS, freq="h")]
    if list(table.columns[2:]) != columns or len(table) != len(expected):
        raise DataError(
            f"Sheet {name!r} is no submission",
            found=f"{len(table)} rows of {', '.join(map(str, table.columns))}",
            remedy=f"It needs {len(expected)} rows, and after week and stamp: {', '.join(columns)}.",
        )
    stamps = pd.to_datetime(table.iloc[:, 1], format=_STAMP_FORMAT, errors="coerce")
    if list(stamps) != expected:
        raise DataError(
            f"Sheet {name!r} has other hours than the competition",
            found=f"{stamps.iloc[0]} to {stamps.iloc[-1]}",
            remedy=f"Its {len(WEEKS)} weeks begin on {', '.join(str(week.date()) for week in WEEKS)}.",
        )
    # One entry has a dash for each hour of a week.
    numbers: Float64Array = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    return numbers.reshape(len(WEEKS), HOURS, len(AREAS))


def indicators(forecast_HA: Float64Array, measured_HA: Float64Array) -> Float64Array:
    """PI1, PI2, PI3 of one week or, with leading axes, of several: shape (..., A, I) [L/s].

    Hours without a measurement do not count; an indicator is infinite where a counted hour has no forecast.
    """
    known = np.isfinite(measured_HA)
    error = np.where(known, np.abs(forecast_HA - measured_HA), 0.0)
    error[known & ~np.isfinite(forecast_HA)] = np.inf
    first, rest = (np.s_[..., :_FIRST_HOURS, :], np.s_[..., _FIRST_HOURS:, :])
    means = [error[part].sum(axis=-2) / np.maximum(known[part].sum(axis=-2), 1) for part in (first, rest)]
    return np.stack([means[0], error[first].max(axis=-2), means[1]], axis=-1)


def ranks(indicators_EWAI: Float64Array) -> Float64Array:
    """Rank of each entry in each cell, 1 for the smallest; equal entries share the mean of their ranks."""
    result: Float64Array = rankdata(indicators_EWAI, method="average", axis=0)
    return result


def stand_alone(entry_WAI: Float64Array, others_EWAI: Float64Array) -> Standing:
    """An entry's standing when it alone is ranked among others."""
    rank = ranks(np.concatenate([entry_WAI[None], others_EWAI]))
    means = rank.reshape(len(rank), -1).mean(axis=1)
    first, second, third = (float(value) for value in entry_WAI.reshape(-1, 3).mean(axis=0))
    return Standing(
        mean_rank=float(means[0]),
        place=1 + int((means[1:] < means[0]).sum()),
        entries=len(rank),
        by_week=tuple(float(value) for value in rank[0].mean(axis=(1, 2))),
        indicators=(first, second, third),
        others=tuple(float(value) for value in means[1:]),
    )


def measured_weeks(inflow: pd.DataFrame, weeks: Sequence[pd.Timestamp]) -> Float64Array:
    """What was measured in some weeks (W, H, A), NaN where nothing was.

    Args:
        inflow: Column for each area [L/s], index the local hour that begins, without a time zone.
        weeks: Their beginnings.
    """
    return np.stack([_hours(inflow, week) for week in weeks])


def last_week(inflow: pd.DataFrame, week: pd.Timestamp) -> Float64Array:
    """The naive forecast (H, A) that a week is like the one before; its gaps are filled from eight weeks' median."""
    before = _hours(inflow, week - pd.Timedelta(weeks=1))
    return np.where(np.isfinite(before), before, hour_of_week_median(inflow, week))


def hour_of_week_median(inflow: pd.DataFrame, week: pd.Timestamp) -> Float64Array:
    """The naive forecast (H, A) by the median of the same local hour over the eight weeks before."""
    back = range(1, _PROFILE_WEEKS + 1)
    median: Float64Array = np.nanmedian(
        np.stack([_hours(inflow, week - pd.Timedelta(weeks=weeks)) for weeks in back]), axis=0
    )
    return median


def _hours(inflow: pd.DataFrame, begin: pd.Timestamp) -> Float64Array:
    moments = pd.date_range(begin, periods=HOURS, freq="h")
    return inflow.reindex(moments)[list(AREAS)].to_numpy(dtype=np.float64)
