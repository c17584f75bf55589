"""Runs, artifacts and the registry in a real MLflow store."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from features.card import CHAMPION, GRAPH_FILE, Card, ParityCertificate, load_card, registered_name
from features.domains import DOMAINS
from features.errors import ArtifactError, StorageError
from features.vocabulary import Site
from features.windows import make_windows, panel_from_blocks
from training.export import export_graph
from training.models.seasonal import SeasonalForecaster
from training.tracking import Tracking

TRAFFIC = DOMAINS["traffic"]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    # A folder with a space, as homes have.
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('a store') / 'deep' / 'mlflow.db'}")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """The seasonal profile as an artifact."""
    folder = tmp_path_factory.mktemp("artifact")
    forecaster = SeasonalForecaster(TRAFFIC)
    blocks = np.random.default_rng(0).uniform(0, 9, (2, TRAFFIC.history_steps, len(TRAFFIC.inputs)))
    sites = [Site(name=name, latitude=45.0, longitude=-93.0, attributes={"lanes": 2.0}) for name in ("A", "B")]
    panel = panel_from_blocks(TRAFFIC, sites, blocks.astype(np.float32), origin_s=1_700_000_000 // 3600 * 3600)
    windows = make_windows(panel, [0, 1], [panel.first_origin] * 2)
    card = Card(
        model="traffic-seasonal",
        domain=TRAFFIC.name,
        family=forecaster.name,
        target=TRAFFIC.target.name,
        unit=TRAFFIC.target.unit,
        step_s=TRAFFIC.step_s,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=forecaster.levels,
        sites=tuple(sites),
        input_range={},
        parity=export_graph(forecaster, windows, folder),
    )
    return folder, card


def test_a_run_keeps_parameters_figures_and_files(tracking: Tracking, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_text("a picture", encoding="utf-8")
    certificate = ParityCertificate(windows=1, largest_relative=0.0, tolerance=1e-4, batch_hash="")
    with tracking.run(TRAFFIC, name="trial", tags={"code": "0.1"}) as run_id:
        tracking.log_parameters(run_id, {"recipe": "quick", "fitting": certificate, "deep": {"er": {"still": 1}}})
        tracking.log_metrics(run_id, {"24h": {"mae": 2.5}, "mean": {"skill": 0.25}})
        tracking.log_files(run_id, tmp_path, under="plots")
    run = tracking.connect().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "trial"
    assert run.data.tags["code"] == "0.1"
    assert run.data.params["fitting.tolerance"] == "0.0001"
    assert run.data.params["deep.er.still"] == "1"
    assert run.data.metrics == {"24h/mae": 2.5, "mean/skill": 0.25}
    folder = tracking.artifact_folder(run_id)
    assert (folder / "plots" / "picture.txt").read_text(encoding="utf-8") == "a picture"
    # Artifacts lie beside the store, not where the command was typed.
    assert Path(tracking.uri.removeprefix("sqlite:///")).parent in folder.parents


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_breaks_says_how(tracking: Tracking, error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracking.run(TRAFFIC, name="broken", tags={}) as run_id:
        raise error
    assert tracking.connect().get_run(run_id).info.status == status


def test_a_registered_model_has_graph_card_signature_and_the_champions_alias(
    tracking: Tracking, artifact: tuple[Path, Card]
) -> None:
    folder, card = artifact
    versions = []
    for _ in range(2):
        with tracking.run(TRAFFIC, name="seasonal", tags={}) as run_id:
            registered = tracking.register(run_id, folder, card, TRAFFIC)
        versions.append(registered)
        tracking.promote(registered)
    assert [made.version for made in versions] == [1, 2]
    client = tracking.connect()
    name = registered_name(TRAFFIC.name)
    champion = client.get_model_version_by_alias(name, CHAMPION)
    assert (int(champion.version), champion.run_id) == (2, versions[1].run_id)
    assert client.get_model_version(name, "1").aliases == []

    model = tracking.artifact_folder(versions[1].run_id) / "model"
    assert load_card(model) == card
    onnx.checker.check_model(onnx.load(model / GRAPH_FILE))
    described = (model / "MLmodel").read_text(encoding="utf-8")
    assert "history" in described
    assert "quantiles" in described


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_model_without_parity_is_not_registered(
    tracking: Tracking, artifact: tuple[Path, Card], difference: float
) -> None:
    folder, card = artifact
    parity = dataclasses.replace(card.parity, largest_relative=difference)
    with tracking.run(TRAFFIC, name="apart", tags={}) as run_id:
        with pytest.raises(ArtifactError, match="without parity"):
            tracking.register(run_id, folder, dataclasses.replace(card, parity=parity), TRAFFIC)
    assert not (tracking.artifact_folder(run_id) / "model").exists()
    assert tracking.connect().search_model_versions(f"run_id = '{run_id}'") == []


def test_a_store_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        Tracking(f"sqlite:///{tmp_path / 'taken' / 'mlflow.db'}").connect()


@pytest.mark.parametrize("kind", ["no database", "a folder"])
def test_a_store_that_is_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mlflow.db"
    if kind == "a folder":
        path.mkdir()
    else:
        path.write_text("this is no database, but a text of some length" * 100, encoding="utf-8")
    with pytest.raises(StorageError, match="The MLflow store cannot be opened") as caught:
        Tracking(f"sqlite:///{path}").connect()
    assert str(path) in str(caught.value)
    assert "TOWNCAST_TRACKING_URI" in caught.value.remedy


def test_a_store_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(StorageError):
        Tracking("pigeon://coop").connect()
