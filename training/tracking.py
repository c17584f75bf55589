"""MLflow: what a run leaves behind, and the registry of models."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import onnx

from features.card import CHAMPION, GRAPH_FILE, Card, registered_name
from features.errors import ArtifactError, StorageError
from features.files import make_folder
from features.vocabulary import Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A model version in the registry.

    Attributes:
        name: Registered model.
        version: Its number.
        run_id: The run that made it.
    """

    name: str
    version: int
    run_id: str


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
    def run(self, domain: Domain, *, name: str, tags: dict[str, str]) -> Iterator[str]:
        """A run of the domain's experiment, marked failed if the block raises; gives its id."""
        client = self.connect()
        experiment = self._experiment(client, domain.name)
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

    def register(self, run_id: str, folder: Path, card: Card, domain: Domain) -> Registered:
        """Log an artifact (graph, card, signature) and make it a new version of the domain's model.

        Raises:
            ArtifactError: The card has no valid parity certificate.
        """
        import mlflow.onnx
        from mlflow.exceptions import MlflowException
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        if not card.parity.largest_relative <= card.parity.tolerance:
            raise ArtifactError(
                "A model without parity is not registered",
                found=f"{card.parity.largest_relative:.2e} relative",
                remedy="Export it again.",
            )
        import numpy as np

        shapes = {
            "history": (-1, card.history_steps, len(card.history_channels)),
            "future": (-1, card.horizon_steps, len(card.future_channels)),
            "static": (-1, len(card.static_channels)),
        }
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), shape, name) for name, shape in shapes.items()]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, card.horizon_steps, len(card.levels)), "quantiles")]),
        )
        client = self.connect()
        with tempfile.TemporaryDirectory() as temporary:
            packed = Path(temporary) / "model"
            with warnings.catch_warnings():
                # MLflow's first import of its own types.
                warnings.filterwarnings("ignore", message=".*inferred as AnyType")
                mlflow.onnx.save_model(
                    onnx.load(folder / GRAPH_FILE),
                    packed,
                    signature=signature,
                    pip_requirements=["onnxruntime", "numpy"],
                    save_as_external_data=False,
                )
            card.save(packed)
            client.log_artifacts(run_id, str(packed), artifact_path="model")
        quantity = domain.quantity(card.target)
        name = registered_name(domain.name, "" if quantity == domain.target else quantity.name)
        try:
            client.create_registered_model(name, description=f"Forecasts {quantity.name} of a {domain.entity}.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        version = client.create_model_version(name, source=source, run_id=run_id)
        return Registered(name=name, version=int(version.version), run_id=run_id)

    def promote(self, registered: Registered, *, alias: str = CHAMPION) -> None:
        """Give a version an alias; the version that had it loses it."""
        self.connect().set_registered_model_alias(registered.name, alias, str(registered.version))

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
