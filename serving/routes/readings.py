"""`POST /readings`: measured values come in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from pydantic_core import to_json

from features.domains import DOMAINS
from features.errors import InvalidParameterError, TowncastError
from serving.errors import refusal
from serving.inflow.desk import Outcome, ReadingDesk
from serving.metrics import Metrics
from serving.routes.direct import DirectRoute, check_media_type, listed_items, request_body
from serving.schemas import ErrorReply, Reply, ShortName, SiteName, StrictRequest

PATH = "/readings"
_TRANSPORT = "http"
# Larger bodies are parsed in a thread [byte].
_LARGE_BYTES = 65_536
_SHOWN_REASONS = 20
_EXAMPLE = {
    "readings": [
        {
            "domain": "traffic",
            "site": "R001",
            "quantity": "volume",
            "timestamp": "2026-02-06T09:00:00Z",
            "value": 450,
        },
        {
            "domain": "pollution",
            "site": "P001",
            "quantity": "temperature",
            "timestamp": "2026-02-06T14:30:00+05:30",
            "value": 86,
            "unit": "degF",
            "source": "weather-station-7",
        },
    ]
}


class ReadingItem(StrictRequest):
    """One value of one quantity at one site. An item that is not as described here goes to quarantine, by itself."""

    domain: ShortName = Field(description="What it is for.", json_schema_extra={"enum": [*DOMAINS]})
    site: SiteName = Field(description="Name of a known road, station, zone or control point.", examples=["R001"])
    quantity: ShortName = Field(description="Name of one of the domain's quantities.", examples=["volume"])
    timestamp: AwareDatetime = Field(
        description="The moment that it is true for, the end of its interval; ISO 8601 with a time zone. May be called "
        "`valid_at`.",
        examples=["2026-02-06T09:00:00Z"],
    )
    value: float = Field(allow_inf_nan=False, examples=[450])
    unit: ShortName | None = Field(
        default=None, description="Its unit; by default the quantity's canonical one.", examples=["degF"]
    )
    available_at: AwareDatetime | None = Field(
        default=None, description="When it could have been known; by default when it comes in."
    )
    source: ShortName | None = Field(
        default=None, description="Name of the feed; by default `http`.", examples=["weather-station-7"]
    )


class ReadingsRequest(StrictRequest):
    """Readings of any domains, in any order."""

    readings: list[ReadingItem] = Field(min_length=1)


class ReadingOutcome(Reply):
    """What became of one item."""

    outcome: Literal["stored", "known", "quarantined"]
    reason: str | None = Field(
        default=None, description="Why it was quarantined; left out if it was not.", examples=["unknown road"]
    )


class ReadingsReply(Reply):
    """What became of all: each item is in exactly one of the counts."""

    stored: int = Field(description="New, and from now on in forecasts.")
    known: int = Field(description="Stored before: sending something twice changes nothing.")
    quarantined: int = Field(description="Refused, and kept apart with the reason.")
    outcomes: list[ReadingOutcome] = Field(description="In the order of the items.")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The body is no list of readings, or not one item in it is a reading."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not said to be JSON."},
    503: {"model": ErrorReply, "description": "They cannot be stored now: send them again, nothing is stored twice."},
}


def reading_request_models() -> list[type[BaseModel]]:
    """The layouts of all requests."""
    return [ReadingsRequest]


def readings_routes(desk: ReadingDesk, metrics: Metrics) -> APIRouter:
    """The way in over HTTP."""
    router = APIRouter(tags=["readings"], route_class=DirectRoute)

    @router.post(
        PATH,
        name="readings",
        summary="Send measured values",
        description="Each item is judged by itself: stored, known already, or quarantined with a reason. The reply "
        "comes once what is stored is on disk and seen by forecasts. Another value for a moment that has one is a "
        "revision: the latest counts.",
        response_model=ReadingsReply,
        response_model_exclude_none=True,
        responses=_REFUSALS,
        openapi_extra=request_body(ReadingsRequest, {"readings": {"summary": "Two readings", "value": _EXAMPLE}}),
    )
    async def readings(request: Request) -> Response:
        try:
            check_media_type(request.headers.get("content-type", ""))
            body = await request.body()
            limit = desk.settings.readings_limit
            large = len(body) > _LARGE_BYTES
            items = await asyncio.to_thread(_items, body, limit) if large else _items(body, limit)
            outcomes = await desk.take(items, transport=_TRANSPORT)
            _refuse_if_all_malformed(outcomes)
            reply = Response(_written(outcomes), media_type="application/json")
        except TowncastError as error:
            reply = refusal(error).reply()
        metrics.count_request(PATH, reply.status_code)
        return reply

    return router


def _items(body: bytes, limit: int) -> list[Any]:
    remedy = "Send several bodies, or set TOWNCAST_READINGS_LIMIT."
    return listed_items(body, "readings", limit=limit, fact="The body holds no readings", remedy=remedy)


def _refuse_if_all_malformed(outcomes: Sequence[Outcome]) -> None:
    if all(one.malformed for one in outcomes):
        reasons = list(dict.fromkeys(one.reason for one in outcomes))
        raise InvalidParameterError(
            parameter="readings",
            provided="; ".join(reasons[:_SHOWN_REASONS]),
            allowed="items with domain, site, quantity, timestamp and value",
            fact="Not one item is a reading",
            remedy="Mend what the reasons say, and send them again.",
        )


def _written(outcomes: Sequence[Outcome]) -> bytes:
    counts = {"stored": 0, "known": 0, "quarantined": 0}
    for one in outcomes:
        counts[one.outcome] += 1
    told = [{"outcome": one.outcome, **({"reason": one.reason} if one.reason else {})} for one in outcomes]
    return to_json({**counts, "outcomes": told})
