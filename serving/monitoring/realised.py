"""Realised forecasts: each forecast step beside its actual, as a table; the one shape between join and detectors."""

from __future__ import annotations

REALISED_COLUMNS: tuple[str, ...] = (
    "site",
    "model_version",
    "role",
    "origin_s",
    "steps",
    "valid_s",
    "actual",
    "median",
    "lower",
    "upper",
    "made_s",
    "joined_s",
)
"""Columns of a realised table of one target.

`origin_s`: begin of the forecast [s since 1970]; `steps`: how many steps ahead, from 1; `valid_s`: begin of the step's
time, as a reading's `valid_at` [s since 1970]; `actual`, `median`, `lower`, `upper` [unit], the interval by the widest
levels; `made_s`, `joined_s`: when the forecast was made, and when its actual was joined [s since 1970].
One row for each (site, role, model_version, origin_s, steps); a revised actual replaces it.
"""
REALISED_KEY: tuple[str, ...] = ("site", "role", "model_version", "origin_s", "steps")
