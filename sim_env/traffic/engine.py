"""What every traffic engine promises: a network that is driven by multipliers and read edge by edge.

Array names carry their axes: E edges, P control points.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from features.errors import TowncastError
from features.registry import Registry

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A road in one direction, as the engine knows it.

    Attributes:
        name: Its id in the network.
        shape: Points along its middle, x and y [m]; two or more.
        length_m: Its length [m].
        lanes: Number of lanes.
        speed_limit_mps: Allowed speed [m/s].
    """

    name: str
    shape: tuple[tuple[float, float], ...]
    length_m: float
    lanes: int
    speed_limit_mps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A control point: where vehicles are injected, and how many.

    Attributes:
        control_id: Unique among the controls.
        edge_id: Edge on which its vehicles begin.
        baseline_veh_per_hour: Inflow at multiplier 1 [veh/h].
        destinations: Edges on which its vehicles may end, drawn evenly; empty leaves the choice to the engine.
    """

    control_id: str
    edge_id: str
    baseline_veh_per_hour: float
    destinations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleCounts:
    """Vehicles since the engine's reset; `entered` = `left` + `present`, always.

    Attributes:
        entered: Vehicles that were put on the network.
        left: Vehicles that arrived, or were taken off.
        present: Vehicles on the network now.
        waiting: Vehicles that are due and found no room to enter yet.
    """

    entered: int
    left: int
    present: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficState:
    """The network at one moment.

    Attributes:
        sim_time_s: Time since the beginning of the run [s].
        veh_count_E: Vehicles on each edge now, in the order of `TrafficEngine.edges`.
        mean_speed_E_mps: Their mean speed [m/s]; the allowed speed where there are none.
        injected_P: Vehicles that were scheduled at each control in the step that ends now.
        vehicles: Counts over the whole network.
    """

    sim_time_s: float
    veh_count_E: IntArray
    mean_speed_E_mps: FloatArray
    injected_P: IntArray
    vehicles: VehicleCounts


class TrafficEngine(Protocol):
    """A road network that runs live. The constructor starts nothing; `reset` does, `close` ends it, also twice.

    The same seed and the same calls give the same states, in another process too.
    """

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges that vehicles may drive on, in a fixed order."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """The control points, in a fixed order."""

    def reset(self, *, seed: int) -> TrafficState:
        """Begin a new run at time 0, whatever was before.

        Raises:
            EngineError: It cannot be started; the message says what to mend.
        """

    def step(self, multiplier_P: npt.ArrayLike, *, duration_s: float = 60.0) -> TrafficState:
        """Inject vehicles at baseline times multiplier, and run for one control interval.

        Args:
            multiplier_P: One for each control; 1 is the baseline, 0 none.
            duration_s: Length of the interval [s], a whole number of the engine's own steps, at most a day.

        Raises:
            InvalidParameterError: A multiplier is NaN, infinite, negative or above 100; or the duration cannot be.
            EngineError: The engine is not running, or it died.
        """

    def save(self, path: Path) -> None:
        """Write the whole state to a file, whole or not at all; the run goes on.

        Raises:
            EngineError: The engine is not running.
            StorageError: The file cannot be written.
        """

    def restore(self, path: Path) -> TrafficState:
        """Go on from a saved state, exactly as the run that saved it would have.

        Raises:
            EngineError: The file is not a state of this network and these controls.
        """

    def close(self) -> None:
        """End the run; no process and no file of the engine is left."""


class EngineError(TowncastError):
    """A traffic engine cannot start, died, or was asked for what it is not."""


TRAFFIC_ENGINES: Registry[type[TrafficEngine]] = Registry("traffic engine")
