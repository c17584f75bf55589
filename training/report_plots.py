"""Pictures of an evaluation report: residuals, reliability, coverage, errors by group, attribution."""

from __future__ import annotations

import re
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.ticker
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.breakdown import large_enough, local_calendar, rows_by
from training.explain import Attribution
from training.plots import NAIVE, OURS, STYLE
from training.train import Judgement

_GREY = "#888888"
_SLANT: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
_SHADES = ("#9cc8db", "#5fa3c0", "#2f84a8", "#0b6e99", "#08506f")
_FEATURES_SHOWN = 12
# From here on the axis of leads is marked by the day.
_MANY_STEPS = 48
# Share of all features' importance below which one is not shown.
_LEAST_SHOWN = 0.002
# How many times as important as the next a feature must be to be named instead of drawn.
_TOWERING = 8.0
_CORRELATED_DAYS = 8


def plot_residuals(judgement: Judgement) -> Figure:
    """Distribution of what was measured less the median, over all leads and by lead."""
    residual = judgement.target_BH - judgement.quantiles_BHQ[:, :, judgement.levels.index(0.5)]
    unit = judgement.windows.target.unit
    measured = np.isfinite(residual).any(axis=0)
    known = residual[np.isfinite(residual)]
    lead = np.arange(1, residual.shape[1] + 1)[measured]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        edge = float(np.quantile(np.abs(known), 0.995)) or 1.0
        left.hist(known, bins=61, range=(-edge, edge), color=OURS, alpha=0.85)
        left.axvline(0, color=_GREY, linewidth=1)
        left.axvline(float(known.mean()), color=NAIVE, linewidth=1.5, label=f"mean {known.mean():+.3g} {unit}")
        left.set_title("Residuals, all leads (99.5 % of them)")
        left.set_xlabel(f"measured less forecast [{unit}]")
        left.set_yticks([])
        left.grid(visible=False)
        left.legend(frameon=False, fontsize=8, loc="upper right")
        quantiles = np.nanquantile(residual[:, measured], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
        right.fill_between(lead, quantiles[0], quantiles[4], color=OURS, alpha=0.18, linewidth=0, label="90 % of them")
        right.fill_between(lead, quantiles[1], quantiles[3], color=OURS, alpha=0.35, linewidth=0, label="50 % of them")
        right.plot(lead, quantiles[2], color=OURS, linewidth=2, label="median")
        right.axhline(0, color=_GREY, linewidth=1, linestyle=":")
        right.set_title("Residuals by lead")
        right.set_xlabel("steps ahead")
        right.set_ylabel(f"[{unit}]")
        if residual.shape[1] > _MANY_STEPS:
            right.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(_MANY_STEPS // 2))
        right.legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
        low, high = right.get_ylim()
        right.set_ylim(low, high + 0.15 * (high - low))
    return figure


def plot_residual_pattern(judgement: Judgement) -> Figure:
    """What is left in the residuals: correlation from origin to origin, and bias by local hour."""
    horizons = judgement.windows.panel.domain.horizons
    name, steps = next(iter(horizons.items()))
    day = 24 * 3600 // judgement.windows.panel.domain.step_s
    correlation = residual_correlation(judgement, lead=steps, lags=_CORRELATED_DAYS * day)
    residual = judgement.target_BH - judgement.quantiles_BHQ[:, :, judgement.levels.index(0.5)]
    hour, _ = local_calendar(judgement.windows)
    frame = pd.DataFrame({"hour": hour.ravel(), "residual": residual.ravel()}).dropna().groupby("hour")["residual"]
    mean, low, high = frame.mean(), frame.quantile(0.25), frame.quantile(0.75)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        lag = np.arange(1, len(correlation) + 1) / day
        left.bar(lag, correlation, width=0.8 / day, color=OURS)
        left.axvline(steps / day, color=_GREY, linewidth=1, linestyle=":")
        left.annotate("left of it their targets overlap", (steps / day, 1.0), xycoords=("data", "axes fraction"),
                      xytext=(3, -3), textcoords="offset points", va="top", fontsize=8, color="#666666")  # fmt: skip
        left.axhline(0, color=_GREY, linewidth=1)
        left.set_ylim(min(-0.2, float(np.nanmin(correlation, initial=0.0)) - 0.05), 1)
        left.set_title(f"Autocorrelation of the residuals, {name} ahead")
        left.set_xlabel("days between two origins")
        right.fill_between(mean.index, low, high, color=OURS, alpha=0.25, linewidth=0, label="middle half")
        right.plot(mean.index, mean, color=OURS, linewidth=2, label="mean")
        right.axhline(0, color=_GREY, linewidth=1, linestyle=":")
        right.set_title("Residuals by local hour")
        right.set_xlabel("hour of the day that is forecast")
        right.set_ylabel(f"[{judgement.windows.target.unit}]")
        right.set_xticks(range(0, 24, 3))
        right.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def residual_correlation(judgement: Judgement, *, lead: int, lags: int) -> npt.NDArray[np.float64]:
    """Correlation of a lead's residuals with those of earlier origins of the same site, mean over the sites.

    Args:
        judgement: Gives the residuals.
        lead: Steps ahead.
        lags: How many, the first being one step.

    Returns:
        Shape (lags,), NaN where no two origins are so far apart.
    """
    windows = judgement.windows
    residual = judgement.target_BH[:, lead - 1] - judgement.quantiles_BHQ[:, lead - 1, judgement.levels.index(0.5)]
    first, last = int(windows.origin_B.min()), int(windows.origin_B.max())
    grid = np.full((len(windows.panel.sites), last - first + 1 + lags), np.nan)
    grid[windows.site_index_B, windows.origin_B - first] = residual
    known = np.isfinite(grid)
    count = known.sum(axis=1, keepdims=True)
    centred = np.where(known, grid - np.where(known, grid, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    variance = (centred**2).sum(axis=1) / np.maximum(count[:, 0], 1)
    found = np.full(lags, np.nan)
    for lag in range(1, lags + 1):
        pairs = (known[:, lag:] & known[:, :-lag]).sum(axis=1)
        usable = (pairs > 0) & (variance > 0)
        if usable.any():
            together = (centred[:, lag:] * centred[:, :-lag]).sum(axis=1)[usable] / pairs[usable]
            found[lag - 1] = float((together / variance[usable]).mean())
    return found


def plot_reliability(judgement: Judgement, table: pd.DataFrame) -> Figure:
    """How often the target falls below each quantile, and the share inside the 90 % interval by month."""
    known = np.isfinite(judgement.target_BH)
    target = judgement.target_BH[known]
    below = [float((target <= judgement.quantiles_BHQ[:, :, i][known]).mean()) for i in range(len(judgement.levels))]
    months = large_enough(rows_by(table, "month"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        left.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        left.plot(judgement.levels, below, color=OURS, marker="o", markersize=5)
        left.set_aspect("equal")
        left.set_xlim(0, 1)
        left.set_ylim(0, 1)
        left.set_title("Reliability of the quantiles")
        left.set_xlabel("level")
        left.set_ylabel("share of targets below")
        bars = right.bar(months.index, 100 * months["coverage_90"], color=OURS, width=0.7)
        right.bar_label(bars, fmt="%.0f", fontsize=8, label_type="center", color="white")
        right.axhline(90, color=NAIVE, linestyle="--", linewidth=1.2)
        right.set_ylim(0, 105)
        right.set_title("Share inside the 90 % interval, by local month")
        right.set_ylabel("%")
        right.set_xticks(range(len(months)), months.index, **_SLANT)
        right.grid(visible=False, axis="x")
    return figure


def plot_errors_by_group(table: pd.DataFrame, *, unit: str) -> Figure:
    """Mean absolute error of the forecast and of the naive profile by local hour and by local month."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        for part, by, title in zip(axes, ("hour", "month"), ("by local hour", "by local month"), strict=True):
            rows = large_enough(rows_by(table, by))
            position = np.arange(len(rows))
            part.bar(position, rows["mae"], color=OURS, width=0.75, label="forecast")
            part.plot(position, rows["naive_mae"], color=NAIVE, linestyle="--", marker="o", markersize=3,
                      label="seasonal profile (naive)")  # fmt: skip
            every = 3 if by == "hour" else 1
            slant: dict[str, Any] = {} if by == "hour" else _SLANT
            part.set_xticks(position[::every], rows.index[::every], **slant)
            part.set_title(f"Mean absolute error {title}")
            part.set_ylim(0, 1.25 * float(max(rows["mae"].max(), rows["naive_mae"].max())))
            part.grid(visible=False, axis="x")
        axes[0].set_ylabel(f"[{unit}]")
        axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    return figure


def plot_coverage_map(table: pd.DataFrame) -> Figure:
    """Share inside the 90 % interval by site and local month; a month of few hours is left out."""
    rows = large_enough(rows_by(table, "site and month"))
    sites, months = (list(part) for part in zip(*(str(name).rsplit(", ", 1) for name in rows.index), strict=True))
    share = pd.Series(100 * rows["coverage_90"].to_numpy(), index=[sites, months])
    grid = share.unstack().reindex(sorted(set(sites), key=_in_natural_order))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9, 1.2 + 0.32 * len(grid)), layout="constrained")
        axes = figure.subplots()
        colours = matplotlib.colors.TwoSlopeNorm(vmin=50, vcenter=90, vmax=110)
        axes.imshow(grid.to_numpy(), cmap="RdBu", norm=colours, aspect="auto")
        axes.set_xticks(range(len(grid.columns)), grid.columns, **_SLANT)
        axes.set_yticks(range(len(grid)), grid.index)
        for row, column in np.argwhere(np.isfinite(grid.to_numpy())):
            value = float(grid.to_numpy()[row, column])
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if value < 60 else "#222222")  # fmt: skip
        axes.set_title("Share inside the 90 % interval [%], by site and local month")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def readable(name: str) -> str:
    """A feature's name for people: `pm2.5 mean 3h` for `pm2_5_mean_3h`."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", name).replace("_", " ")


def _in_natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorting key that puts `DMA 2` before `DMA 10`."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def plot_attribution(attribution: Attribution) -> Figure:
    """Mean absolute share of each feature at each horizon, and each window's share at the last horizon."""
    importance_NF = attribution.importance_NF()
    mean_F = importance_NF.mean(axis=0)
    order = np.argsort(-mean_F, kind="stable")
    towering = _towering(mean_F[order])
    above, order = order[:towering], order[towering:][:_FEATURES_SHOWN]
    order = order[(mean_F[order] >= _LEAST_SHOWN * mean_F[order].sum()) | (np.arange(len(order)) == 0)][::-1]
    names = [readable(attribution.features[index]) for index in order]
    horizons = attribution.horizons
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.6 + 0.4 * len(order)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        height = 0.8 / len(horizons)
        shades = np.linspace(0, len(_SHADES) - 1, len(horizons)).round().astype(int)
        for number, horizon in enumerate(horizons):
            place = np.arange(len(order)) + 0.4 - height * (number + 0.5)
            left.barh(place, importance_NF[number, order], height=height, color=_SHADES[shades[number]], label=horizon)
        left.set_yticks(range(len(order)), names)
        left.set_title("Mean absolute share")
        left.set_xlabel(f"[{attribution.unit}]")
        left.grid(visible=False, axis="y")
        figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=len(horizons), title="ahead")
        if len(above):
            beyond = (f"{readable(attribution.features[one])}: {mean_F[one]:.3g} {attribution.unit}" for one in above)
            figure.supxlabel(f"Beyond this scale, and not drawn: {'; '.join(beyond)}", fontsize=9, color="#666666")
        _swarm(right, attribution, order)
        right.set_title(f"Each window, {horizons[-1]} ahead")
        right.set_xlabel(f"moves it by [{attribution.unit}]; blue: low value, red: high")
        right.grid(visible=False, axis="y")
    return figure


def _towering(mean_F: npt.NDArray[np.float64]) -> int:
    """How many of the first features, largest first, are so large that the others would not be seen beside them."""
    count = 0
    while count + 2 < len(mean_F) and mean_F[count] > _TOWERING * mean_F[count + 1] > 0:
        count += 1
    return count


def _swarm(axes: Axes, attribution: Attribution, order: npt.NDArray[np.int64]) -> None:
    """A dot for each window, moved aside where many are alike; the few far ones stand at the edge as triangles."""
    axes.axvline(0, color=_GREY, linewidth=1)
    colours = matplotlib.colormaps["coolwarm"]
    edge = 1.05 * float(np.quantile(np.abs(attribution.value_NBF[-1][:, order]), 0.995)) or 1.0
    axes.set_xlim(-1.05 * edge, 1.05 * edge)
    for row, feature in enumerate(order):
        value, level = attribution.value_NBF[-1, :, feature], attribution.level_BF[:, feature]
        counts, edges = np.histogram(value, bins=40, range=(-edge, edge))
        crowd = counts[np.clip(np.digitize(value, edges) - 1, 0, 39)] / max(int(counts.max()), 1)
        # A fixed zigzag in the order of the values: the picture is the same every time.
        aside = np.empty(len(value))
        aside[np.argsort(value, kind="stable")] = np.resize([-1.0, 0.5, 0.0, -0.5, 1.0], len(value))
        rank = pd.Series(level).rank(pct=True).to_numpy()
        colour = np.array([matplotlib.colors.to_rgba(_GREY) if np.isnan(one) else colours(float(one)) for one in rank])
        for chosen, marker in ((np.abs(value) <= edge, "o"), (value < -edge, "<"), (value > edge, ">")):
            axes.scatter(np.clip(value[chosen], -edge, edge), row + 0.32 * (crowd * aside)[chosen], s=10,
                         c=colour[chosen], marker=marker, alpha=0.8, linewidths=0)  # fmt: skip
