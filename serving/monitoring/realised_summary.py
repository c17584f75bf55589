"""Errors and coverage of realised forecasts by group, as SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.errors import InvalidParameterError
from features.registry import nearest_names
from features.vocabulary import Domain

GROUPS: tuple[str, ...] = ("model_version", "role", "site", "steps", "horizon", "hour_of_week", "week_s")
"""What a summary can be by."""
FIGURES: tuple[str, ...] = (
    "count",
    "mae",
    "mape_percent",
    "bias",
    "rmse",
    "coverage",
    "nominal_coverage",
    "width",
    "interval_score",
)
"""What a summary says of each group."""
# Every local clock is a whole number of quarters of an hour away from UTC.
_QUARTER_S = 900
_WEEK_S = 604_800
# Where a week begins: 1970-01-05 was a Monday.
_MONDAY_S = 345_600
# What is assumed of rows that do not say it: the levels 0.05 and 0.95.
_USUAL_NOMINAL = 0.9
_ERROR = "(median::DOUBLE - actual)"
_PENALTY = f"2 / (1 - least(coalesce(nominal::DOUBLE, {_USUAL_NOMINAL}), 0.999))"
# Gneiting and Raftery (2007), Strictly proper scoring rules, equation 43: the width, and 2 / alpha times the distance
# of an actual outside.
_WINKLER = f"upper::DOUBLE - lower + {_PENALTY} * (greatest(lower::DOUBLE - actual, 0) + greatest(actual - upper, 0))"
_SQL_OF: dict[str, str] = {
    "count": "count(*)",
    "mae": f"avg(abs({_ERROR}))",
    "mape_percent": f"100 * avg(abs({_ERROR}) / abs(actual)) FILTER (actual <> 0)",
    "bias": f"avg({_ERROR})",
    "rmse": f"sqrt(avg({_ERROR} * {_ERROR}))",
    "coverage": "avg((lower <= actual AND actual <= upper)::INT)",
    "nominal_coverage": "avg(nominal::DOUBLE)",
    "width": "avg(upper::DOUBLE - lower)",
    "interval_score": f"avg({_WINKLER})",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is asked.

    Attributes:
        domain: Names the horizons.
        by: Of `GROUPS`.
        months: That have rows, such as `2026-02`.
        zones: Time zones of the sites by name; of others it is UTC.
    """

    domain: Domain
    by: tuple[str, ...]
    months: tuple[str, ...]
    zones: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.by:
            if name not in GROUPS:
                raise InvalidParameterError(
                    parameter="by",
                    provided=name,
                    allowed=GROUPS,
                    fact="A summary cannot be by this",
                    remedy=f"Use some of {', '.join(GROUPS)}.",
                    nearest=nearest_names(name, list(GROUPS)),
                )

    @property
    def columns(self) -> list[str]:
        """Of the answer."""
        return [*self.by, *FIGURES]


def summary_query(summary: Summary) -> tuple[str, dict[str, pd.DataFrame]]:
    """SQL about the table `rows`, and the tables that it needs beside that one."""
    tables: dict[str, pd.DataFrame] = {}
    joins = ""
    named = {name: f"rows.{name}" for name in ("model_version", "role", "site", "steps")}
    named["week_s"] = f"(valid_s - {_MONDAY_S}) // {_WEEK_S} * {_WEEK_S} + {_MONDAY_S}"
    order = dict(named)
    if "horizon" in summary.by:
        tables["horizons"] = _horizons(summary.domain)
        joins += " LEFT JOIN horizons ON horizons.steps = rows.steps"
        named["horizon"], order["horizon"] = "coalesce(horizons.horizon, 'beyond')", "min(rows.steps)"
    if "hour_of_week" in summary.by:
        zones = sorted({"UTC", *summary.zones.values()})
        tables["zones"] = pd.DataFrame(
            {"site": list(summary.zones), "zone": [zones.index(zone) for zone in summary.zones.values()]}
        ).astype({"site": object, "zone": np.int64})
        tables["hours"] = _hours(zones, summary.months)
        joins += " LEFT JOIN zones ON zones.site = rows.site"
        joins += f" JOIN hours ON hours.zone = coalesce(zones.zone, {zones.index('UTC')})"
        joins += f" AND hours.quarter = rows.valid_s // {_QUARTER_S}"
        named["hour_of_week"] = order["hour_of_week"] = "hours.hour"
    figures = ", ".join(f"{sql} AS {name}" for name, sql in _SQL_OF.items())
    groups = "".join(f"{named[name]} AS {name}, " for name in summary.by)
    query = f"SELECT {groups}{figures} FROM rows{joins} WHERE actual IS NOT NULL"
    if not summary.by:
        return query, tables
    grouped = ", ".join(named[name] for name in summary.by)
    ordered = ", ".join(order[name] for name in summary.by)
    return f"{query} GROUP BY {grouped} ORDER BY {ordered}", tables


def _horizons(domain: Domain) -> pd.DataFrame:
    """Of each step the shortest named horizon that reaches it."""
    ends = sorted((steps, name) for name, steps in domain.horizons.items())
    steps = np.arange(1, max(domain.horizon_steps, *(end for end, _ in ends), 1) + 1)
    names = [next((name for end, name in ends if end >= step), "beyond") for step in steps]
    return pd.DataFrame({"steps": steps, "horizon": names})


def _hours(zones: list[str], months: tuple[str, ...]) -> pd.DataFrame:
    """Local hour of the week of each quarter of an hour, for each zone."""
    begins = [np.datetime64(month, "M") for month in months]
    ranges = [
        np.arange(*((at.astype("datetime64[s]").astype(np.int64) // _QUARTER_S) for at in (begin, begin + 1)))
        for begin in begins
    ]
    quarters = np.concatenate([np.empty(0, dtype=np.int64), *ranges])
    moments = pd.DatetimeIndex((quarters * _QUARTER_S).astype("datetime64[s]")).tz_localize("UTC")
    parts = []
    for place, zone in enumerate(zones):
        local = moments.tz_convert(zone)
        parts.append(pd.DataFrame({"zone": place, "quarter": quarters, "hour": local.dayofweek * 24 + local.hour}))
    return pd.concat(parts, ignore_index=True)
