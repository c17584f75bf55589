"""Vehicles on a street network by the cell transmission model, as whole vehicles with routes.

C. F. Daganzo, "The cell transmission model: a dynamic representation of highway traffic consistent with the
hydrodynamic theory", Transportation Research Part B 28 (1994), 269 to 287. A street is cut into cells that are crossed
in one step at free speed. With n vehicles in a cell that has room for N, and cell i + 1 after cell i,

    y(i) = min(n(i), Q, w / v (N(i + 1) - n(i + 1)))

vehicles move on in a step: v is the free speed, w the speed at which a queue grows backwards, and Q the capacity, here
the top of the triangle that v, w and the spacing in a jam make. As vehicles are whole, what a cell could take in and
did not, up to one vehicle, counts in the next step; that costs about 3 % of the capacity.

A street that ends at a crossing has green for half of the time, which halves what it lets out (the store-and-forward
simplification of signals: D. C. Gazis and R. B. Potts, "The oversaturated intersection", 1963). Streets take turns
there, vehicles keep their order (first in, first out), and one that could not move for some minutes is taken off, as a
tow truck would.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim_env.traffic.engine import Edge

STEP_S = 5.0
# A car of 5 m and its gap of 2.5 m.
_JAM_SPACING_M = 7.5
# 18 km/h, a usual value for queues of cars.
_WAVE_MPS = 5.0
_TOWED_AFTER_S = 300.0
_GREEN_SHARE = 0.5

# The route's number and how far along it the vehicle is.
Vehicle = tuple[int, int]
Route = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreetNetwork:
    """Streets, and where each leads.

    Attributes:
        edges: All streets.
        following: Names of the streets that can be taken after each; one that is left out leads out of town.
    """

    edges: tuple[Edge, ...]
    following: Mapping[str, tuple[str, ...]]

    @property
    def index(self) -> dict[str, int]:
        """Position of each street by its name."""
        return {edge.name: position for position, edge in enumerate(self.edges)}

    @property
    def exits(self) -> tuple[str, ...]:
        """Streets that lead out of town."""
        return tuple(edge.name for edge in self.edges if not self.following.get(edge.name))

    def routes_from(self, start: str) -> dict[str, Route]:
        """The fastest way on empty streets to every street that can be reached, as positions, both ends with it.

        E. W. Dijkstra, "A note on two problems in connexion with graphs", Numerische Mathematik 1 (1959).
        """
        index = self.index
        found: dict[str, Route] = {}
        heap: list[tuple[float, Route]] = [(0.0, (index[start],))]
        while heap:
            time_s, route = heapq.heappop(heap)
            edge = self.edges[route[-1]]
            if edge.name in found:
                continue
            found[edge.name] = route
            later_s = time_s + edge.length_m / edge.speed_limit_mps
            for name in self.following.get(edge.name, ()):
                heapq.heappush(heap, (later_s, (*route, index[name])))
        return found


@dataclass(slots=True, kw_only=True)
class _Street:
    """A street in cells, the first where it begins.

    Attributes:
        room: Vehicles that fit into a cell.
        capacity: Vehicles that can pass in a step.
        out_capacity: Vehicles that can leave the street in a step.
        free_mps: Speed where there is room [m/s].
        backward: w / v.
        cells: Vehicles of each cell, the foremost first.
        credit: What each cell may still take in [vehicles].
        out_credit: What may still leave the street [vehicles].
        stuck_steps: Steps for which the foremost vehicle of the last cell has not moved.
    """

    room: int
    capacity: float
    out_capacity: float
    free_mps: float
    backward: float
    cells: list[deque[Vehicle]]
    credit: list[float]
    out_credit: float = 0.0
    stuck_steps: int = 0

    def let_in(self) -> list[int]:
        """How many vehicles each cell can take in now."""
        permits = []
        for cell, vehicles in enumerate(self.cells):
            space = self.room - len(vehicles)
            self.credit[cell] = min(1.0, self.credit[cell]) + min(self.capacity, self.backward * space)
            permits.append(min(space, int(self.credit[cell])))
        return permits

    def let_out(self) -> int:
        """How many vehicles can leave the street now, if there is room for them elsewhere."""
        self.out_credit = min(1.0, self.out_credit) + self.out_capacity
        return min(len(self.cells[-1]), int(self.out_credit))

    def take_in(self, vehicle: Vehicle) -> None:
        """Put a vehicle at the beginning of the street."""
        self.cells[0].append(vehicle)
        self.credit[0] -= 1.0

    def advance(self, moves: list[int]) -> None:
        """Move vehicles from each cell to the next."""
        for cell in range(len(moves) - 1, -1, -1):
            self.credit[cell + 1] -= moves[cell]
            for _ in range(moves[cell]):
                self.cells[cell + 1].append(self.cells[cell].popleft())

    def speed_mps(self) -> float:
        """Mean over the vehicles of the speed that goes with their cell's density [m/s]: min(v, w (N - n) / n)."""
        present = weighted = 0.0
        for vehicles in self.cells:
            if number := len(vehicles):
                present += number
                queued_mps = self.backward * self.free_mps * (self.room - number) / number
                weighted += number * min(self.free_mps, queued_mps)
        return weighted / present if present else self.free_mps


