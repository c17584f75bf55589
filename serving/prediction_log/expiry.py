"""The end of old records, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sql

from serving.prediction_log.tables import ANSWERS, FORECASTS


def expire_some(connection: sql.Connection, before_s: float, *, rows: int) -> dict[str, int]:
    """Remove some old answers, or, where there are none, some old forecasts that no answer refers to.

    Args:
        connection: In a transaction.
        before_s: What was answered or made before this moment is old [s since 1970].
        rows: Most rows that are removed.

    Returns:
        Number of rows by table; empty where nothing is left to remove.
    """
    answers = _expire_answers(connection, before_s, rows)
    if answers:
        return {ANSWERS.name: answers}
    for domain, target in list(_targets(connection)):
        forecasts = _expire_forecasts(connection, domain, target, before_s, rows)
        if forecasts:
            return {FORECASTS.name: forecasts}
    return {}


def _expire_answers(connection: sql.Connection, before_s: float, rows: int) -> int:
    table = ANSWERS.c
    old = sql.select(table.segment, table.line).where(table.answered_s < before_s)
    some = old.order_by(table.answered_s).limit(rows)
    # The moment once more: a hypertable looks into old chunks alone.
    return connection.execute(
        sql.delete(ANSWERS).where(table.answered_s < before_s, sql.tuple_(table.segment, table.line).in_(some))
    ).rowcount


def _expire_forecasts(connection: sql.Connection, domain: str, target: str, before_s: float, rows: int) -> int:
    table = FORECASTS.c
    referred = sql.exists().where(ANSWERS.c.forecast == table.name)
    old = sql.select(table.name).where(
        table.domain == domain, table.target == target, table.made_s < before_s, ~referred
    )
    some = old.order_by(table.made_s).limit(rows)
    return connection.execute(sql.delete(FORECASTS).where(table.name.in_(some))).rowcount


def _targets(connection: sql.Connection) -> Iterator[tuple[str, str]]:
    """Each domain and target, from one to the next by the index: no look at every forecast."""
    both = sql.tuple_(FORECASTS.c.domain, FORECASTS.c.target)
    query = sql.select(FORECASTS.c.domain, FORECASTS.c.target).order_by(FORECASTS.c.domain, FORECASTS.c.target)
    found = connection.execute(query.limit(1)).first()
    while found is not None:
        yield found.domain, found.target
        found = connection.execute(query.where(both > (found.domain, found.target)).limit(1)).first()
