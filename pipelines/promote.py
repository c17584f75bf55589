"""The promotion job: judge a version against the champion, move the alias, or move it back."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from rich.console import Console

from features.alias_history import CANDIDATE, AliasChange
from features.card import TRAINED_UNTIL, Card
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, NotEnoughDataError, PromotionError
from features.registry import Registry
from features.store import ReadingStore
from features.vocabulary import Domain, Float32Array, Quantity
from pipelines.prepare import prepare
from pipelines.settings import Settings
from pipelines.steps import Steps
from training.calibrate import adapt_from_nothing
from training.forecaster import predict_set
from training.gate import Candidate, Champion, GateRules, HeldOut, Verdict, judge_candidate
from training.graph_forecaster import GraphForecaster, layout_differences, open_graph
from training.models.seasonal import SeasonalForecaster
from training.registry import ModelRegistry, Registered, model_name
from training.tracking import Tracking
from training.window_set import WindowSet

Outcome = Literal["promoted", "awaiting approval", "refused", "passed"]
_GENERATED = "generated"
_OVERRULE = 'Train again with `towncast train`, or overrule the gate with --force --reason "...".'


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of a version.

    Attributes:
        registered: The version.
        verdict: What the gate says, None where a person forced it unjudged.
        outcome: Whether it is champion now.
    """

    registered: Registered
    verdict: Verdict | None
    outcome: Outcome


class Settler(Protocol):
    """Keeps a verdict and acts on it."""

    def __call__(
        self,
        registry: ModelRegistry,
        registered: Registered,
        verdict: Verdict,
        /,
        *,
        run_id: str,
        require_approval: bool,
    ) -> Outcome:
        """What became of the version."""


def keep_verdict(
    registry: ModelRegistry, registered: Registered, verdict: Verdict, *, run_id: str, require_approval: bool
) -> Outcome:
    """Keep a verdict in a run, and leave it to another step to act on it."""
    registry.keep_verdict(verdict, registered, run_id=run_id)
    return "passed" if verdict.passed else "refused"


def judge_version(
    registry: ModelRegistry,
    registered: Registered,
    graph: GraphForecaster,
    windows: WindowSet,
    *,
    quantiles_BHQ: Float32Array,
    naive_BH: Float32Array,
    rules: GateRules,
) -> Verdict:
    """Hold a version to the rules, against the champion that is there now.

    Args:
        registry: Knows the champion.
        registered: The version.
        graph: Its graph.
        windows: Windows that it has not learnt from.
        quantiles_BHQ: Its forecasts of them [unit].
        naive_BH: The seasonal profile's [unit].
        rules: What is asked.
    """
    card, panel = graph.card, windows.panel
    held_out = HeldOut(
        target_BH=windows.targets(),
        naive_BH=naive_BH,
        origin_B=windows.origin_B,
        site_index_B=windows.site_index_B,
        sites=tuple(site.name for site in panel.sites),
        season_steps=panel.domain.season_steps,
        unit=windows.target.unit,
    )
    candidate = Candidate(
        version=registered.version,
        quantiles_BHQ=quantiles_BHQ,
        levels=card.levels,
        parity=card.parity.largest_relative,
        latency_ms=graph.latency_ms(windows),
        measured=card.trained.get("readings") != _GENERATED,
    )
    present = registry.champion(registered.name)
    champion = None if present is None else _forecast_champion(registry, present, windows, rules)
    return judge_candidate(candidate, champion, held_out, model=registered.name, rules=rules)


def _forecast_champion(registry: ModelRegistry, present: Registered, windows: WindowSet, rules: GateRules) -> Champion:
    """The champion's forecasts of the windows that it cannot have learnt from, through the graph that serves."""
    try:
        graph = open_version(registry, present)
        differences = layout_differences(graph.card, windows.panel.domain, windows.target)
        if differences:
            why = f"its windows differ from the domain's in {', '.join(differences)}"
            return _not_comparable(present, why)
        compared, remark = _unseen_by(graph.card, windows, rules)
        median = np.full((len(windows), graph.card.horizon_steps), np.nan, dtype=np.float32)
        median[compared] = graph.median_of(windows.subset(compared))
    except ArtifactError as error:
        return _not_comparable(present, f"{error.fact.lower()} ({error.found})")
    measured = graph.card.trained.get("readings") != _GENERATED
    return Champion(version=present.version, median_BH=median, measured=measured, remark=remark)


