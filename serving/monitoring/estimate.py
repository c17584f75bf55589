"""What the error will probably be, said before actuals come: from the width of the forecast's interval.

A champion that is less sure says so: its interval widens. How much error a width stands for is learnt from the weeks
with actuals, for each site: the ratio of what came to what the widths had promised. The estimate cannot see what the
champion does not know of; a changed world shows only once its actuals are there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.report import ErrorEstimate

WAITING_COLUMNS: tuple[str, ...] = ("site", "role", "origin_s", "steps", "valid_s", "median", "lower", "upper")
"""Columns of a table of forecast steps whose actual has not come: those of a realised table that are known by then."""

_WEEK_S = 7 * 86400
_FEWEST_ROWS = 24


def estimate_errors(
    realised: pd.DataFrame, waiting: pd.DataFrame, *, settings: DetectionSettings | None = None
) -> tuple[ErrorEstimate, ...]:
    """The error to expect of forecasts without actuals, a line for each site that has some.

    Args:
        realised: Columns `REALISED_COLUMNS`; the champion's rows count.
        waiting: Columns `WAITING_COLUMNS`; the champion's rows count.
        settings: How long the reference is.

    Returns:
        Ordered by site; NaN where a site has less than a day of actuals to learn from.
    """
    settings = settings or DetectionSettings()
    past = realised[realised["role"] == "champion"]
    past = past[past["valid_s"] > past["valid_s"].max() - settings.reference_weeks * _WEEK_S] if len(past) else past
    waits = waiting[waiting["role"] == "champion"]
    learnt = {site: rows for site, rows in past.groupby("site")}
    return tuple(_estimate(str(site), learnt.get(site), rows) for site, rows in waits.groupby("site", sort=True))


def _estimate(site: str, past: pd.DataFrame | None, waits: pd.DataFrame) -> ErrorEstimate:
    if past is None or len(past) < _FEWEST_ROWS:
        return ErrorEstimate(site=site, error=np.nan, usual_error=np.nan, steps=len(waits))
    came = (past["actual"] - past["median"]).abs().to_numpy(dtype=np.float64)
    promised, steps = _width(past), past["steps"].to_numpy(dtype=np.int64)
    overall = _ratio(came, promised)
    ratio = {int(step): _ratio(came[steps == step], promised[steps == step]) for step in np.unique(steps)}
    ahead = waits["steps"].to_numpy(dtype=np.int64)
    expected = _width(waits) * np.array([ratio.get(int(step), overall) for step in ahead])
    # The usual error of the same steps: what waits is further ahead than what has come.
    usual = {int(step): float(came[steps == step].mean()) for step in np.unique(steps)}
    same = np.array([usual.get(int(step), float(came.mean())) for step in ahead])
    return ErrorEstimate(site=site, error=float(expected.mean()), usual_error=float(same.mean()), steps=len(waits))


def _width(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    width: npt.NDArray[np.float64] = (rows["upper"] - rows["lower"]).to_numpy(dtype=np.float64)
    return width


def _ratio(came: npt.NDArray[np.float64], promised: npt.NDArray[np.float64]) -> float:
    total = float(promised.sum())
    return float(came.sum()) / total if total > 0 else np.nan
