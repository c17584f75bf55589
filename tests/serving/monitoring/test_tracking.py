"""Reports in a real MLflow store: figures, tags, files; and MLflow away."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from features.errors import StorageError
from serving.monitoring.report import MonitoringReport, report_from_json
from serving.monitoring.tracking import EXPERIMENT, REPORT_FILE, figures_of, track


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    # A folder with a space, as homes have.
    uri = f"sqlite:///{tmp_path_factory.mktemp('a store') / 'mlflow.db'}"
    MlflowClient(uri).search_experiments(max_results=1)
    return uri


def test_a_report_becomes_a_run_with_figures_and_files(store: str, watched: Any, tmp_path: Path) -> None:
    report, page = watched.reports[-1], tmp_path / "evidently.html"
    page.write_text("<p>drift</p>")
    run_id = track(report, tracking_uri=store, html=page)
    client = MlflowClient(store)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == EXPERIMENT
    assert {name: run.data.tags[name] for name in ("domain", "target", "model_version", "triggers")} == {
        "domain": "water",
        "target": "inflow",
        "model_version": "water-prophet-v2",
        "triggers": "performance",
    }
    assert run.data.metrics == figures_of(report)
    kept = Path(client.download_artifacts(run_id, REPORT_FILE)).read_text()
    assert json.loads(kept) == json.loads(report.as_json())
    assert report_from_json(kept).id == report.id
    assert Path(client.download_artifacts(run_id, page.name)).read_text() == "<p>drift</p>"
    # A job that is run again after it died goes on with the same run; another report has its own.
    assert track(report, tracking_uri=store) == run_id
    assert track(watched.reports[-2], tracking_uri=store) != run_id


def test_figures_are_of_the_sites_with_data_and_finite(watched: Any) -> None:
    assert figures_of(watched.reports[-1]) == {
        "sites": 3.0,
        "sites_without_data": 1.0,
        "harmed_share": 0.5,
        "median_error": 5.0,
        "median_usual_error": 2.0,
        "median_mape_percent": 5.0,
        "coverage": 0.47,
        "drifted_features": 1.0,
        "drifted_predictions": 0.0,
        "triggers": 1.0,
    }
    empty = MonitoringReport(
        id="1", domain="water", target="inflow", unit="L/s", model_version="v", at_s=0.0, since_s=0, until_s=0
    )
    assert set(figures_of(empty)) == {
        "sites",
        "sites_without_data",
        "drifted_features",
        "drifted_predictions",
        "triggers",
    }


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db", "http://127.0.0.1:1"])
def test_mlflow_away_is_said_at_once_with_a_remedy(watched: Any, uri: str) -> None:
    with pytest.raises(StorageError, match="Bring MLflow back"):
        track(watched.reports[-1], tracking_uri=uri)


def test_a_page_that_is_not_there_fails_the_run(store: str, watched: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be kept"):
        track(watched.reports[0], tracking_uri=store, html=tmp_path / "none.html")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.report_id = '{watched.reports[0].id}'")
    assert run.info.status == "FAILED"
