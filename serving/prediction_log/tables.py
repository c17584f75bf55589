"""The two tables of the prediction log, in SQLite or PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sql

from serving.prediction_log.hypertables import make_hypertables

TABLES = sql.MetaData()
# A name is of one site, window and model, so that it has one origin. The moments are in the keys because TimescaleDB
# asks for them there; a row that is entered twice has the same.
FORECASTS = sql.Table(
    "forecasts",
    TABLES,
    sql.Column("name", sql.String(16), primary_key=True),
    sql.Column("made_s", sql.Double, nullable=False),
    sql.Column("domain", sql.String, nullable=False),
    sql.Column("target", sql.String, nullable=False),
    sql.Column("unit", sql.String, nullable=False),
    sql.Column("site", sql.String, nullable=False),
    sql.Column("origin_s", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("step_s", sql.Integer, nullable=False),
    sql.Column("window", sql.String, nullable=False),
    sql.Column("model_version", sql.String, nullable=False),
    sql.Column("role", sql.String, nullable=False),
    sql.Column("runtime", sql.String, nullable=False),
    sql.Column("levels", sql.JSON, nullable=False),
    sql.Column("values", sql.LargeBinary, nullable=False),
    sql.Index("forecasts_of_a_site", "domain", "target", "site", "origin_s"),
    sql.Index("forecasts_in_order", "domain", "target", "made_s"),
)
ANSWERS = sql.Table(
    "answers",
    TABLES,
    # Where the line stood: a segment that is read twice, because a process died in between, is entered once.
    sql.Column("segment", sql.String, primary_key=True),
    sql.Column("line", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("request_id", sql.String, nullable=False, index=True),
    sql.Column("answered_s", sql.Double, primary_key=True, index=True),
    sql.Column("caller", sql.String, nullable=False),
    sql.Column("forecast", sql.String(16), nullable=False, index=True),
    sql.Column("steps", sql.Integer, nullable=False),
    sql.Column("latency_ms", sql.Double, nullable=False),
    sql.Column("came", sql.String, nullable=False),
    sql.Column("lowered_by", sql.JSON, nullable=False),
)
# Any number that nobody else takes.
_LOCK = 0x746F776E


def make_tables(connection: sql.Connection) -> None:
    """Make what is missing of tables and indexes, and hypertables where PostgreSQL has TimescaleDB.

    Tables that an earlier version made stay as they are; their keys are shorter, and hold as well.
    """
    on_server = connection.dialect.name == "postgresql"
    # One worker after the other: all may open the log at the same moment.
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})" if on_server else "BEGIN IMMEDIATE")
    TABLES.create_all(connection)
    for table in TABLES.tables.values():
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    if on_server:
        make_hypertables(connection)
