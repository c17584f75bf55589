"""The SUMO engine: a road network driven by multipliers and read edge by edge.

Array names carry their axes: P control points.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from features.errors import TowncastError
from sim_env.traffic.engine import TRAFFIC_ENGINES, Control, Edge, EngineError, IntArray, TrafficState
from sim_env.traffic.requests import check_duration, check_seed, checked_multipliers
from sim_env.traffic.sumo.edge_data import EdgeData
from sim_env.traffic.sumo.link import SumoFailure
from sim_env.traffic.sumo.live_run import LinkKind, LiveRun
from sim_env.traffic.sumo.plan import LaunchChoices, Plan, make_plan
from sim_env.traffic.sumo.saved_state import Call, read_state


class SumoEngine:
    """Any SUMO configuration as a traffic engine.

    A configuration's `end` is not heeded: the caller's steps decide. Nothing is written beside the configuration.

    Args:
        configuration: A `.sumocfg`, or a `.net.xml` without demand of its own.
        controls: Where vehicles are injected, beside the configuration's own.
        link: `libsumo` runs SUMO in this process, one engine at a time; `traci` starts a process for it.
        mesoscopic: Queues instead of single cars, with signals and rights of way: several times faster, less exact.
        own_demand: Whether the configuration's own vehicles drive too.
        edge_data: Counts of every edge over longer periods, to be written at the end of the run.
        time_to_teleport_s: Waiting time after which a blocked vehicle is moved on [s]; None leaves it to the
            configuration, and SUMO's own is 300 s.
        options: More options of SUMO, in its own words: `("--collision.action", "warn")`.
    """

    def __init__(
        self,
        configuration: Path,
        controls: Sequence[Control],
        *,
        link: LinkKind = "libsumo",
        mesoscopic: bool = False,
        own_demand: bool = True,
        edge_data: EdgeData | None = None,
        time_to_teleport_s: float | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._path = configuration
        self._controls = tuple(controls)
        self._link: LinkKind = link
        self._choices = LaunchChoices(
            mesoscopic=mesoscopic,
            own_demand=own_demand,
            edge_data=edge_data,
            time_to_teleport_s=time_to_teleport_s,
            options=tuple(options),
        )
        # SUMO is not made for two threads at once.
        self._lock = threading.RLock()
        self._known: Plan | None = None
        self._run: LiveRun | None = None

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges that passenger cars may drive on, in the order of the network's file.

        Raises:
            EngineError: The configuration or its network cannot be read.
        """
        return self._plan().network.edges

    @property
    def controls(self) -> tuple[Control, ...]:
        """The control points, as they were given."""
        return self._controls

    def reset(self, *, seed: int) -> TrafficState:
        """Begin a new run at time 0, whatever was before; a loaded SUMO is used again.

        Raises:
            EngineError: It cannot be started; the message says what to mend.
            InvalidParameterError: The seed is outside 0 to 2147483647.
        """
        check_seed(seed)
        with self._lock:
            run = self._fresh()
            with self._starting():
                run.begin(seed=seed)
            return self._state(run, self._nobody())

    def step(self, multiplier_P: npt.ArrayLike, *, duration_s: float = 60.0) -> TrafficState:
        """Inject vehicles at baseline times multiplier, and run for one control interval.

        Args:
            multiplier_P: One for each control; 1 is the baseline, 0 none.
            duration_s: Length of the interval [s], a whole number of SUMO's steps, at most a day.

        Raises:
            InvalidParameterError: A multiplier is NaN, infinite, negative or above 100; or the duration cannot be.
            EngineError: The engine is not running, or SUMO died.
        """
        with self._lock:
            run = self._running()
            multipliers = checked_multipliers(multiplier_P, len(self._controls))
            check_duration(duration_s, step_length_s=self._plan().configuration.step_length_s)
            with self._alive(run):
                injected_P = run.perform(["step", float(duration_s), multipliers.tolist()])
            return self._state(run, self._nobody() if injected_P is None else injected_P)

    def save(self, path: Path) -> None:
        """Write the whole state to a file, whole or not at all; the run goes on undisturbed.

        Raises:
            EngineError: The engine is not running.
            StorageError: The file cannot be written.
        """
        with self._lock:
            run = self._running()
            with self._alive(run):
                run.save(path)

    def restore(self, path: Path, *, quick: bool = False) -> TrafficState:
        """Go on from a saved state, exactly as the run that saved it would have.

        SUMO's own snapshots are not complete, so an exact restore repeats the run's calls, without reading edges:
        it takes as long as the run took since its beginning or its last quick restore.

        Args:
            path: What `save` wrote.
            quick: Go on from SUMO's snapshot instead, at once. Vehicles stand where they stood, but the run leaves the
                saved one's way within minutes. Edge data begin at this moment.

        Raises:
            EngineError: The file is not a state of this network and these controls; a run that was going on goes on.
        """
        with self._lock:
            saved = read_state(path, identity=self._plan().identity())
            run = self._fresh()
            with self._starting():
                run.begin_from(path, saved, quick=quick)
            return self._state(run, self._nobody())

    def slow(self, edge_id: str, factor: float) -> None:
        """Allow only a share of an edge's speed from now on, as where an incident is passed.

        Args:
            edge_id: The edge.
            factor: Share of the allowed speed, 0.01 to 2.

        Raises:
            EngineError: There is no such edge, or the engine is not running.
            InvalidParameterError: The factor cannot be.
        """
        self._perform(["slow", edge_id, factor])

    def close_lanes(self, edge_id: str, count: int = 1) -> None:
        """Close lanes of an edge to all but emergency vehicles and buses from now on.

        Closed are the rightmost lanes that can be missed: one stays open, and every way onto the edge and from it.

        Raises:
            EngineError: There is no such edge, or the engine is not running.
            InvalidParameterError: The edge has not so many lanes that can be missed.
        """
        self._perform(["close_lanes", edge_id, count])

    def release(self, edge_id: str) -> None:
        """Take an edge's incident back: speed and lanes are as in the network, but for the weather.

        Raises:
            EngineError: There is no such edge, or the engine is not running.
        """
        self._perform(["release", edge_id])

    def set_weather_speed_factor(self, factor: float) -> None:
        """Allow a share of the speed on all edges from now on, as in rain; it multiplies with `slow`.

        Raises:
            InvalidParameterError: The factor is outside 0.01 to 2.
            EngineError: The engine is not running.
        """
        self._perform(["weather", factor])

    def close(self) -> None:
        """End the run and write its edge data; no process and no file of the engine is left.

        Raises:
            StorageError: The edge data cannot be written; the run is ended all the same.
        """
        with self._lock:
            self._end(complete=True)

    def _plan(self) -> Plan:
        if self._known is None:
            self._known = make_plan(self._path, self._controls, self._choices)
        return self._known

    def _fresh(self) -> LiveRun:
        """A SUMO that can be loaded: the one that runs, or a new one."""
        plan = self._plan()
        if self._choices.edge_data is not None:
            # The file of the run before is complete only when SUMO closes it.
            self._end(complete=True)
        if self._run is None:
            self._run = LiveRun(plan, self._link)
        return self._run

    def _running(self) -> LiveRun:
        if self._run is None:
            raise EngineError("The engine is not running", remedy="Call `reset` or `restore` first.")
        return self._run

    def _perform(self, call: Call) -> None:
        with self._lock:
            run = self._running()
            with self._alive(run):
                run.perform(call)

    def _state(self, run: LiveRun, injected_P: IntArray) -> TrafficState:
        with self._alive(run):
            return run.state(injected_P)

    def _nobody(self) -> IntArray:
        return np.zeros(len(self._controls), dtype=np.int64)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Where a run cannot begin, leave nothing of it."""
        try:
            yield
        except SumoFailure as failure:
            self._end(complete=False)
            raise EngineError(
                "SUMO cannot run this configuration",
                found=str(failure),
                remedy=f"Mend what SUMO names in {self._path.name}, or in the files that it names.",
            ) from failure
        except TowncastError:
            self._end(complete=False)
            raise

    @contextlib.contextmanager
    def _alive(self, run: LiveRun) -> Iterator[None]:
        """Where SUMO fails in mid-run, end it, and say so."""
        try:
            yield
        except SumoFailure as failure:
            self._end(complete=False)
            raise EngineError(
                f"SUMO ended in mid-run, {run.sim_time_s:g} s after its beginning",
                found=str(failure),
                remedy="Reset the engine to begin anew; if it happens again, mend what SUMO names.",
            ) from failure

    def _end(self, *, complete: bool) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close(complete=complete)


TRAFFIC_ENGINES.register("sumo", SumoEngine)
