"""Traces over OpenTelemetry: a span per request, its stages within it, sent off the request's path.

Whoever has something to say about the request says it with `annotate`, `span` or `stages`, wherever it is: outside a
traced request these do nothing, and cost a fraction of a microsecond.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from serving.observability_settings import ObservabilitySettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

Headers = Iterable[tuple[bytes, bytes]]
Value = str | int | float | bool
_PATH = "/v1/traces"
_FLUSH_S = 5.0
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()
_TRACE_HEADERS = (b"traceparent", b"tracestate")
# The request that is answered, where it is traced, and when it began [ns since 1970].
_REQUEST: ContextVar[tuple[Tracer, Span, int] | None] = ContextVar("traced_request", default=None)


class Tracing:
    """Traces of one app. Without an endpoint there are none; before `start` and after `close` neither.

    Args:
        settings: Where they go, and how many.
        rng: Draws the requests that are traced.
    """

    def __init__(self, settings: ObservabilitySettings, rng: random.Random | None = None) -> None:
        self.settings = settings
        self._draw = (rng or random.Random()).random
        self._tracer: Tracer | None = None
        self._provider: TracerProvider | None = None
        self._exporter: SpanExporter | None = None

    def start(self) -> None:
        """Begin to trace, where the settings name an endpoint; a thread of its own sends what was traced."""
        if not self.settings.otlp_endpoint or self._tracer is not None:
            return
        # A tenth of a second to import, and nothing that an API without traces needs.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

        address = self.settings.otlp_endpoint.rstrip("/").removesuffix(_PATH) + _PATH
        self._exporter = OTLPSpanExporter(endpoint=address, timeout=_FLUSH_S)
        self._provider = TracerProvider(
            # Those without a parent are drawn in `request`: a span that is not sampled costs 30 us all the same.
            sampler=ParentBased(ALWAYS_ON),
            resource=Resource.create({"service.name": self.settings.service_name}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("towncast")

    def request(self, name: str, headers: Headers) -> AbstractContextManager[None]:
        """Trace what is done within as one request.

        Args:
            name: Method and route, such as `POST /predict/traffic`; never the path as it was sent.
            headers: Of the request, as ASGI gives them: a caller's `traceparent` is taken as the parent.
        """
        if self._tracer is None:
            return _NOTHING
        if self._draw() >= self.settings.trace_ratio and not any(key == b"traceparent" for key, _ in headers):
            return _NOTHING
        return _traced(self._tracer, name, headers)

    def close(self) -> None:
        """Send what is left, for some seconds at most, and end; blocks. A second call does nothing."""
        provider, exporter, self._tracer, self._provider = self._provider, self._exporter, None, None
        if provider is None or exporter is None:
            return
        flushing = threading.Thread(target=provider.shutdown, name="flush-traces", daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            # Nobody takes the traces: this ends its attempts.
            exporter.shutdown()


@contextlib.contextmanager
def _traced(tracer: Tracer, name: str, headers: Headers) -> Iterator[None]:
    from opentelemetry.trace import SpanKind

    began_ns = time.time_ns()
    opened = tracer.start_span(name, context=_parent(headers), kind=SpanKind.SERVER, start_time=began_ns)
    token = _REQUEST.set((tracer, opened, began_ns) if opened.is_recording() else None)
    try:
        yield
    except BaseException as error:
        _fail(opened, error)
        raise
    finally:
        _REQUEST.reset(token)
        opened.end()


def _parent(headers: Headers) -> Context:
    """The trace that the caller is in, as the W3C's headers say; none where they are missing or malformed."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers if key in _TRACE_HEADERS}
    return TraceContextTextMapPropagator().extract(given, context=Context()) if given else Context()


def _fail(opened: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    opened.set_status(StatusCode.ERROR, type(error).__name__)
    opened.record_exception(error)


def span(name: str) -> AbstractContextManager[None]:
    """Trace what is done within as a stage of the request that is answered."""
    traced = _REQUEST.get()
    return _NOTHING if traced is None else _stage(traced, name)


@contextlib.contextmanager
def _stage(traced: tuple[Tracer, Span, int], name: str) -> Iterator[None]:
    from opentelemetry.trace import set_span_in_context

    tracer, parent, _ = traced
    began_ns = time.time_ns()
    opened = tracer.start_span(name, context=set_span_in_context(parent), start_time=began_ns)
    token = _REQUEST.set((tracer, opened, began_ns))
    try:
        yield
    except BaseException as error:
        _fail(opened, error)
        raise
    finally:
        _REQUEST.reset(token)
        opened.end()


def stages(timing_s: Mapping[str, float]) -> None:
    """Add stages that are over, one after the other from the beginning of the request, by their lengths [s].

    For what is done once for many requests, such as the run of a batch: each of them tells its own share.
    """
    traced = _REQUEST.get()
    if traced is None:
        return
    from opentelemetry.trace import set_span_in_context

    tracer, parent, moment_ns = traced
    inside = set_span_in_context(parent)
    for name, seconds in timing_s.items():
        opened = tracer.start_span(name, context=inside, start_time=moment_ns)
        moment_ns += int(seconds * 1e9)
        opened.end(end_time=moment_ns)


def annotate(**attributes: Value) -> None:
    """Say something about the request, such as its site; names are written as `towncast.<name>`."""
    traced = _REQUEST.get()
    if traced is not None:
        traced[1].set_attributes({f"towncast.{name}": value for name, value in attributes.items()})


def answered(status: int) -> None:
    """Say with which status the request was answered."""
    traced = _REQUEST.get()
    if traced is None:
        return
    from opentelemetry.trace import StatusCode

    traced[1].set_attribute("http.response.status_code", status)
    if status >= 500:
        traced[1].set_status(StatusCode.ERROR)


def trace_ids() -> dict[str, str]:
    """The names of the trace and of its stage, for logs; empty outside a traced request."""
    traced = _REQUEST.get()
    if traced is None:
        return {}
    context: Any = traced[1].get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
