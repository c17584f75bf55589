"""How long the log keeps what it holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from serving.prediction_log.store import PredictionStore

_LOG = logging.getLogger(__name__)
_DAY_S = 24 * 3600.0
_PAUSE_S = 3600.0
_AFTER_FAILURE_S = 60.0
# A clock that moves by more beside the time that passes has jumped.
_JUMP_S = 3600.0
# What one turn removes: the journal waits for it.
_ROWS = 5_000


class Retention:
    """Removes what is too old: some of it in each turn, and none for an hour once nothing is left.

    Where the clock jumps nothing is removed for an hour: what a clock that is years ahead takes for old is new.

    Args:
        store: The log.
        days: How long answers and forecasts stay [d]; 0 for ever.
        clock: The time [s since 1970].
        passed: Time that passes, whatever the clock does [s].
    """

    def __init__(
        self,
        store: PredictionStore,
        *,
        days: float,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.days = days
        self.clock, self.passed = clock, passed
        self._next_s = -float("inf")
        self._begin_s: float | None = None

    def turn(self) -> dict[str, int]:
        """Remove some, if it is time; how many of each table.

        Raises:
            StorageError: The database cannot be reached; a turn a minute later tries again.
        """
        if self.days == 0 or self._jumped() or self.passed() < self._next_s:
            return {}
        self._next_s = self.passed() + _AFTER_FAILURE_S
        removed = self.store.expire(self.clock() - self.days * _DAY_S, limit_rows=_ROWS)
        self._next_s = self.passed() + (0.0 if sum(removed.values()) else _PAUSE_S)
        return removed

    def _jumped(self) -> bool:
        """Whether the clock has jumped since the turn before; then the next one waits."""
        before_s, self._begin_s = self._begin_s, self.clock() - self.passed()
        if before_s is None or abs(self._begin_s - before_s) <= _JUMP_S:
            return False
        _LOG.warning(
            "The clock has jumped by %.1f h: nothing is removed from the prediction log for an hour",
            (self._begin_s - before_s) / 3600.0,
        )
        self._next_s = self.passed() + _PAUSE_S
        return True
