"""The reporting job: the evaluation report of a registered model, and its model card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
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
from training.calibrate import adapt_from_nothing
from training.costs import CostOfError, assumed_cost
from training.explain import ATTRIBUTION_FILE, Attribution, explain_forecaster, load_attribution
from training.forecaster import Forecaster
from training.gate import Verdict
from training.graph_forecaster import layout_differences, open_graph
from training.model_card import write_model_card
from training.registry import ModelRegistry, Registered, model_name
from training.report import REPORT_FILE, Evaluation, evaluate_model, write_report
from training.tracking import Tracking
from training.train import Judgement, judge_quantiles
from training.window_set import WindowSet, windows_at

# In place of a domain's name: every domain that has a model.
EVERY = "all"
CostOf = Callable[[Quantity], CostOfError]
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


def report_models(
    name: str,
    *,
    settings: Settings,
    console: Console,
    data: Path | None = None,
    target: str | None = None,
    version: str = CHAMPION,
    output: Path | None = None,
    cost_of: CostOf = assumed_cost,
    model_cards: Path | None = None,
) -> list[Reported]:
    """Judge the graphs of registered versions on the readings after their training, and write their reports.

    Args:
        name: Of the domain, or `all` for every domain that has such a version.
        settings: Folders and addresses.
        console: Where progress is shown.
        data: Folder or file of a published data set; without it, the readings that the store holds.
        target: Which quantity's model, by default every target's that has such a version.
        version: Number or alias of the version.
        output: The HTML file, by default below the data folder.
        cost_of: Prices of errors of a target.
        model_cards: Folder in which model cards are written.

    Raises:
        UnknownNameError: There is no such domain, target or version.
        InvalidParameterError: One file is named for several reports, or the domain does not forecast the target.
        ArtifactError: There is no such version, or its artifact is damaged, gone, or of another layout than the domain.
        NotEnoughDataError: No window lies after its training.
    """
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    asked = list(DOMAINS.values()) if name == EVERY else [DOMAINS[name]]
    found = {domain.name: _find(registry, domain, target, version) for domain in asked}
    chosen = [(domain, found[domain.name]) for domain in asked if found[domain.name]]
    if not chosen:
        raise _nothing_to_report(registry, asked[0], target, version)
    if output is not None and sum(len(versions) for _, versions in chosen) > 1:
        raise InvalidParameterError(
            parameter="output",
            provided=str(output),
            allowed="one report",
            fact="There are several reports to write, and one file is named",
            remedy="Name one of the targets with --target, or leave --output out.",
        )
    made = []
    for domain, versions in chosen:
        steps = Steps(console)
        prepared = prepare(domain, settings=settings, steps=steps, data=data)
        for quantity, registered in versions:
            job = _Job(prepared=prepared, registry=registry, steps=steps, cost=cost_of(quantity))
            folder = settings.data_dir / "reports"
            made.append(job.report(quantity, registered, output=output, folder=folder, model_cards=model_cards))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What the reports of a domain share."""

    prepared: Prepared
    registry: ModelRegistry
    steps: Steps
    cost: CostOfError

    def report(
        self, target: Quantity, registered: Registered, *, output: Path | None, folder: Path, model_cards: Path | None
    ) -> Reported:
        """Judge one version and write its report, by default into `folder`."""
        title = f"Judging version {registered.version} of {registered.name} on what came after its training"
        with tempfile.TemporaryDirectory() as temporary, self.steps.step(title) as say:
            graph = open_graph(self.registry.fetch(registered, Path(temporary)))
            _check_layout(graph.card, self.prepared.domain, target, registered)
            windows, remark = _unseen(graph.card, self.prepared, target)
            levels = graph.card.levels
            adapted = adapt_from_nothing(graph.predict_set(windows), windows, levels)
            judgement = judge_quantiles(adapted, windows, levels=levels)
            say(f"{len(windows):,} windows, {windows.span()}")
        verdict = self.registry.verdict_of(registered)
        with self.steps.step("Report"):
            evaluation = evaluate_model(
                judgement,
                graph.card,
                cost=self.cost,
                attribution=_kept_attribution(self.registry.tracking, registered.run_id),
                verdict=None if verdict is None else verdict[0],
            )
            path = output or folder / f"{graph.card.model}-v{registered.version}.html"
            write_report(evaluation, path)
            card = model_cards and write_model_card(evaluation, model_cards, sources=_sources(self.prepared))
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


def _find(
    registry: ModelRegistry, domain: Domain, target: str | None, version: str
) -> list[tuple[Quantity, Registered]]:
    """The versions of a number or an alias, of one target or of all that have one."""
    asked = domain.targets if target is None else (domain.quantity(target),)
    if target is not None and asked[0] not in domain.targets:
        names = [quantity.name for quantity in domain.targets]
        raise InvalidParameterError(
            parameter="target",
            provided=target,
            allowed=names,
            fact=f"{domain.name} does not forecast this quantity",
            remedy=f"Name one of: {', '.join(names)}.",
        )
    found = []
    for quantity in asked:
        name = model_name(domain, quantity)
        if not version.isdecimal():
            registered = registry.holder(name, version)
        else:
            numbers = {one.version: one for one in registry.versions(name)}
            registered = numbers.get(int(version))
        if registered is not None:
            found.append((quantity, registered))
    return found


def _nothing_to_report(registry: ModelRegistry, domain: Domain, target: str | None, version: str) -> ArtifactError:
    name = model_name(domain, domain.quantity(target) if target else domain.target)
    numbers = ", ".join(str(one.version) for one in registry.versions(name))
    what = f"version {version}" if version.isdecimal() else version
    return ArtifactError(
        f"There is no {what} of {name}",
        found=f"versions: {numbers or 'none'}",
        remedy="Choose one with --version." if numbers else f"Train one, with `towncast train {domain.name}`.",
    )


def _check_layout(card: Card, domain: Domain, target: Quantity, registered: Registered) -> None:
    differences = layout_differences(card, domain, target)
    if differences:
        raise ArtifactError(
            f"The windows of version {registered.version} differ from the domain's",
            found=", ".join(differences),
            remedy="Report it with the code that it was trained with, or train again with `towncast train`.",
        )


def _unseen(card: Card, prepared: Prepared, target: Quantity) -> tuple[WindowSet, str]:
    """The windows that a model cannot have learnt from, and what to remark."""
    until = card.trained.get(TRAINED_UNTIL)
    if until is None:
        remark = "The card does not tell until when the model was trained: it may have learnt from these windows."
        return prepared.splits(target).test, remark
    panel = prepared.panel
    origins = np.arange(panel.first_origin, panel.last_origin + 1)
    windows = windows_at(panel, target, origins[panel.moments_s[origins] > int(until)])
    if not len(windows):
        raise NotEnoughDataError(
            "The model was trained on all readings that there are: nothing is left to judge it on",
            found=f"trained until {np.datetime64(int(until), 's')} UTC",
            remedy="Ingest newer readings, or name the data that it was trained on with --data.",
        )
    return windows, ""


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
