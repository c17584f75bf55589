"""The built-in town: a small road network with signals, gates into town and counters, made when it is needed.

Sixteen junctions on a bent grid, an avenue in each direction through the middle, and eight gates around them through
which vehicles come and go. Places and flows are made up, but plausible: around the centre of Ahmedabad, as in the
design document's examples.
"""

from __future__ import annotations

import math
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from features.files import make_folder
from sim_env.traffic.engine import Control, Edge, EngineError

# What the document's example asks for: R001 lies here (degrees north, degrees east).
CENTRE = (23.0225, 72.5714)
METRES_PER_DEGREE = 111_320.0
_SPACING_M = 560.0
# Offsets that bend the grid [m], by column and by row.
_BEND_X = (0.0, 60.0, -40.0, 50.0)
_BEND_Y = (30.0, -50.0, 40.0, 0.0)
_AVENUE_ROW, _AVENUE_COLUMN = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Street:
    """A road in one direction.

    Attributes:
        name: `R001`, ...
        begins: Name of the junction at its beginning.
        ends: Name of the junction at its end.
        lanes: Number of lanes.
        speed_mps: Allowed speed [m/s].
    """

    name: str
    begins: str
    ends: str
    lanes: int
    speed_mps: float


def junctions() -> dict[str, tuple[float, float]]:
    """Place of each junction and gate by name, x eastward and y northward [m]."""
    places = {
        f"J{column}{row}": (column * _SPACING_M + _BEND_X[row], row * _SPACING_M + _BEND_Y[column])
        for column in range(4)
        for row in range(4)
    }
    for line in (1, 2):
        (west_x, west_y), (east_x, east_y) = places[f"J0{line}"], places[f"J3{line}"]
        (south_x, south_y), (north_x, north_y) = places[f"J{line}0"], places[f"J{line}3"]
        places[f"west{line}"] = (west_x - 900.0, west_y - 40.0)
        places[f"east{line}"] = (east_x + 900.0, east_y + 60.0)
        places[f"south{line}"] = (south_x + 50.0, south_y - 900.0)
        places[f"north{line}"] = (north_x - 70.0, north_y + 900.0)
    return places


def streets() -> tuple[Street, ...]:
    """All roads, those with a counter first."""
    pairs = [(f"J{column}{row}", f"J{column + 1}{row}") for row in range(4) for column in range(3)]
    pairs += [(f"J{column}{row}", f"J{column}{row + 1}") for column in range(4) for row in range(3)]
    for line in (1, 2):
        pairs += [(f"west{line}", f"J0{line}"), (f"J3{line}", f"east{line}")]
        pairs += [(f"south{line}", f"J{line}0"), (f"J{line}3", f"north{line}")]
    both = {pair for pair in pairs} | {(ends, begins) for begins, ends in pairs}
    # The first is the road of the document's example; then the avenues inwards and outwards, a gate, a side street.
    counted = [
        ("J11", "J21"),
        ("J21", "J11"),
        ("J20", "J21"),
        ("J21", "J22"),
        ("J01", "J11"),
        ("J22", "J23"),
        ("J21", "J31"),
        ("west1", "J01"),
        ("J12", "J22"),
        ("north2", "J23"),
    ]
    ordered = counted + sorted(both - set(counted))
    return tuple(_street(number, *pair) for number, pair in enumerate(ordered, start=1))


def town_edges() -> tuple[Edge, ...]:
    """All roads as straight lines, known without starting an engine."""
    places = junctions()
    return tuple(
        Edge(
            name=street.name,
            shape=(places[street.begins], places[street.ends]),
            length_m=math.dist(places[street.begins], places[street.ends]),
            lanes=street.lanes,
            speed_limit_mps=street.speed_mps,
        )
        for street in streets()
    )


COUNTERS: tuple[str, ...] = tuple(f"R{number:03d}" for number in range(1, 11))


def _street(number: int, begins: str, ends: str) -> Street:
    avenue = _on_avenue(begins) and _on_avenue(ends) and _aligned(begins, ends)
    # Only the avenue from west to east was ever widened.
    wide = avenue and all(
        end.endswith(str(_AVENUE_ROW)) and not end.startswith(("north", "south")) for end in (begins, ends)
    )
    return Street(
        name=f"R{number:03d}",
        begins=begins,
        ends=ends,
        lanes=2 if wide else 1,
        speed_mps=(50 if avenue else 40) / 3.6,
    )


