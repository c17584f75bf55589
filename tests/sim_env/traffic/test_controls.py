"""The controls file: read and written as the twin's design document has it, refused where it cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim_env.traffic.controls import ControlsError, check_controls, read_controls, write_controls
from sim_env.traffic.engine import Control, Edge

_ROW: dict[str, Any] = {"control_id": "ramp_1", "edge_id": "E1", "baseline_veh_per_hour": 600.0}


def _edge(name: str) -> Edge:
    return Edge(name=name, shape=((0.0, 0.0), (9.0, 0.0)), length_m=9.0, lanes=1, speed_limit_mps=13.9)


def _write(folder: Path, content: object) -> Path:
    path = folder / "controls.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_documents_example_is_read(tmp_path: Path) -> None:
    (control,) = read_controls(_write(tmp_path, {"controls": [_ROW]}))
    assert control == Control(control_id="ramp_1", edge_id="E1", baseline_veh_per_hour=600.0)
    (whole,) = read_controls(_write(tmp_path, {"controls": [{**_ROW, "baseline_veh_per_hour": 600}]}))
    assert whole == control


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    controls = (
        Control(control_id="ramp_1", edge_id="E 1[0]", baseline_veh_per_hour=600.5, destinations=("X1", "X2")),
        Control(control_id="ramp_2", edge_id="Straße", baseline_veh_per_hour=0.0),
    )
    write_controls(tmp_path / "new" / "controls.json", controls)
    assert read_controls(tmp_path / "new" / "controls.json") == controls


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{not json", "no JSON"),
        ("", "no JSON"),
        ([], "the whole"),
        ({}, "controls: Field required"),
        ({"controls": []}, r"controls: .*at least 1 item"),
        (
            {"controls": [{**_ROW, "baseline_veh_per_hour": -1.0}]},
            r"baseline_veh_per_hour: .*greater than or equal to 0",
        ),
        ('{"controls": [{"control_id": "a", "edge_id": "E1", "baseline_veh_per_hour": NaN}]}', r"finite|greater"),
        ({"controls": [{**_ROW, "baseline_veh_per_hour": "600"}]}, r"baseline_veh_per_hour: .*valid number"),
        ({"controls": [{**_ROW, "baseline_veh_per_hour": 1e9}]}, "less than or equal to"),
        ({"controls": [{**_ROW, "control_id": "ramp one"}]}, r"control_id: .*'ramp one'"),
        ({"controls": [{**_ROW, "control_id": ""}]}, r"control_id: "),
        ({"controls": [{**_ROW, "edge": "E1"}]}, r"controls\.0\.edge: Extra"),
        ({"controls": [{"control_id": "ramp_1", "baseline_veh_per_hour": 1.0}]}, "edge_id: Field required"),
        ({"controls": [{**_ROW, "destinations": "X1"}]}, "destinations: .*valid list"),
        ({"controls": [_ROW, {**_ROW, "edge_id": "E2"}]}, r"given twice.*ramp_1"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, content: object, told: str) -> None:
    with pytest.raises(ControlsError, match=told) as refused:
        read_controls(_write(tmp_path, content))
    assert refused.value.remedy.startswith(("Write", "Give"))


def test_a_missing_file_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ControlsError, match=r"nowhere\.json.*towncast controls make"):
        read_controls(tmp_path / "nowhere.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ControlsError, match="cannot be read"):
        read_controls(tmp_path / "binary.json")


def test_an_edge_that_is_not_in_the_network_is_told_with_near_ones() -> None:
    edges = [_edge(name) for name in ("main_north", "main_south", "harbour")]
    controls = [Control(control_id="a", edge_id="main_nort", baseline_veh_per_hour=1.0)]
    with pytest.raises(ControlsError, match=r"edge_id of control a.*'main_nort'.*Did you mean: main_north"):
        check_controls(controls, edges)
    with pytest.raises(ControlsError, match=r"destination of control a.*'habour'.*harbour"):
        check_controls(
            [Control(control_id="a", edge_id="harbour", baseline_veh_per_hour=1.0, destinations=("habour",))], edges
        )
    with pytest.raises(ControlsError, match="main_north, main_south"):
        check_controls([Control(control_id="a", edge_id="99", baseline_veh_per_hour=1.0)], edges)


def test_a_destination_that_no_way_leads_to_is_told() -> None:
    edges = [_edge("a"), _edge("b"), _edge("c")]
    control = Control(control_id="x", edge_id="a", baseline_veh_per_hour=1.0, destinations=("b", "c"))
    check_controls([control], edges)
    check_controls([control], edges, connected=lambda begin, end: True)
    with pytest.raises(ControlsError, match=r"route of control x does not connect.*from 'a' to 'c'"):
        check_controls([control], edges, connected=lambda begin, end: end == "b")


def test_controls_that_were_built_in_code_are_held_to_the_same_rules() -> None:
    edges = [_edge("a")]
    for wrong in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ControlsError, match="baseline_veh_per_hour"):
            check_controls([Control(control_id="x", edge_id="a", baseline_veh_per_hour=wrong)], edges)
    with pytest.raises(ControlsError, match="no controls"):
        check_controls([], edges)
