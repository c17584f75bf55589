"""`POST /predict/<domain>` and its batch form, for every domain."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Hashable, Sequence
from functools import cache, partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_json

from features.errors import TowncastError
from serving.errors import malformed, own_request_id, refusal, request_id_in
from serving.metrics import Metrics
from serving.prediction_log.log import PredictionLog
from serving.predictions import APIS
from serving.predictions.answering import Answered, answer, answer_many
from serving.predictions.api import PredictionApi
from serving.request_context import CALLER
from serving.routes.direct import BodyHandler, DirectRoute, check_media_type, listed_items, request_body
from serving.schemas import ErrorReply, PredictionRequest, Reply
from serving.service import ForecastResult
from serving.town import Town
from serving.tracing import annotate, stages

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The body is not JSON, or a value is not allowed."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not said to be JSON."},
    503: {"model": ErrorReply, "description": "The model is not loaded, or no runtime or no readings are there."},
}
# Requests of a batch that are answered before the next part of the reply leaves.
_TOGETHER = 128
_UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "There is no such place; near names are in `details`."}
}


class Predictions:
    """Answers the bodies of `POST /predict/<domain>`, one request or many.

    Args:
        town: Has the models.
        metrics: Figures of the answers.
        log: Where each answer is written before it leaves.
        batch_limit: Most requests in a batch.
    """

    def __init__(self, town: Town, metrics: Metrics, log: PredictionLog, *, batch_limit: int) -> None:
        self.town = town
        self.metrics = metrics
        self.log = log
        self.batch_limit = batch_limit

    def handlers(self) -> dict[str, BodyHandler]:
        """The functions by their paths, for `DirectDispatch`."""
        found: dict[str, BodyHandler] = {}
        for api in APIS.values():
            for prefix in ("", "/v1"):
                found[f"{prefix}{api.path}"] = partial(self.single, api)
                found[f"{prefix}{api.path}/batch"] = partial(self.batch, api)
        return found

    async def single(self, api: PredictionApi[Any], body: bytes, media_type: str) -> Response:
        """Parse, forecast, log, write."""
        began = time.perf_counter()
        reply = await self._single(api, body, media_type, began)
        self.metrics.count_request(api.path, reply.status_code)
        return reply

    async def _single(self, api: PredictionApi[Any], body: bytes, media_type: str, began: float) -> Response:
        try:
            check_media_type(media_type)
            asked = api.request.model_validate_json(body)
            answered = await answer(api, self.town, asked)
        except UnicodeDecodeError as error:
            return refusal(malformed(str(error))).reply()
        except (ValidationError, TowncastError) as error:
            return refusal(error, request_id=request_id_in(body), fields=api.request.model_fields).reply()
        self._write([answered])
        self._observe(api.path, [answered], began)
        annotate(domain=api.domain, model=answered.results[0].forecast.model, site=answered.results[0].site.name)
        return Response(answered.body, media_type="application/json")

    async def batch(self, api: PredictionApi[Any], body: bytes, media_type: str) -> Response:
        """Parse each request by itself, then forecast, log and write some at a time."""
        try:
            check_media_type(media_type)
            items, parsed = _batch_items(api, body, limit=self.batch_limit)
            if not self.town.services(api.domain):
                raise self.town.why_not(api.domain)
        except TowncastError as error:
            reply = refusal(error).reply()
            self.metrics.count_request(f"{api.path}/batch", reply.status_code)
            return reply
        self.metrics.count_request(f"{api.path}/batch", 200)
        return StreamingResponse(self._results(api, items, parsed), media_type="application/json")

    async def _results(
        self, api: PredictionApi[Any], items: Sequence[Any], parsed: Sequence[_Parsed]
    ) -> AsyncIterator[bytes]:
        """The reply to a batch in parts, so that nobody else waits for the whole of it, and it is never held whole."""
        opening = b'{"results":['
        for first in range(0, len(parsed), _TOGETHER):
            began = time.perf_counter()
            some = parsed[first : first + _TOGETHER]
            answers = iter(
                await answer_many(api, self.town, [one for one in some if isinstance(one, PredictionRequest)])
            )
            outcomes = [next(answers) if isinstance(one, PredictionRequest) else one for one in some]
            answered = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
            self._write(answered)
            self._observe(f"{api.path}/batch", answered, began)
            yield opening + b",".join(
                _refused(api, item, outcome) if isinstance(outcome, Exception) else outcome.body
                for item, outcome in zip(items[first:], outcomes, strict=False)
            )
            opening = b","
        yield b"]}"

    def _write(self, answered: Sequence[Answered]) -> None:
        if not self.log.on:
            return
        caller = CALLER.get()
        name = "" if caller is None else caller.name
        self.log.write(
            [
                record
                for one in answered
                for record in self.log.records(
                    one.results,
                    request_id=one.request_id,
                    caller=name,
                    latency_ms=one.elapsed_ms,
                    role_of=self._role_of,
                )
            ]
        )

    def _role_of(self, result: ForecastResult) -> str:
        """The role of the model that made a forecast, "" where it has none any more."""
        roles = self.town.release(result.card.domain, result.card.target).roles()
        version = result.forecast.model
        return next((role for role, held in roles.items() if held.artifact.model_version == version), "")

    def _observe(self, route: str, answered: Sequence[Answered], began: float) -> None:
        if not answered:
            return
        total_s = time.perf_counter() - began
        timing_s = {"reply": total_s - 1e-3 * max(one.elapsed_ms for one in answered), "total": total_s}
        # The answers of a batch are alike but for a few.
        alike: dict[Hashable, list[ForecastResult]] = {}
        for one in answered:
            for result in one.results:
                quality, model = result.quality, result.forecast.model
                key = (result.card.target, model, result.came, quality.runtime, quality.lowered_by)
                alike.setdefault(key, []).append(result)
                if result.came == "made":
                    run = result.run
                    rest_s = result.timing_s.get("total", 0.0) - run.queue_s - run.inference_s
                    timing_s |= {"features": max(0.0, rest_s), "queue": run.queue_s, "inference": run.inference_s}
                    self.metrics.observe_run(run.runtime, run.batch)
        for results in alike.values():
            self.metrics.count_forecast(results[0], len(results))
            self.metrics.count_kept(results[0].card.domain, results[0].card.target, results[0].came, len(results))
        self.metrics.observe(route, timing_s)
        stages(timing_s)


def prediction_routes(predictions: Predictions) -> APIRouter:
    """Both forms for every domain that has an API."""
    router = APIRouter(tags=["predictions"], route_class=DirectRoute)
    for api in APIS.values():
        _add_single(router, api, predictions)
        _add_batch(router, api, predictions)
    return router


def request_models() -> list[type[BaseModel]]:
    """The layouts of all requests."""
    return [model for api in APIS.values() for model in (api.request, batch_request(api))]


def batch_request(api: PredictionApi[Any], *, most: int | None = None) -> type[BaseModel]:
    """Layout of the request of a domain's batch.

    Args:
        api: The domain's.
        most: Most requests; left out in the documentation, because a setting says so.
    """
    return create_model(
        f"{api.domain.title()}BatchRequest",
        __doc__="Requests that are answered together.",
        __config__=ConfigDict(extra="forbid"),
        requests=(list[api.request], Field(min_length=1, max_length=most, description="As for one forecast each.")),  # type: ignore[name-defined]
    )


def _batch_response(api: PredictionApi[Any]) -> type[BaseModel]:
    return create_model(
        f"{api.domain.title()}BatchResponse",
        __doc__="The answers, in the order of the requests.",
        __base__=Reply,
        results=(list[api.response | ErrorReply], Field(description="A reply or an error each.")),  # type: ignore[name-defined]
    )


def _add_single(router: APIRouter, api: PredictionApi[Any], predictions: Predictions) -> None:
    async def predict(request: Request) -> Response:
        return await predictions.single(api, await request.body(), request.headers.get("content-type", ""))

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


def _add_batch(router: APIRouter, api: PredictionApi[Any], predictions: Predictions) -> None:
    async def predict(request: Request) -> Response:
        return await predictions.batch(api, await request.body(), request.headers.get("content-type", ""))

    example = {"summary": "All of them", "value": {"requests": [one["value"] for one in api.examples.values()]}}
    router.post(
        f"{api.path}/batch",
        name=f"predict_{api.domain}_batch",
        summary=f"{api.summary}: many together",
        description="Requests like those for one forecast, answered together in their order; the reply "
        "is streamed. One that cannot be answered gets its error; the others are answered all the same.",
        response_model=_batch_response(api),
        responses=_REFUSALS,
        openapi_extra=request_body(batch_request(api), {"batch": example}),
    )(predict)


_Parsed = PredictionRequest | ValidationError | TowncastError


def _batch_items(api: PredictionApi[Any], body: bytes, *, limit: int) -> tuple[Sequence[Any], Sequence[_Parsed]]:
    """The requests of a batch, as they came where one has a fault, and each parsed or its error.

    A batch without a fault, as nearly all are, is parsed as a whole, which takes a third of the time.

    Raises:
        MalformedBodyError: The body is not JSON.
        InvalidParameterError: It is not an object with a list of requests, or there are too many.
    """
    try:
        parsed = _whole_batch(api.domain, limit).model_validate_json(body).requests  # type: ignore[attr-defined]
    except (ValidationError, UnicodeError):
        items = listed_items(
            body,
            "requests",
            limit=limit,
            fact="The body is no batch",
            remedy="Send several batches, or set TOWNCAST_BATCH_LIMIT.",
        )
        return items, [_parsed(api, item) for item in items]
    return parsed, parsed


@cache
def _whole_batch(domain: str, limit: int) -> type[BaseModel]:
    """The layout of a batch, which ends at the first request too many."""
    return batch_request(APIS[domain], most=limit)


def _refused(api: PredictionApi[Any], item: Any, error: ValidationError | TowncastError) -> bytes:
    request_id = item.request_id if isinstance(item, PredictionRequest) else own_request_id(item)
    refused = refusal(error, request_id=request_id, fields=api.request.model_fields)
    return to_json(refused.content.model_dump())


def _parsed(api: PredictionApi[Any], item: Any) -> _Parsed:
    # By way of JSON, because only there a list may stand for a pair of coordinates without coercion.
    try:
        request: PredictionRequest = api.request.model_validate_json(to_json(item))
    except ValidationError as error:
        return error
    except UnicodeError as error:
        return malformed(str(error))
    return request
