"""Pictures of a search for a recipe: its history, and how much each choice matters."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.plots import NAIVE, OURS, STYLE

_PRUNED = "#999999"
_WIDEST = 5.0


def plot_search_history(
    *,
    title: str,
    number: npt.ArrayLike,
    first: npt.ArrayLike,
    mean: npt.ArrayLike,
    present: int | None,
) -> Figure:
    """Losses of the trials of a search relative to the seasonal profile, and those of the recipe that it began with.

    Above over all folds, of the trials that were not pruned; below on the first judged fold, which all trials saw.

    Args:
        title: Of the picture.
        number: Number of each trial, ascending.
        first: Its loss on the first fold.
        mean: Its mean loss over all folds, NaN where it was pruned.
        present: Number of the present recipe's trial, None where it was not judged.
    """
    x, once, whole = (np.asarray(values, dtype=np.float64) for values in (number, first, mean))
    judged = np.isfinite(whole)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True)
        best = np.fmin.accumulate(whole)
        above.step(x[np.isfinite(best)], best[np.isfinite(best)], where="post", color=OURS, linewidth=1.5, zorder=2)
        _scatter(above, x[judged], whole[judged], judged[judged])
        above.set_title(title)
        above.set_ylabel("all folds")
        _scatter(below, x, once, judged)
        below.set_ylabel("first fold")
        below.set_xlabel("trial")
        below.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        for axes, values in ((above, whole), (below, once)):
            at_present = values[x == present]
            if at_present.size and np.isfinite(at_present[0]):
                axes.axhline(at_present[0], color=NAIVE, linestyle="--", linewidth=1.2)
        figure.supylabel("pinball loss / the seasonal profile's", fontsize=10)
        _legend(figure)
    return figure


def _scatter(
    axes: Axes, x: npt.NDArray[np.float64], loss: npt.NDArray[np.float64], judged: npt.NDArray[np.bool_]
) -> None:
    """Trials as points; one that went astray must not flatten all others, and is shown at the upper edge."""
    axes.scatter(x[~judged], loss[~judged], s=22, facecolors="none", edgecolors=_PRUNED)
    axes.scatter(x[judged], loss[judged], s=26, color=OURS, zorder=3)
    if loss.size == 0:
        return
    low, high = float(loss.min()), float(loss.max())
    high = min(high, low + max(_WIDEST * (float(np.median(loss)) - low), 1e-3))
    margin = max(0.08 * (high - low), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    astray = loss > high + margin
    edge = np.full(int(astray.sum()), high + margin)
    axes.scatter(x[astray], edge, marker="^", color=_PRUNED, clip_on=False, zorder=4)


def _legend(figure: Figure) -> None:
    marks: dict[str, dict[str, Any]] = {
        "judged on all folds": {"marker": "o", "color": OURS, "linestyle": ""},
        "pruned": {"marker": "o", "color": _PRUNED, "markerfacecolor": "none", "linestyle": ""},
        "beyond the scale": {"marker": "^", "color": _PRUNED, "linestyle": ""},
        "best so far": {"color": OURS},
        "present recipe": {"color": NAIVE, "linestyle": "--"},
    }
    handles = [Line2D([], [], label=label, **style) for label, style in marks.items()]
    figure.legend(handles=handles, loc="outside lower center", fontsize=9, frameon=False, ncols=len(handles))


def plot_importance(*, title: str, importance: dict[str, float]) -> Figure:
    """How much each choice of a search matters, the most important on top."""
    names = [name.replace("_", " ") for name in importance]
    shares = 100 * np.asarray(list(importance.values()), dtype=np.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 1.1 + 0.34 * len(names)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(names, shares, color=OURS, height=0.65)
        axes.bar_label(bars, labels=[f"{share:.0f}" for share in shares], padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1.1 * max(float(shares.max(initial=0.0)), 1.0))
        axes.set_title(title)
        axes.set_xlabel("importance for a low loss on the first fold [%]")
    return figure
