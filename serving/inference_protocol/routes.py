"""The paths of the Open Inference Protocol v2: thin, over `InferenceProtocol`."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from serving.errors import refusal
from serving.inference_protocol.error_form import PREFIX
from serving.inference_protocol.messages import BINARY, HEADER_LENGTH, InferenceReply, json_error, write_json
from serving.inference_protocol.protocol import EXTENSIONS, InferenceProtocol
from serving.inference_protocol.refusals import protocol_refusal
from serving.inference_protocol.schemas import (
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from serving.routes.direct import DirectRoute, request_body

_IN_PATH = {
    "model": "Registered name of a model.",
    "version": "One of its versions; where none is given the champion answers.",
}
_EXAMPLE = {
    "id": "42",
    "parameters": {"site": "R001"},
    "inputs": [{"name": "history", "shape": [1, 2, 2], "datatype": "FP32", "data": [812.0, 21.5, None, 21.0]}],
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    404: {"model": ProtocolError, "description": "There is no such model, version or site; near names are said."},
    503: {"model": ProtocolError, "description": "The model is not loaded, or no runtime is up."},
}
_BODY_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": ProtocolError, "description": "The body is not as the protocol has it, or does not fit the model."},
    413: {"model": ProtocolError, "description": "The body is too large."},
    415: {"model": ProtocolError, "description": "The body is not said to be JSON, or JSON and binary tensors."},
}
_INFER = """Forecasts of windows that come in the body, all quantiles of the model, as the metadata of the model says:
`history` [B, L, K], `future` [B, H, C] and `static` [B, S] in physical units.

Numbers are JSON, flat or nested, with null for what is missing; or bytes behind the JSON, as the clients of Triton
send them (binary tensor data extension), with NaN. Nothing is answered where a window does not fit."""


def inference_protocol_routes(protocol: InferenceProtocol) -> APIRouter:
    """All paths under `/v2`."""
    router = APIRouter(prefix=PREFIX, tags=["open inference protocol"], route_class=DirectRoute)
    _add_server(router, protocol)
    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        _add_model(router, protocol, path)
        _add_infer(router, protocol, f"{path}/infer")
    return router


def inference_request_models() -> list[type[BaseModel]]:
    """The layouts of all requests, for `describe_requests`."""
    return [InferRequest, IndexRequest]


def infer_target(path: str) -> tuple[str, str | None] | None:
    """Model and version of a decoded path `/v2/models/{model}[/versions/{version}]/infer`; None of any other."""
    match path.split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return model, None
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return model, version
    return None


def response_of(reply: InferenceReply) -> Response:
    """A reply as the framework sends it."""
    return Response(reply.body, status_code=reply.status, media_type=reply.content_type, headers=dict(reply.headers))


def _add_server(router: APIRouter, protocol: InferenceProtocol) -> None:
    async def live(request: Request) -> Response:
        """Answers as long as the process does."""
        return response_of(write_json({"live": True}))

    async def ready(request: Request) -> Response:
        """503 until one domain can be forecast, or all that TOWNCAST_DOMAINS names."""
        return response_of(await protocol.server_ready())

    async def metadata(request: Request) -> Response:
        """Its name, its version, and the extensions of the protocol that are here."""
        content = {"name": "towncast", "version": installed_version("towncast"), "extensions": EXTENSIONS}
        return response_of(write_json(content))

    async def index(request: Request) -> Response:
        """Names, versions and states of all models, as Triton's model repository extension lists them."""
        return response_of(_index(protocol, await request.body()))

    unready: dict[int | str, dict[str, Any]] = {
        503: {"model": ProtocolError, "description": "Nothing, or not all that was named, can be forecast."}
    }
    router.get("/health/live", summary="Is the server alive?", response_model=ServerLive)(live)
    router.get("/health/ready", summary="Can it infer?", response_model=ServerReady, responses=unready)(ready)
    router.get("", summary="The server", response_model=ServerMetadata)(metadata)
    router.get("/", include_in_schema=False)(metadata)
    router.post(
        "/repository/index",
        summary="All models",
        response_model=list[IndexEntry],
        responses={status: _BODY_REFUSED[status] for status in (400, 413)},
        openapi_extra=_optional(request_body(IndexRequest, {"ready": {"value": {"ready": True}}})),
    )(index)


def _optional(extra: dict[str, Any]) -> dict[str, Any]:
    extra["requestBody"]["required"] = False
    return extra


class _Index(msgspec.Struct, frozen=True):
    ready: bool = False


def _index(protocol: InferenceProtocol, body: bytes) -> InferenceReply:
    try:
        asked = msgspec.json.decode(body, type=_Index) if body else _Index()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return protocol_refusal(refusal(json_error(error)))
    return protocol.repository_index(ready=asked.ready)


def _add_model(router: APIRouter, protocol: InferenceProtocol, path: str) -> None:
    async def metadata(request: Request) -> Response:
        """Its tensors, and what their channels are."""
        return response_of(protocol.model_metadata(*_target(request)))

    async def config(request: Request) -> Response:
        """The same in the words of Triton's model configuration."""
        return response_of(protocol.model_config(*_target(request)))

    async def ready(request: Request) -> Response:
        """503 while it is not loaded, or none of its runtimes is up."""
        return response_of(await protocol.model_ready(*_target(request)))

    suffix = "_version" if "{version}" in path else ""
    for end, name, summary, model, work in (
        ("", "metadata", "What a model takes and gives", ModelMetadata, metadata),
        ("/config", "config", "A model's configuration", ModelConfig, config),
        ("/ready", "ready", "Can a model answer?", ModelReady, ready),
    ):
        router.add_api_route(
            f"{path}{end}",
            work,
            name=f"model_{name}{suffix}",
            summary=summary,
            response_model=model,
            responses=_REFUSED,
            openapi_extra={"parameters": _parameters(path)},
        )


def _add_infer(router: APIRouter, protocol: InferenceProtocol, path: str) -> None:
    async def infer(request: Request) -> Response:
        model, version = _target(request)
        headers = request.headers
        reply = await protocol.infer(
            model,
            version,
            await request.body(),
            content_type=headers.get("content-type", ""),
            header_length=headers.get(HEADER_LENGTH),
        )
        return response_of(reply)

    header = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "How many bytes of the body are JSON, where binary tensors follow it.",
        "schema": {"type": "integer", "minimum": 1},
    }
    body = request_body(InferRequest, {"window": {"summary": "A short window of two channels", "value": _EXAMPLE}})
    binary = {"schema": {"type": "string", "format": "binary"}}
    body["requestBody"]["content"][BINARY] = binary
    router.post(
        path,
        name="infer_version" if "{version}" in path else "infer",
        summary="Forecast windows",
        description=_INFER,
        response_model=InferResponse,
        responses={
            200: {"description": "The quantiles, as JSON or as bytes behind it.", "content": {BINARY: binary}},
            **_BODY_REFUSED,
            **_REFUSED,
        },
        openapi_extra={"parameters": [*_parameters(path), header], **body},
    )(infer)


def _target(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": text,
            "schema": {"type": "string", "minLength": 1},
            "example": "towncast-traffic" if name == "model" else "3",
        }
        for name, text in _IN_PATH.items()
        if f"{{{name}}}" in path
    ]
