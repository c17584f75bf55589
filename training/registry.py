"""The registry of models in MLflow: versions, the verdicts on them, and who was champion when."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx

from features.adaptive_intervals import INTERVALS_FILE
from features.alias_history import (
    AWAITING_TAG,
    CANDIDATE,
    AliasChange,
    champions_in_line,
    change_alias,
    make_champion,
    read_history,
    withdraw_candidate,
)
from features.card import CARD_FILE, CHAMPION, GRAPH_FILE, HALF_GRAPH_FILE, Card, registered_name
from features.errors import ArtifactError, PromotionError, UnknownNameError
from features.vocabulary import Domain, Quantity
from training.gate import Verdict, verdict_from_json
from training.tracking import Tracking

VERDICT_FILE = "verdict.json"
_GATE_TAG = "gate"
_VERDICT_TAG = "verdict_run_id"


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


def model_name(domain: Domain, target: Quantity) -> str:
    """Name in the registry of the model of a domain's target."""
    return registered_name(domain.name, "" if target == domain.target else target.name)


class ModelRegistry:
    """Versions of models and their aliases.

    Every change of an alias is first written into the history, as a tag of the registered model under a key that no
    other change can have, then done: what is in the history is never written over.

    Args:
        tracking: The store.
    """

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking

    def register(self, run_id: str, folder: Path, card: Card, domain: Domain) -> Registered:
        """Log an artifact (graph, card, signature) and make it a new version of the domain's model.

        Raises:
            ArtifactError: The card has no valid parity certificate.
        """
        from mlflow.exceptions import MlflowException

        if not card.parity.largest_relative <= card.parity.tolerance:
            raise ArtifactError(
                "A model without parity is not registered",
                found=f"{card.parity.largest_relative:.2e} relative",
                remedy="Export it again.",
            )
        client = self.tracking.connect()
        with tempfile.TemporaryDirectory() as temporary:
            packed = _pack(folder, card, Path(temporary) / "model")
            client.log_artifacts(run_id, str(packed), artifact_path="model")
        quantity = domain.quantity(card.target)
        name = model_name(domain, quantity)
        try:
            client.create_registered_model(name, description=f"Forecasts {quantity.name} of a {domain.entity}.")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        version = client.create_model_version(name, source=source, run_id=run_id)
        return Registered(name=name, version=int(version.version), run_id=run_id)

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, oldest first; none where it is not registered."""
        found = self.tracking.connect().search_model_versions(f"name = '{name}'", max_results=10_000)
        made = [Registered(name=name, version=int(one.version), run_id=str(one.run_id)) for one in found]
        return sorted(made, key=lambda registered: registered.version)

    def version(self, name: str, number: int) -> Registered:
        """One version of a model.

        Raises:
            UnknownNameError: There is no such version.
        """
        versions = self.versions(name)
        for registered in versions:
            if registered.version == number:
                return registered
        known = [str(registered.version) for registered in reversed(versions)]
        raise UnknownNameError(kind=f"version of {name}", name=str(number), nearest=[], known=known)

    def holder(self, name: str, alias: str) -> Registered | None:
        """The version that has an alias, None where none has."""
        number = self._alias(name, alias)
        return None if number is None else self.version(name, number)

    def champion(self, name: str) -> Registered | None:
        """The version that serves, None where there is none."""
        return self.holder(name, CHAMPION)

    def fetch(self, registered: Registered, folder: Path) -> Path:
        """Copy a version's artifact into `folder`, and return where its graph and its card lie.

        Raises:
            ArtifactError: It cannot be fetched.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        remedy = "Restore MLflow's artifacts, or train again with `towncast train`."
        client = self.tracking.connect()
        try:
            source = client.get_model_version_download_uri(registered.name, str(registered.version))
            mlflow.artifacts.download_artifacts(
                artifact_uri=source, dst_path=str(folder), tracking_uri=self.tracking.uri
            )
        except (MlflowException, OSError, ValueError) as error:
            raise ArtifactError(
                f"Version {registered.version} of {registered.name} cannot be fetched",
                found=str(error).splitlines()[0],
                remedy=remedy,
            ) from error
        cards = sorted(folder.rglob(CARD_FILE))
        if not cards:
            fact = f"Version {registered.version} of {registered.name} has no card"
            raise ArtifactError(fact, found=source, remedy=remedy)
        return cards[0].parent

    def keep_verdict(self, verdict: Verdict, registered: Registered, *, run_id: str) -> None:
        """Keep a verdict in a run: as data, as a table for MLflow's pages and for people, and as tags."""
        client = self.tracking.connect()
        client.log_text(run_id, json.dumps(verdict.as_json(), indent=1), VERDICT_FILE)
        client.log_text(run_id, verdict.as_markdown(), "verdict.md")
        rows = {
            "check": [check.name for check in verdict.checks],
            "found": [check.found for check in verdict.checks],
            "allowed": [check.allowed for check in verdict.checks],
            "passed": [check.passed for check in verdict.checks],
        }
        client.log_table(run_id, rows, "verdict_table.json")
        outcome = "passed" if verdict.passed else "failed"
        client.set_tag(run_id, _GATE_TAG, outcome)
        client.set_tag(run_id, "gate_champion", str(verdict.champion or "none"))
        client.set_model_version_tag(registered.name, str(registered.version), _GATE_TAG, outcome)
        client.set_model_version_tag(registered.name, str(registered.version), _VERDICT_TAG, run_id)

    def verdict_of(self, registered: Registered) -> tuple[Verdict, str] | None:
        """The last verdict on a version and the run that keeps it, None where it was never judged.

        Raises:
            ArtifactError: It is damaged or gone.
        """
        from mlflow.exceptions import MlflowException

        client = self.tracking.connect()
        run_id = client.get_model_version(registered.name, str(registered.version)).tags.get(_VERDICT_TAG)
        if run_id is None:
            return None
        try:
            with tempfile.TemporaryDirectory() as temporary:
                path = Path(client.download_artifacts(run_id, VERDICT_FILE, temporary))
                return verdict_from_json(json.loads(path.read_text(encoding="utf-8"))), run_id
        except (MlflowException, OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"The verdict on version {registered.version} of {registered.name} cannot be read",
                found=f"run {run_id}: {error}",
                remedy=f"Judge it again: towncast promote --version {registered.version}.",
            ) from error

    def promote(
        self, registered: Registered, *, reason: str, verdict_run_id: str = "", approved_by: str = ""
    ) -> AliasChange:
        """Make a version champion; where it was the candidate, it is that no more.

        Raises:
            PromotionError: It is champion already.
            InvalidParameterError: The reason is too long.
        """
        return make_champion(
            self.tracking.connect(),
            registered.name,
            registered.version,
            reason=reason,
            verdict_run_id=verdict_run_id,
            approved_by=approved_by,
        )

    def nominate(self, registered: Registered, *, reason: str, verdict_run_id: str = "") -> None:
        """Make a version the candidate that waits for a person's approval, in place of an earlier one."""
        client = self.tracking.connect()
        earlier = self._alias(registered.name, CANDIDATE)
        if earlier == registered.version:
            return
        if earlier is not None:
            client.delete_model_version_tag(registered.name, str(earlier), AWAITING_TAG)
        client.set_model_version_tag(registered.name, str(registered.version), AWAITING_TAG, "true")
        change_alias(
            client,
            registered.name,
            CANDIDATE,
            registered.version,
            action="nominate",
            reason=reason,
            verdict_run_id=verdict_run_id,
        )

    def withdraw(self, name: str, *, reason: str) -> None:
        """Let nobody be candidate."""
        version = self._alias(name, CANDIDATE)
        if version is not None:
            withdraw_candidate(self.tracking.connect(), name, version, reason=reason)

    def previous_champion(self, name: str) -> Registered:
        """The version that a rollback makes champion.

        Raises:
            PromotionError: There is none.
            UnknownNameError: It was deleted.
        """
        present = self._alias(name, CHAMPION)
        line = champions_in_line(self.history(name), present)
        before = line if present is None else line[:-1]
        if not before:
            raise PromotionError(
                f"There is no earlier champion of {name}",
                found="no champion at all" if present is None else f"version {present} is the first",
                remedy="Choose a version yourself: towncast promote --version.",
            )
        return self.version(name, before[-1])

    def rollback(self, name: str, *, reason: str) -> AliasChange:
        """Make the champion before the present one champion again; a second call goes one further back.

        Raises:
            PromotionError: There is no champion before.
            UnknownNameError: Its version was deleted.
        """
        earlier = self.previous_champion(name)
        return change_alias(self.tracking.connect(), name, CHAMPION, earlier.version, action="rollback", reason=reason)

    def was_rolled_back(self, registered: Registered) -> bool:
        """Whether somebody took the champion's alias from this version by a rollback."""
        changes = self.history(registered.name)
        return any(
            change.action == "rollback" and change.took and change.from_version == registered.version
            for change in changes
        )

    def history(self, name: str) -> tuple[AliasChange, ...]:
        """All changes of a model's aliases, oldest first; none where it is not registered."""
        return read_history(*self._tags_and_aliases(name))

    def _alias(self, name: str, alias: str) -> int | None:
        return self._tags_and_aliases(name)[1].get(alias)

    def _tags_and_aliases(self, name: str) -> tuple[dict[str, str], dict[str, int]]:
        from mlflow.exceptions import MlflowException

        try:
            found = self.tracking.connect().get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}, {}
        return dict(found.tags), {alias: int(version) for alias, version in found.aliases.items()}


def _pack(folder: Path, card: Card, packed: Path) -> Path:
    """An MLflow model of the graph in `folder`, with its signature, the card beside it."""
    import mlflow.onnx
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    shapes = {
        "history": (-1, card.history_steps, len(card.history_channels)),
        "future": (-1, card.horizon_steps, len(card.future_channels)),
        "static": (-1, len(card.static_channels)),
    }
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), shape, name) for name, shape in shapes.items()]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, card.horizon_steps, len(card.levels)), "quantiles")]),
    )
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
    for name in (HALF_GRAPH_FILE, INTERVALS_FILE):
        if (folder / name).is_file():
            shutil.copy2(folder / name, packed)
    # Last: it holds the hashes of the files beside it, and MLflow has written the graph anew.
    card.save(packed)
    return packed
