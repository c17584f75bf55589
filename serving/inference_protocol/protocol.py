"""The Open Inference Protocol v2 over a town's models: bytes in, bytes out, and no transport."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from features.card import registered_name
from features.errors import ArtifactError, InvalidParameterError, TowncastError, UnknownNameError
from features.registry import nearest_names
from serving.errors import NotReadyError, own_request_id, refusal
from serving.inference_protocol.endpoint import OUTPUT, Asked, ModelEndpoint, Ran, listed
from serving.inference_protocol.messages import (
    InferenceReply,
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
    check_content_type,
    parse_message,
    write_json,
    write_response,
)
from serving.inference_protocol.records import inference_records
from serving.inference_protocol.refusals import protocol_refusal
from serving.inference_protocol.tensors import DATATYPE, bytes_of, data_of
from serving.metrics import Metrics
from serving.prediction_log.log import PredictionLog
from serving.releases.release import Release
from serving.service import ForecastService
from serving.text import utc_text
from serving.town import Town

_LOG = logging.getLogger(__name__)
# What metrics call requests for inference.
ROUTE = "/v2/models/{model}/infer"
EXTENSIONS = ("binary_tensor_data", "parameters")
# As Triton names a graph that ONNX Runtime runs.
PLATFORM = "onnxruntime_onnx"


class InferenceProtocol:
    """Answers the requests of the protocol.

    Args:
        town: Whose models are served.
        metrics: Counts requests, and times their stages.
        log: Where each answer is written before it leaves.
        batch_limit: Most windows in a request.
    """

    def __init__(
        self,
        town: Town,
        metrics: Metrics,
        log: PredictionLog,
        *,
        batch_limit: int = 32,
    ) -> None:
        self._town = town
        self._metrics = metrics
        self.batch_limit = batch_limit
        self._log = log
        self._endpoints: WeakKeyDictionary[ForecastService, ModelEndpoint] = WeakKeyDictionary()

    async def infer(
        self,
        model: str,
        version: str | None,
        body: bytes,
        *,
        content_type: str = "",
        header_length: str | None = None,
    ) -> InferenceReply:
        """The answer to `POST /v2/models/{model}[/versions/{version}]/infer`.

        Args:
            model: Registered name of a model.
            version: One of its versions; by default the champion answers.
            body: The whole body.
            content_type: What the header says.
            header_length: What the header `Inference-Header-Content-Length` says, None without one.
        """
        began = time.perf_counter()
        given: InferenceRequest | None = None
        try:
            check_content_type(content_type, header_length=header_length)
            release, endpoint = self._find(model, version)
            message = parse_message(body, header_length=header_length)
            given = message.request
            asked = endpoint.asked(message)
            read = time.perf_counter()
            ran = await self._run(release, endpoint, asked)
            run = time.perf_counter()
            reply = _reply(endpoint, given, asked, ran, inference_s=run - read)
        except TowncastError as error:
            request_id = own_request_id({"request_id": given.id}) if given is not None else None
            reply = protocol_refusal(refusal(error, request_id=request_id))
        else:
            if self._log.on:
                role = release.role_of(endpoint.service)
                records = inference_records(
                    asked, ran, request_id=given.id or "", latency_s=run - read, role=role, is_new=self._log.is_new
                )
                self._log.write(records)
            self._observe(ran, read_s=read - began, total_s=time.perf_counter() - began)
        self._metrics.count_request(ROUTE, reply.status)
        return reply

    async def _run(self, release: Release, endpoint: ModelEndpoint, asked: Asked) -> Ran:
        try:
            with release.hold(endpoint.service):
                return await endpoint.run(asked)
        except ArtifactError as error:
            # The model gave finite forecasts when it was registered: here it is the window that it cannot go by.
            _LOG.info("A window in a request was not forecast by %s: %s", endpoint.name, error)
            raise InvalidParameterError(
                parameter="inputs",
                provided=None,
                allowed="windows with the calendar of every step, and with readings of the target",
                fact=error.fact,
                remedy="Send the calendar channels of every step, and some readings of the target.",
            ) from error

    def _observe(self, ran: Ran, *, read_s: float, total_s: float) -> None:
        queue_s, inference_s = ran.answer.queue_s, ran.answer.inference_s
        rest_s = max(0.0, total_s - read_s - queue_s - inference_s)
        timing_s = {"features": read_s, "queue": queue_s, "inference": inference_s, "reply": rest_s, "total": total_s}
        self._metrics.observe(ROUTE, timing_s)

    def _endpoint(self, service: ForecastService) -> ModelEndpoint:
        endpoint = self._endpoints.get(service)
        if endpoint is None:
            endpoint = self._endpoints[service] = ModelEndpoint(service, batch_limit=self.batch_limit)
        return endpoint

    def _find(self, model: str, version: str | None) -> tuple[Release, ModelEndpoint]:
        """A version of a model, and the release that it is of.

        Raises:
            NotReadyError: The model is not loaded.
            UnknownNameError: There is no such model, or it has no such version.
        """
        for release in self._town.releases():
            champion = self._endpoint(release.champion)
            if champion.name == model:
                if version is None or version == champion.version:
                    return release, champion
                return release, self._version(release, model, version)
        raise self._no_model(model)

    def _version(self, release: Release, model: str, version: str) -> ModelEndpoint:
        endpoints = {service.artifact.version: service for service in release.services()}
        if version not in endpoints:
            raise UnknownNameError(kind=f"version of {model}", name=version, nearest=(), known=list(endpoints))
        return self._endpoint(endpoints[version])

    def _no_model(self, model: str) -> NotReadyError | UnknownNameError:
        known = {_name(domain, target): (domain, target) for domain, target in self._targets()}
        if model in known:
            return self._town.why_not(*known[model])
        return UnknownNameError(kind="model", name=model, nearest=nearest_names(model, list(known)), known=list(known))

    def _targets(self) -> Iterator[tuple[str, str]]:
        for domain in self._town.domains:
            for target in domain.targets:
                yield domain.name, "" if target == domain.target else target.name

    async def server_ready(self) -> InferenceReply:
        """Whether one domain can be forecast, or all that were asked for by name."""
        ready = {domain.name: await self._any_up(domain.name) for domain in self._town.domains}
        waiting = [name for name, up in ready.items() if not up]
        if waiting and (self._town.settings.domains or len(waiting) == len(ready)):
            return protocol_refusal(refusal(self._town.why_not(waiting[0])))
        return write_json({"live": True, "ready": True})

    async def _any_up(self, domain: str) -> bool:
        return any([await service.runtime.ready() for service in self._town.services(domain)])

    async def model_ready(self, model: str, version: str | None) -> InferenceReply:
        """Whether a version of a model can answer."""
        try:
            _, endpoint = self._find(model, version)
            if not await endpoint.service.runtime.ready():
                raise NotReadyError(f"No runtime of {model} is up", remedy="See the log; it is tried again.")
        except TowncastError as error:
            return protocol_refusal(refusal(error))
        return write_json({"name": model, "ready": True})

    def model_metadata(self, model: str, version: str | None) -> InferenceReply:
        """What a version of a model takes and gives: its tensors, and the meaning of their channels."""
        try:
            release, endpoint = self._find(model, version)
        except TowncastError as error:
            return protocol_refusal(refusal(error))
        return write_json(_metadata(release, endpoint))

    def model_config(self, model: str, version: str | None) -> InferenceReply:
        """The same in the words of Triton's model configuration, which its tools ask for."""
        try:
            _, endpoint = self._find(model, version)
        except TowncastError as error:
            return protocol_refusal(refusal(error))
        return write_json(_config(endpoint))

    def repository_index(self, *, ready: bool) -> InferenceReply:
        """All models, those that are not loaded too unless only `ready` ones are asked for."""
        loaded = [
            {"name": service.artifact.name, "version": service.artifact.version, "state": "READY", "reason": ""}
            for release in self._town.releases()
            for service in release.services()
        ]
        names = {entry["name"] for entry in loaded}
        missing = [
            {"name": _name(*found), "version": "", "state": "UNAVAILABLE", "reason": str(self._town.why_not(*found))}
            for found in self._targets()
            if _name(*found) not in names
        ]
        return write_json(loaded if ready else [*loaded, *missing])


