"""What the twin did so far, for people and for the file that says that it is alive."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_KEPT = 10_000


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts since the start; every message that came in is in exactly one of the counts that follow it.

    Attributes:
        received: Messages that the broker delivered.
        predictions: Temperatures that were answered.
        inputs: Flows and coolant temperatures that were taken in.
        late: Messages that were not newer than the newest of their kind.
        duplicates: Messages that had been there before.
        redelivered: Messages that the broker delivered again after they were done.
        dead_letters: Messages that could not be used.
        passed_over: Our own alerts and dead letters, which match the consumer's filter.
        begun_anew: How often the models were put to what was measured.
        alerts: How often the alert was raised.
        alert_raised: Whether it is.
        connected: Whether the broker is there.
        measured_k: Last measured temperature [K].
        predicted_k: What was expected instead [K].
        deviation_k: How far it is from the ideal [K].
        concentration: Last predicted concentration [mol/m3].
        solve_ms: What the last steps of the living model took [ms].
        answer_ms: Time from delivery to acknowledgement of the last temperatures [ms].
    """

    received: int = 0
    predictions: int = 0
    inputs: int = 0
    late: int = 0
    duplicates: int = 0
    redelivered: int = 0
    dead_letters: int = 0
    passed_over: int = 0
    begun_anew: int = 0
    alerts: int = 0
    alert_raised: bool = False
    connected: bool = False
    measured_k: float | None = None
    predicted_k: float | None = None
    deviation_k: float | None = None
    concentration: float | None = None
    solve_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    answer_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def figures(self) -> dict[str, Any]:
        """All of it as plain values, times as their median and 99th percentile."""
        plain = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in {"solve_ms", "answer_ms"}
        }
        return plain | percentiles("solve", self.solve_ms) | percentiles("answer", self.answer_ms)


def percentiles(name: str, times_ms: deque[float]) -> dict[str, float | None]:
    """Median and 99th percentile of some times [ms]; None where there are none."""
    # Another thread may read while the twin writes.
    kept = list(times_ms)
    if not kept:
        return {f"{name}_p50_ms": None, f"{name}_p99_ms": None}
    middle, tail = np.percentile(kept, [50, 99])
    return {f"{name}_p50_ms": round(float(middle), 3), f"{name}_p99_ms": round(float(tail), 3)}
