"""Artifacts: `model.onnx` beside `card.json`, and `intervals.npz` where intervals adapt, fetched from the registry."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.adaptive_intervals import AdaptiveIntervals
from features.card import (
    CARD_FILE,
    CHAMPION,
    GRAPH_FILE,
    HALF_GRAPH_FILE,
    INTERVALS_UNTIL,
    Card,
    ParityCertificate,
    check_files,
    load_card,
    registered_name,
)
from features.domains import DOMAINS
from features.errors import ArtifactError
from features.files import make_folder, storage_errors
from serving.intervals import open_intervals
from serving.settings import Precision

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


class NoChampionError(ArtifactError):
    """Nobody has trained a model that was good enough yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model as serving knows it.

    Attributes:
        folder: Holds the graph and the card.
        card: What the model is and how to feed it.
        version: Version in the registry.
        intervals: What moves the ends of its intervals; None where they are the graph's own.
        precision: Of the graph's heavy weights; `serving.precision` chooses.
    """

    folder: Path
    card: Card
    version: str
    intervals: AdaptiveIntervals | None = field(default=None, compare=False)
    precision: Precision = "fp32"

    @property
    def graph(self) -> Path:
        """The ONNX file that serves."""
        return self.folder / (HALF_GRAPH_FILE if self.precision == "fp16" else GRAPH_FILE)

    @property
    def parity(self) -> ParityCertificate:
        """How closely the graph that serves repeats the forecaster."""
        half = self.card.half_precision
        return half.parity if self.precision == "fp16" and half is not None and half.parity else self.card.parity

    @property
    def name(self) -> str:
        """Name of the model in the registry, such as `towncast-traffic`."""
        return _registered(self.card.domain, self.card.target)

    @property
    def model_version(self) -> str:
        """Name and version as replies give them, such as `traffic-lstm-v3`."""
        return f"{self.card.model}-v{self.version}"

    @property
    def intervals_until_s(self) -> int | None:
        """The last moment that adaptive intervals have learnt from, None where that is not known [s since 1970]."""
        until = self.card.trained.get(INTERVALS_UNTIL, "")
        return int(until) if self.intervals is not None and until.isdigit() else None


def _registered(domain: str, target: str) -> str:
    return registered_name(domain, "" if target == DOMAINS[domain].target.name else target)


def _train(domain: str) -> str:
    return f"Train and register one: `make train DOMAIN={domain}`, which is `towncast train {domain}`."


def open_artifact(folder: Path, *, version: str) -> Artifact:
    """The artifact in `folder`, checked.

    Raises:
        ArtifactError: A file is missing, damaged, or not the one that the card was written for, or the parity
            certificate does not hold, or the intervals are of another model, or a name is not one.
    """
    card = load_card(folder)
    _refuse_strange_names({"model": card.model, "domain": card.domain, "target": card.target, "version": version})
    if not (folder / GRAPH_FILE).is_file():
        raise ArtifactError("The artifact has no graph", found=str(folder / GRAPH_FILE), remedy=_train(card.domain))
    check_files(folder, card)
    parity = card.parity
    # Written this way round, a certificate that is not a number does not hold either.
    if not (parity.windows > 0 and 0 <= parity.largest_relative <= parity.tolerance):
        raise ArtifactError(
            "The parity certificate of the artifact does not hold",
            found=f"{parity.largest_relative} over {parity.windows} windows, at most {parity.tolerance} is allowed",
            remedy=f"Export the model again, with `towncast train {card.domain}`; do not serve this one.",
        )
    return Artifact(folder=folder, card=card, version=version, intervals=open_intervals(folder, card))


def _refuse_strange_names(names: Mapping[str, Any]) -> None:
    """Names become paths of files and of requests: a card that was tampered with must not choose them."""
    for kind, name in names.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ArtifactError(
                f"The {kind} of the artifact is not a name",
                found=repr(name)[:100],
                remedy="Names are letters, digits, dots, dashes and underscores; register the model again.",
            )


def fetch_champion(domain: str, target: str = "", *, tracking_uri: str, cache: Path) -> Artifact:
    """The champion of a domain's target; a version that was fetched before is not fetched again.

    It is the version with the alias `champion` of `towncast-<domain>`, or of `towncast-<domain>-<target>` for another
    target than the domain's first.

    Args:
        domain: Domain's name.
        target: Target's name, by default the domain's first.
        tracking_uri: Where MLflow is.
        cache: Folder that artifacts are kept in.

    Raises:
        NoChampionError: There is no champion.
        ArtifactError: It cannot be fetched, or is damaged or without its certificate.
        StorageError: `cache` cannot be written.
    """
    name = _registered(domain, target or DOMAINS[domain].target.name)
    _refuse_missing_database(tracking_uri, name, remedy=_train(domain))
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        found = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        raise NoChampionError(
            f"The registry has no champion of {name}", found=f"{tracking_uri}: {error.message}", remedy=_train(domain)
        ) from error
    return fetch_version(domain, target, version=int(found.version), tracking_uri=tracking_uri, cache=cache)


def fetch_version(domain: str, target: str = "", *, version: int, tracking_uri: str, cache: Path) -> Artifact:
    """A version of the model of a domain's target; one that was fetched before is not fetched again.

    Args:
        domain: Domain's name.
        target: Target's name, by default the domain's first.
        version: In the registry.
        tracking_uri: Where MLflow is.
        cache: Folder that artifacts are kept in.

    Raises:
        ArtifactError: There is no such version, or it cannot be fetched, or is damaged or without its certificate.
        StorageError: `cache` cannot be written.
    """
    target = target or DOMAINS[domain].target.name
    name = _registered(domain, target)
    _refuse_missing_database(tracking_uri, name, remedy=_train(domain))
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    which = f"version {version} of {name}"
    try:
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        found = client.get_model_version(name, str(version))
        # Not `models:/<name>/<version>`: MLflow resolves that in the registry of the process, not in the one given.
        source = client.get_model_version_download_uri(name, str(version))
    except MlflowException as error:
        raise ArtifactError(
            f"The registry has no {which}", found=f"{tracking_uri}: {error.message}", remedy=_train(domain)
        ) from error
    # A registry that was made anew counts from 1 again: the version alone does not name the files.
    folder = cache / name / f"v{version}-{found.creation_timestamp}"
    if not folder.exists():
        _download(source, which, tracking_uri=tracking_uri, folder=folder, remedy=_train(domain))
    cards = sorted(folder.rglob(CARD_FILE))
    if not cards:
        raise ArtifactError(f"There is no card in {which}", found=str(folder), remedy=_train(domain))
    artifact = open_artifact(cards[0].parent, version=str(version))
    if (artifact.card.domain, artifact.card.target) != (domain, target):
        raise ArtifactError(
            f"The model forecasts something else than its name says: {which}",
            found=f"{artifact.card.target} of {artifact.card.domain}",
            remedy=_train(domain),
        )
    return artifact


def _refuse_missing_database(tracking_uri: str, name: str, *, remedy: str) -> None:
    """MLflow would make an empty database, which takes seconds and leaves a file where nobody asked for one."""
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).exists():
        raise NoChampionError(f"The registry has no champion of {name}", found=f"no file {path}", remedy=remedy)


def _download(uri: str, which: str, *, tracking_uri: str, folder: Path, remedy: str) -> None:
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
        raise ArtifactError(
            f"The registry does not give out {which}", found=f"{uri}: {error}", remedy=remedy
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
