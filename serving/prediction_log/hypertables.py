"""The tables of the log as hypertables of TimescaleDB, where the database has the extension."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import sqlalchemy as sql

_LOG = logging.getLogger(__name__)
_WEEK_S = 7 * 24 * 3600
_EXTENSION = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
# A moment in seconds is no type that TimescaleDB knows; it partitions by what this function makes of it.
_MOMENT = """
CREATE OR REPLACE FUNCTION towncast_moment(since_1970_s double precision) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT to_timestamp($1)'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hypertable:
    """What a table is split by."""

    table: str
    column: str
    key: tuple[str, ...]
    options: str


_HYPERTABLES = (
    _Hypertable(
        table="forecasts", column="origin_s", key=("name", "origin_s"), options=f"chunk_time_interval => {_WEEK_S}"
    ),
    _Hypertable(
        table="answers",
        column="answered_s",
        key=("segment", "line", "answered_s"),
        options="chunk_time_interval => INTERVAL '7 days', time_partitioning_func => 'towncast_moment'",
    ),
)


def has_timescale(connection: sql.Connection) -> bool:
    """Whether the extension is there and was created in this database."""
    return connection.exec_driver_sql(_EXTENSION).first() is not None


def make_hypertables(connection: sql.Connection) -> None:
    """Split both tables by week, with what they hold; where that fails they stay plain tables, which is said.

    Without the extension this does nothing. One that was created later is taken up at the next start.
    """
    if not has_timescale(connection):
        return
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(_MOMENT)
            for one in _HYPERTABLES:
                _widen_key(connection, one)
                connection.exec_driver_sql(
                    f"SELECT create_hypertable('{one.table}', '{one.column}', {one.options}, "
                    "create_default_indexes => FALSE, if_not_exists => TRUE, migrate_data => TRUE)"
                )
    except sql.exc.SQLAlchemyError as error:
        _LOG.warning("The prediction log stays in plain tables: %s", str(error).splitlines()[0])


def _widen_key(connection: sql.Connection, hypertable: _Hypertable) -> None:
    """Give a table of an earlier version the key with its moment in it."""
    found = sql.inspect(connection).get_pk_constraint(hypertable.table)
    if set(found["constrained_columns"]) != set(hypertable.key):
        connection.exec_driver_sql(
            f'ALTER TABLE {hypertable.table} DROP CONSTRAINT "{found["name"]}", '
            f"ADD PRIMARY KEY ({', '.join(hypertable.key)})"
        )
