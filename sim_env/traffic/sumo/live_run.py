"""A simulation that lives: what it was asked so far, and the way to SUMO.

Array names carry their axes: E edges, P control points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from features.errors import StorageError
from features.files import storage_errors
from sim_env.traffic.engine import EngineError, IntArray, TrafficState, VehicleCounts
from sim_env.traffic.sumo.edge_data import publish_edge_data
from sim_env.traffic.sumo.injection import Injection
from sim_env.traffic.sumo.link import LibsumoLink, Link, TraciLink
from sim_env.traffic.sumo.plan import Plan
from sim_env.traffic.sumo.preparation import command_words, edge_data_file, prepare, remove_folder
from sim_env.traffic.sumo.road_limits import RoadLimits
from sim_env.traffic.sumo.saved_state import Call, Moment, SavedRun, extract_snapshot, write_state

LinkKind = Literal["libsumo", "traci"]


class LiveRun:
    """One SUMO with a folder of its own, until `close`.

    Args:
        plan: What is run.
        link: The way to SUMO.

    Raises:
        EngineError: An additional file is broken.
        StorageError: The folder cannot be written.
    """

    def __init__(self, plan: Plan, link: LinkKind) -> None:
        self._plan = plan
        self._folder = _make_folder()
        try:
            self._options = prepare(plan, folder=self._folder)
        except (EngineError, StorageError):
            remove_folder(self._folder)
            raise
        self.link: Link = LibsumoLink() if link == "libsumo" else TraciLink(self._folder)
        self._seed = 0
        self._begin_s = self._now_s = 0.0
        self._injection = Injection(plan.controls, plan.route_ids, seed=0)
        self._limits = RoadLimits(plan.network)
        self._anchor: Moment | None = None
        self._calls: list[Call] = []

    @property
    def sim_time_s(self) -> float:
        """Time since the beginning of the run [s]."""
        return self._now_s - self._begin_s

    def begin(self, *, seed: int) -> None:
        """Begin a new run at time 0.

        Raises:
            EngineError: Another engine of this process holds SUMO's library.
            SumoFailure: SUMO refuses an option or a file.
        """
        self._load({"seed": str(seed)})
        self._seed, self._begin_s = seed, self._now_s
        self._anchor, self._calls = None, []
        self._injection = Injection(self._plan.controls, self._plan.route_ids, seed=seed)

    def begin_from(self, path: Path, saved: SavedRun, *, quick: bool) -> None:
        """Go on from a saved run, by its calls or, quickly, by SUMO's snapshot.

        Raises:
            EngineError: Another engine of this process holds SUMO's library, or a part of the file is missing.
            SumoFailure: SUMO refuses the snapshot.
        """
        anchor = saved.now if quick else saved.anchor
        if anchor is None:
            self.begin(seed=saved.seed)
        else:
            snapshot = self._folder / "anchor.xml"
            extract_snapshot(path, snapshot, anchor=not quick)
            self._load({"seed": str(saved.seed), "load-state": str(snapshot), "begin": str(anchor.now_s)})
            self._seed, self._begin_s, self._now_s = saved.seed, saved.begin_s, anchor.now_s
            self._anchor, self._calls = anchor, []
            self._injection.put(anchor.injection)
            with self.link.failures():
                self._limits.put(self.link.domains, anchor.limits)
        for call in [] if quick else saved.calls:
            self.perform(call)

    def perform(self, call: Call) -> IntArray | None:
        """Do what a call asks for, and remember it; a step gives the vehicles injected at each control.

        Raises:
            InvalidParameterError: A value cannot be; nothing was done.
            EngineError: There is no such edge; nothing was done.
            SumoFailure: SUMO died.
        """
        name, *values = call
        injected_P = None
        with self.link.failures():
            if name == "step":
                injected_P = self._step(*values)
            else:
                self._limit(name, *values)
        self._calls.append(call)
        return injected_P

    def state(self, injected_P: IntArray) -> TrafficState:
        """The network now.

        Raises:
            SumoFailure: SUMO died.
        """
        with self.link.failures():
            counts, speeds = self.link.read()
            get = self.link.domains.simulation.getParameter
            entered, present, waiting = (
                int(get("", f"stats.vehicles.{name}")) for name in ("inserted", "running", "waiting")
            )
        count_E = np.array(counts, dtype=np.int64)
        return TrafficState(
            sim_time_s=self.sim_time_s,
            veh_count_E=count_E,
            mean_speed_E_mps=np.where(count_E > 0, np.array(speeds, dtype=np.float64), self._limits.allowed_E_mps),
            injected_P=injected_P,
            vehicles=VehicleCounts(entered=entered, left=entered - present, present=present, waiting=waiting),
        )

    def save(self, path: Path) -> None:
        """Write the run to a file.

        Raises:
            StorageError: It cannot be written.
            SumoFailure: SUMO died.
        """
        now_xml, anchor_xml = self._folder / "now.xml", self._folder / "anchor.xml"
        with self.link.failures():
            self.link.domains.simulation.saveState(str(now_xml))
        now = Moment(now_s=self._now_s, injection=self._injection.state(), limits=self._limits.state())
        run = SavedRun(seed=self._seed, begin_s=self._begin_s, now=now, anchor=self._anchor, calls=self._calls)
        try:
            write_state(
                path,
                run,
                now_xml=now_xml,
                anchor_xml=anchor_xml if self._anchor else None,
                identity=self._plan.identity(),
            )
        finally:
            now_xml.unlink(missing_ok=True)

    def close(self, *, complete: bool) -> None:
        """End SUMO, write the edge data of a run that is `complete`, and leave no file behind.

        Raises:
            StorageError: The edge data cannot be written; the rest is done all the same.
        """
        try:
            self.link.close()
            raw, wish = edge_data_file(self._folder), self._plan.choices.edge_data
            if complete and wish is not None and raw.exists():
                publish_edge_data(raw, wish.path, begin_s=self._begin_s)
        finally:
            remove_folder(self._folder)

    def _load(self, more: dict[str, str]) -> None:
        self.link.start(command_words(self._options | more, self._plan.choices.options))
        # Loading takes incidents and weather back.
        self._limits.clear()
        with self.link.failures():
            self._now_s = float(self.link.domains.simulation.getTime())
            self.link.watch([edge.name for edge in self._plan.network.edges])

    def _step(self, duration_s: float, multipliers: list[float]) -> IntArray:
        departures, injected_P = self._injection.draw(np.array(multipliers), begin_s=self._now_s, duration_s=duration_s)
        add = self.link.domains.vehicle.add
        for departure in departures:
            add(
                departure.vehicle_id,
                departure.route_id,
                depart=f"{departure.depart_s:.3f}",
                departLane="best",
                departSpeed="max",
            )
        self.link.advance(self._now_s + duration_s)
        self._now_s += duration_s
        return injected_P

    def _limit(self, name: str, *values: Any) -> None:
        actions: dict[str, Callable[..., None]] = {
            "slow": self._limits.slow,
            "close_lanes": self._limits.close_lanes,
            "release": self._limits.release,
            "weather": self._limits.set_weather,
        }
        actions[name](self.link.domains, *values)


def _make_folder() -> Path:
    parent = Path(tempfile.gettempdir())
    with storage_errors(parent):
        return Path(tempfile.mkdtemp(prefix="towncast-sumo-", dir=parent))