def _on_avenue(junction: str) -> bool:
    if junction.startswith("J"):
        return int(junction[2]) == _AVENUE_ROW or int(junction[1]) == _AVENUE_COLUMN
    return junction in (f"west{_AVENUE_ROW}", f"east{_AVENUE_ROW}", f"south{_AVENUE_COLUMN}", f"north{_AVENUE_COLUMN}")


def _aligned(begins: str, ends: str) -> bool:
    """Whether a road runs along an avenue, not from one to the other."""
    if not (begins.startswith("J") and ends.startswith("J")):
        return True
    same_row = begins[2] == ends[2] == str(_AVENUE_ROW)
    return same_row or begins[1] == ends[1] == str(_AVENUE_COLUMN)


def town_controls() -> tuple[Control, ...]:
    """The gates as control points: avenues carry twice what side roads do."""
    by_pair = {(street.begins, street.ends): street for street in streets()}
    inward = {pair[0]: street for pair, street in by_pair.items() if not pair[0].startswith("J")}
    outward = {pair[1]: street for pair, street in by_pair.items() if not pair[1].startswith("J")}
    controls = []
    for number, (gate, street) in enumerate(sorted(inward.items()), start=1):
        destinations = tuple(other.name for end, other in sorted(outward.items()) if end != gate)
        baseline = 120.0 if street.speed_mps > 45 / 3.6 else 60.0
        controls.append(
            Control(
                control_id=f"ramp_{number}",
                edge_id=street.name,
                baseline_veh_per_hour=baseline,
                destinations=destinations,
            )
        )
    return tuple(controls)


def position(name: str) -> tuple[float, float]:
    """Degrees north and east of the middle of a road; R001 lies at `CENTRE`."""
    x, y = _middle(name)
    first_x, first_y = _middle(COUNTERS[0])
    latitude = CENTRE[0] + (y - first_y) / METRES_PER_DEGREE
    longitude = CENTRE[1] + (x - first_x) / (METRES_PER_DEGREE * math.cos(math.radians(CENTRE[0])))
    return round(latitude, 6), round(longitude, 6)


def _middle(name: str) -> tuple[float, float]:
    street = next(street for street in streets() if street.name == name)
    places = junctions()
    (begin_x, begin_y), (end_x, end_y) = places[street.begins], places[street.ends]
    return (begin_x + end_x) / 2, (begin_y + end_y) / 2


def build_town(folder: Path) -> Path:
    """Write the network and its configuration into a folder.

    Returns:
        The `.sumocfg`.

    Raises:
        EngineError: netconvert refused it.
        StorageError: The folder cannot be written.
    """
    make_folder(folder)
    nodes, edges = ElementTree.Element("nodes"), ElementTree.Element("edges")
    for name, (x, y) in junctions().items():
        kind = "traffic_light" if name.startswith("J") and _on_avenue(name) else "priority"
        ElementTree.SubElement(nodes, "node", id=name, x=f"{x:.2f}", y=f"{y:.2f}", type=kind)
    for street in streets():
        ElementTree.SubElement(
            edges,
            "edge",
            {"id": street.name, "from": street.begins, "to": street.ends},
            numLanes=str(street.lanes),
            speed=f"{street.speed_mps:.3f}",
            priority=str(street.lanes),
        )
    ElementTree.ElementTree(nodes).write(folder / "town.nod.xml")
    ElementTree.ElementTree(edges).write(folder / "town.edg.xml")
    _netconvert(folder)
    configuration = folder / "town.sumocfg"
    configuration.write_text('<configuration><input><net-file value="town.net.xml"/></input></configuration>\n')
    return configuration


def _netconvert(folder: Path) -> None:
    import sumo

    program = Path(sumo.SUMO_HOME) / "bin" / "netconvert"
    done = subprocess.run(
        [program, "-n", "town.nod.xml", "-e", "town.edg.xml", "-o", "town.net.xml", "--no-turnarounds.except-deadend"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EngineError(
            "netconvert refused the built-in town",
            found=done.stderr.strip().splitlines()[-1:],
            remedy="Install eclipse-sumo again, in the version that pyproject.toml names.",
        )
