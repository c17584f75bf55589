"""What a configuration's own demand says: how many vehicles begin on which edge, and where they go."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim_env.traffic.engine import EngineError
from sim_env.traffic.sumo.configuration import SumoConfiguration, open_xml, read_configuration, read_time

# A demand that begins and ends within less is judged as if it took this long.
_SHORTEST_S = 600.0
# A flow that names no end runs on; a whole day is what can be said of it.
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnDemand:
    """The vehicles of a configuration.

    Attributes:
        veh_per_hour: Vehicles that begin on each edge, over the time that the whole demand takes [veh/h].
        destinations: Where those of each edge end, the most frequent first.
    """

    veh_per_hour: Mapping[str, float]
    destinations: Mapping[str, tuple[str, ...]]


def own_vehicles_per_hour(path: Path) -> float:
    """All vehicles of a `.sumocfg`'s own demand [veh/h]; 0 where it has none.

    Raises:
        EngineError: The configuration or a file of its demand is broken.
    """
    return sum(own_demand(read_configuration(path)).veh_per_hour.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trip:
    origin: str
    destination: str
    vehicles: float
    first_s: float
    last_s: float


def own_demand(configuration: SumoConfiguration) -> OwnDemand:
    """Count the demand in route files and additional files.

    Raises:
        EngineError: A file is broken.
    """
    trips = [trip for path in (*configuration.additional_files, *configuration.route_files) for trip in _trips(path)]
    begin_s = configuration.begin_s
    end_s = configuration.end_s if configuration.end_s is not None else max((t.last_s for t in trips), default=begin_s)
    hours = max(end_s - begin_s, _SHORTEST_S) / 3600.0
    vehicles: Counter[str] = Counter()
    ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for trip in trips:
        inside = _share(trip, begin_s, end_s) * trip.vehicles
        if inside > 0:
            vehicles[trip.origin] += inside  # type: ignore[assignment]
            ends[trip.origin][trip.destination] += inside  # type: ignore[assignment]
    return OwnDemand(
        veh_per_hour={edge: number / hours for edge, number in vehicles.items()},
        destinations={edge: tuple(name for name, _ in counts.most_common()) for edge, counts in ends.items()},
    )


def _share(trip: _Trip, begin_s: float, end_s: float) -> float:
    """The part of a flow that lies inside the run."""
    if trip.last_s <= trip.first_s:
        return float(begin_s <= trip.first_s <= end_s)
    return max(0.0, min(trip.last_s, end_s) - max(trip.first_s, begin_s)) / (trip.last_s - trip.first_s)


def _trips(path: Path) -> Iterator[_Trip]:
    routes: dict[str, list[str]] = {}
    try:
        with open_xml(path) as stream:
            for _, element in ElementTree.iterparse(stream):
                if element.tag == "route" and element.get("id"):
                    routes[element.get("id", "")] = element.get("edges", "").split()
                elif element.tag in ("vehicle", "trip", "flow"):
                    edges = _edges(element, routes)
                    if edges:
                        yield _trip(element, edges)
                    element.clear()
    except (ElementTree.ParseError, OSError, EOFError, ValueError) as error:
        raise EngineError(
            "A file of the SUMO configuration's demand is broken",
            found=f"{path}: {error}",
            remedy="Mend it, or take it out of the configuration.",
        ) from error


def _edges(element: ElementTree.Element, routes: dict[str, list[str]]) -> list[str]:
    own = element.find("route")
    if own is not None:
        return own.get("edges", "").split()
    if element.get("route") in routes:
        return routes[element.get("route", "")]
    origin, destination = element.get("from"), element.get("to")
    return [origin, destination] if origin and destination else []


def _trip(element: ElementTree.Element, edges: list[str]) -> _Trip:
    if element.tag != "flow":
        depart = element.get("depart", "0")
        # "now" and "triggered" are moments too.
        moment_s = read_time(depart) if re.match(r"[\d:.]+$", depart) else 0.0
        return _Trip(origin=edges[0], destination=edges[-1], vehicles=1.0, first_s=moment_s, last_s=moment_s)
    begin_s = read_time(element.get("begin", "0"))
    end_s = read_time(element.get("end", str(begin_s + _DAY_S)))
    return _Trip(
        origin=edges[0],
        destination=edges[-1],
        vehicles=_flow_vehicles(element, end_s - begin_s),
        first_s=begin_s,
        last_s=end_s,
    )


def _flow_vehicles(element: ElementTree.Element, duration_s: float) -> float:
    if "number" in element.attrib:
        return float(element.get("number", "0"))
    for name in ("vehsPerHour", "perHour"):
        if name in element.attrib:
            return float(element.get(name, "0")) * duration_s / 3600.0
    if "probability" in element.attrib:
        return float(element.get("probability", "0")) * duration_s
    period = element.get("period", "")
    if period.startswith("exp("):
        return float(period[4:-1]) * duration_s
    return duration_s / read_time(period) if period else 0.0
