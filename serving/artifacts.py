"""Artifacts: `model.onnx` beside `card.json`, fetched from the MLflow registry."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from features.card import CARD_FILE, CHAMPION, GRAPH_FILE, Card, load_card, registered_name
from features.errors import ArtifactError
from features.files import make_folder, storage_errors

_TRAIN = "Train and register one, with `make train`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model as serving knows it.

    Attributes:
        folder: Holds the graph and the card.
        card: What the model is and how to feed it.
        version: Version in the registry.
    """

    folder: Path
    card: Card
    version: str

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.folder / GRAPH_FILE

    @property
    def model_version(self) -> str:
        """Name and version as replies give them, such as `traffic-lstm-v3`."""
        return f"{self.card.model}-v{self.version}"


def open_artifact(folder: Path, *, version: str) -> Artifact:
    """The artifact in `folder`, checked.

    Raises:
        ArtifactError: A file is missing or damaged, or the parity certificate does not hold.
    """
    card = load_card(folder)
    if not (folder / GRAPH_FILE).is_file():
        raise ArtifactError("The artifact has no graph", found=str(folder / GRAPH_FILE), remedy=_TRAIN)
    parity = card.parity
    # Written this way round, a certificate that is not a number does not hold either.
    if not (parity.windows > 0 and 0 <= parity.largest_relative <= parity.tolerance):
        raise ArtifactError(
            "The parity certificate of the artifact does not hold",
            found=f"{parity.largest_relative} over {parity.windows} windows, at most {parity.tolerance} is allowed",
            remedy="Export the model again, with `make train`; do not serve this one.",
        )
    return Artifact(folder=folder, card=card, version=version)


def fetch_champion(domain: str, *, tracking_uri: str, cache: Path) -> Artifact:
    """The version of `towncast-<domain>` with the alias `champion`; a version fetched before is not fetched again.

    Args:
        domain: Domain's name.
        tracking_uri: Where MLflow is.
        cache: Folder that artifacts are kept in.

    Raises:
        ArtifactError: There is no champion, it cannot be fetched, or it is damaged or without its certificate.
        StorageError: `cache` cannot be written.
    """
    name = registered_name(domain)
    _refuse_missing_database(tracking_uri, name)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        found = client.get_model_version_by_alias(name, CHAMPION)
        # Not `models:/<name>/<version>`: MLflow resolves that in the registry of the process, not in the one given.
        source = client.get_model_version_download_uri(name, found.version)
    except MlflowException as error:
        raise ArtifactError(
            f"The registry has no champion of {name}", found=f"{tracking_uri}: {error.message}", remedy=_TRAIN
        ) from error
    # A registry that was made anew counts from 1 again: the version alone does not name the files.
    folder = cache / name / f"v{found.version}-{found.creation_timestamp}"
    if not folder.exists():
        _download(source, tracking_uri=tracking_uri, folder=folder)
    cards = sorted(folder.rglob(CARD_FILE))
    if not cards:
        raise ArtifactError(f"The champion of {name} has no card", found=f"version {found.version}", remedy=_TRAIN)
    artifact = open_artifact(cards[0].parent, version=str(found.version))
    if artifact.card.domain != domain:
        raise ArtifactError(
            f"The champion of {name} forecasts another domain", found=artifact.card.domain, remedy=_TRAIN
        )
    return artifact


def _refuse_missing_database(tracking_uri: str, name: str) -> None:
    """MLflow would make an empty database, which takes seconds and leaves a file where nobody asked for one."""
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).exists():
        raise ArtifactError(f"The registry has no champion of {name}", found=f"no file {path}", remedy=_TRAIN)


def _download(uri: str, *, tracking_uri: str, folder: Path) -> None:
    """Fetch into a folder beside, then move it into place, so that a broken download is never taken for an artifact."""
    import mlflow
    from mlflow.exceptions import MlflowException

    make_folder(folder.parent)
    with storage_errors(folder.parent):
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(temporary), tracking_uri=tracking_uri)
        with storage_errors(folder):
            if not folder.exists():
                os.replace(temporary, folder)
    except (MlflowException, ValueError, FileNotFoundError) as error:
        raise ArtifactError("The champion cannot be fetched", found=f"{uri}: {error}", remedy=_TRAIN) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
