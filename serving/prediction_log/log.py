"""The prediction log as the API uses it: a line in the journal before the answer leaves, the store in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from features.errors import StorageError
from serving.kept import Run
from serving.prediction_log.journal import Journal
from serving.prediction_log.mover import Mover
from serving.prediction_log.moving import Complaints, move_finished
from serving.prediction_log.records import AnswerRecord, Record, forecast_record, to_lines
from serving.prediction_log.retention import Retention
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore
from serving.service import ForecastResult

# Forecasts whose record is known to be written; beyond that they are written again, which changes nothing.
_MOST_KNOWN = 100_000
# From a thousand answers a second on, a process of its own moves them [byte].
_MUCH_BYTES = 256 * 1024


class PredictionLog:
    """Logs every answer, and every forecast that was given or made ahead, once.

    Args:
        settings: The environment.
    """

    def __init__(self, settings: PredictionLogSettings) -> None:
        self.settings = settings
        self.store = PredictionStore(settings.log_url)
        self._retention = Retention(self.store, days=settings.prediction_log_days)
        self._written = self._lost = 0
        self._journal = Journal(settings.journal_dir)
        self._known: dict[str, None] = {}
        self._origins: dict[tuple[str, str], int] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._complaints = Complaints()
        self._mover = Mover(settings)

    @property
    def on(self) -> bool:
        """Whether answers are logged."""
        return self._thread is not None

    def start(self) -> None:
        """Open the journal, and begin to move its segments into the store; does nothing where logging is off.

        Raises:
            StorageError: The journal cannot be written.
        """
        if not self.settings.prediction_log:
            return
        self._journal.open()
        self._thread = threading.Thread(target=self._keep_moving, name="prediction-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Move what is left, and stop."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended.set()
        thread.join()
        self._journal.close()
        self._mover.close()
        move_finished(self._journal, self.store, self._complaints)
        self.store.close()

    def records(
        self,
        results: Sequence[ForecastResult],
        *,
        request_id: str,
        caller: str,
        latency_ms: float,
        role_of: Callable[[ForecastResult], str],
    ) -> list[Record]:
        """The records of one answer, for `write`; those of its forecasts that are new come first.

        Args:
            results: The forecasts that it gave.
            request_id: Of the request.
            caller: Who asked.
            latency_ms: From the parsed request to the forecast [ms].
            role_of: Says which role the model of a new forecast has.
        """
        now_s = time.time()
        records: list[Record] = []
        for result in results:
            if self.is_new(result.run.name):
                role = role_of(result)
                records.append(forecast_record(result.run, domain=result.card.domain, role=role, made_s=now_s))
            records.append(
                AnswerRecord(
                    request_id=request_id,
                    answered_s=now_s,
                    caller=caller,
                    forecast=result.run.name,
                    steps=result.forecast.value_BHQ.shape[1],
                    latency_ms=round(latency_ms, 3),
                    came=result.came,
                    lowered_by=result.quality.lowered_by,
                )
            )
        return records

    def is_new(self, name: str) -> bool:
        """Whether no record of a forecast was made yet, as far as is known; from now on there is one."""
        if name in self._known:
            return False
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[name] = None
        return True

    def forecast_only(self, result: ForecastResult, *, role: str) -> None:
        """Log a forecast that nobody was given, as a shadow's."""
        if self._thread is not None and self.is_new(result.run.name):
            self.write([forecast_record(result.run, domain=result.card.domain, role=role, made_s=time.time())])

    def made_ahead(self, runs: Iterable[Run], *, domain: str, role: str) -> None:
        """Log forecasts that were made before anybody asked, so that errors are known also where nobody does.

        Of each site and model it is the first of an origin: readings that come within a step make many more, and those
        are logged once somebody is given one.
        """
        if self._thread is None or not self.settings.prediction_log_ahead:
            return
        now_s, records = time.time(), []
        for run in runs:
            key, origin_s = (run.prepared.window.sites[0], run.forecast.model), int(run.forecast.origins[0])
            if self._origins.get(key, origin_s - 1) < origin_s:
                self._origins[key] = origin_s
                if self.is_new(run.name):
                    records.append(forecast_record(run, domain=domain, role=role, made_s=now_s))
        if records:
            self.write(records)

    def write(self, records: Sequence[Record]) -> None:
        """Write records into the journal. Where that fails, answers go on, and what was lost is counted and said."""
        if self._thread is None:
            return
        lines = to_lines(records)
        try:
            self._journal.write(lines)
            self._written += len(records)
        except StorageError as error:
            self._lost += len(records)
            self._known.clear()
            self._complaints.say(f"an answer could not be written: {error}")

    def take_counts(self) -> tuple[int, int]:
        """How many records were written, and how many were lost, since this was asked last."""
        counts = self._written, self._lost
        self._written = self._lost = 0
        return counts

    def _keep_moving(self) -> None:
        while not self._ended.wait(self.settings.prediction_log_flush_s):
            written_bytes = 0
            try:
                written_bytes = self._journal.rotate()
            except StorageError as error:
                self._complaints.say(str(error))
            self._move(written_bytes)
            self._expire()

    def _move(self, written_bytes: int) -> None:
        """Bring finished segments into the store, or have them brought where much was written."""
        if self._mover.runs:
            return
        if written_bytes >= _MUCH_BYTES * self.settings.prediction_log_flush_s:
            try:
                self._mover.start()
                return
            except OSError as error:
                self._complaints.say(f"its own process cannot be begun, a thread does its work: {error}")
        move_finished(self._journal, self.store, self._complaints)

    def _expire(self) -> None:
        try:
            self._retention.turn()
        except StorageError as error:
            self._complaints.say(str(error))
