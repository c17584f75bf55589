"""The HTTP API: thin, over `ForecastService`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from features.errors import TowncastError
from serving.errors import (
    BodyLimit,
    MediaTypeError,
    NotReadyError,
    install_error_replies,
    malformed,
    request_id_in,
    towncast_reply,
    validation_reply,
)
from serving.loading import build_service
from serving.metrics import CONTENT_TYPE, Metrics
from serving.schemas import ErrorReply, Live, Ready, TrafficRequest, TrafficResponse
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.traffic import speed_relation, traffic_reply

_LOG = logging.getLogger(__name__)
_RETRY_S = 5.0
_TRAFFIC = "/predict/traffic"
_REFERENCE = "#/components/schemas/{model}"
_DESCRIPTION = """Forecasts of a town. Every path of predictions is also served under `/v1`.

Moments are UTC. Every error has the same envelope. What must be known before a forecast is trusted (old readings, a
road that the model has never seen, which runtime answered) is in its `quality`."""
_EXAMPLES = {
    "road": {
        "summary": "A road by its name, a day ahead",
        "value": {"location": {"road_id": "R001"}, "forecast_horizon": "24h", "include_explanation": True},
    },
    "point": {
        "summary": "The road nearest to a point",
        "value": {
            "request_id": "7f1c0d5e-3b0a-4f0e-9a55-0f6f1f0f3c55",
            "location": {"coordinates": [23.0225, 72.5714]},
            "forecast_horizon": "2h",
            "include_confidence": True,
        },
    },
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The body is not JSON, or a value is not allowed."},
    404: {"model": ErrorReply, "description": "There is no such road; near names are in `details`."},
    413: {"model": ErrorReply, "description": "The body is too large."},
    415: {"model": ErrorReply, "description": "The body is not said to be JSON."},
    503: {"model": ErrorReply, "description": "The model is not loaded, or no runtime or no readings are there."},
}


class _DirectRoute(APIRoute):
    """A route that is documented like any other, and hands the request to its function as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function itself, in place of parsing, injecting and validating around it."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


class _State:
    """What the routes of one app share: the service once it is loaded, or why it is not."""

    def __init__(self) -> None:
        self.service: ForecastService | None = None
        self.loaded_once = threading.Event()
        self.waiting = NotReadyError(
            "The model is not loaded yet", remedy="Try again in some seconds; GET /health/ready says when."
        )
        self.metrics = Metrics(_TRAFFIC)

    def loaded(self) -> ForecastService:
        """The service.

        Raises:
            NotReadyError: It is not loaded; the message says why.
        """
        if self.service is None:
            raise self.waiting
        return self.service


