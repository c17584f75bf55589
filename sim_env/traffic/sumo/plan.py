"""What an engine knows before SUMO starts: the configuration, the network, and the ways of its vehicles."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sim_env.traffic.controls import check_controls
from sim_env.traffic.engine import Control, Edge
from sim_env.traffic.sumo.configuration import SumoConfiguration, file_hash, read_configuration
from sim_env.traffic.sumo.edge_data import EdgeData
from sim_env.traffic.sumo.network import RoadNetwork, read_network

# Ways out of town that the vehicles of a control take, where the control names none.
_DESTINATIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchChoices:
    """How an engine runs its configuration.

    Attributes:
        mesoscopic: Queues instead of single cars; several times faster, with signals and rights of way kept.
        own_demand: Whether the configuration's own vehicles drive too.
        edge_data: Counts of every edge to be written, if any.
        time_to_teleport_s: Waiting time after which a blocked vehicle is moved on [s]; None leaves it to the
            configuration, and SUMO's own is 300 s.
        options: More options of SUMO, in its own words.
    """

    mesoscopic: bool
    own_demand: bool
    edge_data: EdgeData | None
    time_to_teleport_s: float | None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration that can be run with some controls.

    Attributes:
        configuration: What is run.
        network: Its roads.
        controls: The control points; they fit the network.
        choices: How it is run.
        routes: Edges of each route by its id.
        route_ids: The routes of each control.
    """

    configuration: SumoConfiguration
    network: RoadNetwork
    controls: tuple[Control, ...]
    choices: LaunchChoices
    routes: dict[str, tuple[str, ...]]
    route_ids: tuple[tuple[str, ...], ...]

    def identity(self) -> dict[str, Any]:
        """What a saved state must share with the engine that restores it; plain values."""
        own_files = self.configuration.route_files if self.choices.own_demand else ()
        return {
            "SUMO version": importlib.metadata.version("eclipse-sumo"),
            "network": self.network.hash,
            "controls": [{**asdict(control), "destinations": list(control.destinations)} for control in self.controls],
            "demand": [file_hash(path) for path in (*self.configuration.additional_files, *own_files)],
            "step length": self.configuration.step_length_s,
            "begin": self.configuration.begin_s,
            "choices": [self.choices.mesoscopic, self.choices.own_demand, self.choices.time_to_teleport_s],
            "options": [sorted(self.configuration.options.items()), self.choices.options],
        }


def make_plan(path: Path, controls: Sequence[Control], choices: LaunchChoices) -> Plan:
    """Read a configuration and lay the routes of its controls: the fastest on empty roads.

    Raises:
        EngineError: The configuration or its network cannot be read, or a control does not fit.
    """
    configuration = read_configuration(path)
    network = read_network(configuration.net_file)
    check_controls(controls, network.edges, connected=network.connected)
    routes: dict[str, tuple[str, ...]] = {}
    route_ids = []
    for control in controls:
        ends = control.destinations or network.exits(control.edge_id, most=_DESTINATIONS)
        own = {f"{control.control_id}.to.{end}": network.route(control.edge_id, end) for end in ends}
        routes.update(own)
        route_ids.append(tuple(own))
    return Plan(
        configuration=configuration,
        network=network,
        controls=tuple(controls),
        choices=choices,
        routes=routes,
        route_ids=tuple(route_ids),
    )


def road_network(configuration: Path) -> RoadNetwork:
    """The roads of a `.sumocfg` or `.net.xml`.

    Raises:
        EngineError: It cannot be read.
    """
    return read_network(read_configuration(configuration).net_file)


def network_edges(configuration: Path) -> tuple[Edge, ...]:
    """The edges that an engine of this `.sumocfg` or `.net.xml` would have.

    Raises:
        EngineError: It cannot be read.
    """
    return road_network(configuration).edges
