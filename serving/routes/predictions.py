"""`POST /predict/<domain>` and its batch form, for every domain."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json

from features.errors import InvalidParameterError, TowncastError
from serving.errors import malformed, own_request_id, refusal, request_id_in
from serving.metrics import Metrics
from serving.predictions import APIS
from serving.predictions.answering import Answered, answer, answer_many
from serving.predictions.api import PredictionApi
from serving.routes.direct import DirectRoute, check_media_type, request_body
from serving.schemas import ErrorReply, PredictionRequest, Reply
from serving.town import Town

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The body is not JSON, or a value is not allowed."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not said to be JSON."},
    503: {"model": ErrorReply, "description": "The model is not loaded, or no runtime or no readings are there."},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "There is no such place; near names are in `details`."}
}


def prediction_routes(town: Town, metrics: Metrics) -> APIRouter:
    """Both forms for every domain that has an API."""
    router = APIRouter(tags=["predictions"], route_class=DirectRoute)
    for api in APIS.values():
        _add_single(router, api, town, metrics)
        _add_batch(router, api, town, metrics)
    return router


def request_models() -> list[type[BaseModel]]:
    """The layouts of all requests."""
    return [model for api in APIS.values() for model in (api.request, batch_request(api))]


def batch_request(api: PredictionApi[Any]) -> type[BaseModel]:
    """Layout of the request of a domain's batch, for the documentation."""
    return create_model(
        f"{api.domain.title()}BatchRequest",
        __doc__="Requests that are answered together.",
        __config__=ConfigDict(extra="forbid"),
        requests=(list[api.request], Field(min_length=1, description="As for one forecast each.")),  # type: ignore[name-defined]
    )


def _batch_response(api: PredictionApi[Any]) -> type[BaseModel]:
    return create_model(
        f"{api.domain.title()}BatchResponse",
        __doc__="The answers, in the order of the requests.",
        __base__=Reply,
        results=(list[api.response | ErrorReply], Field(description="A reply or an error each.")),  # type: ignore[name-defined]
    )


def _add_single(router: APIRouter, api: PredictionApi[Any], town: Town, metrics: Metrics) -> None:
    async def predict(request: Request) -> Response:
        reply = await _single(api, town, metrics, request)
        metrics.count_request(api.path, reply.status_code)
        return reply

    router.post(
        api.path,
        name=f"predict_{api.domain}",
        summary=api.summary,
        description=api.description,
        response_model=api.response,
        response_model_exclude_none=True,
        responses=_REFUSALS | _UNKNOWN,
        openapi_extra=request_body(api.request, api.examples),
    )(predict)


def _add_batch(router: APIRouter, api: PredictionApi[Any], town: Town, metrics: Metrics) -> None:
    path = f"{api.path}/batch"

    async def predict(request: Request) -> Response:
        reply = await _batch(api, town, metrics, request)
        metrics.count_request(path, reply.status_code)
        return reply

    example = {"summary": "All of them", "value": {"requests": [one["value"] for one in api.examples.values()]}}
    router.post(
        path,
        name=f"predict_{api.domain}_batch",
        summary=f"{api.summary}: many together",
        description="Requests like those for one forecast, answered together in their order. One that cannot be "
        "answered gets its error; the others are answered all the same.",
        response_model=_batch_response(api),
        responses=_REFUSALS,
        openapi_extra=request_body(batch_request(api), {"batch": example}),
    )(predict)


async def _single(api: PredictionApi[Any], town: Town, metrics: Metrics, request: Request) -> Response:
    """Parse, forecast, write."""
    began = time.perf_counter()
    body = b""
    try:
        check_media_type(request)
        body = await request.body()
        asked = api.request.model_validate_json(body)
        answered = await answer(api, town, asked)
        reply = Response(to_json(answered.reply), media_type="application/json")
    except UnicodeDecodeError as error:
        return refusal(malformed(str(error))).reply()
    except (ValidationError, TowncastError) as error:
        return refusal(error, request_id=request_id_in(body), fields=api.request.model_fields).reply()
    _observe(metrics, api.path, [answered], began)
    return reply


async def _batch(api: PredictionApi[Any], town: Town, metrics: Metrics, request: Request) -> Response:
    """Parse each request by itself, forecast together, write."""
    began = time.perf_counter()
    try:
        check_media_type(request)
        items = _items(await request.body(), limit=town.settings.batch_limit)
        if not town.services(api.domain):
            raise town.why_not(api.domain)
    except TowncastError as error:
        return refusal(error).reply()
    parsed = [_parsed(api, item) for item in items]
    answers = iter(await answer_many(api, town, [one for one in parsed if isinstance(one, PredictionRequest)]))
    outcomes = [next(answers) if isinstance(one, PredictionRequest) else one for one in parsed]
    results = [
        outcome.reply
        if isinstance(outcome, Answered)
        else refusal(outcome, request_id=own_request_id(item), fields=api.request.model_fields).content.model_dump()
        for item, outcome in zip(items, outcomes, strict=True)
    ]
    reply = Response(to_json({"results": results}), media_type="application/json")
    _observe(metrics, f"{api.path}/batch", [one for one in outcomes if isinstance(one, Answered)], began)
    return reply


def _items(body: bytes, *, limit: int) -> list[Any]:
    """The requests of a batch, not parsed further.

    Raises:
        MalformedBodyError: The body is not JSON.
        InvalidParameterError: It is not an object with a list of requests, or there are too many.
    """
    try:
        content = from_json(body)
    except (ValueError, RecursionError) as error:
        raise malformed(str(error)) from error
    unknown = [key for key in content if key != "requests"] if isinstance(content, dict) else []
    items = content.get("requests") if isinstance(content, dict) else None
    if unknown or not isinstance(items, list) or not 1 <= len(items) <= limit:
        count = f"{len(items)} requests" if isinstance(items, list) else items
        raise InvalidParameterError(
            parameter=unknown[0] if unknown else "requests",
            provided=content[unknown[0]] if unknown else count,
            allowed=f"an object with nothing but `requests`, a list of 1 to {limit}",
            fact="The body is no batch",
            remedy="Send several batches, or set TOWNCAST_BATCH_LIMIT.",
        )
    return items


def _parsed(api: PredictionApi[Any], item: Any) -> PredictionRequest | ValidationError | TowncastError:
    # By way of JSON, because only there a list may stand for a pair of coordinates without coercion.
    try:
        request: PredictionRequest = api.request.model_validate_json(to_json(item))
    except ValidationError as error:
        return error
    except UnicodeError as error:
        return malformed(str(error))
    return request


def _observe(metrics: Metrics, route: str, answered: list[Answered], began: float) -> None:
    results = [result for one in answered for result in one.results]
    if results:
        window_s, run_s = (max(result.timing_s[stage] for result in results) for stage in ("window", "run"))
        total_s = time.perf_counter() - began
        rest_s = max(0.0, total_s - window_s - run_s)
        metrics.observe(route, {"window": window_s, "run": run_s, "reply": rest_s, "total": total_s})
    for result in results:
        metrics.count_forecast(result)
