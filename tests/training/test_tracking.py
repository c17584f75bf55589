"""Runs and what they leave behind, in a real MLflow store."""

from pathlib import Path

import pytest

from features.card import ParityCertificate
from features.domains import DOMAINS
from features.errors import StorageError
from training.tracking import Tracking

TRAFFIC = DOMAINS["traffic"]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    # A folder with a space, as homes have.
    return Tracking(f"sqlite:///{tmp_path_factory.mktemp('a store') / 'deep' / 'mlflow.db'}")


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