def _not_comparable(present: Registered, why: str) -> Champion:
    """A champion that this code cannot run: it stops no candidate, but a person must look."""
    remark = (
        f"Champion version {present.version} cannot be compared: {why}. "
        "The seasonal profile alone counts, and a person must approve."
    )
    return Champion(version=present.version, median_BH=None, measured=False, remark=remark)


def _unseen_by(card: Card, windows: WindowSet, rules: GateRules) -> tuple[npt.NDArray[np.bool_], str]:
    """Which windows lie after a model's training, all where that leaves too few; and what to remark."""
    panel = windows.panel
    everything = np.ones(len(windows), dtype=np.bool_)
    if not {site.name for site in card.sites} & {site.name for site in panel.sites}:
        return everything, "The champion was trained on none of these sites."
    until = card.trained.get(TRAINED_UNTIL)
    if until is None:
        return everything, "The champion's card does not tell until when it was trained: it may be favoured."
    after = panel.moments_s[windows.origin_B] >= int(until)
    if len(np.unique(windows.origin_B[after])) < rules.fewest_seasons * panel.domain.season_steps:
        moment = datetime.fromtimestamp(int(until), tz=UTC)
        return everything, (
            f"The champion was trained until {moment:%Y-%m-%d %H:%M} UTC, and too few windows lie after that: "
            "it is compared on windows that it may have learnt from, which favours it."
        )
    remark = (
        "" if after.all() else f"Compared with the champion on {after.mean():.0%} of the windows, after its training."
    )
    return after, remark


def settle(
    registry: ModelRegistry, registered: Registered, verdict: Verdict, *, run_id: str, require_approval: bool
) -> Outcome:
    """Keep a verdict in a run and act on it: promote, or make the version the candidate that waits for a person.

    Args:
        registry: Where the version is.
        registered: The version.
        verdict: What the gate says of it.
        run_id: The run that keeps the verdict.
        require_approval: Whether a person must approve what passed.

    Raises:
        PromotionError: Another version became champion since the verdict.
    """
    registry.keep_verdict(verdict, registered, run_id=run_id)
    return _act(registry, registered, verdict, run_id=run_id, ask=require_approval, reason=verdict.reason)


def _act(
    registry: ModelRegistry,
    registered: Registered,
    verdict: Verdict,
    *,
    run_id: str,
    ask: bool,
    reason: str,
    approved_by: str = "",
) -> Outcome:
    if not verdict.passed:
        return "refused"
    present = registry.champion(registered.name)
    if verdict.champion != _version_of(present):
        raise PromotionError(
            f"The champion of {registered.name} changed while version {registered.version} was judged",
            found="no champion" if present is None else f"version {present.version}",
            remedy=f"Have it judged again: towncast promote --version {registered.version}.",
        )
    if not approved_by and (ask or verdict.needs_person):
        registry.nominate(registered, reason=reason, verdict_run_id=run_id)
        return "awaiting approval"
    registry.promote(registered, reason=reason, verdict_run_id=run_id, approved_by=approved_by)
    return "promoted"


