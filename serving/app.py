"""The API: its parts put together, around a town."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI

from serving.environment import Environment, read_environment
from serving.errors import install_error_replies
from serving.forecasts_ahead import ForecastsAhead
from serving.inference_protocol.dispatch import InferenceDispatch
from serving.inference_protocol.protocol import InferenceProtocol
from serving.inference_protocol.routes import inference_protocol_routes, inference_request_models
from serving.inflow.inflow import Inflow
from serving.kept import Run
from serving.live.hub import LiveHub
from serving.live.pages import dashboard_routes
from serving.live.routes import live_routes
from serving.logs import AccessLog
from serving.metrics import Metrics
from serving.metrics_folder import shared_folder
from serving.monitoring.answers import MonitoringAnswers
from serving.monitoring.figures import keep_report_figures
from serving.monitoring.keeper import ActualsKeeper
from serving.prediction_log.log import PredictionLog
from serving.releases.plans import SHADOW, Standing
from serving.routes.data import data_answers, data_routes
from serving.routes.direct import DirectDispatch, describe_requests
from serving.routes.monitoring import monitoring_routes
from serving.routes.operation import operation_routes
from serving.routes.predictions import Predictions, prediction_routes, request_models
from serving.routes.readings import reading_request_models, readings_routes
from serving.routes.releases import release_routes
from serving.routes.sessions import session_request_models, session_routes
from serving.security.document import describe_security
from serving.security.security import Security
from serving.service import ForecastService
from serving.sessions.service import SimulationSessions
from serving.sessions.stores import open_store
from serving.settings import ServingSettings
from serving.town import Town
from serving.town_figures import keep_figures
from serving.tracing import Tracing
from serving.workers import SWITCH_S, listen, server_config

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

_DESCRIPTION = """Forecasts of a town, its readings, and simulations of processes, step by step. Every path of these is
also served under `/v1`. Models can be asked past all of that by the Open Inference Protocol, under `/v2`; `/ws` pushes
what is new, and `/dashboard` shows it.

