"""Pictures of a model: its forecasts with intervals, its error by lead, its coverage, its learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.dates
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from features.files import whole_file
from features.vocabulary import Float32Array, Int64Array

# Steps are hours in every domain.
_DAY_STEPS = 24
OURS, NAIVE, MEASURED = "#0b6e99", "#c2571a", "#222222"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 120,
}


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def plot_forecast(
    *,
    title: str,
    unit: str,
    history_s: Int64Array,
    history: Float32Array,
    valid_s: Int64Array,
    quantiles_HQ: Float32Array,
    measured_H: Float32Array,
    naive_H: Float32Array,
    levels: tuple[float, ...],
    timezone: str = "UTC",
) -> Figure:
    """One forecast with its 50 and 90 % intervals, what was measured before and after, and the naive profile.

    Args:
        title: Of the picture.
        unit: Of the values.
        history_s: Moments of the history shown [s since 1970].
        history: Its values [unit].
        valid_s: Moments of the forecast, shape (H,) [s since 1970].
        quantiles_HQ: The forecast [unit].
        measured_H: What came [unit], NaN where unmeasured.
        naive_H: The naive profile [unit].
        levels: Quantile levels.
        timezone: Of the axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        axes = figure.subplots()
        past, ahead = _local(history_s, timezone), _local(valid_s, timezone)
        for low, high, opacity, name in ((0.05, 0.95, 0.18, "90 % interval"), (0.25, 0.75, 0.32, "50 % interval")):
            lower, upper = quantiles_HQ[:, levels.index(low)], quantiles_HQ[:, levels.index(high)]
            axes.fill_between(ahead, lower, upper, color=OURS, alpha=opacity, linewidth=0, label=name)
        axes.plot(ahead, naive_H, color=NAIVE, linewidth=1.2, linestyle="--", label="seasonal profile (naive)")
        axes.plot(ahead, quantiles_HQ[:, levels.index(0.5)], color=OURS, linewidth=2, label="forecast (median)")
        measured = np.concatenate([history, measured_H])
        axes.plot(np.concatenate([past, ahead]), measured, color=MEASURED, linewidth=1.4, label="measured")
        axes.axvline(past[-1], color="#888888", linewidth=1, linestyle=":")
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.annotate("origin", (past[-1], axes.get_ylim()[1]), ha="right", va="top", color="#666666", fontsize=9)
        figure.legend(loc="outside lower center", fontsize=9, frameon=False, ncols=5)
        axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(maxticks=8))  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%a %d %b\n%H:%M"))  # type: ignore[no-untyped-call]
    return figure


def plot_error_by_lead(
    *, title: str, unit: str, ours: npt.ArrayLike, naive: npt.ArrayLike, coverage_90: npt.ArrayLike
) -> Figure:
    """Mean absolute error of the forecast and of the naive profile, and interval coverage, by lead."""
    mine, other, covered = (np.asarray(values, dtype=np.float64) for values in (ours, naive, coverage_90))
    lead = np.arange(1, len(mine) + 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(lead, other, color=NAIVE, linestyle="--", label="seasonal profile (naive)")
        left.plot(lead, mine, color=OURS, linewidth=2, label="forecast")
        left.set_ylim(0, 1.25 * float(np.nanmax([mine, other])))
        left.set_title(title)
        left.set_xlabel("steps ahead")
        left.set_ylabel(f"mean absolute error [{unit}]")
        left.legend(frameon=False, fontsize=8, loc="lower right")
        right.plot(lead, 100 * covered, color=OURS, linewidth=2)
        right.axhline(90, color="#888888", linestyle=":")
        right.set_ylim(min(50.0, 100 * float(np.nanmin(covered)) - 5), 100)
        right.set_title("Share inside the 90 % interval")
        right.set_xlabel("steps ahead")
        right.set_ylabel("%")
        if len(lead) > 2 * _DAY_STEPS:
            for axes in (left, right):
                axes.xaxis.set_major_locator(MultipleLocator(_DAY_STEPS))
    return figure


def _local(moments_s: Int64Array, timezone: str) -> npt.NDArray[np.datetime64]:
    """Naive local moments for an axis."""
    local = pd.to_datetime(moments_s, unit="s", utc=True).tz_convert(timezone).tz_localize(None)
    return np.asarray(local.to_numpy(), dtype="datetime64[s]")
