"""Control points for a network that nobody has described: where vehicles come from, how many, and where to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from features.errors import InvalidParameterError
from sim_env.traffic.engine import Control, EngineError
from sim_env.traffic.sumo.configuration import SumoConfiguration, read_configuration
from sim_env.traffic.sumo.demand import OwnDemand, own_demand
from sim_env.traffic.sumo.network import RoadNetwork, read_network

_DESTINATIONS = 8
# Usual hourly flow of a lane by its allowed speed [m/s]: assumed, about a third of what such a lane can carry.
_LANE_FLOW_VEH_PER_H = ((9.0, 100.0), (15.0, 200.0), (23.0, 350.0), (float("inf"), 600.0))
# Of a network without ways in, this share of its roads gets a control.
_INNER_SHARE = 0.1


def propose_controls(configuration: Path | SumoConfiguration, *, most: int = 50) -> tuple[Control, ...]:
    """Propose control points: the ways into town, else roads at its rim.

    The baseline is what the configuration's own demand lets begin there, or, without a demand, what roads of such
    lanes and speeds usually carry. Destinations are those of the demand, or ways out of town that can be reached.

    Args:
        configuration: A `.sumocfg` or `.net.xml`.
        most: Largest number of controls; those with the largest flow are kept.

    Returns:
        The controls, the largest baseline first.

    Raises:
        EngineError: The configuration cannot be read, or no vehicle can drive anywhere in its network.
        InvalidParameterError: `most` is below 1.
    """
    if most < 1:
        raise InvalidParameterError(
            parameter="most", provided=most, allowed="1 or more", fact="No control is asked for", remedy="Ask for 10."
        )
    known = configuration if isinstance(configuration, SumoConfiguration) else read_configuration(configuration)
    network, demand = read_network(known.net_file), own_demand(known)
    sources = _sources(network)
    baselines = {name: _baseline(name, network, demand) for name in sources}
    chosen = sorted((name for name in sources if baselines[name] > 0), key=lambda name: (-baselines[name], name))[:most]
    if not chosen:
        raise EngineError(
            "No vehicle can drive anywhere in this network",
            found=str(network.path),
            remedy="Give a network whose roads are connected; `netconvert` names those that are not.",
        )
    return tuple(
        Control(
            control_id=control_id,
            edge_id=name,
            baseline_veh_per_hour=round(baselines[name], 1),
            destinations=_destinations(name, network, demand),
        )
        for control_id, name in zip(_names(chosen), chosen, strict=True)
    )


def _sources(network: RoadNetwork) -> list[str]:
    leading = [len(after) > 0 for after in network.following]
    fringe = [
        edge.name
        for edge, source, leads in zip(network.edges, network.is_source, leading, strict=True)
        if source and leads
    ]
    if fringe:
        return fringe
    usable = [edge for edge, leads in zip(network.edges, leading, strict=True) if leads]
    if not usable:
        return []
    beginnings = np.array([edge.shape[0] for edge in usable])
    outside = np.linalg.norm(beginnings - beginnings.mean(axis=0), axis=1)
    count = max(1, round(_INNER_SHARE * len(usable)))
    return [usable[int(position)].name for position in np.argsort(-outside, kind="stable")[:count]]


def _baseline(name: str, network: RoadNetwork, demand: OwnDemand) -> float:
    if demand.veh_per_hour:
        return demand.veh_per_hour.get(name, 0.0)
    edge = network.edges[network.position(name)]
    flow = next(flow for speed, flow in _LANE_FLOW_VEH_PER_H if edge.speed_limit_mps <= speed)
    return flow * edge.lanes


def _destinations(name: str, network: RoadNetwork, demand: OwnDemand) -> tuple[str, ...]:
    known = {edge.name for edge in network.edges}
    wanted = [end for end in demand.destinations.get(name, ()) if end in known and network.connected(name, end)]
    return tuple(wanted[:_DESTINATIONS]) or network.exits(name, most=_DESTINATIONS)


def _names(edge_ids: Sequence[str]) -> list[str]:
    """Readable names that SUMO takes as part of a vehicle's."""
    plain = [re.sub(r"[^\w.\-#\[\]:/]", "_", f"in_{edge_id}") for edge_id in edge_ids]
    return [name if plain.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(plain)]
