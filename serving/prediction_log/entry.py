"""Many records into the log at once: as rows, and by the fastest way that each database has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
import sqlalchemy as sql

from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record
from serving.prediction_log.tables import ANSWERS, FORECASTS

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The rows of a segment, each in the order of its table's columns."""

    forecasts: list[Row] = field(default_factory=list)
    answers: list[Row] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.forecasts) + len(self.answers)


def rows_of(segment: str, records: Iterable[tuple[int, Record]]) -> Entry:
    """The rows of a segment's records, each with the number of its line."""
    entry = Entry()
    for line, record in records:
        if isinstance(record, ForecastRecord):
            entry.forecasts.append(_forecast_row(record))
        else:
            entry.answers.append(_answer_row(segment, line, record))
    return entry


def enter(connection: sql.Connection, entry: Entry) -> None:
    """Enter rows; those that are there already change nothing."""
    write = _copy if connection.dialect.name == "postgresql" else _insert
    for table, rows in ((FORECASTS, entry.forecasts), (ANSWERS, entry.answers)):
        if rows:
            write(connection, table, rows)


def _forecast_row(record: ForecastRecord) -> Row:
    # The fields have the order of the columns.
    *before, levels, values = msgspec.structs.astuple(record)
    return *before, _as_json(levels), values


def _answer_row(segment: str, line: int, record: AnswerRecord) -> Row:
    *before, lowered_by = msgspec.structs.astuple(record)
    return segment, line, *before, _as_json(lowered_by)


@lru_cache(maxsize=256)
def _as_json(values: tuple[Any, ...]) -> str:
    return json.dumps(values)


def _insert(connection: sql.Connection, table: sql.Table, rows: Sequence[Row]) -> None:
    places = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({_columns(table)}) VALUES ({places}) ON CONFLICT DO NOTHING", list(rows)
    )


def _copy(connection: sql.Connection, table: sql.Table, rows: Sequence[Row]) -> None:
    """By way of a table of the connection's own: COPY by itself knows nothing of rows that are there already."""
    columns = _columns(table)
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS new_{table.name} (LIKE {table.name}) ON COMMIT DELETE ROWS"
    )
    # psycopg's own cursor: COPY is no part of what all drivers have.
    cursor: Any = connection.connection.cursor()
    with cursor, cursor.copy(f"COPY new_{table.name} ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM new_{table.name} ON CONFLICT DO NOTHING"
    )


def _columns(table: sql.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)
