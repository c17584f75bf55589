"""What a retraining came to, and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.alerts import Alert
from pipelines.retraining_state import Release, RetrainingState
from serving.monitoring.report import Trigger
from training.gate import Verdict, verdict_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOutcome:
    """What became of one target.

    Attributes:
        target: What is forecast.
        recipe: How it was trained.
        version: In the registry.
        release: What it is now.
        verdict: The gate's.
        note: Why.
    """

    target: str
    recipe: str
    version: int
    release: Release
    verdict: Verdict
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainOutcome:
    """What a retraining came to.

    Attributes:
        id: Of its state.
        domain: What was retrained.
        trigger: Why.
        targets: By target.
        resumed: Whether it went on with an attempt that had died.
        seconds: Wall time of this attempt.
    """

    id: str
    domain: str
    trigger: Trigger
    targets: tuple[TargetOutcome, ...]
    resumed: bool
    seconds: float


def outcome_of(state: RetrainingState, *, resumed: bool, seconds: float) -> RetrainOutcome:
    """What a retraining came to, from its last state; a target without readings is left out."""
    targets = tuple(
        TargetOutcome(
            target=one.target,
            recipe=one.recipe,
            version=one.version,
            release=one.release,
            verdict=verdict_from_json(one.verdict),
            note=one.note,
        )
        for one in state.targets
        if one.version is not None and one.release is not None and one.verdict is not None
    )
    return RetrainOutcome(
        id=state.id, domain=state.domain, trigger=state.trigger, targets=targets, resumed=resumed, seconds=seconds
    )


def alert_of(outcome: RetrainOutcome) -> Alert:
    """What is told of a retraining that came to its end."""
    waits = [one for one in outcome.targets if one.release in ("refused", "awaiting approval")]
    lines = [f"{one.target}: version {one.version} is {one.release} ({one.note})" for one in outcome.targets]
    lines.append(f"Because of: {outcome.trigger.kind}, {outcome.trigger.reason}")
    return Alert(
        key=f"{outcome.domain}/retraining",
        # Each retraining is told, not only the first of several that end alike.
        state=f"{outcome.id}: " + ", ".join(f"{one.target} {one.release}" for one in outcome.targets),
        level="warning" if waits else "info",
        title=f"towncast: {outcome.domain} was retrained",
        text="\n".join(lines),
    )


def alert_of_failure(domain: str, error: Exception) -> Alert:
    """What is told of a retraining that failed."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return Alert(
        key=f"{domain}/retraining",
        state=f"failed: {first}",
        level="failure",
        title=f"towncast: the retraining of {domain} failed",
        text=f"{first}\nThe champion serves on. The next retraining goes on where this one failed.",
    )
