"""What becomes of a version of a retraining: a refusal with its table, shadow, canary, champion, or a person's turn."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console

from features.card import CHAMPION
from features.errors import PromotionError
from features.vocabulary import Domain, Quantity
from pipelines.promote import judge_again, last_verdict, open_version
from pipelines.release import release_canary
from pipelines.retraining_state import Release, RetrainingState, RetrainingStore, TargetState
from pipelines.schedule_settings import ScheduleSettings
from serving.releases.board import Board
from serving.releases.plans import CANARY, SHADOW, Standing
from serving.releases.registry import ReleaseRegistry
from training.gate import GateRules, Verdict, retraining_rules
from training.registry import ModelRegistry, Registered, model_name
from training.tracking import Tracking

if TYPE_CHECKING:
    import pandas as pd

    from serving.monitoring.realised_store import RealisedStore

# A worker that has written nothing for so long has ended [s].
_ALIVE_S = 60.0
# How a canary's reason begins that a retraining started: a newer one may take its place, a person's it leaves alone.
REASON = "retraining"
_LONGEST_REASON = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What became of a version.

    Attributes:
        release: That.
        verdict: The gate's.
        note: Why, in one sentence.
    """

    release: Release
    verdict: Verdict
    note: str


def rules_of(settings: ScheduleSettings) -> GateRules:
    """What the gate asks of a retraining."""
    return retraining_rules(settings.retrain_largest_loss)


def is_watched(name: str, settings: ScheduleSettings) -> bool:
    """Whether an API answers with a model, and tells its figures: without one a canary never advances."""
    return bool(Board(settings.data_dir / "releases" / name).entries(newest_s=_ALIVE_S))


def release_version(
    domain: Domain,
    target: Quantity,
    version: int,
    *,
    settings: ScheduleSettings,
    console: Console,
    reason: str,
) -> Released:
    """Act on a verdict; asked twice, the second call finds what the first did.

    Args:
        domain: Of the model.
        target: What it forecasts.
        version: In the registry.
        settings: How versions are released.
        console: Where progress is shown.
        reason: Why there is this version; the history keeps it.

    Raises:
        TowncastError: The registry is away, or the version cannot be judged.
    """
    registry = ModelRegistry(Tracking(settings.tracking_uri))
    releases = ReleaseRegistry(settings.tracking_uri)
    registered = registry.version(model_name(domain, target), version)
    verdict, run_id = fresh_verdict(registry, registered, target, settings=settings, console=console)
    standing = releases.standing(registered.name)
    held = _held_role(standing, version)
    if held is not None:
        return Released(release=held, verdict=verdict, note="it has this role already")
    if not verdict.passed:
        return Released(release="refused", verdict=verdict, note=verdict.reason)
    why = f"{REASON}: {reason}"[:_LONGEST_REASON]
    asks = _person(registry, registered, verdict, settings) or _foreign_canary(standing)
    if asks:
        registry.nominate(registered, reason=f"{why}; {asks}", verdict_run_id=run_id)
        return Released(release="awaiting approval", verdict=verdict, note=asks)
    way = _way(standing, settings)
    if way == "champion":
        registry.promote(registered, reason=f"{why}; {verdict.reason}", verdict_run_id=run_id)
        return Released(release="champion", verdict=verdict, note=_why_champion(standing, settings))
    if way == "shadow":
        releases.set_shadow(registered.name, version, reason=why)
        return Released(release="shadow", verdict=verdict, note="it forecasts beside the champion")
    _start_canary(domain, target, version, standing, releases, settings=settings, reason=why)
    return Released(release="canary", verdict=verdict, note=f"of the sites {settings.canary_steps} % in turn")


def fresh_verdict(
    registry: ModelRegistry,
    registered: Registered,
    target: Quantity,
    *,
    settings: ScheduleSettings,
    console: Console,
) -> tuple[Verdict, str]:
    """The verdict on a version against the champion that is there now, and the run that keeps it; made where need be.

    Raises:
        TowncastError: It cannot be judged.
    """
    found = last_verdict(registry, registered)
    present = registry.champion(registered.name)
    champion = None if present is None else present.version
    if found is not None and (found[0].champion == champion or champion == registered.version):
        return found
    return judge_again(
        registry,
        registered,
        open_version(registry, registered),
        target,
        settings=settings,
        console=console,
        rules=rules_of(settings),
        test_days=settings.retrain_test_days,
    )


def _held_role(standing: Standing, version: int) -> Release | None:
    roles: dict[str, Release] = {"champion": "champion", CANARY: "canary", SHADOW: "shadow"}
    if CANARY in standing.versions and standing.canary is None:
        roles.pop(CANARY)  # killed between the alias and its plan: it is begun again
    return next((name for role, name in roles.items() if standing.versions.get(role) == version), None)


def _person(registry: ModelRegistry, registered: Registered, verdict: Verdict, settings: ScheduleSettings) -> str:
    """Why a person must approve, empty where nobody must."""
    if verdict.needs_person:
        return "the champion could not be compared: a person must approve"
    if settings.require_approval:
        return "TOWNCAST_REQUIRE_APPROVAL is on: a person must approve"
    return "it was rolled back before: a person must approve" if registry.was_rolled_back(registered) else ""


def _foreign_canary(standing: Standing) -> str:
    plan = standing.canary
    if plan is None or plan.reason.startswith(REASON):
        return ""
    return f"version {plan.version} is canary, which a person began: it waits for that one's end"


