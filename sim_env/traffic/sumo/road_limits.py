"""Speeds and lanes that change while a run lives: incidents on single edges, weather on all."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.errors import InvalidParameterError
from sim_env.traffic.engine import FloatArray
from sim_env.traffic.sumo.network import PASSENGER, RoadNetwork

# Vehicles that may use a closed lane: those who clear it, and buses, which may have a stop there.
_CLEARING = ["authority", "emergency", "bus"]


class RoadLimits:
    """What is slowed and closed now, and how SUMO is told.

    Args:
        network: The roads.
    """

    def __init__(self, network: RoadNetwork) -> None:
        self._network = network
        self._limit_E_mps = np.array([edge.speed_limit_mps for edge in network.edges], dtype=np.float64)
        self.clear()

    def clear(self) -> None:
        """Forget all incidents and the weather, as at a reset, which takes them back in SUMO too."""
        self.weather = 1.0
        self.slowed: dict[str, float] = {}
        self._allowed: dict[str, list[str]] = {}
        self.closed: dict[str, tuple[str, ...]] = {}

    @property
    def allowed_E_mps(self) -> FloatArray:
        """The speed that each edge allows now [m/s]."""
        allowed_E = self._limit_E_mps * self.weather
        for edge_id, factor in self.slowed.items():
            allowed_E[self._network.position(edge_id)] *= factor
        return allowed_E

    def slow(self, domains: Any, edge_id: str, factor: float) -> None:
        """Allow a share of an edge's speed."""
        self._network.position(edge_id)
        _check_factor("factor", factor)
        self.slowed[edge_id] = factor
        self._set_speed(domains, edge_id)

    def close_lanes(self, domains: Any, edge_id: str, count: int) -> None:
        """Close lanes of an edge, the rightmost that can be missed."""
        lanes = self._network.lanes[self._network.position(edge_id)]
        others = set(self._allowed) - set(lanes)
        fits = 1 <= count < len(lanes)
        # SUMO ends the whole run where a vehicle's way is cut off.
        chosen = self._network.closable_lanes(edge_id, count, closed=others) if fits else None
        if chosen is None:
            raise InvalidParameterError(
                parameter="count",
                provided=count,
                allowed=f"1 to {len(lanes) - 1}" if len(lanes) > 1 else "none: the edge has a single lane",
                fact=f"So many lanes of {edge_id} cannot be closed: none may be left, or a turn would be cut off",
                remedy="Close fewer, or use `slow`.",
            )
        self._open(domains, edge_id)
        self._shut(domains, edge_id, chosen)

    def release(self, domains: Any, edge_id: str) -> None:
        """Take an edge's incident back; without one nothing happens."""
        self._network.position(edge_id)
        self._open(domains, edge_id)
        if self.slowed.pop(edge_id, None) is not None:
            self._set_speed(domains, edge_id)

    def set_weather(self, domains: Any, factor: float) -> None:
        """Allow a share of the speed on all edges."""
        _check_factor("speed_factor", factor)
        if factor == self.weather:
            return
        self.weather = factor
        for edge in self._network.edges:
            self._set_speed(domains, edge.name)

    def state(self) -> dict[str, Any]:
        """Plain values from which `put` goes on."""
        return {
            "weather": self.weather,
            "slowed": dict(self.slowed),
            "closed": {edge_id: list(lanes) for edge_id, lanes in self.closed.items()},
        }

    def put(self, domains: Any, state: dict[str, Any]) -> None:
        """Make it as `state` said, in a simulation that was just loaded."""
        self.clear()
        self.set_weather(domains, state["weather"])
        for edge_id, factor in state["slowed"].items():
            self.slow(domains, edge_id, factor)
        for edge_id, lanes in state["closed"].items():
            self._shut(domains, edge_id, tuple(lanes))

    def _factor(self, edge_id: str) -> float:
        return self.weather * self.slowed.get(edge_id, 1.0)

    def _set_speed(self, domains: Any, edge_id: str) -> None:
        position, factor = self._network.position(edge_id), self._factor(edge_id)
        lanes, speeds = self._network.lanes[position], self._network.lane_speeds_mps[position]
        for lane, speed in zip(lanes, speeds, strict=True):
            domains.lane.setMaxSpeed(lane, speed * factor)

    def _shut(self, domains: Any, edge_id: str, lanes: tuple[str, ...]) -> None:
        for lane in lanes:
            self._allowed[lane] = list(domains.lane.getAllowed(lane))
            domains.lane.setAllowed(lane, _CLEARING)
        self.closed[edge_id] = lanes

    def _open(self, domains: Any, edge_id: str) -> None:
        for lane in self.closed.pop(edge_id, ()):
            domains.lane.setAllowed(lane, self._allowed.pop(lane))


def _check_factor(name: str, factor: float) -> None:
    # Below a hundredth, vehicles would stand for hours and be teleported.
    if not 0.01 <= factor <= 2.0:
        raise InvalidParameterError(
            parameter=name,
            provided=factor,
            allowed="0.01 to 2",
            fact="The share of the allowed speed cannot be",
            remedy=f"Give between 0.01 and 2; to close part of a road to {PASSENGER} cars, use `close_lanes`.",
        )
