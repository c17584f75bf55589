"""Bad requests, to every operation that there is: refused with the right status, in the envelope, and never a fault."""

import gzip
import http.client
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn

from features.feast_repository import FeatureRepository
from serving.app import create_app
from serving.artifacts import Artifact
from serving.service import ForecastService
from serving.settings import ServingSettings

JSON = {"Content-Type": "application/json"}
NAMES = {
    "model": "towncast-traffic",
    "version": "3",
    "session_id": "3f1c0d5e-3b0a-4f0e-9a55-0f6f1f0f3c55",
    "domain": "traffic",
    "site": "R001",
}
ODD_NAMES = (
    "",
    "\0",
    "R001\0",
    "\u202eR001",
    "🚗🚦",
    "Straße",
    "ｒ００１",  # noqa: RUF001
    "../../etc/passwd",
    "%2e%2e%2f",
    "'; DROP TABLE sites; --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "R001\r\nX-Injected: 1",
    "x" * 100_000,
)
BODIES = {
    "nothing": b"",
    "null": b"null",
    "an array": b"[]",
    "a number": b"3",
    "text": b'"text"',
    "half an object": b'{"a":',
    "trailing text": b"{} trailing",
    "two objects": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "UTF-32": "{}".encode("utf-32"),
    "bytes that are no text": b'{"a": "\xff\xfe"}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a number beyond all": b'{"a": 1e400}',
    "minus zero": b'{"a": -0}',
    "an integer of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "NUL": b'{"a\\u0000": "\\u0000"}',
    "a real NUL": b'{"a": "\0"}',
    "10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "10,000 arrays deep": b"[" * 10_000 + b"]" * 10_000,
    "10,000 open": b"[" * 10_000,
    "two equal keys": b'{"a": 1, "a": 2}',
    "an empty key": b'{"": {}}',
    "a pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
}


def check_refusal(reply: Any, path: str) -> dict[str, Any]:
    """A refusal is no fault of ours, in the envelope, and shows nothing of the inside."""
    assert 400 <= reply.status_code < 500, (path, reply.status_code, reply.text[:500])
    assert reply.headers["content-type"] == "application/json", path
    content: dict[str, Any] = reply.json()
    # The clients of the Open Inference Protocol need a text there; what else is in the envelope stands beside it.
    error = {**content, "message": content["error"]} if path.startswith("/v2") else content["error"]
    assert isinstance(error["message"], str), path
    assert {"code", "message", "details", "request_id", "timestamp"} <= set(error), path
    assert len(reply.content) < 20_000, path
    for inside in ("Traceback", "site-packages", 'File "', ".py"):
        assert inside not in reply.text, (path, inside)
    return error


