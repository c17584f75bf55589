"""`GET /monitoring/<domain>...`: how the served models do, and how they did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from features.domains import DOMAINS
from features.errors import TowncastError
from serving.errors import refusal
from serving.metrics import Metrics
from serving.monitoring.answers import MonitoringAnswers
from serving.monitoring.schemas import (
    HistoryQuery,
    MonitoringReply,
    ReportHistoryReply,
    ReportsQuery,
    SiteHistoryReply,
    SiteQuery,
)
from serving.routes.data import query_parameters
from serving.routes.direct import DirectRoute
from serving.schemas import ErrorReply, Reply, StrictRequest

Asked = TypeVar("Asked", bound=StrictRequest)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A parameter is not as documented."},
    404: {"model": ErrorReply, "description": "There is no such domain, target or site; near names are in `details`."},
    503: {"model": ErrorReply, "description": "What is kept cannot be read."},
}
_PATH = "/monitoring/{domain}"
_IN_PATH: dict[str, dict[str, Any]] = {
    "domain": {"type": "string", "examples": [*DOMAINS]},
    "site": {"type": "string", "minLength": 1, "examples": ["R001"]},
}


def monitoring_routes(answers: MonitoringAnswers, metrics: Metrics) -> APIRouter:
    """Reports of `towncast monitor`, and what came of forecasts, site by site."""
    router = APIRouter(tags=["monitoring"], route_class=DirectRoute)
    _add(
        router,
        metrics,
        _PATH,
        lambda names, query: answers.latest(names["domain"]),
        query=ReportsQuery,
        answered=MonitoringReply,
        summary="How do a domain's models do?",
        description="The newest report of each target: how each site does by its realised errors, what has drifted, "
        "and what asks for a retraining. Beside it who made which version champion when, and why.",
    )
    _add(
        router,
        metrics,
        f"{_PATH}/history",
        lambda names, query: answers.history(names["domain"], query),
        query=HistoryQuery,
        answered=ReportHistoryReply,
        summary="How did they do?",
        description="Earlier reports of a target in a line each, newest first.",
    )
    _add(
        router,
        metrics,
        f"{_PATH}/sites/{{site}}",
        lambda names, query: answers.site(names["domain"], names["site"], query),
        query=SiteQuery,
        answered=SiteHistoryReply,
        summary="How did they do at a site?",
        description="Error and coverage of each week, what each week's last report said, and how each version did.",
    )
    return router


def _add(
    router: APIRouter,
    metrics: Metrics,
    path: str,
    work: Callable[[Mapping[str, str], Asked], Reply],
    *,
    query: type[Asked],
    answered: type[Reply],
    summary: str,
    description: str,
) -> None:
    def answer(names: Mapping[str, str], given: dict[str, str]) -> bytes:
        # Written in the thread too: the report of a large town is megabytes.
        return work(names, query.model_validate_strings(given)).model_dump_json().encode()

    async def view(request: Request) -> Response:
        try:
            told = await run_in_threadpool(answer, request.path_params, dict(request.query_params))
            reply = Response(told, media_type="application/json")
        except (ValidationError, TowncastError) as error:
            reply = refusal(error, fields=query.model_fields).reply()
        metrics.count_request(path, reply.status_code, "GET")
        return reply

    router.add_api_route(
        # Names of sites may hold a "/".
        path.replace("{site}", "{site:path}"),
        view,
        name="_".join(part for part in path.split("/") if part and "{" not in part),
        summary=summary,
        description=description,
        response_model=answered,
        responses=_REFUSALS,
        openapi_extra={"parameters": _parameters(path, query)},
    )


def _parameters(path: str, query: type[StrictRequest]) -> list[dict[str, Any]]:
    """What the OpenAPI document says of the names in the path, and of the query."""
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in _IN_PATH.items()
        if f"{{{name}}}" in path
    ]
    return [*in_path, *query_parameters(query)]
