"""Traces, as a receiver of OTLP over HTTP gets them."""

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.logs import configure_logs
from serving.observability_settings import ObservabilitySettings
from serving.tracing import Tracing, annotate, answered, span, stages, trace_ids

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Receiver:
    """Takes traces at `url`."""

    def __init__(self) -> None:
        taken: list[tuple[str, ExportTraceServiceRequest]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.taken = taken
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[str, Any]:
        """Every span that was taken, by its name."""
        return {
            one.name: one
            for _, request in self.taken
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for one in scope.spans
        }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    thread = threading.Thread(target=opened.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield opened
    opened.server.shutdown()
    opened.server.server_close()
    thread.join()


def started(url: str, **settings: Any) -> Tracing:
    tracing = Tracing(ObservabilitySettings(**({"otlp_endpoint": url, "trace_ratio": 1.0} | settings)))
    tracing.start()
    return tracing


def headers_of(flags: str = "01") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"town"), (b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())]


def values_of(found: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in found.attributes}


def test_a_request_and_its_stages_arrive_within_the_callers_trace(receiver: Receiver) -> None:
    tracing = started(receiver.url)
    with tracing.request("POST /predict/traffic", headers_of()):
        with span("features"):
            time.sleep(0.002)
        stages({"queue": 0.001, "inference": 0.002})
        annotate(domain="traffic", target="volume", site="R001", model_version="traffic-lstm-v3", quality="stale")
        answered(200)
        known = trace_ids()
    tracing.close()
    ((path, request), *_) = receiver.taken
    spans = receiver.spans()
    assert path == "/v1/traces"
    assert set(spans) == {"POST /predict/traffic", "features", "queue", "inference"}
    root = spans["POST /predict/traffic"]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert known == {"trace_id": TRACE, "span_id": root.span_id.hex()}
    for name in ("features", "queue", "inference"):
        assert spans[name].trace_id == root.trace_id
        assert spans[name].parent_span_id == root.span_id
        assert spans[name].start_time_unix_nano >= root.start_time_unix_nano
    assert spans["features"].end_time_unix_nano - spans["features"].start_time_unix_nano >= 2_000_000
    assert spans["inference"].end_time_unix_nano - spans["inference"].start_time_unix_nano == 2_000_000
    assert spans["inference"].start_time_unix_nano == spans["queue"].end_time_unix_nano
    assert values_of(root) == {
        "towncast.domain": "traffic",
        "towncast.target": "volume",
        "towncast.site": "R001",
        "towncast.model_version": "traffic-lstm-v3",
        "towncast.quality": "stale",
        "http.response.status_code": 200,
    }
    assert values_of(request.resource_spans[0].resource)["service.name"] == "towncast"


def test_an_address_may_hold_the_path_already(receiver: Receiver) -> None:
    tracing = started(f"{receiver.url}/v1/traces/")
    with tracing.request("GET /data/traffic", []):
        pass
    tracing.close()
    assert [path for path, _ in receiver.taken] == ["/v1/traces"]


def test_errors_are_said(receiver: Receiver) -> None:
    tracing = started(receiver.url)
    with pytest.raises(ValueError, match="bad"), tracing.request("POST /a", []), span("features"):
        raise ValueError("bad")
    with tracing.request("POST /b", []):
        answered(503)
    tracing.close()
    spans = receiver.spans()
    assert {name: one.status.code for name, one in spans.items()} == {"POST /a": 2, "features": 2, "POST /b": 2}
    assert spans["POST /a"].events[0].name == "exception"
    assert spans["POST /a"].trace_id != spans["POST /b"].trace_id


@pytest.mark.parametrize(
    ("ratio", "headers", "names"),
    [
        (0.0, [], set()),
        (0.0, headers_of("01"), {"POST /a", "features"}),
        (1.0, headers_of("00"), set()),
        (1.0, [(b"traceparent", b"00-nonsense")], {"POST /a", "features"}),
        (1.0, [(b"traceparent", b"\xff\xfe")], {"POST /a", "features"}),
    ],
    ids=["none", "the caller traces", "the caller does not trace", "malformed", "no text"],
)
def test_the_caller_decides_and_else_the_ratio(
    receiver: Receiver, ratio: float, headers: list[tuple[bytes, bytes]], names: set[str]
) -> None:
    tracing = started(receiver.url, trace_ratio=ratio)
    with tracing.request("POST /a", headers), span("features"):
        annotate(site="R001")
    tracing.close()
    assert set(receiver.spans()) == names


def test_requests_at_a_time_do_not_mix(receiver: Receiver) -> None:
    tracing = started(receiver.url)

    async def ask(site: str) -> None:
        with tracing.request(f"POST /{site}", []):
            await asyncio.sleep(0)
            with span(f"features {site}"):
                await asyncio.sleep(0.001)
            annotate(site=site)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(f"R{number}") for number in range(20)))

    asyncio.run(ask_all())
    tracing.close()
    spans = receiver.spans()
    for number in range(20):
        root = spans[f"POST /R{number}"]
        assert values_of(root)["towncast.site"] == f"R{number}"
        assert spans[f"features R{number}"].parent_span_id == root.span_id


def test_without_an_endpoint_nothing_is_done() -> None:
    tracing = Tracing(ObservabilitySettings())
    tracing.start()
    first = tracing.request("POST /a", headers_of())
    with first, span("features") as nothing:
        stages({"queue": 1.0})
        annotate(site="R001")
        assert trace_ids() == {}
    assert nothing is None
    # One object for all: nothing is made per request.
    assert tracing.request("POST /b", []) is first
    tracing.close()


def test_a_receiver_that_is_away_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    tracing = started("http://127.0.0.1:9")
    began = time.perf_counter()
    for _ in range(100):
        with tracing.request("POST /a", []):
            pass
    assert time.perf_counter() - began < 5.0
    closing = threading.Thread(target=tracing.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    tracing.close()
    with tracing.request("POST /after", []):
        assert trace_ids() == {}


def test_an_entry_of_the_log_names_its_trace(receiver: Receiver) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    tracing = started(receiver.url)
    try:
        configure_logs(ObservabilitySettings(), written)
        with tracing.request("POST /a", headers_of()):
            logging.getLogger("serving").warning("Late")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        tracing.close()
    entry = json.loads(written.getvalue().splitlines()[0])
    assert entry["trace_id"] == TRACE