@pytest.fixture(scope="module")
def operations(whole_town: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and description of every operation of the document."""
    paths = whole_town.app.openapi()["paths"]
    return [(path, method.upper(), paths[path][method]) for path in sorted(paths) for method in sorted(paths[path])]


@pytest.fixture(scope="module")
def with_body(operations: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[str, str]]:
    """Operations that need a body, their paths filled with names that there are."""
    found = [
        (path.format_map(NAMES), method)
        for path, method, written in operations
        if written.get("requestBody", {}).get("required")
    ]
    assert len(found) >= 12
    return found


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_bodies_that_are_nothing_of_the_kind(whole_town: Any, with_body: list[tuple[str, str]], kind: str) -> None:
    for path, method in with_body:
        reply = whole_town.request(method, path, content=BODIES[kind], headers=JSON)
        assert check_refusal(reply, path)["code"] in ("MALFORMED_JSON", "INVALID_PARAMETER"), path


def test_media_types_that_are_not_json(whole_town: Any, with_body: list[tuple[str, str]]) -> None:
    for path, method in with_body:
        for media_type in ("text/plain", "application/xml", "multipart/form-data; boundary=a", "application/jsonx"):
            reply = whole_town.request(method, path, content=b"{}", headers={"Content-Type": media_type})
            assert reply.status_code == 415, (path, media_type, reply.text)
            check_refusal(reply, path)


def test_compressed_bodies_are_not_unpacked(whole_town: Any, with_body: list[tuple[str, str]]) -> None:
    bomb = gzip.compress(b'{"a": "' + b" " * 30_000_000 + b'"}')
    assert len(bomb) < 60_000
    for path, method in with_body:
        tracemalloc.start()
        reply = whole_town.request(method, path, content=bomb, headers={**JSON, "Content-Encoding": "gzip"})
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert reply.status_code in (400, 415), path
        check_refusal(reply, path)
        assert peak < 5_000_000, path


def test_odd_names_of_places(whole_town: Any) -> None:
    fields = {
        "/predict/traffic": lambda name: {"location": {"road_id": name}, "forecast_horizon": "2h"},
        "/predict/pollution": lambda name: {"station_id": name, "forecast_horizon": "6h"},
        "/predict/water": lambda name: {"zone_id": name, "forecast_horizon": "24h"},
    }
    for path, body in fields.items():
        for name in ODD_NAMES:
            reply = whole_town.request("POST", path, json=body(name))
            assert reply.status_code in (400, 404, 413), (path, name[:50], reply.text)
            check_refusal(reply, path)
            assert "X-Injected" not in reply.headers


def test_odd_names_in_paths(whole_town: Any, operations: list[tuple[str, str, dict[str, Any]]]) -> None:
    for path, method, written in operations:
        if "{" not in path:
            continue
        for name in ODD_NAMES:
            filled = path.format_map({key: quote(name[:4000], safe="") for key in NAMES})
            body = {"content": b"{}", "headers": JSON} if "requestBody" in written else {}
            reply = whole_town.request(method, filled, **body)
            # An empty name leads elsewhere: to a documented path, or to none.
            if name:
                check_refusal(reply, path)
            assert reply.status_code < 500, (path, name[:50])


def test_odd_values_in_queries(whole_town: Any, operations: list[tuple[str, str, dict[str, Any]]]) -> None:
    values = (
        "NaN",
        "Infinity",
        "-0",
        "1e400",
        "9" * 400,
        "-1",
        "0x10",
        "null",
        "%00",
        "%ED%A0%80",
        "%FF",
        "[]",
        "%F0%9F%9A%97",
    )
    for path, method, written in operations:
        for parameter in written.get("parameters", []):
            if parameter["in"] != "query":
                continue
            for value in values:
                reply = whole_town.request(method, f"{path.format_map(NAMES)}?{parameter['name']}={value}")
                assert reply.status_code < 500, (path, parameter["name"], value, reply.text)
                if reply.status_code != 200:
                    check_refusal(reply, path)


def test_a_million_requests_are_refused_without_looking_at_each(whole_town: Any) -> None:
    batches = [path for path in whole_town.app.openapi()["paths"] if path.endswith("/batch")]
    assert len(batches) >= 4
    for path in batches:
        too_large = b'{"requests":[' + b"{}," * 1_000_000 + b"{}]}"
        assert whole_town.request("POST", path, content=too_large, headers=JSON).status_code == 413
        # As many as the largest body holds.
        body = b'{"requests":[' + b"{}," * 300_000 + b"{}]}"
        tracemalloc.start()
        reply = whole_town.request("POST", path, content=body, headers=JSON)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert reply.status_code == 400
        assert "300001" in json.dumps(check_refusal(reply, path))
        assert peak < 60_000_000


@pytest.fixture(scope="module")
def served(
    artifact: Artifact,
    repository: FeatureRepository,
    service_of: Callable[..., ForecastService],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """Port of the API on a uvicorn of its own."""
    settings = ServingSettings(data_dir=tmp_path_factory.mktemp("served"))
    app = create_app(settings, services=[service_of(artifact, repository)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def talk(port: int, raw: bytes) -> bytes:
    """All that the server answers to bytes on a connection of their own, until it or we hang up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except ConnectionResetError:
            # It hung up on what it would not read.
            pass
        return b"".join(parts)


def statuses(answer: bytes) -> list[int]:
    """The status of each reply in an answer."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/../../etc/passwd/infer",
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/%2e%2e/%2e%2e/infer",
        "/v2/models/..%5c..%5cwin.ini",
        "/dashboard/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/dashboard/../../../../etc/passwd",
        "/data/..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/predict/traffic%00",
        "/predict/%c0%ae%c0%ae/traffic",
        "/predict/traffic/.",
        "/" + "a/" * 3000,
    ],
)
def test_paths_that_climb_lead_nowhere(served: int, path: str) -> None:
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection("127.0.0.1", served, timeout=20)
        connection.request(method, path, body=b"{}" if method == "POST" else None, headers=JSON)
        reply = connection.getresponse()
        text = reply.read()
        assert reply.status in (400, 404, 405, 414), (method, path, reply.status)
        assert b"root:" not in text
        assert b'"error"' in text
        connection.close()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /predict/traffic HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length: 2, 3\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length: -1\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length: 0x2\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length : 2\r\n\r\n{}" + SMUGGLED,
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + SMUGGLED,
        b"POST /predict/traffic HTTP/9.9\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"GET /predict/traf fic HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    ],
    ids=range(11),
)
def test_requests_that_two_servers_could_read_differently(served: int, raw: bytes) -> None:
    found = statuses(talk(served, raw))
    # Refused, and what comes behind on the connection is not taken for a request.
    assert len(found) <= 1, found
    assert all(400 <= status < 500 for status in found), found


def test_what_is_announced_too_large_is_not_read(served: int) -> None:
    answer = talk(served, POST + b"Content-Length: 1000000000000\r\n\r\n{")
    assert statuses(answer) == [413]
    assert b"connection: close" in answer.lower()


def test_long_urls_and_headers_are_no_fault(served: int) -> None:
    long_url = talk(served, b"GET /health/live?" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    long_header = talk(
        served, b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 60_000 + b"\r\nConnection: close\r\n\r\n"
    )
    many = b"".join(b"X-%d: a\r\n" % number for number in range(2000))
    many_headers = talk(served, b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + many + b"Connection: close\r\n\r\n")
    for answer in (long_url, long_header, many_headers):
        assert all(status < 500 for status in statuses(answer))
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=20)
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    connection.close()


def test_header_values_of_any_bytes_are_no_fault(served: int) -> None:
    for value in (b"\xff\xfe", b"\xf0\x9f\x9a\x97", b"a\x0bb", b"%00", b"\xc3\x28", b'";,\\'):
        for name in (b"X-Request-Id", b"Authorization", b"X-API-Key", b"Content-Type", b"Accept", b"traceparent"):
            raw = POST.replace(b"Content-Type: application/json\r\n", b"") + name + b": " + value
            found = statuses(talk(served, raw + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"))
            assert len(found) == 1, (name, value)
            assert 400 <= found[0] < 500, (name, value, found)
