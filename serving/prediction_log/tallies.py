"""How many forecasts of a target were made in each hour: what came late into the log is found by its hour."""

from __future__ import annotations

import sqlalchemy as sql

from serving.prediction_log.tables import FORECASTS

HOUR_S = 3600


def made_by_hour(engine: sql.Engine, domain: str, target: str, *, since_s: float | None = None) -> dict[int, int]:
    """Forecasts by the hour [h since 1970] in which they were made.

    Args:
        engine: The database.
        domain: Of the target.
        target: What is forecast.
        since_s: Made at this moment or later, None for all [s since 1970].
    """
    table = FORECASTS.c
    hour = sql.cast(sql.func.floor(table.made_s / HOUR_S), sql.BigInteger)
    query = sql.select(hour, sql.func.count()).where(table.domain == domain, table.target == target)
    if since_s is not None:
        query = query.where(table.made_s >= since_s)
    with engine.connect() as connection:
        return {
            int(number): int(count) for number, count in connection.execute(query.group_by(sql.literal_column("1")))
        }