def promote_version(
    name: str,
    *,
    settings: Settings,
    console: Console,
    target: str | None = None,
    version: int | None = None,
    approved_by: str = "",
    force: bool = False,
    reason: str = "",
) -> Decision:
    """Make a version champion, if the gate lets it.

    Its last verdict counts while the champion is the one that it was judged against; otherwise it is judged again, on
    the newest fifth of the readings that lies after its training. A version that was rolled back needs a person.

    Args:
        name: Of the domain.
        settings: Folders and addresses.
        console: Where progress is shown.
        target: Whose model, by default the domain's first target's.
        version: Which version, by default the candidate, or the newest where there is none.
        approved_by: Person who approves it, empty for nobody.
        force: Whether to promote it whatever the gate says.
        reason: Why; must be given with `force`.

    Returns:
        The decision; a version that fails, or that waits for a person, is not an error.

    Raises:
        UnknownNameError: There is no such domain, target, model or version.
        PromotionError: It is champion already, or cannot be judged.
        ArtifactError: Its artifact is damaged or gone.
    """
    domain = DOMAINS[name]
    quantity = _target(domain, target)
    if force:
        _refuse_silent_force(reason=reason, unapproved=settings.require_approval and not approved_by)
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    registered = _choose(registry, model_name(domain, quantity), version)
    graph = open_version(registry, registered)
    found = last_verdict(registry, registered)
    if force:
        verdict, run_id = found or (None, "")
        registry.promote(registered, reason=f"forced: {reason}", verdict_run_id=run_id, approved_by=approved_by)
        return Decision(registered=registered, verdict=verdict, outcome="promoted")
    _refuse_other_layout(registered, graph, quantity)
    if found is None or found[0].champion != _version_of(registry.champion(registered.name)):
        found = judge_again(registry, registered, graph, quantity, settings=settings, console=console)
    judged, run_id = found
    outcome = _act(
        registry,
        registered,
        judged,
        run_id=run_id,
        ask=settings.require_approval or registry.was_rolled_back(registered),
        approved_by=approved_by,
        reason=reason or judged.reason,
    )
    return Decision(registered=registered, verdict=judged, outcome=outcome)


def last_verdict(registry: ModelRegistry, registered: Registered) -> tuple[Verdict, str] | None:
    """The last verdict on a version and the run that keeps it; None where it was never judged, or that is damaged."""
    try:
        return registry.verdict_of(registered)
    except ArtifactError:
        return None  # it is made anew


def open_version(registry: ModelRegistry, registered: Registered) -> GraphForecaster:
    """A version's graph.

    Raises:
        ArtifactError: It is damaged or gone.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return open_graph(registry.fetch(registered, Path(temporary)))


def _refuse_other_layout(registered: Registered, graph: GraphForecaster, target: Quantity) -> None:
    differences = layout_differences(graph.card, DOMAINS[graph.card.domain], target)
    if differences:
        raise PromotionError(
            f"Version {registered.version} of {registered.name} cannot be served by this code",
            found=f"its windows differ from the domain's in {', '.join(differences)}",
            remedy=_OVERRULE,
        )


def _version_of(registered: Registered | None) -> int | None:
    return None if registered is None else registered.version


def _refuse_silent_force(*, reason: str, unapproved: bool) -> None:
    if not reason:
        raise InvalidParameterError(
            parameter="reason",
            provided=reason,
            allowed="any text",
            fact="A forced promotion needs a reason, which the history keeps",
            remedy='Say why: --force --reason "...".',
        )
    if unapproved:
        raise PromotionError(
            "Here a person must approve every champion, a forced one too",
            found="TOWNCAST_REQUIRE_APPROVAL is on",
            remedy="Name the person with --approved-by.",
        )


def roll_back(name: str, *, settings: Settings, target: str | None = None, reason: str = "") -> tuple[AliasChange, str]:
    """Make the champion before the present one champion again.

    Args:
        name: Of the domain.
        settings: Addresses.
        target: Which quantity's model, by default the domain's first.
        reason: Why.

    Returns:
        The line that was added to the history, and a warning, empty for none.

    Raises:
        PromotionError: There is no earlier champion.
        UnknownNameError: There is no such domain or target, or the earlier version was deleted.
        ArtifactError: The earlier version's artifact is damaged or gone; the champion stays.
    """
    domain = DOMAINS[name]
    quantity = _target(domain, target)
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    earlier = registry.previous_champion(model_name(domain, quantity))
    differences = layout_differences(open_version(registry, earlier).card, domain, quantity)
    warning = (
        f"The windows of version {earlier.version} differ from the domain's in {', '.join(differences)}: "
        "it can be served by the code that it was trained with, not by this."
        if differences
        else ""
    )
    return registry.rollback(earlier.name, reason=reason or "rolled back"), warning


def alias_history(name: str, *, settings: Settings, target: str | None = None) -> tuple[AliasChange, ...]:
    """All changes of the aliases of a domain's model, oldest first.

    Raises:
        UnknownNameError: There is no such domain or target.
    """
    domain = DOMAINS[name]
    return ModelRegistry(Tracking(settings.tracking_uri)).history(model_name(domain, _target(domain, target)))


def _target(domain: Domain, name: str | None) -> Quantity:
    """A domain's target by name, the first one for None."""
    if name is None:
        return domain.target
    targets: Registry[Quantity] = Registry(f"target of {domain.name}")
    for quantity in domain.targets:
        targets.register(quantity.name, quantity)
    return targets[name]