def _name(domain: str, target: str) -> str:
    return registered_name(domain, target)


def _metadata(release: Release, endpoint: ModelEndpoint) -> dict[str, Any]:
    card = endpoint.card
    channels = {"history": card.history_channels, "future": card.future_channels, "static": card.static_channels}
    return {
        "name": endpoint.name,
        "versions": [service.artifact.version for service in release.services()],
        "platform": PLATFORM,
        "inputs": [
            {
                "name": name,
                "datatype": DATATYPE,
                "shape": [-1, *shape],
                "parameters": {"channels": listed(channels[name])},
            }
            for name, shape in endpoint.shapes.items()
            if shape != (0,)
        ],
        "outputs": [
            {
                "name": OUTPUT,
                "datatype": DATATYPE,
                "shape": [-1, card.horizon_steps, len(card.levels)],
                "parameters": endpoint.about,
            }
        ],
    }


def _config(endpoint: ModelEndpoint) -> dict[str, Any]:
    card = endpoint.card
    dims = {name: list(shape) for name, shape in endpoint.shapes.items() if shape != (0,)}
    output = {"name": OUTPUT, "data_type": f"TYPE_{DATATYPE}", "dims": [card.horizon_steps, len(card.levels)]}
    return {
        "name": endpoint.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": endpoint.batch_limit,
        "input": [{"name": name, "data_type": f"TYPE_{DATATYPE}", "dims": shape} for name, shape in dims.items()],
        "output": [output],
    }


def _reply(
    endpoint: ModelEndpoint, given: InferenceRequest, asked: Asked, ran: Ran, *, inference_s: float
) -> InferenceReply:
    """The forecasts as the protocol has them."""
    window = asked.window
    value_BHQ = ran.forecast.value_BHQ
    data, binary, of_output = None, b"", None
    if asked.binary:
        binary = bytes_of(value_BHQ)
        of_output = {"binary_data_size": len(binary)}
    else:
        data = data_of(value_BHQ)
    intervals = ["adaptive" if adapted else "fixed" for adapted in ran.adapted_B]
    response = InferenceResponse(
        model_name=endpoint.name,
        model_version=endpoint.version,
        id=given.id,
        parameters={
            "model_version": ran.forecast.model,
            **endpoint.about,
            "site": _once(window.sites),
            "origin": _once([utc_text(origin) for origin in window.origins.tolist()]),
            "intervals": _once(intervals),
            "runtime": ran.answer.runtime,
            "quality": listed(ran.lowered_by),
            "inference_time_ms": round(inference_s * 1e3, 3),
        },
        outputs=[
            ResponseOutput(name=OUTPUT, datatype=DATATYPE, shape=list(value_BHQ.shape), parameters=of_output, data=data)
        ],
    )
    return write_response(response, binary=binary)


def _once(values: Any) -> str:
    """The value of each window with commas between, or the one that all have."""
    return str(values[0]) if len(values) == 1 or len(set(values)) == 1 else listed(values)
