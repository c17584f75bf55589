"""When and where vehicles begin: from multipliers to departures.

Array names carry their axes: P control points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim_env.traffic.engine import Control, FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A vehicle that will begin.

    Attributes:
        vehicle_id: `<control_id>.<number>`.
        route_id: Its route.
        depart_s: When [s].
    """

    vehicle_id: str
    route_id: str
    depart_s: float


class Injection:
    """Draws departures from a seeded generator.

    A control's number of vehicles in an interval is baseline times multiplier times duration; what is left below one
    is carried to the next interval. So the flow is kept to one vehicle over any time, with less noise than a Poisson
    draw. The first remainder is drawn evenly below one, lest all controls begin late.

    Args:
        controls: The control points.
        route_ids: The routes of each, drawn evenly.
        seed: Begins the generator.
    """

    def __init__(self, controls: Sequence[Control], route_ids: Sequence[Sequence[str]], *, seed: int) -> None:
        self._controls = tuple(controls)
        self._route_ids = tuple(tuple(names) for names in route_ids)
        self._baseline_P = np.array([control.baseline_veh_per_hour for control in controls], dtype=np.float64)
        self._rng = np.random.default_rng(seed)
        self._remainder_P = self._rng.random(len(self._controls))
        self._number_P = np.zeros(len(self._controls), dtype=np.int64)

    def draw(self, multiplier_P: FloatArray, *, begin_s: float, duration_s: float) -> tuple[list[Departure], IntArray]:
        """The departures of one interval in order of time, spread evenly at random, and their number per control."""
        due_P = self._remainder_P + self._baseline_P * multiplier_P * duration_s / 3600.0
        # A sum of many small parts may fall short of a whole number by a rounding error.
        count_P = np.floor(due_P + 1e-9).astype(np.int64)
        self._remainder_P = np.maximum(due_P - count_P, 0.0)
        departures = []
        for point in np.flatnonzero(count_P).tolist():
            count, names = int(count_P[point]), self._route_ids[point]
            # SUMO's clock has milliseconds; rounded down, no departure falls out of its interval.
            depart_s = np.floor((begin_s + np.sort(self._rng.random(count)) * duration_s) * 1000.0) / 1000.0
            choice = self._rng.integers(len(names), size=count)
            control_id, first = self._controls[point].control_id, int(self._number_P[point])
            departures += [
                Departure(vehicle_id=f"{control_id}.{first + number}", route_id=names[route], depart_s=moment_s)
                for number, (route, moment_s) in enumerate(zip(choice.tolist(), depart_s.tolist(), strict=True))
            ]
        self._number_P = self._number_P + count_P
        return sorted(departures, key=lambda departure: departure.depart_s), count_P

    def state(self) -> dict[str, Any]:
        """Plain values from which `put` goes on."""
        return {
            "generator": self._rng.bit_generator.state,
            "remainder": self._remainder_P.tolist(),
            "number": self._number_P.tolist(),
        }

    def put(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._rng.bit_generator.state = state["generator"]
        self._remainder_P = np.array(state["remainder"], dtype=np.float64)
        self._number_P = np.array(state["number"], dtype=np.int64)
