"""The card comes back as it was written, and a damaged one is refused."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from features.adaptive_intervals import INTERVALS_FILE, AdaptiveIntervals
from features.card import (
    CARD_FILE,
    GRAPH_FILE,
    HALF_GRAPH_FILE,
    Card,
    HalfPrecision,
    ParityCertificate,
    SpeedRelation,
    check_files,
    load_card,
)
from features.errors import ArtifactError, StorageError
from features.vocabulary import Site
from training.registry import _pack

CARD = Card(
    model="traffic-lstm",
    domain="traffic",
    family="lstm",
    target="volume",
    unit="veh/h",
    step_s=3600,
    history_steps=1512,
    horizon_steps=24,
    history_channels=("volume", "hour_of_day"),
    future_channels=("hour_of_day",),
    static_channels=("site_code", "lanes"),
    levels=(0.05, 0.5, 0.95),
    sites=(
        Site(name="Straße 1", latitude=48.2, longitude=16.4, timezone="Europe/Vienna", neighbours=("B",)),
        Site(name="B", latitude=1.0, longitude=2.0, attributes={"lanes": 2.0}),
    ),
    input_range={"volume": (0.0, 7217.0)},
    parity=ParityCertificate(windows=64, largest_relative=3e-7, tolerance=1e-4, batch_hash="0123456789abcdef"),
    metrics={"24h": {"mae": 201.5, "skill": 0.1}},
    speed={"B": SpeedRelation(free_flow_km_per_h=50.0, capacity_veh_per_h=1800.0, measured=True)},
    trained={"recipe": "quick"},
    half_precision=HalfPrecision(
        nodes=6, parity=ParityCertificate(windows=64, largest_relative=2e-4, tolerance=5e-3, batch_hash="0")
    ),
)


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    path = CARD.save(tmp_path / "new")
    assert path == tmp_path / "new" / CARD_FILE
    assert load_card(tmp_path / "new") == CARD


def test_an_unknown_place_and_an_undefined_figure_come_back(tmp_path: Path) -> None:
    card = dataclasses.replace(CARD, sites=(Site(name="A"),), metrics={"2h": {"mape": math.nan}})
    card.save(tmp_path)
    loaded = load_card(tmp_path)
    assert math.isnan(loaded.sites[0].latitude)
    assert math.isnan(loaded.metrics["2h"]["mape"])


def test_writing_again_replaces(tmp_path: Path) -> None:
    CARD.save(tmp_path)
    dataclasses.replace(CARD, model="traffic-seasonal").save(tmp_path)
    assert load_card(tmp_path).model == "traffic-seasonal"
    assert [path.name for path in tmp_path.iterdir()] == [CARD_FILE]


def test_a_card_says_whether_a_conversion_was_tried(tmp_path: Path) -> None:
    for half in (None, HalfPrecision(nodes=0)):
        dataclasses.replace(CARD, half_precision=half).save(tmp_path)
        assert load_card(tmp_path).half_precision == half


def test_saving_a_card_seals_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / GRAPH_FILE).write_bytes(b"graph")
    (tmp_path / "other.txt").write_text("not of the artifact")
    CARD.save(tmp_path)
    sealed = load_card(tmp_path)
    assert sealed == CARD
    assert sealed.files == {GRAPH_FILE: hashlib.sha256(b"graph").hexdigest()}
    check_files(tmp_path, sealed)
    (tmp_path / GRAPH_FILE).write_bytes(b"another")
    with pytest.raises(ArtifactError, match="not the one that its card was written for"):
        check_files(tmp_path, sealed)
    sealed.save(tmp_path)
    check_files(tmp_path, load_card(tmp_path))


def test_a_card_of_before_there_were_hashes_is_read_and_its_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / GRAPH_FILE).write_bytes(b"graph")
    content = json.loads(CARD.save(tmp_path).read_text(encoding="utf-8"))
    del content["files"], content["half_precision"]
    (tmp_path / CARD_FILE).write_text(json.dumps(content), encoding="utf-8")
    old = load_card(tmp_path)
    assert old == dataclasses.replace(CARD, half_precision=None)
    with pytest.raises(ArtifactError, match=r"no hash of it.*towncast train traffic"):
        check_files(tmp_path, old)


def test_what_mlflow_packs_is_sealed_as_it_was_packed(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["history"], ["quantiles"])],
        "same",
        [helper.make_tensor_value_info("history", TensorProto.FLOAT, ["B", 1])],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", 1])],
    )
    folder, packed = tmp_path / "artifact", tmp_path / "packed"
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / GRAPH_FILE)
    AdaptiveIntervals(("A",), (24,), CARD.levels).save(folder)
    (folder / HALF_GRAPH_FILE).write_bytes((folder / GRAPH_FILE).read_bytes())
    _pack(folder, CARD, packed)
    card = load_card(packed)
    assert set(card.files) == {GRAPH_FILE, HALF_GRAPH_FILE, INTERVALS_FILE}
    check_files(packed, card)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '"text"', "\x00"],
)
def test_what_is_no_card_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / CARD_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match="The model card cannot be read") as caught:
        load_card(tmp_path)
    assert str(tmp_path / CARD_FILE) in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 7, [7], {"a": 7}])
@pytest.mark.parametrize("name", ["sites", "input_range", "parity", "speed"])
def test_a_card_with_a_part_of_another_kind_is_refused(tmp_path: Path, name: str, wrong: object) -> None:
    content = json.loads(CARD.save(tmp_path).read_text(encoding="utf-8"))
    (tmp_path / CARD_FILE).write_text(json.dumps({**content, name: wrong}), encoding="utf-8")
    with pytest.raises(ArtifactError):
        load_card(tmp_path)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_card_of_another_layout_is_refused(tmp_path: Path, change: str) -> None:
    content = json.loads(CARD.save(tmp_path).read_text(encoding="utf-8"))
    if change == "missing":
        del content["parity"]
    else:
        content["colour"] = "green"
    (tmp_path / CARD_FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError):
        load_card(tmp_path)


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="towncast train"):
        load_card(tmp_path)


def test_a_card_below_a_file_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        CARD.save(tmp_path / "taken")
