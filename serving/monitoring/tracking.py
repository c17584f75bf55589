"""Monitoring reports in MLflow: a run each, with its figures, its JSON and Evidently's page."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from features.errors import StorageError
from features.files import make_folder
from serving.monitoring.report import MonitoringReport

EXPERIMENT = "towncast-monitoring"
REPORT_FILE = "report.json"
_SQLITE = "sqlite:///"
_ID_TAG = "report_id"
_PATIENCE_S = 5.0


def track(report: MonitoringReport, *, tracking_uri: str, html: Path | None = None) -> str:
    """Keep a report in MLflow; the same one twice goes into the same run. Blocks.

    Args:
        report: Becomes `report.json`, metrics, and the tags `domain`, `target` and `model_version`.
        tracking_uri: Where MLflow is.
        html: Evidently's page, None for none.

    Returns:
        The run's id.

    Raises:
        StorageError: MLflow does not answer, or cannot write.
    """
    _check_there(tracking_uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        run_id = _run_of(client, report, tracking_uri)
        try:
            _log(client, run_id, report, html)
        except BaseException:
            # Where MLflow went away meanwhile, the first error is the one that tells.
            with contextlib.suppress(MlflowException, SQLAlchemyError):
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise _away(tracking_uri, error) from error
    return run_id


def _log(client: Any, run_id: str, report: MonitoringReport, html: Path | None) -> None:
    for name, value in figures_of(report).items():
        client.log_metric(run_id, name, value, timestamp=int(report.at_s * 1000))
    client.log_text(run_id, report.as_json().decode(), REPORT_FILE)
    if html is not None:
        client.log_artifact(run_id, str(html))


def figures_of(report: MonitoringReport) -> dict[str, float]:
    """What a run's metrics say; what is not known is left out."""
    lines = [line for line in report.assessments if line.state != "no data"]
    harmed = sum(line.state == "harmed" for line in lines)
    figures = {
        "sites": float(len(report.assessments)),
        "sites_without_data": float(len(report.assessments) - len(lines)),
        "harmed_share": harmed / len(lines) if lines else math.nan,
        "median_error": _median(line.error for line in lines),
        "median_usual_error": _median(line.usual_error for line in lines),
        "median_mape_percent": _median(line.mape_percent for line in lines),
        "coverage": _mean((line.coverage, line.steps) for line in lines),
        "drifted_features": float(sum(line.drifted for line in report.drift if line.of == "feature")),
        "drifted_predictions": float(sum(line.drifted for line in report.drift if line.of == "prediction")),
        "triggers": float(len(report.triggers)),
    }
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else math.nan


def _mean(weighted: Iterable[tuple[float, int]]) -> float:
    """Mean of values by their weights."""
    known = [(value, weight) for value, weight in weighted if math.isfinite(value) and weight > 0]
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else math.nan


def _run_of(client: Any, report: MonitoringReport, tracking_uri: str) -> str:
    """The report's run: a new one, or the one that a job which ended too early has left."""
    experiment = _experiment(client, tracking_uri)
    found = client.search_runs([experiment], f"tags.`{_ID_TAG}` = '{report.id}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
        return run_id
    tags = {
        _ID_TAG: report.id,
        "domain": report.domain,
        "target": report.target,
        "model_version": report.model_version,
        "triggers": ", ".join(sorted({trigger.kind for trigger in report.triggers})) or "none",
    }
    name = f"{report.domain}-{report.target} {report.id.partition('-')[0]}"
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _experiment(client: Any, tracking_uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if tracking_uri.startswith(_SQLITE):
        folder = Path(tracking_uri.removeprefix(_SQLITE)).parent / "artifacts" / EXPERIMENT
        location = make_folder(folder).absolute().as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def _check_there(tracking_uri: str) -> None:
    """Refuse at once where MLflow is away: it would try for minutes by itself, or make an empty database.

    Raises:
        StorageError: It is.
    """
    try:
        if tracking_uri.startswith(_SQLITE):
            path = Path(tracking_uri.removeprefix(_SQLITE))
            if not path.exists():
                raise FileNotFoundError(f"no file {path}")
            with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE_S)) as database:
                database.execute("BEGIN IMMEDIATE")
        elif tracking_uri.startswith(("http://", "https://")):
            httpx.get(tracking_uri, timeout=_PATIENCE_S)
    except (OSError, sqlite3.Error, httpx.HTTPError) as error:
        raise _away(tracking_uri, error) from error


def _away(tracking_uri: str, error: Exception) -> StorageError:
    # Not the whole address: a password may be in it.
    where = tracking_uri if tracking_uri.startswith(_SQLITE) else tracking_uri.split("@")[-1]
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return StorageError(
        "The report cannot be kept in MLflow",
        found=f"{where}: {reason}",
        remedy="Bring MLflow back, or see TOWNCAST_TRACKING_URI; the report itself is kept in the data folder.",
    )
