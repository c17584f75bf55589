"""One version of a model as the Open Inference Protocol sees it: from a request's tensors to a window, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from features.calendar import calendar_features
from features.errors import InvalidParameterError, UnknownNameError
from features.registry import nearest_names
from features.vocabulary import (
    CALENDAR_CHANNELS,
    SITE_CODE,
    Float32Array,
    Forecast,
    Int64Array,
    Site,
    Window,
    site_code,
)
from serving.inference_protocol.messages import InferenceRequest, Message, RequestInput
from serving.inference_protocol.tensors import DATATYPE, array_of, binary_size, check_supported
from serving.inference_protocol.window_quality import WindowQuality
from serving.intervals import adapt
from serving.quality import LoweredBy
from serving.runtimes.failover import Answer
from serving.service import ForecastService

OUTPUT = "quantiles"
# The years that a calendar can be made for in a moment [s since 1970].
_ORIGINS_S = (0, 4_102_444_800)
_MOST_KEPT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that can be answered.

    Attributes:
        window: What the model is given.
        binary: Whether the answer is wanted as bytes.
    """

    window: Window
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What was made of a request.

    Attributes:
        domain: What is forecast.
        forecast: All levels of the model, adapted where `adapted_B` says so.
        adapted_B: Whether the interval of each window follows the errors of the last weeks.
        lowered_by: All that makes some of the forecasts less sure than the model's figures say.
        answer: How the runtime came by it.
    """

    domain: str
    forecast: Forecast
    adapted_B: tuple[bool, ...]
    lowered_by: tuple[LoweredBy, ...]
    answer: Answer


class ModelEndpoint:
    """Answers windows that come in requests.

    Args:
        service: The version of the model.
        batch_limit: Most windows in a request.
    """

    def __init__(self, service: ForecastService, *, batch_limit: int) -> None:
        card, artifact = service.artifact.card, service.artifact
        self.service = service
        self.card = card
        self.name = artifact.name
        self.version = artifact.version
        self.batch_limit = batch_limit
        self.shapes: dict[str, tuple[int, ...]] = {
            "history": (card.history_steps, len(card.history_channels)),
            "future": (card.horizon_steps, len(card.future_channels)),
            "static": (len(card.static_channels),),
        }
        self._sites = {site.name: site for site in card.sites}
        self._adapted = frozenset(artifact.intervals.sites if artifact.intervals else ())
        # Of every reply.
        self.about: dict[str, Any] = {
            "quantity": card.target,
            "unit": card.unit,
            "levels": listed(card.levels),
            "step_s": card.step_s,
        }
        self._hour = service.domain.future_channels.index("hour_of_day")
        # What is known of sites: both the site and the array, so that news of the site make it anew.
        self._kept: dict[str, dict[tuple[str, int], tuple[Site, Float32Array]]] = {"future": {}, "static": {}}
        self._quality: WindowQuality | None = None
        self._judging = asyncio.Lock()

    def asked(self, message: Message) -> Asked:
        """A request as a window.

        `future` and `static` may be left out where the request names its site: what is known of the site is put in,
        its calendar from the origin on, and no weather forecast.

        Raises:
            InvalidParameterError: The request does not fit the model.
            UnknownNameError: It names a site that is not known.
            MalformedBodyError: The data of a tensor is not JSON.
        """
        request = message.request
        parameters = request.parameters or {}
        binary = self._wanted(request)
        tensors = self._tensors(message)
        windows = len(tensors["history"])
        sites = self._sites_of(parameters.get("site"), windows)
        origins = self._origins_of(parameters.get("origin"), windows)
        window = Window(
            history_BLK=tensors["history"],
            future_BHK=self._or_known(tensors, "future", sites, origins),
            static_BS=self._or_known(tensors, "static", sites, origins),
            sites=tuple(site.name for site in sites) if sites else ("",) * windows,
            origins=origins,
        )
        return Asked(window=window, binary=binary)

    def _wanted(self, request: InferenceRequest) -> bool:
        """Whether the one output is wanted as bytes."""
        binary = _flag(request.parameters, "binary_data_output", within="parameters")
        for output in request.outputs or ():
            if output.name != OUTPUT:
                raise _wrong("outputs", output.name, f"the output {OUTPUT}", "The model has no such output")
            check_supported(output.parameters, within=f"outputs.{OUTPUT}")
            binary = _flag(output.parameters, "binary_data", within=f"outputs.{OUTPUT}.parameters", default=binary)
        return binary

    def _tensors(self, message: Message) -> dict[str, Float32Array]:
        """The tensors of a request by name, all of as many windows."""
        found: dict[str, Float32Array] = {}
        binary, used = memoryview(message.binary), 0
        for tensor in message.request.inputs:
            if tensor.name in found:
                raise _wrong("inputs", tensor.name, "each tensor once", "A tensor is there twice")
            shape = self._checked_shape(tensor, windows=len(next(iter(found.values()))) if found else None)
            size = binary_size(tensor)
            data = None if size is None else binary[used : used + size]
            used += size or 0
            found[tensor.name] = array_of(tensor, shape, data)
        if used != len(binary):
            raise _wrong(
                "binary_data_size",
                f"{len(binary)} bytes behind the JSON",
                f"{used} bytes, as the tensors say",
                "The bytes behind the JSON are not as many as the tensors say",
            )
        if "history" not in found:
            raise _wrong("inputs", list(found), "the tensor history", "The request has no history")
        return found

    def _checked_shape(self, tensor: RequestInput, *, windows: int | None) -> tuple[int, ...]:
        """The shape of a tensor, which is that of the model's input for some number of windows."""
        names = [name for name, shape in self.shapes.items() if shape != (0,)]
        if tensor.name not in names:
            raise _wrong("inputs", tensor.name, f"tensors of {', '.join(names)}", "The model has no such input")
        within = f"inputs.{tensor.name}"
        if tensor.datatype != DATATYPE:
            raise _wrong(f"{within}.datatype", tensor.datatype, DATATYPE, "The model takes another datatype")
        check_supported(tensor.parameters, within=within)
        shape, one = tuple(tensor.shape), self.shapes[tensor.name]
        fits = len(shape) == len(one) + 1 and shape[1:] == one and 1 <= shape[0] <= self.batch_limit
        if not fits or (windows is not None and shape[0] != windows):
            count = f"1 to {self.batch_limit}" if windows is None else str(windows)
            raise _wrong(
                f"{within}.shape",
                str(tensor.shape)[:100],
                f"[B, {', '.join(map(str, one))}], where B, the number of windows, is {count}",
                "The shape is not that of the model's input",
            )
        return shape

    def _sites_of(self, named: Any, windows: int) -> tuple[Site, ...]:
        """The sites that a request names, one for each window; none where it names none."""
        if named in (None, ""):
            return ()
        names = [named] * windows if isinstance(named, str) else named
        if not isinstance(names, list) or len(names) != windows or not all(isinstance(name, str) for name in names):
            raise _wrong("parameters.site", named, f"a site's name, or a list of {windows}", "The sites do not fit")
        return tuple(map(self._site, names))

    def _site(self, name: str) -> Site:
        memory = self.service.windows.memory.sites
        site = memory.get(name) or self._sites.get(name)
        if site is None:
            known = [*memory, *self._sites]
            entity = self.service.domain.entity
            raise UnknownNameError(kind=entity, name=name, nearest=nearest_names(name, known), known=known)
        return site

    def _origins_of(self, given: Any, windows: int) -> Int64Array:
        """The origins of the windows: as given, or else the present step [s since 1970]."""
        step_s = self.card.step_s
        if given in (None, ""):
            return np.full(windows, int(self.service.windows.now()) // step_s * step_s, dtype=np.int64)
        texts = given if isinstance(given, list) else [given] * windows
        origins_s = [_moment_s(text) for text in texts]
        usable = all(
            one is not None and _ORIGINS_S[0] <= one < _ORIGINS_S[1] and one % step_s == 0 for one in origins_s
        )
        if not usable or len(texts) != windows:
            raise _wrong(
                "parameters.origin",
                given,
                f"a moment such as 2026-02-06T09:00:00Z at the end of a step of {step_s} s, or a list of {windows}",
                "The origin is no such moment",
            )
        return np.array(origins_s, dtype=np.int64)

    def _or_known(
        self, tensors: dict[str, Float32Array], name: str, sites: tuple[Site, ...], origins: Int64Array
    ) -> Float32Array:
        """A tensor of the request, or what is known of its sites."""
        if name in tensors:
            return tensors[name]
        if self.shapes[name] == (0,):
            return np.empty((len(origins), 0), dtype=np.float32)
        if not sites:
            raise _wrong("inputs", list(tensors), f"the tensor {name}, or parameters.site", f"There is no {name}")
        known = [self._known(site, int(origin), name) for site, origin in zip(sites, origins, strict=True)]
        return known[0][None] if len(known) == 1 else np.stack(known)

    def _known(self, site: Site, origin_s: int, name: str) -> Float32Array:
        """What is known of a site: its static values, or the calendar after an origin."""
        key = (site.name, origin_s if name == "future" else 0)
        kept = self._kept[name].get(key)
        if kept is None or kept[0] is not site:
            if len(self._kept[name]) >= _MOST_KEPT:
                self._kept[name].clear()
            made = self._future(site, origin_s) if name == "future" else self._static(site)
            kept = self._kept[name][key] = (site, made)
        return kept[1]

    def _static(self, site: Site) -> Float32Array:
        known = {**site.attributes, SITE_CODE: site_code(site.name)}
        return np.array([known.get(name, np.nan) for name in self.card.static_channels], dtype=np.float32)

    def _future(self, site: Site, origin_s: int) -> Float32Array:
        """The calendar; what else is known ahead is missing."""
        steps = np.arange(1, self.card.horizon_steps + 1, dtype=np.int64)
        future = np.full(self.shapes["future"], np.nan, dtype=np.float32)
        future[:, : len(CALENDAR_CHANNELS)] = calendar_features(origin_s + steps * self.card.step_s, site)
        return future

    async def run(self, asked: Asked) -> Ran:
        """The forecasts of a request's windows.

        Raises:
            RuntimeUnavailableError: No runtime can answer.
            ArtifactError: The graph gives no usable forecast of a window.
        """
        if self._quality is None:
            async with self._judging:
                self._quality = self._quality or await WindowQuality.of(self.service)
        answer = await self.service.runtime.answer(asked.window)
        forecast = answer.forecast
        adapted_B = tuple(name in self._adapted for name in asked.window.sites)
        if any(adapted_B):
            forecast = self._adapt(forecast, asked.window, adapted_B)
        lowered_by = self._quality.judge(asked.window)
        return Ran(
            domain=self.card.domain, forecast=forecast, adapted_B=adapted_B, lowered_by=lowered_by, answer=answer
        )

    def _adapt(self, forecast: Forecast, window: Window, adapted_B: Sequence[bool]) -> Forecast:
        intervals = self.service.artifact.intervals
        assert intervals is not None
        moved = adapt(intervals, forecast, window, target=self.service.target, hour_channel=self._hour)
        chosen = np.asarray(adapted_B)[:, None, None]
        return replace(forecast, value_BHQ=np.where(chosen, moved.value_BHQ, forecast.value_BHQ))


def listed(values: Iterable[Any]) -> str:
    """Several values as one parameter: the protocol's parameters are no lists."""
    return ",".join(map(str, values))


def _moment_s(text: Any) -> int | None:
    """A moment in ISO 8601 with its zone [s since 1970]; None where it is none, or no whole second."""
    try:
        moment = datetime.fromisoformat(text)
        seconds = moment.timestamp() if moment.tzinfo is not None else 0.5
    except (TypeError, ValueError, OverflowError):
        return None
    return int(seconds) if seconds == int(seconds) else None


def _flag(parameters: dict[str, Any] | None, name: str, *, within: str, default: bool = False) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise _wrong(f"{within}.{name}", value, "true or false", "The parameter is no truth value")
    return value


def _wrong(parameter: str, provided: Any, allowed: str, fact: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter=parameter, provided=provided, allowed=allowed, fact=fact, remedy=f"Send {allowed}."
    )
