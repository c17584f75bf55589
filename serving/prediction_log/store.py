"""Where the prediction log ends: two tables, in SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import sqlalchemy as sql

from features.errors import StorageError
from features.stored_files import one_writer
from serving.prediction_log.batches import ForecastBatch
from serving.prediction_log.entry import enter, rows_of
from serving.prediction_log.expiry import expire_some
from serving.prediction_log.reading import Selection, read_batches
from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record
from serving.prediction_log.tables import ANSWERS, FORECASTS, make_tables
from serving.prediction_log.tallies import made_by_hour

# Rows that one transaction removes: a tenth of a second, for which others wait.
_EXPIRED_TOGETHER = 5_000


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
        engine = sql.create_engine(address, connect_args={"timeout": 30.0} if of_file else {}, pool_pre_ping=True)
        try:
            with _alone(address), engine.begin() as connection:
                if of_file:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                make_tables(connection)
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
        entry = rows_of(segment, records)
        with self._opened() as engine, engine.begin() as connection:
            enter(connection, entry)
        return len(entry)

    def batches(
        self,
        domain: str,
        target: str,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        sites: Collection[str] | None = None,
        roles: Collection[str] | None = None,
        limit_rows: int = 100_000,
    ) -> Iterator[ForecastBatch]:
        """The forecasts of a target in the order in which they were made, as arrays.

        Forecasts whose levels or number of steps differ come in batches of their own. The log is behind: a forecast
        is in it seconds after it was made, and much later where a worker died or the database was away; who reads on
        from where it stopped must look back.

        Args:
            domain: Of the target.
            target: What is forecast.
            since_s: Made at this moment or later [s since 1970].
            until_s: Made before this moment [s since 1970].
            sites: Of these alone.
            roles: By models with these roles alone.
            limit_rows: Most forecasts in a batch.

        Raises:
            StorageError: The database cannot be reached.
        """
        selection = Selection(domain=domain, target=target, since_s=since_s, until_s=until_s, sites=sites, roles=roles)
        with self._opened() as engine:
            yield from read_batches(engine, selection, limit_rows=limit_rows)

    def made_by_hour(self, domain: str, target: str, *, since_s: float | None = None) -> dict[int, int]:
        """How many forecasts of a target were made in each hour [h since 1970].

        Raises:
            StorageError: The database cannot be reached.
        """
        with self._opened() as engine:
            return made_by_hour(engine, domain, target, since_s=since_s)

    def expire(self, before_s: float, *, limit_rows: int | None = None) -> dict[str, int]:
        """Remove answers that were given before a moment, and forecasts made before it that no answer refers to.

        Args:
            before_s: The moment [s since 1970].
            limit_rows: Most rows that are removed; None for all.

        Returns:
            How many answers and how many forecasts were removed.

        Raises:
            StorageError: The database cannot be reached.
        """
        removed = {FORECASTS.name: 0, ANSWERS.name: 0}
        left = math.inf if limit_rows is None else limit_rows
        with self._opened() as engine:
            while left > 0:
                with engine.begin() as connection:
                    gone = expire_some(connection, before_s, rows=int(min(left, _EXPIRED_TOGETHER)))
                if not gone:
                    break
                for name, rows in gone.items():
                    removed[name] += rows
                    left -= rows
        return removed

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sql.Engine]:
        """The engine; what goes wrong with it is told in our words."""
        self.open()
        assert self._engine is not None
        engine = self._engine
        try:
            yield engine
        except (sql.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
            raise _unreachable(engine.url, error) from error

    def count(self) -> dict[str, int]:
        """Number of forecasts and of answers."""
        with self._opened() as engine, engine.connect() as connection:
            return {
                table.name: int(connection.execute(sql.select(sql.func.count()).select_from(table)).scalar_one())
                for table in (FORECASTS, ANSWERS)
            }

    def request_ids(self) -> set[str]:
        """Identifiers of all requests that were answered."""
        with self._opened() as engine, engine.connect() as connection:
            return set(connection.execute(sql.select(ANSWERS.c.request_id).distinct()).scalars())

    def answers(self, request_id: str) -> list[tuple[AnswerRecord, ForecastRecord]]:
        """The answers to a request, each with the forecast that it gave."""
        joined = sql.join(ANSWERS, FORECASTS, ANSWERS.c.forecast == FORECASTS.c.name)
        query = sql.select(ANSWERS, FORECASTS).select_from(joined).where(ANSWERS.c.request_id == request_id)
        with self._opened() as engine, engine.connect() as connection:
            rows = connection.execute(query.order_by(ANSWERS.c.segment, ANSWERS.c.line)).all()
        found = []
        for row in rows:
            values = row._mapping
            answer = {name: values[ANSWERS.c[name]] for name in AnswerRecord.__struct_fields__}
            forecast = {name: values[FORECASTS.c[name]] for name in ForecastRecord.__struct_fields__}
            answer["lowered_by"] = tuple(answer["lowered_by"])
            forecast["levels"] = tuple(forecast["levels"])
            found.append((AnswerRecord(**answer), ForecastRecord(**forecast)))
        return found

    def close(self) -> None:
        """Let go of the connections."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _alone(address: sql.URL) -> contextlib.AbstractContextManager[None]:
    """One worker after the other opens a file: SQLite does not wait for its turn to change how it keeps its journal."""
    if address.get_backend_name() != "sqlite" or not address.database or address.database == ":memory:":
        return contextlib.nullcontext()
    file = Path(address.database)
    return one_writer(file.parent, f".{file.name}.lock")


def _unreachable(address: sql.URL, error: Exception) -> StorageError:
    return StorageError(
        "The prediction log cannot be reached",
        found=f"{address.render_as_string(hide_password=True)}: {str(error).splitlines()[0]}",
        remedy="Check TOWNCAST_PREDICTION_LOG_URL and the disk; what was answered meanwhile is kept in the journal.",
    )