def _street(edge: Edge, *, green_share: float) -> _Street:
    free_mps = edge.speed_limit_mps
    number = max(1, round(edge.length_m / (free_mps * STEP_S)))
    room = max(1, round(edge.lanes * edge.length_m / number / _JAM_SPACING_M))
    per_lane_per_s = free_mps * _WAVE_MPS / (free_mps + _WAVE_MPS) / _JAM_SPACING_M
    capacity = edge.lanes * per_lane_per_s * STEP_S
    return _Street(
        room=room,
        capacity=capacity,
        out_capacity=green_share * capacity,
        free_mps=free_mps,
        backward=_WAVE_MPS / free_mps,
        cells=[deque() for _ in range(number)],
        credit=[0.0] * number,
    )


@dataclass(slots=True, kw_only=True)
class Entrance:
    """Vehicles that are to begin on a street, in order.

    Attributes:
        street: Its position.
        queue: The step from which on each is due, and its route.
    """

    street: int
    queue: deque[tuple[int, int]] = field(default_factory=deque)


class CellTransmission:
    """All vehicles of a network.

    Args:
        network: The streets.
        routes: The ways that vehicles take, as positions of streets.
        entrances: Streets that vehicles begin on.
    """

    def __init__(self, network: StreetNetwork, routes: list[Route], entrances: list[int]) -> None:
        self._routes = routes
        exits = set(network.exits)
        self._streets = [
            _street(edge, green_share=1.0 if edge.name in exits else _GREEN_SHARE) for edge in network.edges
        ]
        self.entrances = [Entrance(street=position) for position in entrances]
        self.step_number = 0
        self.entered = 0
        self.left = 0

    @property
    def counts(self) -> list[int]:
        """Vehicles on each street."""
        return [sum(map(len, street.cells)) for street in self._streets]

    @property
    def speeds_mps(self) -> list[float]:
        """Mean speed on each street, the free one where nobody is [m/s]."""
        return [street.speed_mps() for street in self._streets]

    @property
    def waiting(self) -> int:
        """Vehicles that are due and have not entered."""
        return sum(due < self.step_number for entrance in self.entrances for due, _ in entrance.queue)

    def step(self) -> None:
        """Move all vehicles by one step; every flow follows from the state before it."""
        permits = [street.let_in() for street in self._streets]
        leaving = [street.let_out() for street in self._streets]
        moves = [
            [min(len(street.cells[cell]), permits[position][cell + 1]) for cell in range(len(street.cells) - 1)]
            for position, street in enumerate(self._streets)
        ]
        number = len(self._streets)
        # The turn goes round, so that no street has the way for ever.
        for offset in range(number):
            position = (offset + self.step_number) % number
            self._cross(position, leaving[position], permits)
        for street, moved in zip(self._streets, moves, strict=True):
            street.advance(moved)
        for entrance in self.entrances:
            self._enter(entrance, permits)
        self.step_number += 1

    def _cross(self, position: int, leaving: int, permits: list[list[int]]) -> None:
        """Let vehicles at the end of a street arrive, or turn into their next street."""
        street = self._streets[position]
        last = street.cells[-1]
        crossed = 0
        for _ in range(leaving):
            route, leg = last[0]
            way = self._routes[route]
            if leg + 1 == len(way):
                self.left += 1
            elif permits[way[leg + 1]][0] > 0:
                permits[way[leg + 1]][0] -= 1
                self._streets[way[leg + 1]].take_in((route, leg + 1))
            else:
                break
            last.popleft()
            crossed += 1
        street.out_credit -= crossed
        street.stuck_steps = 0 if crossed or not last else street.stuck_steps + 1
        if street.stuck_steps * STEP_S >= _TOWED_AFTER_S:
            last.popleft()
            self.left += 1
            street.stuck_steps = 0

    def _enter(self, entrance: Entrance, permits: list[list[int]]) -> None:
        while entrance.queue and entrance.queue[0][0] <= self.step_number and permits[entrance.street][0] > 0:
            permits[entrance.street][0] -= 1
            self._streets[entrance.street].take_in((entrance.queue.popleft()[1], 0))
            self.entered += 1

    def content(self) -> dict[str, Any]:
        """All that changes, as plain values."""
        return {
            "step_number": self.step_number,
            "entered": self.entered,
            "left": self.left,
            "queues": [list(entrance.queue) for entrance in self.entrances],
            "streets": [
                {
                    "cells": [list(vehicles) for vehicles in street.cells],
                    "credit": street.credit,
                    "out_credit": street.out_credit,
                    "stuck_steps": street.stuck_steps,
                }
                for street in self._streets
            ],
        }

    def set_content(self, content: Mapping[str, Any]) -> None:
        """Take over what `content` gave, of the same network, routes and entrances."""
        self.step_number = int(content["step_number"])
        self.entered, self.left = int(content["entered"]), int(content["left"])
        for entrance, queue in zip(self.entrances, content["queues"], strict=True):
            entrance.queue = deque((int(due), int(route)) for due, route in queue)
        for street, kept in zip(self._streets, content["streets"], strict=True):
            street.cells = [deque((int(route), int(leg)) for route, leg in vehicles) for vehicles in kept["cells"]]
            street.credit = [float(part) for part in kept["credit"]]
            street.out_credit, street.stuck_steps = float(kept["out_credit"]), int(kept["stuck_steps"])
