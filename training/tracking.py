"""MLflow: what a run leaves behind; the registry of models is in `training.registry`."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from features.errors import StorageError
from features.files import make_folder
from features.vocabulary import Domain


class Tracking:
    """The MLflow store of this installation.

    Args:
        uri: Tracking URI; by default an SQLite file under `mlruns/`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def connect(self) -> Any:
        """A client; the store and its folders are made on first use.

        Raises:
            StorageError: The store cannot be made or opened.
        """
        import mlflow
        from sqlalchemy.exc import SQLAlchemyError

        if self.uri.startswith("sqlite:///"):
            make_folder(Path(self.uri.removeprefix("sqlite:///")).parent)
        try:
            if self.uri.startswith("sqlite:///"):
                # MLflow tries for almost two minutes before it gives up a file that cannot be opened.
                with contextlib.closing(sqlite3.connect(self.uri.removeprefix("sqlite:///"), timeout=60)) as database:
                    database.execute("BEGIN IMMEDIATE")
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient(self.uri)
            client.search_experiments(max_results=1)
        except (sqlite3.Error, SQLAlchemyError, mlflow.MlflowException) as error:
            raise StorageError(
                "The MLflow store cannot be opened",
                found=f"{self.uri}: {str(error).splitlines()[0]}",
                remedy="Make its folder writable, or name another store in TOWNCAST_TRACKING_URI.",
            ) from error
        return client

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        location = None
        if self.uri.startswith("sqlite:///"):
            folder = Path(self.uri.removeprefix("sqlite:///")).parent / "artifacts" / name
            location = folder.absolute().as_uri()
        return str(client.create_experiment(name, artifact_location=location))

    @contextlib.contextmanager
    def run(self, domain: Domain, *, name: str, tags: dict[str, str], same: str | None = None) -> Iterator[str]:
        """A run of the domain's experiment, marked failed if the block raises; gives its id.

        Args:
            domain: Whose experiment.
            name: Of the run.
            tags: Of the run.
            same: Name of a tag: a run that has the same value of it is gone on with, if there is one.
        """
        client = self.connect()
        experiment = self._experiment(client, domain.name)
        found = (
            [] if same is None else client.search_runs([experiment], f"tags.`{same}` = '{tags[same]}'", max_results=1)
        )
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)
        try:
            yield run_id
        except KeyboardInterrupt:
            client.set_terminated(run_id, "KILLED")
            raise
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")

    def log_parameters(self, run_id: str, parameters: dict[str, Any]) -> None:
        """Log parameters, nested ones with dotted names."""
        client = self.connect()
        for key, value in _flat(parameters).items():
            client.log_param(run_id, key, value)

    def log_metrics(self, run_id: str, metrics: dict[str, dict[str, float]]) -> None:
        """Log figures as `<horizon>/<metric>`."""
        client = self.connect()
        for horizon, figures in metrics.items():
            for metric, value in figures.items():
                client.log_metric(run_id, f"{horizon}/{metric}", value)

    def log_files(self, run_id: str, folder: Path, *, under: str) -> None:
        """Log all files of a folder."""
        self.connect().log_artifacts(run_id, str(folder), artifact_path=under)

    def artifact_folder(self, run_id: str) -> Path:
        """Where a run's artifacts lie, if that is on this machine."""
        return Path(unquote(urlparse(self.connect().get_run(run_id).info.artifact_uri).path))


def _flat(parameters: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if hasattr(value, "__dataclass_fields__"):
            value = asdict(value)
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
