"""How long the log keeps what it holds."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.prediction_log.store import PredictionStore

_DAY_S = 24 * 3600.0
_PAUSE_S = 3600.0
_AFTER_FAILURE_S = 60.0
# What one turn removes: the journal waits for it.
_ROWS = 5_000


class Retention:
    """Removes what is too old: some of it in each turn, and none for an hour once nothing is left.

    Args:
        store: The log.
        days: How long answers and forecasts stay [d]; 0 for ever.
        clock: The time [s since 1970].
    """

    def __init__(self, store: PredictionStore, *, days: float, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.days = days
        self.clock = clock
        self._next_s = -float("inf")

    def turn(self) -> dict[str, int]:
        """Remove some, if it is time; how many of each table.

        Raises:
            StorageError: The database cannot be reached; a turn a minute later tries again.
        """
        now_s = self.clock()
        # A clock that was set back must not end the removal for as long as it was ahead.
        if self.days == 0 or self._next_s - _PAUSE_S <= now_s < self._next_s:
            return {}
        self._next_s = now_s + _AFTER_FAILURE_S
        removed = self.store.expire(now_s - self.days * _DAY_S, limit_rows=_ROWS)
        self._next_s = now_s
        if not sum(removed.values()):
            self._next_s = now_s + _PAUSE_S
        return removed
