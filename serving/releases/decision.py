"""What becomes of a canary: a pure function of the figures, the plan and the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from serving.releases.figures import Counts, Matched
from serving.releases.plans import CanaryPlan, CheckLine

# Fewest failures, and fewest timed answers of each, before anything is concluded from them.
_FEWEST_FAILURES = 3
_FEWEST_TIMED = 50
# The figures are looked at again and again: at three standard errors chance alone rarely rolls a good canary back.
_STANDARD_ERRORS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryFigures:
    """What a decision rests on, summed over the workers that are known.

    Attributes:
        canary: The canary's answers in the present step.
        champion: The champion's answers since the canary's first step.
        matched: Steps that both forecast and whose reading has come, since the first step.
        champion_version: Version that is champion now; None where it is not known.
    """

    canary: Counts = field(default_factory=Counts)
    champion: Counts = field(default_factory=Counts)
    matched: Matched = field(default_factory=Matched)
    champion_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The step goes on."""

    reason: str
    table: tuple[CheckLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """The next step begins; after the last one the canary becomes champion."""

    reason: str
    table: tuple[CheckLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """The champion answers for all again."""

    reason: str
    table: tuple[CheckLine, ...]


Decision = Hold | Advance | RollBack


def decide(figures: CanaryFigures, plan: CanaryPlan, now_s: float) -> Decision:
    """Go on, advance or roll back.

    What fails rolls back at once, whatever the step's minimum; accuracy that cannot be judged yet stops nothing, since
    the gate has judged it on held-out readings, and the table says so.

    Args:
        figures: What was observed.
        plan: What is asked.
        now_s: Now [s since 1970].
    """
    enough = _is_over(figures, plan, now_s)
    judged = (
        _failures(figures, plan, enough=enough),
        _latency(figures, plan),
        _error(figures, plan),
        _coverage(figures, plan),
    )
    table = (*judged, *_progress(figures, plan, now_s))
    if figures.champion_version not in (None, plan.champion):
        now = figures.champion_version
        return RollBack(reason=f"the champion changed from version {plan.champion} to {now}", table=table)
    failed = [line for line in judged if line.state == "fails"]
    if failed:
        reasons = [f"{one.name}: {one.canary} against {one.champion}, allowed is {one.allowed}" for one in failed]
        return RollBack(reason="; ".join(reasons), table=table)
    if not enough:
        return Hold(reason="the step is not over", table=table)
    return Advance(reason=f"the step of {plan.share_percent:g} % went well", table=table)


def _is_over(figures: CanaryFigures, plan: CanaryPlan, now_s: float) -> bool:
    return now_s - plan.step_since_s >= plan.minimum_s and figures.canary.requests >= plan.minimum_requests


def _failures(figures: CanaryFigures, plan: CanaryPlan, *, enough: bool) -> CheckLine:
    """Before the step is over by a lower bound, so that one early failure is no verdict; then as it is."""
    canary, champion = figures.canary, figures.champion
    most = champion.failure_share + plan.limits.error_margin
    share = canary.failure_share if enough else _lower_bound(canary.failures, canary.requests)
    fails = canary.failures >= _FEWEST_FAILURES and share > most
    return CheckLine(
        name="failed answers",
        canary=f"{canary.failure_share:.2%} of {canary.requests}",
        champion=f"{champion.failure_share:.2%} of {champion.requests}",
        allowed=f"{most:.2%}",
        state="fails" if fails else "holds" if canary.requests else "not judged",
    )


def _lower_bound(failures: int, requests: int) -> float:
    """Wilson's score interval (1927), its lower end."""
    if requests == 0:
        return 0.0
    share, z2 = failures / requests, _STANDARD_ERRORS**2
    middle = share + z2 / (2 * requests)
    half = _STANDARD_ERRORS * math.sqrt(share * (1 - share) / requests + z2 / (4 * requests**2))
    return max(0.0, (middle - half) / (1 + z2 / requests))


def _latency(figures: CanaryFigures, plan: CanaryPlan) -> CheckLine:
    canary_s, champion_s = (counts.percentile_s(0.95) for counts in (figures.canary, figures.champion))
    judged = min(figures.canary.timed, figures.champion.timed) >= _FEWEST_TIMED
    most_s = max(champion_s * plan.limits.latency_ratio, champion_s + plan.limits.latency_floor_s)
    return CheckLine(
        name="latency, 95th percentile",
        canary=_ms(canary_s),
        champion=_ms(champion_s),
        allowed=_ms(most_s),
        state="not judged" if not judged else "fails" if canary_s > most_s else "holds",
    )


def _error(figures: CanaryFigures, plan: CanaryPlan) -> CheckLine:
    matched, judged = figures.matched, figures.matched.steps >= plan.limits.matched_steps
    steps = max(1, matched.steps)
    canary, champion = matched.rival_error / steps, matched.champion_error / steps
    most = champion * plan.limits.error_ratio
    # Two that are both exact, up to rounding, are equal.
    fails = judged and canary > most and not math.isclose(canary, most, rel_tol=1e-6, abs_tol=1e-6)
    return CheckLine(
        name="mean absolute error",
        canary=f"{canary:.4g} over {matched.steps} steps",
        champion=f"{champion:.4g}",
        allowed=f"{most:.4g}",
        state="fails" if fails else "holds" if judged else "not judged",
    )


def _coverage(figures: CanaryFigures, plan: CanaryPlan) -> CheckLine:
    matched, judged = figures.matched, figures.matched.steps >= plan.limits.matched_steps
    steps = max(1, matched.steps)
    canary, champion = matched.rival_inside / steps, matched.champion_inside / steps
    least = max(0.0, champion - plan.limits.coverage_margin)
    return CheckLine(
        name="readings inside the interval",
        canary=f"{canary:.0%} of {matched.steps} steps",
        champion=f"{champion:.0%}",
        allowed=f"at least {least:.0%}",
        state="not judged" if not judged else "fails" if canary < least else "holds",
    )


def _progress(figures: CanaryFigures, plan: CanaryPlan, now_s: float) -> tuple[CheckLine, CheckLine]:
    past_s, requests = now_s - plan.step_since_s, figures.canary.requests
    return (
        CheckLine(
            name=f"duration at {plan.share_percent:g} %",
            canary=f"{max(0.0, past_s) / 60:.1f} min",
            champion="",
            allowed=f"at least {plan.minimum_s / 60:.1f} min",
            state="holds" if past_s >= plan.minimum_s else "not judged",
        ),
        CheckLine(
            name=f"answers at {plan.share_percent:g} %",
            canary=str(requests),
            champion="",
            allowed=f"at least {plan.minimum_requests}",
            state="holds" if requests >= plan.minimum_requests else "not judged",
        ),
    )


def _ms(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{seconds * 1e3:.3g} ms"
