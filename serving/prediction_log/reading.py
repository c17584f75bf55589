"""Forecasts out of the log as arrays, in the order in which they were made."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql

from serving.prediction_log.batches import ForecastBatch
from serving.prediction_log.records import FLOAT
from serving.prediction_log.tables import FORECASTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which forecasts are read.

    Attributes:
        domain: Of the target.
        target: What is forecast.
        since_s: Made at this moment or later, None for all [s since 1970].
        until_s: Made before this moment, None for all [s since 1970].
        sites: Of these alone, None for all.
        roles: By models with these roles alone, None for all.
    """

    domain: str
    target: str
    since_s: float | None = None
    until_s: float | None = None
    sites: Collection[str] | None = None
    roles: Collection[str] | None = None


def read_batches(engine: sql.Engine, selection: Selection, *, limit_rows: int) -> Iterator[ForecastBatch]:
    """The forecasts of a selection; no connection is held while the caller works on a batch.

    Args:
        engine: The database.
        selection: Which.
        limit_rows: Most forecasts in a batch.
    """
    after: tuple[float, str] | None = None
    while True:
        with engine.connect() as connection:
            rows = connection.execute(_query(selection, after, limit_rows)).all()
        for alike in _alike(rows):
            yield _batch(alike)
        if len(rows) < limit_rows:
            return
        after = rows[-1].made_s, rows[-1].name


def _query(selection: Selection, after: tuple[float, str] | None, limit_rows: int) -> sql.Select[Any]:
    table = FORECASTS.c
    query = sql.select(
        table.name,
        table.made_s,
        table.site,
        table.origin_s,
        table.model_version,
        table.role,
        table.step_s,
        table.unit,
        sql.cast(table.levels, sql.String),
        table["values"],
    ).where(table.domain == selection.domain, table.target == selection.target)
    if selection.since_s is not None:
        query = query.where(table.made_s >= selection.since_s)
    if selection.until_s is not None:
        query = query.where(table.made_s < selection.until_s)
    if selection.sites is not None:
        query = query.where(table.site.in_(sorted(selection.sites)))
    if selection.roles is not None:
        query = query.where(table.role.in_(sorted(selection.roles)))
    if after is not None:
        query = query.where(table.made_s >= after[0], sql.tuple_(table.made_s, table.name) > after)
    return query.order_by(table.made_s, table.name).limit(limit_rows)


def _alike(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Rows with the same step, unit, levels and size together, each in their order."""
    layouts = [(*row[6:9], len(row[9])) for row in rows]
    different = dict.fromkeys(layouts)
    if len(different) == 1:
        yield rows
        return
    for layout in different:
        yield [row for row, of_row in zip(rows, layouts, strict=True) if of_row == layout]


def _batch(rows: Sequence[Sequence[Any]]) -> ForecastBatch:
    names, made_s, sites, origins, versions, roles, steps_s, units, texts, values = zip(*rows, strict=True)
    levels = tuple(float(level) for level in json.loads(texts[0]))
    return ForecastBatch(
        name_N=_words(names),
        made_s_N=np.array(made_s, dtype=np.float64),
        site_N=_words(sites),
        origin_s_N=np.array(origins, dtype=np.int64),
        model_version_N=_words(versions),
        role_N=_words(roles),
        step_s=steps_s[0],
        unit=units[0],
        levels=levels,
        value_NHQ=np.frombuffer(b"".join(values), dtype=FLOAT).reshape(len(rows), -1, len(levels)),
    )


def _words(words: Sequence[str]) -> npt.NDArray[np.object_]:
    found = np.empty(len(words), dtype=np.object_)
    found[:] = words
    return found
