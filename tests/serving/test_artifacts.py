"""Artifacts from a real MLflow registry, and those that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from features.errors import ArtifactError
from serving.artifacts import Artifact, fetch_champion, open_artifact


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
