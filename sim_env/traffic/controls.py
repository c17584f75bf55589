"""Control points in a file: the JSON that names where vehicles are injected, and how many."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from features.files import whole_file
from features.registry import nearest_names
from sim_env.traffic.engine import Control, Edge, EngineError

_EXAMPLE = '{"controls": [{"control_id": "ramp_1", "edge_id": "E1", "baseline_veh_per_hour": 600.0}]}'


class _ControlRow(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    # A vehicle is called `<control_id>.<number>`; SUMO refuses these characters in it.
    control_id: Annotated[str, Field(min_length=1, max_length=100, pattern=r"""^[^\s|\\'";,<>&]+$""")]
    edge_id: Annotated[str, Field(min_length=1)]
    baseline_veh_per_hour: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
    destinations: list[Annotated[str, Field(min_length=1)]] = []


class _ControlsFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    controls: Annotated[list[_ControlRow], Field(min_length=1)]


class ControlsError(EngineError):
    """Control points cannot be read, or do not fit the network."""


def read_controls(path: Path) -> tuple[Control, ...]:
    """Read control points.

    Args:
        path: JSON: `{"controls": [{"control_id", "edge_id", "baseline_veh_per_hour", "destinations"}]}`, the last
            one optional.

    Raises:
        ControlsError: The file is missing, no JSON, or says what cannot be; the message says where.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ControlsError(
            "The controls cannot be read",
            found=f"{path}: {error}",
            remedy="Give the path of a controls JSON; `towncast controls make NET` proposes one.",
        ) from error
    try:
        rows = _ControlsFile.model_validate(json.loads(text)).controls
    except json.JSONDecodeError as error:
        raise ControlsError(
            "The controls are no JSON", found=f"{path}: {error}", remedy=f"Write them like this: {_EXAMPLE}"
        ) from error
    except ValidationError as error:
        raise _refusal(path, error) from error
    controls = tuple(
        Control(
            control_id=row.control_id,
            edge_id=row.edge_id,
            baseline_veh_per_hour=row.baseline_veh_per_hour,
            destinations=tuple(row.destinations),
        )
        for row in rows
    )
    check_unique(controls)
    return controls


def write_controls(path: Path, controls: Sequence[Control]) -> None:
    """Write control points as `read_controls` reads them.

    Raises:
        ControlsError: They are none, or two have one name.
        StorageError: The file cannot be written.
    """
    check_unique(controls)
    rows = [
        {
            "control_id": control.control_id,
            "edge_id": control.edge_id,
            "baseline_veh_per_hour": control.baseline_veh_per_hour,
            **({"destinations": list(control.destinations)} if control.destinations else {}),
        }
        for control in controls
    ]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({"controls": rows}, indent=2) + "\n", encoding="utf-8")


def check_unique(controls: Sequence[Control]) -> None:
    """Refuse an empty list, and two controls of one name.

    Raises:
        ControlsError: That is what they are.
    """
    if not controls:
        raise ControlsError("There are no controls", found="an empty list", remedy=f"Give one at least: {_EXAMPLE}")
    names = [control.control_id for control in controls]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ControlsError(
            "A control_id is given twice", found=", ".join(twice), remedy="Give every control a name of its own."
        )


def check_controls(
    controls: Sequence[Control], edges: Sequence[Edge], *, connected: Callable[[str, str], bool] | None = None
) -> None:
    """Refuse controls that do not fit a network.

    Args:
        controls: The control points.
        edges: The roads of the network.
        connected: Whether a car can drive from one edge to another; without it, ways are not checked.

    Raises:
        ControlsError: They are none, a control_id or baseline cannot be, an edge is not in the network, or no way leads
            to a destination.
    """
    check_unique(controls)
    known = {edge.name: None for edge in edges}
    for control in controls:
        _check_values(control)
        for field, name in [("edge_id", control.edge_id), *(("destination", name) for name in control.destinations)]:
            _check_edge(control, field, name, known)
        for name in control.destinations:
            if connected is not None and not connected(control.edge_id, name):
                raise ControlsError(
                    f"A route of control {control.control_id} does not connect: no way for passenger cars",
                    found=f"from {control.edge_id!r} to {name!r}",
                    remedy="Choose a destination that can be reached, or leave the destinations out.",
                )


def _check_values(control: Control) -> None:
    """Controls that were not read from a file are held to the same rules."""
    try:
        _ControlRow(
            control_id=control.control_id,
            edge_id=control.edge_id,
            baseline_veh_per_hour=float(control.baseline_veh_per_hour),
            destinations=list(control.destinations),
        )
    except ValidationError as error:
        raise _refusal(f"control {control.control_id!r}", error) from error


def _check_edge(control: Control, field: str, name: str, known: Mapping[str, None]) -> None:
    if name in known:
        return
    near = nearest_names(name, list(known))
    raise ControlsError(
        f"The {field} of control {control.control_id} is not in the network",
        found=repr(name),
        remedy=f"Did you mean: {', '.join(near)}?"
        if near
        else f"Its roads for passenger cars are {', '.join(list(known)[:5])} and so on.",
    )


def _refusal(where: Path | str, error: ValidationError) -> ControlsError:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    value = repr(first["input"])
    return ControlsError(
        f"The controls say what cannot be: {place}: {first['msg']}",
        found=f"{where}: {value if len(value) <= 80 else value[:77] + '...'}",
        remedy=f"Write them like this: {_EXAMPLE}",
    )
