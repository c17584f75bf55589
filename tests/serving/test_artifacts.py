"""Artifacts from a real MLflow registry, and those that are refused."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from mlflow import MlflowClient
from onnx import TensorProto

from features.adaptive_intervals import INTERVALS_FILE
from features.card import CARD_FILE, GRAPH_FILE, load_card
from features.errors import ArtifactError
from serving.artifacts import Artifact, fetch_champion, open_artifact
from serving.runtimes.in_process import InProcessRuntime


@pytest.fixture(scope="module")
def registry(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry whose champion of traffic is version 2, and that has a model of water without an alias."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in ("towncast-traffic", "towncast-water"):
        client.create_registered_model(name)
    for _ in range(2):
        version = client.create_model_version("towncast-traffic", source=artifact.folder.as_uri())
    client.set_registered_model_alias("towncast-traffic", "champion", version.version)
    return uri


def test_the_champion_is_fetched_once_with_its_card(registry: str, tmp_path: Path) -> None:
    first = fetch_champion("traffic", tracking_uri=registry, cache=tmp_path)
    assert first.version == "2"
    assert first.model_version == "traffic-lstm-v2"
    assert first.graph.is_file()
    assert first.folder.is_relative_to(tmp_path)
    made = first.graph.stat().st_ino
    again = fetch_champion("traffic", tracking_uri=registry, cache=tmp_path)
    assert again == first
    assert again.graph.stat().st_ino == made
    assert not list(tmp_path.rglob(".fetching-*"))


def test_each_target_has_a_model_of_its_own(make_artifact: Callable[..., Artifact], tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    made = {target: make_artifact("pollution", target, family="xgb", sites=[]) for target in ("pm2_5", "pm10")}
    # The alias of PM10 points at a model of PM2.5: somebody registered it under the wrong name.
    for name, source in (("towncast-pollution", "pm2_5"), ("towncast-pollution-pm10", "pm2_5")):
        client.create_registered_model(name)
        version = client.create_model_version(name, source=made[source].folder.as_uri())
        client.set_registered_model_alias(name, "champion", version.version)
    found = fetch_champion("pollution", "pm2_5", tracking_uri=uri, cache=tmp_path / "cache")
    assert found == fetch_champion("pollution", tracking_uri=uri, cache=tmp_path / "cache")
    assert found.name == "towncast-pollution"
    with pytest.raises(ArtifactError, match=r"forecasts something else.*pm2_5 of pollution"):
        fetch_champion("pollution", "pm10", tracking_uri=uri, cache=tmp_path / "cache")
    version = client.create_model_version("towncast-pollution-pm10", source=made["pm10"].folder.as_uri())
    client.set_registered_model_alias("towncast-pollution-pm10", "champion", version.version)
    right = fetch_champion("pollution", "pm10", tracking_uri=uri, cache=tmp_path / "cache")
    assert (right.name, right.model_version) == ("towncast-pollution-pm10", "pollution-xgb-pm10-v2")


@pytest.mark.parametrize("domain", ["water", "demand"])
def test_without_a_champion_the_remedy_is_to_train(registry: str, tmp_path: Path, domain: str) -> None:
    with pytest.raises(ArtifactError, match=f"no champion of towncast-{domain}.*towncast train {domain}"):
        fetch_champion(domain, tracking_uri=registry, cache=tmp_path)


def test_a_registry_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no file"):
        fetch_champion("traffic", tracking_uri=f"sqlite:///{tmp_path}/none.db", cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parity": None}, "cannot be read"),
        ({"parity": {"windows": 8, "largest_relative": 0.1, "tolerance": 1e-5, "batch_hash": ""}}, "does not hold"),
        ({"parity": {"windows": 8, "largest_relative": float("nan"), "tolerance": 1, "batch_hash": ""}}, "not hold"),
        ({"parity": {"windows": 0, "largest_relative": 0.0, "tolerance": 1e-5, "batch_hash": ""}}, "does not hold"),
    ],
)
def test_an_artifact_without_its_parity_certificate_is_refused(
    artifact: Artifact, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "copy"))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **change}))
    with pytest.raises(ArtifactError, match=message):
        open_artifact(folder, version="1")


def test_an_artifact_without_a_graph_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    shutil.copy(artifact.folder / "card.json", tmp_path)
    with pytest.raises(ArtifactError, match="no graph"):
        open_artifact(tmp_path, version="1")


@pytest.fixture
def copied(adaptive: Artifact, tmp_path: Path) -> Path:
    """An artifact with intervals, to be tampered with."""
    return Path(shutil.copytree(adaptive.folder, tmp_path / "copied"))


def write_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, **changes}))


def test_the_card_names_the_hash_of_each_file(copied: Path) -> None:
    card = open_artifact(copied, version="1").card
    assert card.files == {
        name: hashlib.sha256((copied / name).read_bytes()).hexdigest() for name in (GRAPH_FILE, INTERVALS_FILE)
    }


@pytest.mark.parametrize("name", [GRAPH_FILE, INTERVALS_FILE])
def test_a_file_that_changed_by_one_bit_is_refused(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"not the one that its card was written for.*{name}.*SHA-256"):
        open_artifact(copied, version="1")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no hash"),
        ({GRAPH_FILE: ""}, "no hash"),
        ({GRAPH_FILE: None}, "no hash"),
        ({GRAPH_FILE: 7}, "no hash"),
        ({"../../secret": "0"}, "no such file"),
        ([], "no hash"),
        (7, "cannot be read"),
    ],
)
def test_a_card_without_the_hashes_is_refused(copied: Path, files: object, message: str) -> None:
    write_card(copied, files=files)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_artifact(copied, version="1")
    assert "towncast train" in caught.value.remedy


def test_intervals_that_were_taken_away_or_slipped_in_are_refused(artifact: Artifact, copied: Path) -> None:
    intervals = (copied / INTERVALS_FILE).read_bytes()
    (copied / INTERVALS_FILE).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        open_artifact(copied, version="1")
    shutil.copy2(artifact.folder / CARD_FILE, copied)
    open_artifact(copied, version="1")
    (copied / INTERVALS_FILE).write_bytes(intervals)
    with pytest.raises(ArtifactError, match="no hash"):
        open_artifact(copied, version="1")


@pytest.mark.parametrize("name", [GRAPH_FILE, INTERVALS_FILE, CARD_FILE])
def test_links_are_refused_and_strange_files_are_not_read(copied: Path, tmp_path: Path, name: str) -> None:
    (copied / "extra.bin").write_bytes(b"\x00")
    (copied / "loop").symlink_to(copied)
    open_artifact(copied, version="1")
    outside = tmp_path / "outside"
    shutil.move(copied / name, outside)
    (copied / name).symlink_to(outside)
    with pytest.raises(ArtifactError, match="plain file"):
        open_artifact(copied, version="1")


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_in_place_of_a_file_is_never_unpickled(copied: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    harm = pickle.dumps(Malicious(made))
    pickle.loads(harm)
    assert made.exists()  # it would
    made.unlink()
    (copied / GRAPH_FILE).write_bytes(harm)
    load_card(copied).save(copied)  # whoever swaps the graph may know how to write its hash
    with pytest.raises(ArtifactError, match="graph cannot be loaded"):
        InProcessRuntime(open_artifact(copied, version="1")).load()
    (copied / INTERVALS_FILE).write_bytes(harm)
    load_card(copied).save(copied)
    with pytest.raises(ArtifactError, match="intervals cannot be read"):
        open_artifact(copied, version="1")
    np.savez(copied / INTERVALS_FILE, head=np.array([Malicious(made)], dtype=object))
    load_card(copied).save(copied)
    with pytest.raises(ArtifactError, match="intervals cannot be read"):
        open_artifact(copied, version="1")
    (copied / CARD_FILE).write_bytes(harm)
    with pytest.raises(ArtifactError, match="card cannot be read"):
        open_artifact(copied, version="1")
    assert not made.exists()


def test_a_graph_that_reads_files_elsewhere_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "deep" / "copied"))
    (tmp_path / "secret").write_bytes(b"\x00" * 20)
    model = onnx.load(folder / GRAPH_FILE)
    (offsets,) = [tensor for tensor in model.graph.initializer if tensor.name == "offsets"]
    offsets.ClearField("raw_data")
    offsets.data_location = TensorProto.EXTERNAL
    offsets.external_data.add(key="location", value="../../secret")
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
    load_card(folder).save(folder)
    with pytest.raises(ArtifactError, match="graph cannot be loaded"):
        InProcessRuntime(open_artifact(folder, version="1")).load()


def test_a_graph_that_changes_after_it_was_opened_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    opened = open_artifact(Path(shutil.copytree(artifact.folder, tmp_path / "copied")), version="1")
    with opened.graph.open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ArtifactError, match="not the one"):
        InProcessRuntime(opened).load()


@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b" " * (16 * 1024 * 1024 + 1), b"\xff\xfe{}", b"\xed\xa0\x80"],
    ids=["deep list", "deep object", "long number", "too large", "UTF-16", "surrogate"],
)
def test_a_card_that_would_break_a_reader_is_refused(copied: Path, content: bytes) -> None:
    (copied / CARD_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="card cannot be read"):
        open_artifact(copied, version="1")


@pytest.mark.parametrize("kind", ["model", "domain", "target"])
@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/b", "", ".", "..", "a b", "a\n", "a\x00", "a%2fb", "ä", "x" * 300, None, 7, ["a"]],
    ids=repr,
)
def test_names_that_are_paths_are_refused(copied: Path, kind: str, name: object) -> None:
    write_card(copied, **{kind: name})
    with pytest.raises(ArtifactError, match=f"The {kind} of the artifact is not a name"):
        open_artifact(copied, version="1")


def test_versions_that_are_paths_are_refused(copied: Path) -> None:
    with pytest.raises(ArtifactError, match="The version of the artifact is not a name"):
        open_artifact(copied, version="../1")
