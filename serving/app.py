"""The HTTP API: thin, over the forecast services of a town."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI

from serving.errors import BodyLimit, install_error_replies
from serving.metrics import Metrics
from serving.routes.direct import describe_requests
from serving.routes.operation import operation_routes
from serving.routes.predictions import prediction_routes, request_models
from serving.routes.sessions import session_request_models, session_routes
from serving.service import ForecastService
from serving.sessions.service import SimulationSessions
from serving.sessions.stores import open_store
from serving.settings import ServingSettings
from serving.town import Town

_DESCRIPTION = """Forecasts of a town, and simulations of processes, step by step. Every path of either is also served
under `/v1`.

Moments are UTC. Every error has the same envelope. What must be known before a forecast is trusted (old or missing
readings, a place that the model has never seen, no weather forecast, which runtime answered) is in its `quality`."""


def create_app(
    settings: ServingSettings | None = None,
    *,
    services: Sequence[ForecastService] | None = None,
    sessions: SimulationSessions | None = None,
) -> FastAPI:
    """The API.

    It listens at once. Models and histories load behind it, again and again until that succeeds: until then the
    predictions of a domain and `/health/ready` answer 503 and say why. `app.state.loaded` is a `threading.Event` that
    is set when the first are there. Simulations need no model, and answer from the first second.

    Args:
        settings: The environment; read from it by default.
        services: Services to use in place of those that the settings describe; started and closed with the app.
        sessions: Simulations to use in place of those that the settings describe; closed with the app.

    Raises:
        UnknownNameError: The settings name a domain that there is not.
    """
    town = Town(settings or ServingSettings(), services)
    simulations = sessions or SimulationSessions(open_store(town.settings))
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await town.start()
        sweeping = asyncio.create_task(simulations.keep_sweeping())
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            simulations.close()
            await town.close()

    app = FastAPI(title="towncast", version="1", description=_DESCRIPTION, lifespan=lifespan, redoc_url=None)
    app.state.loaded = town.loaded_once
    install_error_replies(app)
    app.add_middleware(
        BodyLimit,
        limit_bytes=town.settings.body_limit_bytes,
        batch_limit_bytes=town.settings.batch_body_limit_bytes,
    )
    for routes in (prediction_routes(town, metrics), session_routes(simulations, metrics)):
        app.include_router(routes)
        app.include_router(routes, prefix="/v1", include_in_schema=False)
    app.include_router(operation_routes(town, metrics))
    describe_requests(app, [*request_models(), *session_request_models()])
    return app


def run_app(app: FastAPI, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve an app on one uvicorn worker until it is told to stop.

    Threads beside the event loop (features, large batches) hold the interpreter for 0.5 ms at a time in place of
    Python's 5 ms, which would be seen in the slowest replies. Logging that was configured before stays as it is.
    """
    import sys

    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    sys.setswitchinterval(5e-4)
    # uvicorn's own configuration would close the handlers of the root logger, and a file opened with "w" stays closed.
    log_config = None if logging.getLogger().handlers else LOGGING_CONFIG
    uvicorn.run(app, host=host, port=port, workers=1, access_log=False, log_level=log_level, log_config=log_config)
