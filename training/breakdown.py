"""A judgement taken apart: the same figures by horizon, site, local hour of the day and local month, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.vocabulary import Int64Array
from training.evaluate import Metrics, figures_of, site_scales
from training.train import Judgement
from training.window_set import WindowSet

ALL = "all"
# Figures of fewer hours than this, or of a smaller share of the largest group's, say nothing about a group.
_FEW_HOURS, _SMALL_SHARE = 168, 0.05
_POINT_FIGURES = ("mae", "rmse", "mape", "r2", "naive_mae", "naive_rmse", "naive_mape", "skill")


def breakdown(judgement: Judgement) -> pd.DataFrame:
    """Figures of every group of hours, one row for each.

    A horizon's row holds the one lead of that name. All other rows pool every lead and every window whose target lies
    in the group; hours and months are local to the site, of the moment that is forecast.

    Returns:
        Columns `by` (`all`, `horizon`, `site`, `hour`, `month`, `site and month`), `group` (the name within it), and a
        column for each figure of `training.evaluate.judge`, where `windows` counts forecast hours.
    """
    windows = judgement.windows
    parts: list[dict[str, Any]] = [
        {"by": "horizon", "group": name, **judgement.by_lead[steps - 1]}
        for name, steps in windows.panel.domain.horizons.items()
    ]
    known = np.isfinite(judgement.target_BH).ravel()
    site = np.repeat(windows.site_index_B, judgement.target_BH.shape[1])
    hour, month = local_calendar(windows)
    months, month_code = np.unique(month, return_inverse=True)
    names = [panel_site.name for panel_site in windows.panel.sites]
    labels = [str(label) for label in months]
    pooled = _Pooled(judgement, known)
    everything = np.zeros(len(known), dtype=np.int64)
    parts += pooled.rows(ALL, everything, [ALL])
    parts += pooled.rows("site", site, names)
    parts += pooled.rows("hour", hour.ravel(), [f"{value:02d}" for value in range(24)])
    parts += pooled.rows("month", month_code.ravel(), labels)
    both = site * len(labels) + month_code.ravel()
    parts += pooled.rows("site and month", both, [f"{name}, {label}" for name in names for label in labels])
    return pd.DataFrame(parts)


class _Pooled:
    """Figures of the measured hours of a judgement, by any code that they are given."""

    def __init__(self, judgement: Judgement, known: npt.NDArray[np.bool_]) -> None:
        self.known = np.flatnonzero(known)
        self.levels = judgement.levels
        self.quantiles = judgement.quantiles_BHQ.reshape(-1, judgement.quantiles_BHQ.shape[2])
        self.target = judgement.target_BH.ravel()
        self.naive = judgement.naive_BH.ravel()
        scale_B = site_scales(judgement.windows)[judgement.windows.site_index_B]
        self.scale = np.repeat(scale_B, judgement.target_BH.shape[1])

    def rows(self, by: str, code: Int64Array, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each code that occurs, in the order of the codes."""
        order = self.known[np.argsort(code[self.known], kind="stable")]
        present, begins = np.unique(code[order], return_index=True)
        return [
            {"by": by, "group": names[number], **self._figures(chosen)}
            for number, chosen in zip(present, np.split(order, begins[1:]), strict=True)
        ]

    def _figures(self, chosen: Int64Array) -> Metrics:
        return figures_of(
            self.quantiles[chosen],
            self.target[chosen],
            self.naive[chosen],
            levels=self.levels,
            scale_N=self.scale[chosen],
        )


def local_calendar(windows: WindowSet) -> tuple[Int64Array, npt.NDArray[np.datetime64]]:
    """Local hour of the day and local month of every forecast hour, each of shape (B, H)."""
    panel = windows.panel
    moments = pd.to_datetime(panel.moments_s, unit="s", utc=True)
    hour_ST = np.empty((len(panel.sites), len(moments)), dtype=np.int64)
    month_ST = np.empty((len(panel.sites), len(moments)), dtype="datetime64[M]")
    for index, site in enumerate(panel.sites):
        local = moments.tz_convert(site.timezone).tz_localize(None)
        hour_ST[index] = local.hour
        month_ST[index] = local.to_numpy().astype("datetime64[M]")
    ahead = windows.origin_B[:, None] + np.arange(1, panel.domain.horizon_steps + 1)
    rows = windows.site_index_B[:, None]
    return hour_ST[rows, ahead], month_ST[rows, ahead]


def figures_by_day(judgement: Judgement) -> dict[int, Metrics]:
    """Figures of whole days, forecast at a local midnight: of each site by itself, then the mean over the sites.

    A day's forecast is the mean of its hours' medians. Days with an unmeasured hour are left out, and so is a day that
    is not over within the horizon. Intervals of hours say nothing of a day's: there are no figures of them.

    Returns:
        By the day ahead, 1 being the one that begins at the origin.
    """
    windows = judgement.windows
    begins = np.flatnonzero(_at_midnight(windows))
    day_steps = 24 * 3600 // windows.panel.domain.step_s
    found = {}
    for day in range(1, judgement.target_BH.shape[1] // day_steps + 1):
        steps = slice((day - 1) * day_steps, day * day_steps)
        quantiles, target, naive = (
            values[begins, steps].mean(axis=1, dtype=np.float64)
            for values in (judgement.quantiles_BHQ, judgement.target_BH, judgement.naive_BH)
        )
        sites = [
            (windows.site_index_B[begins] == site) & np.isfinite(target) for site in range(len(windows.panel.sites))
        ]
        by_site = pd.DataFrame(
            [
                figures_of(quantiles[chosen], target[chosen], naive[chosen], levels=judgement.levels)
                for chosen in sites
                if chosen.any()
            ]
        )
        if len(by_site):
            found[day] = {name: float(by_site[name].mean()) for name in _POINT_FIGURES}
    return found


def _at_midnight(windows: WindowSet) -> npt.NDArray[np.bool_]:
    """Whether each origin is at midnight by its site's clock."""
    moments = pd.to_datetime(windows.panel.moments_s[windows.origin_B], unit="s", utc=True)
    found = np.zeros(len(windows), dtype=np.bool_)
    for index, site in enumerate(windows.panel.sites):
        chosen = windows.site_index_B == index
        local = moments[chosen].tz_convert(site.timezone)
        found[chosen] = local == local.normalize()
    return found


def rows_by(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The rows of one grouping, indexed by the group's name."""
    return table[table["by"] == by].drop(columns="by").set_index("group")


def large_enough(rows: pd.DataFrame) -> pd.DataFrame:
    """The groups of enough hours to name the worst of them: without the odd day at the edge of a month, say."""
    most = float(rows["windows"].max())
    return rows[rows["windows"] >= max(min(_FEW_HOURS, most), _SMALL_SHARE * most)]


def worst_site(table: pd.DataFrame) -> str:
    """The site whose scaled error (MASE) is the largest; errors in units would name the largest site.

    Where no site has a scale, the one with the least skill.
    """
    enough = large_enough(rows_by(table, "site"))
    if enough["mase"].notna().any():
        return str(enough["mase"].idxmax())
    if enough["skill"].notna().any():
        return str(enough["skill"].idxmin())
    return str(enough.index[0])
