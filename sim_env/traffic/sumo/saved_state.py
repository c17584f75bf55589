"""A run's state as one file.

SUMO's own snapshot is not complete: it forgets how long vehicles have waited and which have announced themselves at a
junction, so that a run that goes on from it leaves the saved run's way within a minute or two. What reproduces a run
exactly is its beginning and every call since. The file keeps both: the calls for an exact restore, SUMO's snapshot for
a quick one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.files import whole_file
from sim_env.traffic.engine import EngineError

# A call: its name, then its plain values.
Call = list[Any]
_VERSION = 1
_RUN, _NOW, _ANCHOR = "run.json", "now.xml", "anchor.xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What an engine knows beside SUMO's snapshot of a moment; plain values.

    Attributes:
        now_s: SUMO's clock [s].
        injection: The generator, remainders and numbers.
        limits: What is slowed and closed.
    """

    now_s: float
    injection: dict[str, Any]
    limits: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """A saved run.

    Attributes:
        seed: Of the run.
        begin_s: SUMO's clock at the run's beginning [s].
        now: The moment of saving.
        anchor: The moment from which the calls lead to it; None for the run's beginning.
        calls: All calls since.
    """

    seed: int
    begin_s: float
    now: Moment
    anchor: Moment | None
    calls: list[Call]


def write_state(
    path: Path, run: SavedRun, *, now_xml: Path, anchor_xml: Path | None, identity: Mapping[str, Any]
) -> None:
    """Write a run to a file, whole or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    content = {"version": _VERSION, "identity": identity, "run": asdict(run)}
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(_RUN, json.dumps(content))
        file.write(now_xml, _NOW)
        if anchor_xml is not None:
            file.write(anchor_xml, _ANCHOR)


def read_state(path: Path, *, identity: Mapping[str, Any]) -> SavedRun:
    """Read a run.

    Args:
        path: The saved state.
        identity: What the state must say about itself to belong to this engine.

    Raises:
        EngineError: The file is no state, or one of another network, of other controls or choices.
    """
    try:
        content = json.loads(_part(path, _RUN))
        found, row = content["identity"], content["run"]
        if content["version"] != _VERSION:
            raise ValueError(f"its layout is {content['version']}, this program's {_VERSION}")
        anchor = row["anchor"] and Moment(**row["anchor"])
        run = SavedRun(
            seed=int(row["seed"]),
            begin_s=float(row["begin_s"]),
            now=Moment(**row["now"]),
            anchor=anchor,
            calls=list(row["calls"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _no_state(path, error) from error
    for name, value in json.loads(json.dumps(identity)).items():
        if found.get(name) != value:
            raise EngineError(
                f"The saved state is of another run: its {name} differs",
                found=f"{path.name} has {_short(found.get(name))}, this engine {_short(value)}",
                remedy="Restore it in an engine with the configuration, controls and options that saved it.",
            )
    return run


def extract_snapshot(path: Path, target: Path, *, anchor: bool) -> None:
    """Put SUMO's snapshot of the moment of saving, or of the anchor, at `target`.

    Raises:
        EngineError: The file is no state.
    """
    target.write_bytes(_part(path, _ANCHOR if anchor else _NOW))


def _part(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as file:
            return file.read(name)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise _no_state(path, error) from error


def _no_state(path: Path, error: Exception) -> EngineError:
    return EngineError(
        "The file is not a saved state of a SUMO engine",
        found=f"{path}: {error}",
        remedy="Give a file that `save` wrote.",
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
