"""Reading a SUMO configuration: what it names, where that lies, and what of it an engine keeps."""

from __future__ import annotations

import gzip
import hashlib
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from features.registry import nearest_names
from sim_env.traffic.engine import EngineError

_SYNONYMS = {
    **dict.fromkeys(("n", "net"), "net-file"),
    **dict.fromkeys(("r", "routes"), "route-files"),
    **dict.fromkeys(("a", "additional"), "additional-files"),
    **dict.fromkeys(("b",), "begin"),
    **dict.fromkeys(("e",), "end"),
    **dict.fromkeys(("w", "weights"), "weight-files"),
    **dict.fromkeys(("m", "data-files"), "edgedata-files"),
}
_FILE_LISTS = ("net-file", "route-files", "additional-files")
# Options whose values are files that SUMO reads, relative to the configuration.
_READ_FILES = {
    "weight-files",
    "edgedata-files",
    "load-state",
    "phemlight-path",
    "device.fcd-replay.files",
    "device.ssm.filter-edges.input-file",
    "pedestrian.jupedsim.wkt",
    "astar.all-distances",
    "astar.landmark-distances",
}
# What the engine itself decides, what is for a window, and what would write beside the configuration.
_NOT_KEPT = {
    *("begin", "end", "step-length", "seed", "random", "remote-port", "num-clients", "start", "quit-on-end"),
    *(
        "log",
        "l",
        "log-file",
        "message-log",
        "error-log",
        "verbose",
        "v",
        "no-warnings",
        "no-step-log",
        "print-options",
    ),
    *("step-log.period", "duration-log.statistics", "duration-log.disable", "duration-log", "gui-settings-file", "g"),
    *("xml-validation", "configuration-file", "device.ssm.file", "device.toc.file", "device.rerouting.output"),
    *("ndump", "netstate", "netstate-dump", "summary", "tripinfo", "personinfo", "vehroutes", "personroutes"),
    *("device.taxi.dispatch-algorithm.output", "device.taxi.idle-algorithm.output", "person-fcd", "delay", "game"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SumoConfiguration:
    """What a `.sumocfg` says, with whole paths.

    Attributes:
        path: The file itself.
        net_file: The road network.
        route_files: The demand that the configuration brings along.
        additional_files: Signals, stops, detectors, vehicle types and more.
        begin_s: First moment of the run [s].
        end_s: Its last, where the configuration names one [s].
        step_length_s: The simulation's own step [s].
        options: Every other option that changes what happens on the roads; none that writes a file.
    """

    path: Path
    net_file: Path
    route_files: tuple[Path, ...] = ()
    additional_files: tuple[Path, ...] = ()
    begin_s: float = 0.0
    end_s: float | None = None
    step_length_s: float = 1.0
    options: Mapping[str, str] = field(default_factory=dict)


def read_configuration(path: Path) -> SumoConfiguration:
    """Read a `.sumocfg`, or take a `.net.xml` as a configuration without demand.

    Raises:
        EngineError: The file, or one that it names, is missing; or it is broken, or names no network.
    """
    path = path.resolve()
    root = _root(path)
    if root.tag == "net":
        return SumoConfiguration(path=path, net_file=path)
    named = _named_values(root)
    if not named.get("net-file"):
        near = nearest_names("net-file", list(named))
        raise EngineError(
            "The SUMO configuration names no network",
            found=f"{path}, options {', '.join(near or list(named)) or 'none'}",
            remedy='Add <input><net-file value="town.net.xml"/></input>.',
        )
    files = {name: _existing(path, name, named.pop(name, "")) for name in _FILE_LISTS}
    kept = {name: value for name, value in named.items() if not _dropped(name)}
    for name in _READ_FILES & set(kept):
        kept[name] = ",".join(str(file) for file in _existing(path, name, kept[name]))
    return SumoConfiguration(
        path=path,
        net_file=files["net-file"][0],
        route_files=files["route-files"],
        additional_files=files["additional-files"],
        begin_s=_seconds(path, "begin", named.get("begin", "0")),
        end_s=_end(path, named.get("end", "-1")),
        step_length_s=_step_length(path, named.get("step-length", "1")),
        options=kept,
    )


def open_xml(path: Path) -> IO[bytes]:
    """Open a file that may be compressed with gzip, as SUMO may read it."""
    with path.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if compressed else path.open("rb")


def file_hash(path: Path) -> str:
    """Hash of a file's content (16 hexadecimal digits)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _root(path: Path) -> ElementTree.Element:
    """The root of the configuration; of a network, which may be large, the opening alone."""
    try:
        with open_xml(path) as stream:
            parsing = ElementTree.iterparse(stream, events=("start",))
            root: ElementTree.Element = next(parsing)[1]
            if root.tag != "net":
                # The root is complete when its events are used up.
                deque(parsing, maxlen=0)
            return root
    except (OSError, EOFError) as error:
        raise EngineError(
            "The SUMO configuration cannot be read",
            found=f"{path}: {getattr(error, 'strerror', None) or error}",
            remedy="Give the path of a .sumocfg or .net.xml that exists.",
        ) from error
    except ElementTree.ParseError as error:
        raise EngineError(
            "The SUMO configuration is not well-formed XML",
            found=f"{path}: {error}",
            remedy="Mend it at that line, or make it anew with `sumo --save-configuration`.",
        ) from error


def _named_values(root: ElementTree.Element) -> dict[str, str]:
    """Option to value; SUMO allows `value=`, `v=` and plain text."""
    values = {}
    for element in root.iter():
        value = element.get("value", element.get("v", (element.text or "").strip()))
        if element is not root and len(element) == 0 and value:
            values[_SYNONYMS.get(element.tag, element.tag)] = value
    return values


def _dropped(name: str) -> bool:
    written = name.endswith(("-output", "-output.")) or ".output" in name or "-output." in name
    return name in _NOT_KEPT or written or name.startswith(("save-", "output", "log.", "gui", "edgedata-output"))


def _existing(configuration: Path, option: str, value: str) -> tuple[Path, ...]:
    """The files of an option, relative to the configuration's folder."""
    names = [name.strip() for name in value.replace(";", ",").split(",") if name.strip()]
    files = tuple((configuration.parent / name).resolve() for name in names)
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise EngineError(
            f"The SUMO configuration {configuration.name} names files that do not exist",
            found=f"{option}: {', '.join(missing)}",
            remedy="Put them there, or mend the paths; they are relative to the configuration's folder.",
        )
    return files


def read_time(value: str) -> float:
    """Seconds of a time that is written as seconds, or as [days:]hours:minutes:seconds.

    Raises:
        ValueError: It is neither.
    """
    *larger, last = [float(part) for part in value.split(":")]
    scale = (60.0, 3600.0, 86400.0)[: len(larger)]
    return last + sum(part * unit for part, unit in zip(reversed(larger), scale, strict=True))


def _seconds(path: Path, option: str, value: str) -> float:
    try:
        return read_time(value)
    except ValueError as error:
        raise EngineError(
            f"A time in the SUMO configuration {path.name} cannot be read",
            found=f"{option}: {value!r}",
            remedy="Write seconds, such as 3600, or hours:minutes:seconds, such as 01:00:00.",
        ) from error


def _end(path: Path, value: str) -> float | None:
    end_s = _seconds(path, "end", value)
    return end_s if end_s >= 0 else None


def _step_length(path: Path, value: str) -> float:
    step_s = _seconds(path, "step-length", value)
    if not 0.001 <= step_s <= 60:
        raise EngineError(
            f"The step length in the SUMO configuration {path.name} cannot be",
            found=f"{step_s} s",
            remedy="Give between 0.001 s and 60 s; 1 s is usual.",
        )
    return step_s
