"""Which messages are news: sensors, networks and brokers repeat themselves and overtake each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal

from serving.reactor_twin.measurements import Kind, Measurement

Arrival = Literal["new", "duplicate", "late"]
REMEMBERED = 4096


class Arrivals:
    """Tells new measurements from repeated and late ones, each kind by itself.

    A model that lives cannot go back, so what is not newer than the newest of its kind is late. A repetition is late
    by itself; that it is known as one is for those who look after the network. Its time is part of what it is
    recognised by: a sensor that was switched off and on counts from 1 again and is not repeating itself.

    Args:
        newest_ns: The newest of each kind so far [ns].
    """

    def __init__(self, newest_ns: Mapping[Kind, int] | None = None) -> None:
        self.newest_ns: dict[Kind, int] = dict(newest_ns or {})
        self._seen: set[tuple[str, int, int]] = set()
        self._order: deque[tuple[str, int, int]] = deque()

    def judge(self, measurement: Measurement) -> Arrival:
        """What a measurement is; a new one is the newest of its kind from now on."""
        key = (f"{measurement.kind}/{measurement.sensor_id}", measurement.sequence, measurement.measured_at_ns)
        if key in self._seen:
            return "duplicate"
        self._note(key)
        if measurement.measured_at_ns <= self.newest_ns.get(measurement.kind, -1):
            return "late"
        self.newest_ns[measurement.kind] = measurement.measured_at_ns
        return "new"

    def _note(self, key: tuple[str, int, int]) -> None:
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
