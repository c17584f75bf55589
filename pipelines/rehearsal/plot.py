"""The picture of a rehearsal: each injection's error and coverage by week, with what was seen and done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from features.files import whole_file
from pipelines.rehearsal.diary import Event, Recovery, Rehearsed, SiteWeek
from pipelines.rehearsal.injections import KINDS

# Okabe and Ito's colours (2008), which people with any kind of colour vision tell apart.
_HURT, _WELL, _HARM, _ALARM, _RETRAINED = "#0072B2", "#999999", "#D55E00", "#CC79A7", "#009E73"
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.dpi": 120,
}
_DAY_S, _WEEK_S = 86400, 7 * 86400
_CAUSES = {"performance": "retrained: error", "schedule": "retrained: schedule"}


def plot_rehearsal(rehearsed: Rehearsed) -> Figure:
    """A row for each injection with the weekly error of its sites, and below them the coverage of all."""
    rows = max(len(rehearsed.recoveries), 1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 1.9 * rows + 2.4), layout="constrained")
        axes = figure.subplots(rows + 1, 1, sharex=True, height_ratios=[1.0] * rows + [0.9])
        for axis, recovery in zip(axes, rehearsed.recoveries, strict=False):
            _draw_error(axis, rehearsed, recovery)
        _draw_coverage(axes[-1], rehearsed)
        for axis in axes:
            _draw_retrainings(axis, rehearsed.diary.events, named=axis is axes[-1])
        axes[-1].xaxis_date()
        axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(axes[-1].xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
        axes[-1].set_xlim(_day(rehearsed.diary.begin_s), _day(rehearsed.diary.end_s))
        weeks = round((rehearsed.diary.end_s - rehearsed.diary.begin_s) / _WEEK_S)
        figure.suptitle(
            f"{weeks} weeks of {rehearsed.domain} through the running API: {rehearsed.readings:,} readings, "
            f"{rehearsed.forecasts:,} forecasts",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
    return figure


def save_plot(rehearsed: Rehearsed, path: Path) -> Path:
    """Write the picture as PNG, whole or not at all.

    Raises:
        StorageError: The folder cannot be written.
    """
    with whole_file(path) as temporary:
        plot_rehearsal(rehearsed).savefig(temporary, format="png")
    return path


def _day(seconds: float) -> float:
    """Matplotlib counts days since 1970."""
    return seconds / _DAY_S


def _middles(weeks: Sequence[SiteWeek]) -> list[float]:
    return [_day(week.begin_s + _WEEK_S / 2) for week in weeks]


def _mean_weeks(weeks: Sequence[SiteWeek], sites: Sequence[str]) -> tuple[SiteWeek, ...]:
    """The mean of some sites, week by week."""
    chosen: dict[float, list[SiteWeek]] = {}
    for week in weeks:
        if week.site in sites:
            chosen.setdefault(week.begin_s, []).append(week)
    return tuple(
        SiteWeek(
            site="",
            begin_s=begin_s,
            error=float(np.average([one.error for one in found], weights=[one.steps for one in found])),
            coverage=float(np.average([one.coverage for one in found], weights=[one.steps for one in found])),
            steps=sum(one.steps for one in found),
        )
        for begin_s, found in sorted(chosen.items())
    )


def _draw_error(axis: Axes, rehearsed: Rehearsed, recovery: Recovery) -> None:
    harm, kind = recovery.harm, KINDS[recovery.harm.kind]
    weeks = _mean_weeks(rehearsed.weeks, harm.sites)
    end_s = rehearsed.diary.end_s if harm.end_s is None else harm.end_s
    axis.axvspan(_day(harm.begin_s), _day(end_s), color=_HARM, alpha=0.10, linewidth=0)
    axis.axhline(recovery.before, color=_WELL, linewidth=1.0, linestyle="--")
    axis.plot(_middles(weeks), [week.error for week in weeks], color=_HURT, linewidth=2, marker="o", markersize=3)
    others = [
        value
        for value in (recovery.before, recovery.unhelped, recovery.fresh)
        if value is not None and np.isfinite(value)
    ]
    top = max([week.error for week in weeks] + others) * 1.30
    axis.set_ylim(0, top)
    axis.set_ylabel(f"error, {rehearsed.unit}")
    axis.set_title(f"{kind.group}: {kind.words} ({_names(harm.sites)})", loc="left", fontsize=10)
    axis.annotate(
        "before", (1.0, recovery.before), xycoords=("axes fraction", "data"), va="center", color="#555555",
        xytext=(3, 0), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    _mark_alarm(axis, recovery, top)
    for value, words, symbol in ((recovery.unhelped, "never retrained", "x"), (recovery.fresh, "only new data", "D")):
        if value is not None:
            _mark_value(axis, end_s, words, value, symbol)


def _mark_value(axis: Axes, end_s: float, words: str, value: float, symbol: str) -> None:
    """What another model makes of the last two weeks."""
    middle = _day(end_s - _WEEK_S)
    axis.plot([middle], [value], color="black", marker=symbol, markersize=6, linestyle="none", clip_on=False)
    axis.annotate(
        f"{words} {value:.3g}", (middle, value), xytext=(-7, 8 if symbol == "x" else -8), textcoords="offset points",
        ha="right", va="center", fontsize=8, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _mark_alarm(axis: Axes, recovery: Recovery, top: float) -> None:
    if recovery.detected_s is None or recovery.delay_days is None:
        axis.annotate(
            "not detected", (_day(recovery.harm.begin_s), top * 0.97), xytext=(4, 0), textcoords="offset points",
            va="top", fontsize=8, color=_ALARM, fontweight="bold",
        )  # fmt: skip
        return
    moment = _day(recovery.detected_s)
    axis.axvline(moment, color=_ALARM, linewidth=1.8)
    axis.annotate(
        f"alarm after {recovery.delay_days:.0f} d", (moment, top * 0.97), xytext=(4, 0), textcoords="offset points",
        va="top", fontsize=8, color=_ALARM, fontweight="bold",
    )  # fmt: skip


def _draw_coverage(axis: Axes, rehearsed: Rehearsed) -> None:
    hurt = {site for recovery in rehearsed.recoveries for site in recovery.harm.sites}
    every = {week.site for week in rehearsed.weeks}
    for sites, colour, words, down in ((every - hurt, _WELL, "untouched sites", -26), (hurt, _HURT, "the others", -42)):
        weeks = _mean_weeks(rehearsed.weeks, sorted(sites))
        if weeks:
            axis.plot(_middles(weeks), [100 * week.coverage for week in weeks], color=colour, linewidth=2)
            axis.annotate(
                words, (_middles(weeks)[0], 100 * weeks[0].coverage), xytext=(0, down), textcoords="offset points",
                color="#555555" if colour == _WELL else colour, fontsize=8, fontweight="bold",
            )  # fmt: skip
    axis.axhline(100 * rehearsed.nominal_coverage, color="black", linewidth=0.8, linestyle=":")
    axis.set_ylim(0, 100)
    axis.set_ylabel("coverage, %")
    axis.set_title("share of the readings inside the interval; dotted: what it promises", loc="left", fontsize=10)


def _draw_retrainings(axis: Axes, events: Sequence[Event], *, named: bool) -> None:
    """Lines at retrainings; named once, by what asked for them."""
    for event in events:
        if event.kind != "retrained":
            continue
        axis.axvline(_day(event.at_s), color=_RETRAINED, linewidth=1.0, linestyle="--", alpha=0.8)
        if named:
            axis.annotate(
                _CAUSES.get(event.cause, event.cause), (_day(event.at_s), 0.02), xycoords=("data", "axes fraction"),
                xytext=(2, 0), textcoords="offset points", rotation=90, fontsize=7, color=_RETRAINED, va="bottom",
            )  # fmt: skip


def _names(sites: Sequence[str]) -> str:
    shown = ", ".join(sites[:3])
    return f"{shown} and {len(sites) - 3} more" if len(sites) > 3 else shown
