"""An app that answers the protocol, in this process or served by a uvicorn of its own."""

import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from features.feast_repository import FeatureRepository
from features.vocabulary import Window
from serving.artifacts import Artifact
from serving.errors import install_error_replies
from serving.inference_protocol.dispatch import InferenceDispatch
from serving.inference_protocol.protocol import InferenceProtocol
from serving.inference_protocol.routes import inference_protocol_routes, inference_request_models
from serving.metrics import Metrics
from serving.observability_settings import ObservabilitySettings
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.settings import PredictionLogSettings
from serving.routes.direct import describe_requests
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.town import Town
from serving.tracing import Tracing
from tests.serving.conftest import Api

MODEL = "towncast-traffic"
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="session")
def protocol_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FastAPI]:
    """Makes an app of nothing but the protocol; `direct` is the short way past the router."""

    def make(services: Sequence[ForecastService], *, direct: bool = True, batch_limit: int = 4) -> FastAPI:
        folder = tmp_path_factory.mktemp("protocol")
        town = Town(ServingSettings(data_dir=folder), services)
        log = PredictionLog(PredictionLogSettings(data_dir=folder))
        metrics = Metrics()
        protocol = InferenceProtocol(town, metrics, log, batch_limit=batch_limit)

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            log.start()
            await town.start()
            yield
            await town.close()
            log.close()

        app = FastAPI(lifespan=lifespan)
        app.state.log, app.state.metrics = log, metrics
        install_error_replies(app)
        if direct:
            app.add_middleware(InferenceDispatch, protocol=protocol, tracing=Tracing(ObservabilitySettings()))
        app.include_router(inference_protocol_routes(protocol))
        describe_requests(app, inference_request_models())
        return app

    return make


@pytest.fixture(scope="module")
def oip(
    artifact: Artifact,
    repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
) -> Iterator[Api]:
    """The app in this process, with a model of traffic."""
    with Api(protocol_app([service_of(artifact, repository)])) as opened:
        yield opened


@pytest.fixture(scope="session")
def windows_of(artifact: Artifact) -> Callable[..., Window]:
    """Makes drawn windows of roads that the model takes, with nothing missing."""
    card = artifact.card

    def make(count: int = 1, *, seed: int = 0) -> Window:
        rng = np.random.default_rng(seed)

        def draw(*shape: int) -> Any:
            return rng.uniform(0, 900, (count, *shape)).astype(np.float32)

        return Window(
            history_BLK=draw(card.history_steps, len(card.history_channels)),
            future_BHK=draw(card.horizon_steps, len(card.future_channels)),
            static_BS=draw(len(card.static_channels)),
            sites=("",) * count,
            origins=np.zeros(count, dtype=np.int64),
        )

    return make


def arrays_of(window: Window) -> dict[str, Any]:
    return {"history": window.history_BLK, "future": window.future_BHK, "static": window.static_BS}


def as_json(array: Any, *, nested: bool = False) -> Any:
    """The values as JSON has them: null for NaN."""
    values = np.where(np.isnan(array), None, array.astype(object))
    return values.tolist() if nested else values.ravel().tolist()


def request_of(window: Window, *, nested: bool = False, **more: Any) -> dict[str, Any]:
    """A request with all of a window in JSON."""
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": "FP32", "data": as_json(array, nested=nested)}
        for name, array in arrays_of(window).items()
    ]
    return {"inputs": inputs, **more}


def binary_request_of(window: Window, **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with all of a window behind the JSON, and its headers, as the clients of Triton and KServe make it."""
    parts = {name: array.astype("<f4").tobytes() for name, array in arrays_of(window).items()}
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(parts[name])},
        }
        for name, array in arrays_of(window).items()
    ]
    head = json.dumps({"inputs": inputs, **more}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + b"".join(parts.values()), headers


def quantiles_of(reply: Any) -> Any:
    """The forecasts in a reply, JSON or bytes, as the protocol's clients read them."""
    assert reply.status_code == 200, reply.text
    length = reply.headers.get("Inference-Header-Content-Length")
    head = json.loads(reply.content if length is None else reply.content[: int(length)])
    (output,) = head["outputs"]
    assert (output["name"], output["datatype"]) == ("quantiles", "FP32")
    if length is None:
        values = np.array(output["data"], dtype=np.float32)
    else:
        assert output["parameters"]["binary_data_size"] == len(reply.content) - int(length)
        values = np.frombuffer(reply.content[int(length) :], dtype="<f4")
    return values.reshape(output["shape"])


@pytest.fixture(scope="module")
def served(
    artifact: Artifact,
    repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
) -> Iterator[str]:
    """Host and port of the app on a uvicorn of its own."""
    app = protocol_app([service_of(artifact, repository)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()
