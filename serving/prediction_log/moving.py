"""From the journal into the store: a turn moves every finished segment."""

from __future__ import annotations

import logging
import time

from features.errors import StorageError
from serving.prediction_log.journal import Journal
from serving.prediction_log.records import from_lines
from serving.prediction_log.store import PredictionStore

_LOG = logging.getLogger("serving.prediction_log")
_SILENCE_S = 60.0


class Complaints:
    """Says what goes wrong, once a minute at most: it is tried again every second."""

    def __init__(self) -> None:
        self._last_s = -float("inf")

    def say(self, message: str) -> None:
        """Log an error, unless one was logged a moment ago."""
        if time.monotonic() - self._last_s >= _SILENCE_S:
            self._last_s = time.monotonic()
            _LOG.error("Prediction log: %s", message)


def move_finished(journal: Journal, store: PredictionStore, complaints: Complaints) -> None:
    """Bring every finished segment into the store, also those of processes that died.

    Where that fails the segments stay, and the next turn tries again.
    """
    try:
        for path, lines in journal.finished():
            store.add(path.stem, from_lines(lines))
            path.unlink()
    except (StorageError, OSError) as error:
        complaints.say(str(error))
