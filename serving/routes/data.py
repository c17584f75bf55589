"""`GET /data/<domain>`: stored readings, as the document shows them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from features.card import SpeedRelation
from features.domains.traffic import TRAFFIC
from features.errors import TowncastError
from features.vocabulary import Site
from serving.data.answers import DataAnswers, assumed_relation
from serving.data.lookup import StoredReadings
from serving.data.schemas import (
    DataQuery,
    DemandData,
    DemandDataQuery,
    PollutionData,
    PollutionDataQuery,
    TrafficData,
    TrafficDataQuery,
    WaterData,
    WaterDataQuery,
)
from serving.errors import refusal
from serving.metrics import Metrics
from serving.predictions.traffic import speed_relation
from serving.routes.direct import DirectRoute
from serving.schemas import ErrorReply, Reply
from serving.settings import ServingSettings
from serving.town import Town

Asked = TypeVar("Asked", bound=DataQuery)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A parameter is not as documented, or no place is near the coordinates."},
    404: {"model": ErrorReply, "description": "There is no such place; near names are in `details`."},
    503: {"model": ErrorReply, "description": "The stored readings cannot be read."},
}


def data_answers(town: Town, settings: ServingSettings) -> DataAnswers:
    """Answers from the stores that the settings name, with speeds by the traffic model where there is one."""

    def relation_of(site: Site) -> SpeedRelation:
        services = town.services(TRAFFIC.name)
        return speed_relation(services[0].artifact.card, site) if services else assumed_relation(site)

    readings = StoredReadings(settings.readings_dir, nearest_within_km=settings.nearest_within_km)
    return DataAnswers(readings=readings, relation_of=relation_of, now=lambda: datetime.now(UTC))


def data_routes(answers: DataAnswers, metrics: Metrics) -> APIRouter:
    """The stored readings of every domain that has a data API."""
    router = APIRouter(tags=["data"], route_class=DirectRoute)
    latest = "The latest revision of each moment counts. "
    _add(
        router,
        metrics,
        "traffic",
        answers.traffic,
        query=TrafficDataQuery,
        reply=TrafficData,
        summary="A road's traffic as it was measured",
        description=f"{latest}Volume, speed (measured, or derived from volume) and congestion.",
    )
    _add(
        router,
        metrics,
        "pollution",
        answers.pollution,
        query=PollutionDataQuery,
        reply=PollutionData,
        summary="A station's concentrations as they were measured",
        description=f"{latest}One pollutant, each value with its air quality sub-index, and statistics.",
    )
    _add(
        router,
        metrics,
        "water",
        answers.water,
        query=WaterDataQuery,
        reply=WaterData,
        summary="A zone's water as it was measured",
        description=f"{latest}Net inflow and tank level.",
    )
    _add(
        router,
        metrics,
        "demand",
        answers.demand,
        query=DemandDataQuery,
        reply=DemandData,
        summary="A control point's trips as they were counted",
        description=f"{latest}Trips begun.",
    )
    return router


def _add(
    router: APIRouter,
    metrics: Metrics,
    domain: str,
    work: Callable[[Asked], Reply],
    *,
    query: type[Asked],
    reply: type[Reply],
    summary: str,
    description: str,
) -> None:
    path = f"/data/{domain}"

    async def view(request: Request) -> Response:
        try:
            asked = query.model_validate_strings(dict(request.query_params))
            told = await run_in_threadpool(work, asked)
            answer = Response(told.model_dump_json(exclude_unset=True), media_type="application/json")
        except (ValidationError, TowncastError) as error:
            answer = refusal(error, fields=query.model_fields).reply()
        metrics.count_request(path, answer.status_code, "GET")
        return answer

    router.add_api_route(
        path,
        view,
        name=f"data_{domain}",
        summary=summary,
        description=description,
        response_model=reply,
        responses=_REFUSALS,
        openapi_extra={"parameters": query_parameters(query)},
    )


def query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """What the OpenAPI document says of the query."""
    described: dict[str, dict[str, Any]] = query.model_json_schema().get("properties", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": _without_null(schema),
        }
        for name, schema in described.items()
    ]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is left out, never null."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "title", "description")}
    if schema.get("default") is not None:
        rest["default"] = schema["default"]
    return {**rest, **kinds[0]} if kinds else rest
