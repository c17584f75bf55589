"""`GET /releases`: which versions answer, for whom, and how they do."""

from __future__ import annotations

import math

from fastapi import APIRouter

from features.card import CHAMPION
from serving.releases.plans import CanaryPlan, DecisionLine, Standing
from serving.releases.release import Release, RoleFigures
from serving.releases.schemas import (
    CanaryReply,
    CheckReply,
    DecisionReply,
    ReleaseReply,
    ReleasesReply,
    RoleFiguresReply,
    RoleReply,
)
from serving.text import utc_text
from serving.town import Town

_LAST_DECISIONS = 20


def release_routes(town: Town) -> APIRouter:
    """What those who release models ask; scope `admin`."""
    router = APIRouter(tags=["operation"])

    @router.get(
        "/releases",
        summary="Which versions answer for whom?",
        response_model=ReleasesReply,
        response_model_exclude_none=True,
    )
    async def releases() -> ReleasesReply:
        """Versions by role, their shares and figures, the canary's plan and what was decided about canaries.

        Figures are of the process that answers; `towncast release status` sums those of all workers.
        """
        found = [_release(town, release) for release in town.releases()]
        return ReleasesReply(registry="answers" if town.watch.away is None else "away", releases=found)

    return router


def _release(town: Town, release: Release) -> ReleaseReply:
    champion = release.champion
    name = champion.artifact.name
    standing = town.watch.standings.get(name) or Standing(name=name, made_ms=0)
    rivals = {share.role: min(1.0, share.below) for share in release.split.shares}
    return ReleaseReply(
        domain=champion.domain.name,
        target=champion.target.name,
        model=name,
        roles=[_role(figures, rivals) for figures in release.figures()],
        canary=None if standing.canary is None else _canary(standing.canary),
        decisions=[_decision(line) for line in standing.decisions[-_LAST_DECISIONS:]],
        faults=release.faults,
    )


def _role(figures: RoleFigures, rivals: dict[str, float]) -> RoleReply:
    # A site in both shares is the canary's, so that what is left is the product of what each leaves.
    share = math.prod(1 - part for part in rivals.values()) if figures.role == CHAMPION else rivals.get(figures.role, 0)
    return RoleReply(
        role=figures.role,
        version=figures.version,
        model_version=figures.model_version,
        share=round(share, 4),
        figures=figures_reply(figures),
    )


def figures_reply(figures: RoleFigures) -> RoleFiguresReply:
    """Sums as means; what nothing was counted of is None."""
    counts, matched, beside = figures.counts, figures.matched, figures.beside
    pairs, steps = max(1, beside.pairs), max(1, matched.steps)
    return RoleFiguresReply(
        requests=counts.requests,
        failures=counts.failures,
        p95_ms=round(counts.percentile_s(0.95) * 1e3, 3) if counts.timed else None,
        compared=beside.pairs,
        mean_difference=beside.difference / pairs if beside.pairs else None,
        interval_overlap=beside.overlap / pairs if beside.pairs else None,
        not_compared=beside.dropped,
        matched_steps=matched.steps,
        mean_absolute_error=matched.rival_error / steps if matched.steps else None,
        champion_mean_absolute_error=matched.champion_error / steps if matched.steps else None,
        coverage=matched.rival_inside / steps if matched.steps else None,
        champion_coverage=matched.champion_inside / steps if matched.steps else None,
    )


def _canary(plan: CanaryPlan) -> CanaryReply:
    return CanaryReply(
        version=plan.version,
        step=plan.step,
        steps_percent=list(plan.steps_percent),
        step_since=utc_text(int(plan.step_since_s)),
        minimum_minutes=plan.minimum_s / 60,
        minimum_requests=plan.minimum_requests,
    )


def _decision(line: DecisionLine) -> DecisionReply:
    return DecisionReply(
        at=line.at,
        version=line.version,
        outcome=line.outcome,
        share_percent=line.share_percent,
        reason=line.reason,
        table=[CheckReply(**check.model_dump()) for check in line.table],
    )