def create_app(settings: ServingSettings | None = None, *, service: ForecastService | None = None) -> FastAPI:
    """The API.

    It listens at once. The model and the histories load behind it, again and again until that succeeds: until then
    predictions and `/health/ready` answer 503 and say why. `app.state.loaded` is a `threading.Event` that is set then.

    Args:
        settings: The environment; read from it by default.
        service: A service to use in place of the one that the settings describe; started and closed with the app.
    """
    settings = settings or ServingSettings()
    state = _State()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.get_running_loop().create_task(_load(state, settings, service))
        if service is not None:
            await loading
        try:
            yield
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            if state.service is not None:
                await state.service.close()

    app = FastAPI(title="towncast", version="1", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.loaded = state.loaded_once
    install_error_replies(app)
    app.add_middleware(BodyLimit, limit_bytes=settings.body_limit_bytes)
    predictions = _prediction_routes(state)
    app.include_router(predictions)
    app.include_router(predictions, prefix="/v1", include_in_schema=False)
    app.include_router(_operation_routes(state))
    _describe_request(app)
    return app


def run_app(app: FastAPI, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve an app on one uvicorn worker until it is told to stop.

    Threads beside the event loop (features, large batches) hold the interpreter for 0.5 ms at a time in place of
    Python's 5 ms, which would be seen in the slowest replies.
    """
    import sys

    import uvicorn

    sys.setswitchinterval(5e-4)
    uvicorn.run(app, host=host, port=port, workers=1, access_log=False, log_level=log_level)


async def _load(state: _State, settings: ServingSettings, service: ForecastService | None) -> None:
    """Start the service; what fails is tried again, so that an API that is up before its model finds it."""
    if service is not None:
        await service.start()
        state.service = service
        state.loaded_once.set()
        return
    while state.service is None:
        try:
            built = await asyncio.to_thread(build_service, settings, "traffic")
            try:
                await built.start()
            except BaseException:
                await built.close()
                raise
            state.service = built
            state.loaded_once.set()
            _LOG.info("Serving %s", built.artifact.model_version)
        except TowncastError as error:
            state.waiting = NotReadyError(error.fact, remedy=error.remedy)
            _LOG.error("Not ready: %s", error)
            await asyncio.sleep(_RETRY_S)


def _prediction_routes(state: _State) -> APIRouter:
    router = APIRouter(tags=["predictions"], route_class=_DirectRoute)

    @router.post(
        _TRAFFIC,
        summary="Forecast a road's traffic",
        response_model=TrafficResponse,
        response_model_exclude_none=True,
        responses=_REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": _REFERENCE.format(model="TrafficRequest")},
                        "examples": _EXAMPLES,
                    }
                },
            }
        },
    )
    async def predict_traffic(request: Request) -> Response:
        """Volume, speed and congestion of a road for each hour from the first to the horizon, with intervals."""
        reply = await _predict_traffic(state, request)
        state.metrics.count_request(reply.status_code)
        return reply

    return router


async def _predict_traffic(state: _State, request: Request) -> Response:
    """Parse, forecast, write. The body is parsed here, because the framework would coerce and decode it twice."""
    began = time.perf_counter()
    body = b""
    try:
        _check_media_type(request)
        body = await request.body()
        asked = TrafficRequest.model_validate_json(body)
        service = state.loaded()
        parsed = time.perf_counter()
        result = await service.forecast(
            site=asked.location.road_id,
            coordinates=asked.location.coordinates,
            horizon=asked.forecast_horizon,
            explain=asked.include_explanation,
        )
        ran = time.perf_counter()
        relation = speed_relation(service.artifact.card, result.site)
        content = traffic_reply(asked, result, relation, inference_time_ms=(ran - parsed) * 1e3)
        reply = Response(to_json(content), media_type="application/json")
    except ValidationError as error:
        return validation_reply(error, request_id=request_id_in(body))
    except UnicodeDecodeError as error:
        return towncast_reply(malformed(str(error)))
    except TowncastError as error:
        return towncast_reply(error, request_id=request_id_in(body))
    end = time.perf_counter()
    state.metrics.observe({**result.timing_s, "reply": end - ran, "total": end - began})
    state.metrics.count_forecast(result.quality)
    return reply


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if given != "application/json":
        raise MediaTypeError(
            "The body is not said to be JSON", found=given[:100], remedy="Send Content-Type: application/json."
        )


def _operation_routes(state: _State) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/health/live", summary="Is the process alive?", response_model=Live)
    async def live() -> Live:
        """Answers as long as the process does."""
        return Live(status="alive")

    @router.get(
        "/health/ready",
        summary="Can it forecast?",
        response_model=Ready,
        responses={503: {"model": ErrorReply, "description": "The model is not loaded, or no runtime is up."}},
    )
    async def ready() -> Ready:
        """Which model is loaded and which runtimes are up; 503 until there is one of each."""
        service = state.loaded()
        if not await service.runtime.ready():
            raise NotReadyError("No runtime is up", remedy="See the log for the reason; it is tried again.")
        return Ready(
            status="ready",
            model_version=service.artifact.model_version,
            runtimes=service.runtime.states(),
            sites=len(service.memory.sites),
        )

    @router.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Requests, latency by stage, runtimes and quality flags, in Prometheus' text format."""
        runtimes = {} if state.service is None else state.service.runtime.states()
        return Response(state.metrics.text(runtimes), media_type=CONTENT_TYPE)

    return router


def _describe_request(app: FastAPI) -> None:
    """Add to the OpenAPI document the request's schema, which the route parses by itself."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            written = generate()
            _, schema = models_json_schema([(TrafficRequest, "validation")], ref_template=_REFERENCE)
            written["components"]["schemas"].update(schema["$defs"])
            app.openapi_schema = written
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
