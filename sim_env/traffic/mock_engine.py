"""A traffic engine that needs no SUMO: whole vehicles on a small network, by the cell transmission model.

Array names carry their axes: E edges, P control points.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.files import storage_errors, whole_file
from sim_env.traffic.cell_transmission import STEP_S, CellTransmission, Route, StreetNetwork
from sim_env.traffic.control_points import AUSTIN_RAMPS
from sim_env.traffic.controls import check_controls
from sim_env.traffic.engine import (
    TRAFFIC_ENGINES,
    Control,
    Edge,
    EngineError,
    FloatArray,
    IntArray,
    TrafficState,
    VehicleCounts,
)
from sim_env.traffic.requests import check_duration, checked_multipliers

_LAYOUT = "towncast mock engine, layout 1"


class MockEngine:
    """Whole vehicles on a network of streets; see `sim_env.traffic.cell_transmission`.

    What a control injects in an interval is its baseline times multiplier times duration; the fraction of a vehicle
    waits for the next interval. Departures are drawn evenly over the interval, destinations evenly among the control's,
    or among the exits of the network where it names none.

    Args:
        network: The streets; by default the small town of `small_town`.
        controls: Where vehicles begin; by default the four ramps of `ramp_controls`.
    """

    def __init__(self, network: StreetNetwork | None = None, controls: Sequence[Control] | None = None) -> None:
        self._network = network or small_town()
        self._controls = tuple(ramp_controls() if controls is None else controls)
        self._flow: CellTransmission | None = None
        self._rng = np.random.default_rng(0)
        self._carry_P: list[float] = []
        # Numbers of the routes that each control's vehicles take.
        self._routes_P: list[range] = []

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All streets."""
        return self._network.edges

    @property
    def controls(self) -> tuple[Control, ...]:
        """The control points."""
        return self._controls

    def reset(self, *, seed: int) -> TrafficState:
        """Begin a new run at time 0, with empty streets.

        Raises:
            EngineError: A control does not fit the network.
        """
        self._flow = self._build()
        self._rng = np.random.default_rng(seed)
        self._carry_P = [0.0] * len(self._controls)
        return self._state(self._flow, np.zeros(len(self._controls), dtype=np.int64))

    def step(self, multiplier_P: npt.ArrayLike, *, duration_s: float = 60.0) -> TrafficState:
        """Inject vehicles at baseline times multiplier, and run for one control interval.

        Raises:
            InvalidParameterError: A multiplier is NaN, infinite, negative or above 100; or the duration is no whole
                number of steps of 5 s, or above a day.
            EngineError: The engine is not running.
        """
        flow = self._running()
        multipliers = checked_multipliers(multiplier_P, len(self._controls))
        check_duration(duration_s, step_length_s=STEP_S)
        steps = round(duration_s / STEP_S)
        injected = [
            self._inject(flow, position, expected, steps)
            for position, expected in enumerate(self._expected(multipliers, duration_s))
        ]
        for _ in range(steps):
            flow.step()
        return self._state(flow, np.array(injected, dtype=np.int64))

    def save(self, path: Path) -> None:
        """Write the whole state to a file; the run goes on.

        Raises:
            EngineError: The engine is not running.
            StorageError: The file cannot be written.
        """
        content = {
            "layout": _LAYOUT,
            "fingerprint": self._fingerprint(),
            "generator": self._rng.bit_generator.state,
            "carry_P": self._carry_P,
            "flow": self._running().content(),
        }
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def restore(self, path: Path) -> TrafficState:
        """Go on from a saved state, exactly as the run that saved it would have.

        Raises:
            EngineError: The file is not a state of this network and these controls.
        """
        content = _read_state(path)
        if content.get("fingerprint") != self._fingerprint():
            raise EngineError(
                "The saved state is of another network or other controls",
                found=str(path),
                remedy="Restore it with the network and the controls that it was saved with.",
            )
        flow, generator = self._build(), np.random.default_rng(0)
        try:
            generator.bit_generator.state = content["generator"]
            carry_P = [float(part) for part in content["carry_P"]]
            flow.set_content(content["flow"])
        except (KeyError, TypeError, ValueError) as error:
            raise _no_state(path, repr(error)) from error
        self._flow, self._rng, self._carry_P = flow, generator, carry_P
        return self._state(flow, np.zeros(len(self._controls), dtype=np.int64))

    def close(self) -> None:
        """End the run; a second call does nothing."""
        self._flow = None

    def _running(self) -> CellTransmission:
        if self._flow is None:
            raise EngineError("The engine is not running", remedy="Call reset or restore before anything else.")
        return self._flow

    def _build(self) -> CellTransmission:
        """Empty streets, and the routes of every control."""
        index = self._network.index
        ways = {
            control.edge_id: self._network.routes_from(control.edge_id)
            for control in self._controls
            if control.edge_id in index
        }
        check_controls(self._controls, self.edges, connected=lambda start, end: end in ways[start])
        routes: list[Route] = []
        self._routes_P = []
        for control in self._controls:
            own = self._routes_of(control, ways[control.edge_id])
            self._routes_P.append(range(len(routes), len(routes) + len(own)))
            routes += own
        return CellTransmission(self._network, routes, [index[control.edge_id] for control in self._controls])

    def _routes_of(self, control: Control, reached: Mapping[str, Route]) -> list[Route]:
        exits = [name for name in self._network.exits if name in reached]
        # In a town that nobody can leave every street is a place to go to.
        streets = [name for name in reached if name != control.edge_id]
        return [reached[name] for name in control.destinations or exits or streets or reached]

    def _expected(self, multiplier_P: FloatArray, duration_s: float) -> list[float]:
        baseline_P = np.array([control.baseline_veh_per_hour for control in self._controls])
        expected: list[float] = (baseline_P * multiplier_P * duration_s / 3600.0 + self._carry_P).tolist()
        return expected

    def _inject(self, flow: CellTransmission, position: int, expected: float, steps: int) -> int:
        """Put the vehicles of an interval into the queue of their control; returns how many."""
        # Sixty sixtieths of a vehicle are one, whatever rounding says.
        number = int(expected + 1e-9)
        self._carry_P[position] = max(0.0, expected - number)
        due = np.sort(self._rng.integers(0, steps, number)) + flow.step_number
        routes = self._routes_P[position]
        drawn = self._rng.integers(routes.start, routes.stop, number)
        flow.entrances[position].queue.extend(zip(due.tolist(), drawn.tolist(), strict=True))
        return number

    def _state(self, flow: CellTransmission, injected_P: IntArray) -> TrafficState:
        counts = np.array(flow.counts, dtype=np.int64)
        return TrafficState(
            sim_time_s=flow.step_number * STEP_S,
            veh_count_E=counts,
            mean_speed_E_mps=np.array(flow.speeds_mps, dtype=np.float64),
            injected_P=injected_P,
            vehicles=VehicleCounts(
                entered=flow.entered, left=flow.left, present=int(counts.sum()), waiting=flow.waiting
            ),
        )

    def _fingerprint(self) -> str:
        content = {
            "edges": [dataclasses.asdict(edge) for edge in self._network.edges],
            "following": {name: list(after) for name, after in self._network.following.items()},
            "controls": [dataclasses.asdict(control) for control in self._controls],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def small_town() -> StreetNetwork:
    """Nine crossings, the 24 directed streets between them, and a ramp into town and out of it on each side.

    Ramps into town are `E1` to `E4`, out of town `X1` to `X4`; a street is named for its crossings, such as `A0B0`.
    """
    block_m, ramp_m = 278.0, 333.0
    place = {f"{'ABC'[i]}{j}": (i * block_m, j * block_m) for i in range(3) for j in range(3)}
    gate = {1: ("A1", (-ramp_m, block_m)), 2: ("B2", (block_m, 2 * block_m + ramp_m))}
    gate |= {3: ("C1", (2 * block_m + ramp_m, block_m)), 4: ("B0", (block_m, -ramp_m))}
    ends = {
        a + b: (a, b)
        for a in place
        for b in place
        if math.isclose(math.dist(place[a], place[b]), block_m, rel_tol=1e-9)
    }
    streets = [
        Edge(name=name, shape=(place[a], place[b]), length_m=block_m, lanes=1, speed_limit_mps=13.9)
        for name, (a, b) in ends.items()
    ]
    for number, (crossing, outside) in gate.items():
        ends |= {f"E{number}": (f"gate {number}", crossing), f"X{number}": (crossing, f"out {number}")}
        for name, shape in ((f"E{number}", (outside, place[crossing])), (f"X{number}", (place[crossing], outside))):
            streets.append(Edge(name=name, shape=shape, length_m=ramp_m, lanes=2, speed_limit_mps=22.2))
    following = {
        name: tuple(after for after, (begin, onto) in ends.items() if begin == end and onto != start)
        for name, (start, end) in ends.items()
    }
    return StreetNetwork(edges=tuple(streets), following=following)


def ramp_controls() -> tuple[Control, ...]:
    """The four ramps of `sim_env.traffic.control_points`, on the ramps of `small_town`.

    Of each ramp's vehicles some cross the town and others end on its streets, so that no street stays empty.
    """
    streets = [edge.name for edge in small_town().edges if edge.name[0] not in "EX"]
    return tuple(
        Control(
            control_id=ramp.name,
            edge_id=f"E{number}",
            baseline_veh_per_hour=ramp.baseline_veh_per_hour,
            destinations=(*(f"X{other}" for other in range(1, 5) if other != number), *streets[number::5]),
        )
        for number, ramp in enumerate(AUSTIN_RAMPS, start=1)
    )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        with storage_errors(path):
            content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise _no_state(path, str(error)) from error
    if not isinstance(content, dict) or content.get("layout") != _LAYOUT:
        raise _no_state(path, f"no {_LAYOUT}")
    return content


def _no_state(path: Path, found: str) -> EngineError:
    return EngineError(
        "The file is not a saved state of this engine",
        found=f"{path}: {found}",
        remedy="Name a file that `save` of the same engine wrote.",
    )


TRAFFIC_ENGINES.register("mock", MockEngine)