def _way(standing: Standing, settings: ScheduleSettings) -> Release:
    if "champion" not in standing.versions:
        return "champion"
    if settings.retrain_release == "auto":
        return "canary" if is_watched(standing.name, settings) else "champion"
    return settings.retrain_release


def _why_champion(standing: Standing, settings: ScheduleSettings) -> str:
    if "champion" not in standing.versions:
        return "it is the first"
    return "no API answers that could compare them" if settings.retrain_release == "auto" else "at once, as set"


def _start_canary(
    domain: Domain,
    target: Quantity,
    version: int,
    standing: Standing,
    releases: ReleaseRegistry,
    *,
    settings: ScheduleSettings,
    reason: str,
) -> None:
    if CANARY in standing.versions:
        # It never ended, and this one has learnt more.
        releases.stop(standing.name, CANARY, reason=f"{REASON}: version {version} takes its place")
    if standing.versions.get(SHADOW) == version:
        releases.stop(standing.name, SHADOW, reason=f"{REASON}: it becomes canary")
    release_canary(
        domain.name,
        version,
        steps=settings.canary_steps,
        minutes=settings.canary_minutes,
        requests=settings.canary_requests,
        settings=settings,
        target=target.name,
        reason=reason,
    )


def go_on_with_shadow(
    domain: Domain,
    target: Quantity,
    realised: RealisedStore,
    *,
    settings: ScheduleSettings,
    now_s: float,
) -> str:
    """Have a shadow of a retraining become canary, champion or nothing, by what both forecast; tells what was done.

    Args:
        domain: Of the model.
        target: What it forecasts.
        realised: What the champion and the shadow forecast, beside what came.
        settings: How versions are released.
        now_s: Now, on the clock of the retraining [s since 1970].

    Returns:
        One sentence; empty where there is no such shadow, or too little is known of it.

    Raises:
        TowncastError: The registry is away.
    """
    store = RetrainingStore(settings.retraining_dir)
    found = _shadow_state(store, domain, target)
    if found is None or now_s - found[0].began_s < settings.shadow_hours * 3600:
        return ""
    state, one = found
    assert one.version is not None
    releases = ReleaseRegistry(settings.tracking_uri)
    standing = releases.standing(model_name(domain, target))
    if standing.versions.get(SHADOW) != one.version:
        return ""
    rows = realised.read(since_s=state.began_s, roles=(SHADOW, CHAMPION))
    both = _common_steps(rows, since_s=state.began_s)
    if len(both) < settings.shadow_steps:
        return ""
    ours, theirs = (float((both[f"median_{role}"] - both["actual"]).abs().mean()) for role in (SHADOW, CHAMPION))
    line = f"MAE {ours:.4g} against the champion's {theirs:.4g} {target.unit} on {len(both):,} steps"
    release: Release = "refused"
    if ours <= theirs * (1 + settings.retrain_largest_loss):
        release = "canary" if is_watched(standing.name, settings) else "champion"
    _end_shadow(domain, target, one.version, standing, releases, release, settings=settings, line=line)
    store.save(state.with_target(_with(one, release, f"as a shadow: {line}")))
    at = datetime.fromtimestamp(now_s, tz=UTC)
    return f"Version {one.version}, shadow until {at:%Y-%m-%d %H:%M} UTC, is {release} now: {line}."


def _shadow_state(
    store: RetrainingStore, domain: Domain, target: Quantity
) -> tuple[RetrainingState, TargetState] | None:
    for state in store.states(domain.name):
        for one in state.targets:
            if one.target == target.name and one.release == "shadow":
                return state, one
    return None


def _common_steps(realised: pd.DataFrame, *, since_s: float) -> pd.DataFrame:
    """Forecast steps of which both said something, and something was measured, of forecasts from a moment on."""
    recent = realised[(realised["origin_s"] >= since_s) & realised["actual"].notna()]
    key = ["site", "origin_s", "steps"]
    sides = [
        recent.loc[recent["role"] == role, [*key, "median", "actual"]].drop_duplicates(key, keep="last")
        for role in (SHADOW, CHAMPION)
    ]
    sides[0] = sides[0].rename(columns={"median": "median_shadow"})
    sides[1] = sides[1].rename(columns={"median": "median_champion"}).drop(columns="actual")
    return sides[0].merge(sides[1], on=key)


def _end_shadow(
    domain: Domain,
    target: Quantity,
    version: int,
    standing: Standing,
    releases: ReleaseRegistry,
    release: Release,
    *,
    settings: ScheduleSettings,
    line: str,
) -> None:
    why = f"{REASON}: as a shadow {line}"
    if release == "canary":
        if _foreign_canary(standing):
            raise PromotionError(
                f"Version {version} of {standing.name} cannot become canary",
                found=_foreign_canary(standing),
                remedy="It stays a shadow, and is looked at again with the next report.",
            )
        _start_canary(domain, target, version, standing, releases, settings=settings, reason=why)
        return
    releases.stop(standing.name, SHADOW, reason=why)
    if release == "champion":
        registry = ModelRegistry(Tracking(settings.tracking_uri))
        registry.promote(registry.version(standing.name, version), reason=why)


def _with(one: TargetState, release: Release, note: str) -> TargetState:
    return TargetState(
        target=one.target, recipe=one.recipe, version=one.version, release=release, verdict=one.verdict, note=note
    )