def _choose(registry: ModelRegistry, model: str, version: int | None) -> Registered:
    """The version that is asked for, else the candidate, else the newest."""
    versions = registry.versions(model)
    if not versions:
        raise PromotionError(f"No version of {model} is registered", remedy="Train one, with `towncast train`.")
    chosen = (
        (registry.holder(model, CANDIDATE) or versions[-1]) if version is None else registry.version(model, version)
    )
    present = registry.champion(model)
    if present is not None and present.version == chosen.version:
        others = ", ".join(str(other.version) for other in versions if other.version != chosen.version) or "none yet"
        raise PromotionError(
            f"Version {chosen.version} of {model} is champion already",
            remedy=f"Choose another with --version (there are: {others}), or train one.",
        )
    return chosen


def judge_again(
    registry: ModelRegistry,
    registered: Registered,
    graph: GraphForecaster,
    target: Quantity,
    *,
    settings: Settings,
    console: Console,
    rules: GateRules | None = None,
    test_days: float | None = None,
) -> tuple[Verdict, str]:
    """A new verdict on an older version, on the newest readings, and the run of its own that keeps it.

    Raises:
        PromotionError: It cannot be judged.
        NotEnoughDataError: No reading lies after its training.
    """
    card, steps = graph.card, Steps(console)
    domain = DOMAINS[card.domain]
    fact = f"Version {registered.version} of {registered.name} cannot be judged"
    remedy = _OVERRULE
    if TRAINED_UNTIL not in card.trained:
        raise PromotionError(fact, found="its card does not tell until when it was trained", remedy=remedy)
    if not ReadingStore(settings.readings_dir, domain).sites():
        raise PromotionError(fact, found="no readings to judge it on", remedy=f"Ingest some, or else: {remedy}")
    newest = prepare(domain, settings=settings, steps=steps, data=None).splits(target, test_days=test_days).test
    windows = newest.subset(newest.panel.moments_s[newest.origin_B] >= int(card.trained[TRAINED_UNTIL]))
    if len(windows) == 0:
        raise NotEnoughDataError(fact, found="no reading lies after its training", remedy=remedy)
    with steps.step(f"Judging version {registered.version} on {windows.span()}"):
        profile = SeasonalForecaster(domain, target=target)
        verdict = judge_version(
            registry,
            registered,
            graph,
            windows,
            quantiles_BHQ=adapt_from_nothing(graph.predict_set(windows), windows, graph.card.levels),
            naive_BH=predict_set(profile, windows)[:, :, profile.levels.index(0.5)],
            rules=rules or GateRules(),
        )
        tags = {"model": registered.name, "version": str(registered.version)}
        with registry.tracking.run(domain, name=f"gate-version-{registered.version}", tags=tags) as run_id:
            registry.keep_verdict(verdict, registered, run_id=run_id)
    return verdict, run_id
