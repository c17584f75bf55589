"""The reporting job: the evaluation report of a registered model, and its model card."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from features.card import CHAMPION, TRAINED_UNTIL, Card
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, NotEnoughDataError
from features.vocabulary import Domain, Quantity
from pipelines.prepare import Prepared, prepare
from pipelines.settings import Settings
from pipelines.steps import Steps
from training.costs import CostOfError
from training.explain import ATTRIBUTION_FILE, Attribution, explain_forecaster, load_attribution
from training.forecaster import Forecaster
from training.gate import Verdict
from training.graph_forecaster import layout_differences, open_graph
from training.model_card import write_model_card
from training.registry import ModelRegistry, Registered, model_name
from training.report import REPORT_FILE, Evaluation, evaluate_model, write_report
from training.tracking import Tracking
from training.train import Judgement, judge_quantiles
from training.window_set import WindowSet

# Folder of a run that holds its report.
_FOLDER = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What a reporting job made.

    Attributes:
        registered: The version that it is about.
        evaluation: What it says.
        report: The HTML file.
        model_card: The Markdown file, None where none was asked for.
        remark: What a reader should know besides, empty for nothing.
    """

    registered: Registered
    evaluation: Evaluation
    report: Path
    model_card: Path | None
    remark: str


def report_model(
    name: str,
    *,
    settings: Settings,
    console: Console,
    data: Path | None = None,
    target: str | None = None,
    version: str = CHAMPION,
    output: Path | None = None,
    cost: CostOfError | None = None,
    model_cards: Path | None = None,
) -> Reported:
    """Judge the graph of a registered version on held-out windows, and write its report.

    Args:
        name: Of the domain.
        settings: Folders and addresses.
        console: Where progress is shown.
        data: Folder or file of a published data set; without it, the readings that the store holds.
        target: Which quantity's model, by default the domain's first.
        version: Number or alias of the version.
        output: The HTML file, by default below the data folder.
        cost: Prices of errors, by default the assumed ones.
        model_cards: Folder in which the model card is written.

    Raises:
        UnknownNameError: There is no such domain, target or version.
        ArtifactError: Its artifact is damaged or gone, or of another layout than the domain.
        NotEnoughDataError: No window lies after its training.
    """
    domain = DOMAINS[name]
    quantity = domain.quantity(target) if target else domain.target
    steps = Steps(console)
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    registered = _find(registry, domain, quantity, version)
    prepared = prepare(domain, settings=settings, steps=steps, data=data)
    with tempfile.TemporaryDirectory() as temporary:
        with steps.step(f"Judging version {registered.version} of {registered.name} on the test") as say:
            graph = open_graph(registry.fetch(registered, Path(temporary)))
            _check_layout(graph.card, domain, quantity, registered)
            windows, remark = _unseen(graph.card, prepared.splits(quantity).test)
            judgement = judge_quantiles(graph.predict_set(windows), windows, levels=graph.card.levels)
            say(f"{len(windows):,} windows, {windows.span()}")
    verdict = registry.verdict_of(registered)
    with steps.step("Report"):
        evaluation = evaluate_model(
            judgement,
            graph.card,
            cost=cost,
            attribution=_kept_attribution(registry.tracking, registered.run_id),
            verdict=None if verdict is None else verdict[0],
        )
        path = output or settings.data_dir / "reports" / f"{graph.card.model}-v{registered.version}.html"
        write_report(evaluation, path)
        card = None if model_cards is None else write_model_card(evaluation, model_cards, sources=_sources(prepared))
    return Reported(registered=registered, evaluation=evaluation, report=path, model_card=card, remark=remark)


def report_run(
    tracking: Tracking,
    run_id: str,
    forecaster: Forecaster,
    judgement: Judgement,
    card: Card,
    *,
    verdict: Verdict | None,
    seed: int,
) -> Evaluation:
    """Explain a forecaster that was just judged, and keep its report in its run under `report/`.

    Args:
        tracking: The store.
        run_id: Of the run.
        forecaster: Fitted.
        judgement: Of it.
        card: Of it.
        verdict: What the gate says, None where it was not asked.
        seed: Of the draws of the explanation.

    Raises:
        StorageError: The disk is full.
    """
    attribution = explain_forecaster(forecaster, judgement.windows, rng=np.random.default_rng(seed))
    evaluation = evaluate_model(judgement, card, attribution=attribution, verdict=verdict)
    with tempfile.TemporaryDirectory() as temporary:
        write_report(evaluation, Path(temporary) / REPORT_FILE)
        if attribution is not None:
            attribution.save(Path(temporary) / ATTRIBUTION_FILE)
        tracking.log_files(run_id, Path(temporary), under=_FOLDER)
    tracking.log_metrics(run_id, evaluation.figures())
    return evaluation


def _find(registry: ModelRegistry, domain: Domain, target: Quantity, version: str) -> Registered:
    """The version of a number or an alias."""
    if target not in domain.targets:
        raise InvalidParameterError(
            parameter="target",
            provided=target.name,
            allowed=[quantity.name for quantity in domain.targets],
            fact=f"{domain.name} does not forecast this quantity",
            remedy=f"Name one of: {', '.join(quantity.name for quantity in domain.targets)}.",
        )
    name = model_name(domain, target)
    found = registry.version(name, int(version)) if version.isdecimal() else registry.holder(name, version)
    if found is None:
        numbers = ", ".join(str(one.version) for one in registry.versions(name))
        raise ArtifactError(
            f"There is no {version} of {name}",
            found=f"versions: {numbers or 'none'}",
            remedy="Choose one with --version." if numbers else "Train one, with `towncast train`.",
        )
    return found


def _check_layout(card: Card, domain: Domain, target: Quantity, registered: Registered) -> None:
    differences = layout_differences(card, domain, target)
    if differences:
        raise ArtifactError(
            f"The windows of version {registered.version} differ from the domain's",
            found=", ".join(differences),
            remedy="Report it with the code that it was trained with, or train again with `towncast train`.",
        )


def _unseen(card: Card, test: WindowSet) -> tuple[WindowSet, str]:
    """The windows of a test that a model cannot have learnt from, and what to remark."""
    until = card.trained.get(TRAINED_UNTIL)
    if until is None:
        return test, "The card does not tell until when the model was trained: it may have learnt from these windows."
    after = test.panel.moments_s[test.origin_B] >= int(until)
    if not after.any():
        raise NotEnoughDataError(
            "The model was trained on all of the test: nothing is left to judge it on",
            found=f"trained until {np.datetime64(int(until), 's')} UTC, test {test.span()}",
            remedy="Ingest newer readings, or name the data that it was trained on with --data.",
        )
    remark = "" if after.all() else f"Judged on the {after.mean():.0%} of the test that lie after its training."
    return test.subset(after), remark


def _kept_attribution(tracking: Tracking, run_id: str) -> Attribution | None:
    """The attribution that the training left in its run, None where it left none."""
    client = tracking.connect()
    path = f"{_FOLDER}/{ATTRIBUTION_FILE}"
    if path not in {one.path for one in client.list_artifacts(run_id, _FOLDER)}:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        return load_attribution(Path(client.download_artifacts(run_id, path, temporary)))


def _sources(prepared: Prepared) -> list[str]:
    """Sources of the readings of the sites on the panel, in order of their names."""
    names = [site.name for site in prepared.panel.sites]
    found = prepared.store.readings(sites=names, columns=("source",))["source"].unique()
    return sorted(str(source) for source in found)
