"""What an engine hands to SUMO: options, and files that write nothing beside the user's own.

A scenario's detectors and other outputs name files beside it. Copies of the additional files, in the engine's own
folder, send them to the null device: the detectors stay, since signals may depend on them.
"""

from __future__ import annotations

import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.errors import StorageError
from sim_env.traffic.engine import EngineError
from sim_env.traffic.sumo.configuration import open_xml
from sim_env.traffic.sumo.edge_data import EDGE_DATA_COLUMNS
from sim_env.traffic.sumo.plan import Plan

_OUTPUTS = {"calibrator": "output", "timedEvent": "dest"}
_READERS = {"rerouter", "calibrator", "poly", "poi", "vType", "variableSpeedSign", "parkingArea"}
_DEMAND = {"vehicle", "trip", "flow", "person", "personFlow", "container", "containerFlow"}


def prepare(plan: Plan, *, folder: Path) -> dict[str, str]:
    """Write the engine's files into `folder`, and return the options that start SUMO with them, but for the seed.

    Raises:
        EngineError: An additional file is broken.
        StorageError: The folder cannot be written.
    """
    configuration, choices = plan.configuration, plan.choices
    additional = [_silent(path, folder, own_demand=choices.own_demand) for path in configuration.additional_files]
    additional.append(_own_file(folder, plan))
    named = {
        **configuration.options,
        "net-file": str(configuration.net_file),
        "additional-files": ",".join(str(path) for path in additional),
        "begin": str(configuration.begin_s),
        "step-length": str(configuration.step_length_s),
        # Without these a quickly restored run would leave the saved one's way at once.
        "save-state.rng": "true",
        "save-state.precision": "17",
        "no-step-log": "true",
        "no-warnings": "true",
        "duration-log.disable": "true",
        "xml-validation": "never",
        "error-log": str(folder / "errors.txt"),
    }
    if choices.own_demand and configuration.route_files:
        named["route-files"] = ",".join(str(path) for path in configuration.route_files)
    if choices.time_to_teleport_s is not None:
        named["time-to-teleport"] = str(choices.time_to_teleport_s)
    if choices.mesoscopic:
        # Without junction control its speeds are wrong wherever there are signals. Two seconds to give way bring edge
        # speeds nearer to the microscopic model's (Bologna: correlations of 0.66 to 0.85 instead of 0.61 to 0.81).
        named |= {"mesosim": "true", "meso-junction-control": "true"}
        named.setdefault("meso-minor-penalty", "2")
    return named


def command_words(named: Mapping[str, str], more: Sequence[str]) -> list[str]:
    """Options as SUMO takes them; `more` overrides what has the same name."""
    overridden = {word.removeprefix("--").partition("=")[0] for word in more if word.startswith("--")}
    kept = {name: value for name, value in named.items() if name not in overridden}
    return [word for name, value in kept.items() for word in (f"--{name}", value)] + list(more)


def edge_data_file(folder: Path) -> Path:
    """Where SUMO writes the counts of every edge while it runs."""
    return folder / "edge_data.csv"


def _own_file(folder: Path, plan: Plan) -> Path:
    """An additional file with the controls' routes and the wish for edge data."""
    root = ElementTree.Element("additional")
    data = plan.choices.edge_data
    for name, edges in plan.routes.items():
        ElementTree.SubElement(root, "route", id=name, edges=" ".join(edges))
    if data is not None:
        ElementTree.SubElement(
            root,
            "edgeData",
            id="towncast",
            file=str(edge_data_file(folder)),
            period=str(data.period_s),
            excludeEmpty="false",
            writeAttributes=" ".join(EDGE_DATA_COLUMNS),
            edges=" ".join(edge.name for edge in plan.network.edges),
        )
    return _write(folder / "towncast.add.xml", root)


def _silent(path: Path, folder: Path, *, own_demand: bool) -> Path:
    """The file itself where it writes nothing, else a copy that writes to the null device."""
    try:
        with open_xml(path) as stream:
            root = ElementTree.parse(stream).getroot()
    except (ElementTree.ParseError, OSError, EOFError) as error:
        raise EngineError(
            "An additional file of the SUMO configuration is broken",
            found=f"{path}: {error}",
            remedy="Mend it, or take it out of the configuration's <additional-files>.",
        ) from error
    changed = False
    for parent in list(root.iter()):
        for element in list(parent):
            if element.tag in _DEMAND and not own_demand:
                parent.remove(element)
                changed = True
            else:
                changed |= _redirect(element, path, folder, own_demand=own_demand)
    return _write(_free_name(folder, path), root) if changed else path


def _redirect(element: ElementTree.Element, path: Path, folder: Path, *, own_demand: bool) -> bool:
    """Whether an element had to be changed for a copy in another folder."""
    if element.tag == "include" and element.get("href"):
        element.set("href", str(_silent(path.parent / element.get("href", ""), folder, own_demand=own_demand)))
        return True
    output = _OUTPUTS.get(element.tag, "file")
    changed = False
    if element.get(output) and element.tag not in _READERS - set(_OUTPUTS):
        element.set(output, os.devnull)
        changed = True
    for attribute in ("file", "source", "imgFile"):
        read = element.get(attribute, "")
        if read and read != os.devnull and (path.parent / read).exists():
            # The copy lies elsewhere; what it reads does not.
            element.set(attribute, str((path.parent / read).resolve()))
    return changed


def _free_name(folder: Path, path: Path) -> Path:
    """A name in the folder that no other additional file's copy has."""
    number = sum(1 for _ in folder.glob("copy_*"))
    return folder / f"copy_{number}_{path.name.removesuffix('.gz')}"


def _write(path: Path, root: ElementTree.Element) -> Path:
    try:
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StorageError(
            "The simulation's temporary files cannot be written",
            found=f"{path}: {error.strerror}",
            remedy="Free some space there, or name another folder with TMPDIR.",
        ) from error
    return path


def remove_folder(folder: Path) -> None:
    """Delete an engine's folder; one that is gone already is fine."""
    if folder.exists():
        shutil.rmtree(folder)
