"""Where the prediction log ends: two tables, in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite

from features.errors import StorageError
from features.files import make_folder
from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record

_TABLES = sql.MetaData()
_FORECASTS = sql.Table(
    "forecasts",
    _TABLES,
    sql.Column("name", sql.String(16), primary_key=True),
    sql.Column("made_s", sql.Double, nullable=False),
    sql.Column("domain", sql.String, nullable=False),
    sql.Column("target", sql.String, nullable=False),
    sql.Column("unit", sql.String, nullable=False),
    sql.Column("site", sql.String, nullable=False),
    sql.Column("origin_s", sql.BigInteger, nullable=False),
    sql.Column("step_s", sql.Integer, nullable=False),
    sql.Column("window", sql.String, nullable=False),
    sql.Column("model_version", sql.String, nullable=False),
    sql.Column("role", sql.String, nullable=False),
    sql.Column("runtime", sql.String, nullable=False),
    sql.Column("levels", sql.JSON, nullable=False),
    sql.Column("values", sql.LargeBinary, nullable=False),
    sql.Index("forecasts_of_a_site", "domain", "target", "site", "origin_s"),
)
_ANSWERS = sql.Table(
    "answers",
    _TABLES,
    # Where the line stood: a segment that is read twice, because a process died in between, is entered once.
    sql.Column("segment", sql.String, primary_key=True),
    sql.Column("line", sql.Integer, primary_key=True),
    sql.Column("request_id", sql.String, nullable=False, index=True),
    sql.Column("answered_s", sql.Double, nullable=False, index=True),
    sql.Column("caller", sql.String, nullable=False),
    sql.Column("forecast", sql.String(16), nullable=False, index=True),
    sql.Column("steps", sql.Integer, nullable=False),
    sql.Column("latency_ms", sql.Double, nullable=False),
    sql.Column("came", sql.String, nullable=False),
    sql.Column("lowered_by", sql.JSON, nullable=False),
)


class PredictionStore:
    """Forecasts and answers.

    Args:
        url: SQLAlchemy address, such as `sqlite:///var/predictions.db` or `postgresql+psycopg://...`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine: sql.Engine | None = None

    def open(self) -> None:
        """Connect, and make the tables where there are none.

        Raises:
            StorageError: The database cannot be reached.
        """
        if self._engine is not None:
            return
        address = sql.make_url(self.url)
        of_file = address.get_backend_name() == "sqlite"
        if of_file and address.database:
            make_folder(Path(address.database).parent)
        engine = sql.create_engine(address, connect_args={"timeout": 30.0} if of_file else {}, pool_pre_ping=True)
        try:
            with engine.begin() as connection:
                if of_file:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _TABLES.create_all(connection)
        except sql.exc.SQLAlchemyError as error:
            engine.dispose()
            raise _unreachable(address, error) from error
        self._engine = engine

    def add(self, segment: str, records: Iterable[tuple[int, Record]]) -> int:
        """Enter the records of a segment, all or none; those that are there already change nothing.

        Returns:
            How many records the segment has.

        Raises:
            StorageError: The database cannot be reached or is full.
        """
        forecasts: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        for line, record in records:
            row = {name: getattr(record, name) for name in record.__struct_fields__}
            if isinstance(record, ForecastRecord):
                forecasts.append({**row, "levels": list(record.levels)})
            else:
                answers.append({**row, "lowered_by": list(record.lowered_by), "segment": segment, "line": line})
        self.open()
        assert self._engine is not None
        try:
            with self._engine.begin() as connection:
                for table, rows in ((_FORECASTS, forecasts), (_ANSWERS, answers)):
                    if rows:
                        connection.execute(self._insert(table), rows)
        except sql.exc.SQLAlchemyError as error:
            raise _unreachable(self._engine.url, error) from error
        return len(forecasts) + len(answers)

    def _insert(self, table: sql.Table) -> Any:
        assert self._engine is not None
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table).on_conflict_do_nothing()

    def count(self) -> dict[str, int]:
        """Number of forecasts and of answers."""
        self.open()
        assert self._engine is not None
        with self._engine.connect() as connection:
            return {
                table.name: int(connection.execute(sql.select(sql.func.count()).select_from(table)).scalar_one())
                for table in (_FORECASTS, _ANSWERS)
            }

    def request_ids(self) -> set[str]:
        """Identifiers of all requests that were answered."""
        self.open()
        assert self._engine is not None
        with self._engine.connect() as connection:
            return set(connection.execute(sql.select(_ANSWERS.c.request_id).distinct()).scalars())

    def answers(self, request_id: str) -> list[tuple[AnswerRecord, ForecastRecord]]:
        """The answers to a request, each with the forecast that it gave."""
        self.open()
        assert self._engine is not None
        joined = sql.join(_ANSWERS, _FORECASTS, _ANSWERS.c.forecast == _FORECASTS.c.name)
        query = sql.select(_ANSWERS, _FORECASTS).select_from(joined).where(_ANSWERS.c.request_id == request_id)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(_ANSWERS.c.segment, _ANSWERS.c.line)).all()
        found = []
        for row in rows:
            values = row._mapping
            answer = {name: values[_ANSWERS.c[name]] for name in AnswerRecord.__struct_fields__}
            forecast = {name: values[_FORECASTS.c[name]] for name in ForecastRecord.__struct_fields__}
            answer["lowered_by"] = tuple(answer["lowered_by"])
            forecast["levels"] = tuple(forecast["levels"])
            found.append((AnswerRecord(**answer), ForecastRecord(**forecast)))
        return found

    def close(self) -> None:
        """Let go of the connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _unreachable(address: sql.URL, error: Exception) -> StorageError:
    return StorageError(
        "The prediction log cannot be written",
        found=f"{address.render_as_string(hide_password=True)}: {str(error).splitlines()[0]}",
        remedy="Check TOWNCAST_PREDICTION_LOG_URL and the disk; what was answered meanwhile is kept in the journal.",
    )
