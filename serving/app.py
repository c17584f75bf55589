"""The HTTP API: thin, over the forecast services of a town."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI

from serving.errors import BodyLimit, install_error_replies
from serving.metrics import Metrics
from serving.routes.direct import describe_requests
from serving.routes.operation import operation_routes
from serving.routes.predictions import prediction_routes, request_models
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.town import Town

_DESCRIPTION = """Forecasts of a town. Every path of predictions is also served under `/v1`.

Moments are UTC. Every error has the same envelope. What must be known before a forecast is trusted (old or missing
readings, a place that the model has never seen, no weather forecast, which runtime answered) is in its `quality`."""


def create_app(
    settings: ServingSettings | None = None, *, services: Sequence[ForecastService] | None = None
) -> FastAPI:
    """The API.

    It listens at once. Models and histories load behind it, again and again until that succeeds: until then the
    predictions of a domain and `/health/ready` answer 503 and say why. `app.state.loaded` is a `threading.Event` that
    is set when the first are there.

    Args:
        settings: The environment; read from it by default.
        services: Services to use in place of those that the settings describe; started and closed with the app.

    Raises:
        UnknownNameError: The settings name a domain that there is not.
    """
    town = Town(settings or ServingSettings(), services)
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await town.start()
        try:
            yield
        finally:
            await town.close()

    app = FastAPI(title="towncast", version="1", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.loaded = town.loaded_once
    install_error_replies(app)
    app.add_middleware(
        BodyLimit,
        limit_bytes=town.settings.body_limit_bytes,
        batch_limit_bytes=town.settings.batch_body_limit_bytes,
    )
    predictions = prediction_routes(town, metrics)
    app.include_router(predictions)
    app.include_router(predictions, prefix="/v1", include_in_schema=False)
    app.include_router(operation_routes(town, metrics))
    describe_requests(app, request_models())
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
