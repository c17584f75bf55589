"""A SUMO road network as passenger cars see it: its edges, which follow on which, and the fastest routes.

Array names carry their axes: E edges.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax import SAXException

import numpy as np

from features.registry import nearest_names
from sim_env.traffic.engine import Edge, EngineError, FloatArray, IntArray
from sim_env.traffic.sumo.configuration import file_hash

PASSENGER = "passenger"
LaneLink = tuple[str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoadNetwork:
    """The roads that passenger cars may use, and how they hang together.

    Attributes:
        path: The network's file.
        hash: Hash of its content.
        edges: The roads, in the order of the file.
        lanes: Ids of each road's lanes for passenger cars, from the right.
        lane_speeds_mps: Their allowed speeds [m/s].
        following: For each road, the positions of the roads that may follow.
        links: For each road, how its lanes lead on: own lane, the next road's position, and its lane.
        is_source: Whether vehicles enter the town here: nothing but a turn-round leads to the road.
        is_sink: Whether they leave it here.
    """

    path: Path
    hash: str
    edges: tuple[Edge, ...]
    lanes: tuple[tuple[str, ...], ...]
    lane_speeds_mps: tuple[tuple[float, ...], ...]
    following: tuple[IntArray, ...]
    links: tuple[tuple[LaneLink, ...], ...]
    is_source: tuple[bool, ...]
    is_sink: tuple[bool, ...]
    _position: dict[str, int]
    _trees: dict[int, tuple[FloatArray, IntArray]]

    def position(self, edge_id: str) -> int:
        """Where an edge stands in `edges`.

        Raises:
            EngineError: There is no such edge; the message names near ones.
        """
        try:
            return self._position[edge_id]
        except KeyError:
            near = nearest_names(edge_id, list(self._position))
            raise EngineError(
                f"The network {self.path.name} has no edge of this name for passenger cars",
                found=repr(edge_id),
                remedy=f"Did you mean: {', '.join(near)}?" if near else "Look the edge up in the network.",
            ) from None

    def travel_times_s(self, edge_id: str) -> FloatArray:
        """Time from the beginning of an edge to the end of each other at the allowed speeds [s]; infinite if none."""
        return self._tree(self.position(edge_id))[0]

    def connected(self, origin: str, destination: str) -> bool:
        """Whether a car can drive from one edge to the other."""
        return bool(np.isfinite(self.travel_times_s(origin)[self.position(destination)]))

    def route(self, origin: str, destination: str) -> tuple[str, ...]:
        """The edges of the fastest way on empty roads, both ends among them.

        Raises:
            EngineError: One of the edges is unknown, or no way leads from one to the other.
        """
        first, last = self.position(origin), self.position(destination)
        times_E, before_E = self._tree(first)
        if not np.isfinite(times_E[last]):
            raise EngineError(
                "A route does not connect: no way for passenger cars",
                found=f"from {origin!r} to {destination!r}",
                remedy="Choose a destination that can be reached, or leave the destinations out.",
            )
        way = [last]
        while way[-1] != first:
            way.append(int(before_E[way[-1]]))
        return tuple(self.edges[position].name for position in reversed(way))

    def exits(self, origin: str, *, most: int) -> tuple[str, ...]:
        """Edges on which vehicles from `origin` may end: ways out of town, else far edges, spread over the network."""
        first = self.position(origin)
        times_E = self._tree(first)[0]
        reached = np.flatnonzero(np.isfinite(times_E))
        reached = reached[reached != first]
        if not len(reached):
            return (origin,)
        sinks = reached[np.array(self.is_sink, dtype=bool)[reached]]
        # Where nothing leads out of town, trips end in the farther half of it.
        candidates = sinks if len(sinks) else reached[times_E[reached] >= np.median(times_E[reached])]
        order = candidates[np.argsort(times_E[candidates], kind="stable")]
        picks = np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))
        return tuple(self.edges[int(position)].name for position in order[picks])

    def closable_lanes(self, edge_id: str, count: int, *, closed: Set[str]) -> tuple[str, ...] | None:
        """Lanes of an edge whose closing cuts off no way onto it or from it, the rightmost if possible; None if none.

        Args:
            edge_id: The edge.
            count: How many.
            closed: Lanes that are closed already.
        """
        position = self.position(edge_id)
        around = [(position, link) for link in self.links[position]]
        around += [
            (before, link)
            for before, after in enumerate(self.following)
            if position in after
            for link in self.links[before]
            if link[1] == position
        ]
        ways = {(begin, end) for begin, (_, end, _) in around}
        for lanes in itertools.combinations(self.lanes[position], count):
            shut = closed | set(lanes)
            open_ways = {(begin, end) for begin, (own, end, other) in around if not shut & {own, other}}
            if open_ways == ways:
                return lanes
        return None

    def _tree(self, first: int) -> tuple[FloatArray, IntArray]:
        if first not in self._trees:
            self._trees[first] = _fastest(first, self.edges, self.following)
        return self._trees[first]


def read_network(path: Path) -> RoadNetwork:
    """Read a network; the same file is read once.

    Raises:
        EngineError: It is missing or broken, or has no edge for passenger cars.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise EngineError(
            "The road network cannot be read",
            found=f"{path}: {error.strerror}",
            remedy="Give the path of a .net.xml that exists.",
        ) from error
    return _read(path.resolve(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed_ns: int, size: int) -> RoadNetwork:
    import sumolib

    try:
        net = sumolib.net.readNet(str(path))
    except (SAXException, OSError, ValueError, KeyError, AttributeError) as error:
        raise EngineError(
            "The road network is broken",
            found=f"{path}: {type(error).__name__}: {error}",
            remedy="Make it anew with netconvert or netgenerate.",
        ) from error
    usable = [edge for edge in net.getEdges(withInternal=False) if edge.allows(PASSENGER) and not edge.isSpecial()]
    if not usable:
        raise EngineError(
            "The road network has no edge for passenger cars",
            found=str(path),
            remedy="Give a network with roads; was it made for pedestrians or rails alone?",
        )
    position = {edge.getID(): number for number, edge in enumerate(usable)}
    lanes = [[lane for lane in edge.getLanes() if lane.allows(PASSENGER)] for edge in usable]
    return RoadNetwork(
        path=path,
        hash=file_hash(path),
        edges=tuple(
            Edge(
                name=edge.getID(),
                shape=tuple((float(x), float(y)) for x, y, *_ in edge.getShape()),
                length_m=float(edge.getLength()),
                lanes=len(own),
                speed_limit_mps=max(float(lane.getSpeed()) for lane in own),
            )
            for edge, own in zip(usable, lanes, strict=True)
        ),
        lanes=tuple(tuple(lane.getID() for lane in own) for own in lanes),
        lane_speeds_mps=tuple(tuple(float(lane.getSpeed()) for lane in own) for own in lanes),
        following=tuple(
            np.array(
                sorted(
                    position[after.getID()] for after in edge.getAllowedOutgoing(PASSENGER) if after.getID() in position
                ),
                dtype=np.int64,
            )
            for edge in usable
        ),
        links=tuple(tuple(_links(edge, position)) for edge in usable),
        is_source=tuple(bool(edge.is_fringe(edge.getIncoming())) for edge in usable),
        is_sink=tuple(bool(edge.is_fringe(edge.getOutgoing())) for edge in usable),
        _position=position,
        _trees={},
    )


def _links(edge: Any, position: Mapping[str, int]) -> Iterator[LaneLink]:
    for after, connections in edge.getOutgoing().items():
        for connection in connections:
            own, other = connection.getFromLane(), connection.getToLane()
            if after.getID() in position and own.allows(PASSENGER) and other.allows(PASSENGER):
                yield own.getID(), position[after.getID()], other.getID()


def _fastest(first: int, edges: tuple[Edge, ...], following: tuple[IntArray, ...]) -> tuple[FloatArray, IntArray]:
    """Dijkstra's times and predecessors from one edge."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    time_E = np.array([edge.length_m / edge.speed_limit_mps for edge in edges])
    after = np.concatenate(following)
    starts = np.concatenate([[0], np.cumsum([len(near) for near in following])])
    graph = csr_array((time_E[after], after, starts), shape=(len(edges), len(edges)))
    times_E, before_E = dijkstra(graph, indices=first, return_predecessors=True)
    return times_E + time_E[first], before_E.astype(np.int64)