Moments are UTC. Every error has the same envelope. What must be known before a forecast is trusted (old or missing
readings, a place that the model has never seen, no weather forecast, which runtime answered) is in its `quality`."""
# The framework's own is looked up anew for every request; ours is `serving.tracing`.
_NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}


class Gateway:
    """The parts of one app, and the order in which they start and stop. Nothing is opened before `start`.

    Args:
        environment: Settings of all parts.
        services: Services to use in place of those that the settings describe.
        sessions: Simulations to use in place of those that the settings describe.
    """

    def __init__(
        self,
        environment: Environment,
        services: Sequence[ForecastService] | None = None,
        sessions: SimulationSessions | None = None,
    ) -> None:
        settings = environment.serving
        self.environment = environment
        self.town = Town(settings, services, releases=environment.releases)
        self.metrics = Metrics(shared_folder())
        self.security = Security(environment.security, host=settings.host)
        self.sessions = sessions or SimulationSessions(open_store(settings))
        self.tracing = Tracing(environment.observability)
        self.log = PredictionLog(environment.prediction_log)
        self.actuals = ActualsKeeper(self.town.domains, self.log.store, self.metrics, environment.monitoring)
        self.inflow = Inflow(environment.inflow, self.metrics, windows=self.town.windows)
        self.hub = LiveHub(self.town, environment.live)
        self.ahead = ForecastsAhead(self.town, tell=self._log_ahead)
        self.predictions = Predictions(self.town, self.metrics, self.log, batch_limit=settings.batch_limit)
        self.protocol = InferenceProtocol(
            self.town, self.metrics, self.log, batch_limit=environment.inference.infer_batch_limit
        )
        self.monitoring = MonitoringAnswers(settings.data_dir, standings=self._standings)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all parts; models and histories load behind them."""
        self.tracing.start()
        await self.security.start()
        self.log.start()
        self.town.on_shadow(lambda site, champion, shadow: self.log.forecast_only(shadow, role=SHADOW))
        self.hub.start()
        if self.environment.serving.forecast_ahead:
            self.ahead.start()
        if self.log.on:
            self.actuals.start(self.town.news)
        self.metrics.look_first(self._look)
        loop = asyncio.get_running_loop()
        endless = (
            keep_figures(self.town, self.metrics),
            keep_report_figures(self.environment.serving.data_dir, self.town.domains, self.metrics),
            self.sessions.keep_sweeping(),
        )
        self._tasks = [loop.create_task(work) for work in endless]
        await self.inflow.start()
        await self.town.start()

    def _log_ahead(self, service: ForecastService, role: str, runs: Collection[Run]) -> None:
        self.log.made_ahead(runs, domain=service.domain.name, role=role)

    def _look(self) -> None:
        """Tell the figures that nobody tells by themselves."""
        self.metrics.set_websocket_clients(len(self.hub.clients))
        self.metrics.count_logged(*self.log.take_counts())

    def _standings(self) -> tuple[Mapping[str, Standing], bool]:
        """What the registry says, and whether it answers."""
        return self.town.watch.standings, self.town.watch.away is None

    def parts(self) -> dict[str, str]:
        """How the parts are that lean on something outside."""
        security = {name: "up" if up else "away" for name, up in self.security.states().items()}
        return self.inflow.states() | security

    async def close(self) -> None:
        """Stop all parts, those first that others lean on last."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hub.close()
        await self.inflow.close()
        self.sessions.close()
        await self.ahead.close()
        await self.actuals.close()
        await self.town.close()
        await asyncio.to_thread(self.log.close)
        await self.security.close()
        await asyncio.to_thread(self.tracing.close)


def create_app(
    settings: ServingSettings | None = None,
    *,
    environment: Environment | None = None,
    services: Sequence[ForecastService] | None = None,
    sessions: SimulationSessions | None = None,
    listen_after_s: float = 0.0,
) -> FastAPI:
    """The API.

    It listens at once. Models and histories load behind it, again and again until that succeeds: until then the
    predictions of a domain and `/health/ready` answer 503 and say why. `app.state.loaded` is a `threading.Event` that
    is set when the first are there. Simulations need no model, and answer from the first second.

    Args:
        settings: Addresses, folders, limits; read from the environment by default.
        environment: Settings of all parts, in place of `settings`; read by default.
        services: Services to use in place of those that the settings describe; started and closed with the app.
        sessions: Simulations to use in place of those that the settings describe; closed with the app.
        listen_after_s: How long to wait for what is there to be loaded before it listens: one of several workers that
            begins again must not answer that it is not ready while the others are [s].

    Raises:
        UnknownNameError: The settings name a domain that there is not.
        InvalidParameterError: A key or an address in the environment cannot be used.
    """
    environment = environment or read_environment(settings)
    gateway = Gateway(environment, services, sessions)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(listen_after_s):
                await gateway.town.settled.wait()
        try:
            yield
        finally:
            await gateway.close()

    app = FastAPI(
        title="towncast",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.state.loaded = gateway.town.loaded_once
    install_error_replies(app)
    _add_middleware(app, gateway)
    _add_routes(app, gateway)
    return app


def _add_middleware(app: FastAPI, gateway: Gateway) -> None:
    """What stands before the routes; the last one that is added is the outermost."""
    settings = gateway.environment.serving
    app.add_middleware(InferenceDispatch, protocol=gateway.protocol, tracing=gateway.tracing)
    app.add_middleware(DirectDispatch, handlers=gateway.predictions.handlers(), tracing=gateway.tracing)
    if gateway.environment.observability.access_log:
        app.add_middleware(AccessLog)
    gateway.security.install(
        app,
        body_limit_bytes=settings.body_limit_bytes,
        batch_body_limit_bytes=settings.batch_body_limit_bytes,
        count_refusal=gateway.metrics.count_refusal,
    )


def _add_routes(app: FastAPI, gateway: Gateway) -> None:
    town, metrics = gateway.town, gateway.metrics
    for routes in (
        prediction_routes(gateway.predictions),
        data_routes(data_answers(town, gateway.environment.serving), metrics),
        readings_routes(gateway.inflow.desk, metrics),
        session_routes(gateway.sessions, metrics),
        live_routes(gateway.hub, metrics),
        release_routes(town),
        monitoring_routes(gateway.monitoring, metrics),
    ):
        app.include_router(routes)
        app.include_router(routes, prefix="/v1", include_in_schema=False)
    app.include_router(inference_protocol_routes(gateway.protocol))
    app.include_router(operation_routes(town, metrics, parts=gateway.parts))
    app.include_router(dashboard_routes(metrics))
    requests = [request_models, session_request_models, reading_request_models, inference_request_models]
    describe_requests(app, [model for models in requests for model in models()])
    describe_security(app, on=gateway.security.on)


def run_app(app: FastAPI, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve an app on one uvicorn worker until it is told to stop; logging that was configured before stays."""
    import sys

    from uvicorn import Server
    from uvicorn.config import LOGGING_CONFIG

    sys.setswitchinterval(SWITCH_S)
    # uvicorn's own configuration would close the handlers of the root logger, and a file opened with "w" stays closed.
    log_config = None if logging.getLogger().handlers else LOGGING_CONFIG
    config = server_config(app, host=host, port=port, log_level=log_level, log_config=log_config)
    server = Server(config)
    # Ctrl-C is how it is told to stop: uvicorn raises it again when all is closed.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listen(config)])
    if not server.started:
        sys.exit(1)
