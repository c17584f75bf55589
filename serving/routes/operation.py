"""`/health/live`, `/health/ready` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter, Response

from features.vocabulary import Domain
from serving.errors import NotReadyError
from serving.metrics import CONTENT_TYPE, Metrics
from serving.schemas import DomainState, ErrorReply, Live, ModelState, Ready
from serving.text import utc_text
from serving.town import Town


def operation_routes(town: Town, metrics: Metrics, *, parts: Callable[[], dict[str, str]] = dict) -> APIRouter:
    """What those who run the API ask.

    Args:
        town: Says which models are there.
        metrics: The figures.
        parts: Says how what else the API leans on is.
    """
    router = APIRouter(tags=["operation"])

    @router.get("/health/live", summary="Is the process alive?", response_model=Live)
    async def live() -> Live:
        """Answers as long as the process does."""
        return Live(status="alive")

    @router.get(
        "/health/ready",
        summary="Can it forecast?",
        response_model=Ready,
        response_model_exclude_none=True,
        responses={503: {"model": ErrorReply, "description": "Nothing, or not all that was named, can be forecast."}},
    )
    async def ready() -> Ready:
        """Which models are loaded and which runtimes are up, by domain.

        503 until one domain can be forecast, or all that TOWNCAST_DOMAINS names.
        """
        domains = {domain.name: await _state(town, domain) for domain in town.domains}
        waiting = [name for name, state in domains.items() if state.status != "ready"]
        if waiting and (town.settings.domains or len(waiting) == len(domains)):
            if not town.services(waiting[0]):
                raise town.why_not(waiting[0])
            raise NotReadyError(
                f"No runtime of {waiting[0]} is up", remedy="See the log for the reason; it is tried again."
            )
        return Ready(status="ready", domains=domains, parts=parts())

    @router.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def figures() -> Response:
        """Requests, latency by stage, runtimes and quality flags, in Prometheus' text format."""
        # Tens of milliseconds, which no request should wait for.
        return Response(await asyncio.to_thread(metrics.text, town.services()), media_type=CONTENT_TYPE)

    return router


async def _state(town: Town, domain: Domain) -> DomainState:
    releases = {release.champion.target.name: release for release in town.releases(domain.name)}
    models: dict[str, ModelState] = {}
    up, sites = False, 0
    for target in domain.targets:
        if target.name not in releases:
            models[target.name] = ModelState(reason=str(town.why_not(domain.name, target.name)))
            continue
        release = releases[target.name]
        service = release.champion
        up = await service.runtime.ready() or up
        sites = len(service.windows.memory.sites)
        artifact = service.artifact
        until_s = artifact.intervals_until_s
        models[target.name] = ModelState(
            model_version=artifact.model_version,
            runtimes=service.runtime.states(),
            intervals="fixed" if artifact.intervals is None else "adaptive",
            intervals_until=None if until_s is None else utc_text(until_s),
            versions={role: held.artifact.model_version for role, held in release.roles().items()},
            precision=artifact.precision,
            parity=artifact.parity.largest_relative,
            faults=release.faults,
        )
    return DomainState(status="ready" if up else "not ready", sites=sites, models=models)
