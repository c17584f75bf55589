"""The gateway over the wire: a real uvicorn, real sockets."""

import asyncio
import gzip
import json
import re
import socket
import time
from contextlib import closing
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.security.security import Security
from serving.security.settings import SecuritySettings

SECRET = "a secret of the tests, 32 characters or more"
JSON = {"Content-Type": "application/json"}


def raw(port: int, *parts: bytes, pause_s: float = 0.0) -> tuple[bytes, bool]:
    """What comes back for bytes as they are, and whether the server hung up after it."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as opened:
        for part in parts:
            opened.sendall(part)
            time.sleep(pause_s)
        received = b""
        while b"\r\n\r\n" not in received:
            more = opened.recv(65536)
            if not more:
                return received, True
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        announced = re.search(rb"content-length: (\d+)", head)
        length = int(announced[1]) if announced else 0
        while len(body) < length:
            body += opened.recv(65536)
        opened.settimeout(1)
        try:
            return head + b"\r\n\r\n" + body, opened.recv(1) == b""
        except TimeoutError:
            return head + b"\r\n\r\n" + body, False


def error_of(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    content: dict[str, Any] = reply.json()
    error: dict[str, Any] = content["error"]
    if isinstance(error, str):  # under /v2 the form is that of its clients
        error = {**content, "message": content["error"]}
        del error["error"]
    assert (reply.status_code, error["code"]) == (status, code), reply.text
    assert set(error) == {"code", "message", "details", "request_id", "timestamp"}
    assert reply.headers["x-request-id"] == error["request_id"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    return error


def test_without_a_key_there_is_nothing_but_what_is_public(live: Any) -> None:
    reply = live.client.post("/predict/traffic", json={})
    assert "X-API-Key" in error_of(reply, 401, "UNAUTHORIZED")["message"]
    assert reply.headers["www-authenticate"] == 'Bearer realm="towncast"'
    assert live.client.get("/health/live").json()["caller"] is None
    for path in ("/metrics", "/data/traffic", "/releases", "/nowhere", "/v1/data/traffic"):
        error_of(live.client.get(path), 401, "UNAUTHORIZED")
    reply = live.client.get("/metrics", headers={"X-API-Key": "tc_wrong_wrong"})
    error_of(reply, 401, "UNAUTHORIZED")
    assert reply.headers["www-authenticate"] == 'Bearer realm="towncast", error="invalid_token"'
    assert set(live.app.state.refused) == {"unauthorized"}


def test_a_key_may_do_what_its_scopes_say(live: Any) -> None:
    headers = {"X-API-Key": live.key("predict", name="shop")}
    reply = live.client.post("/predict/traffic", content=b"12345", headers=headers)
    assert (reply.status_code, reply.json()["length"], reply.json()["caller"]) == (200, 5, "shop")
    reply = live.client.get("/data/traffic", headers=headers)
    error_of(reply, 403, "FORBIDDEN")
    assert reply.headers["www-authenticate"].endswith('error="insufficient_scope", scope="data"')
    # What there is not is told to nobody but admins.
    error_of(live.client.get("/nowhere", headers=headers), 403, "FORBIDDEN")
    error_of(live.client.get("/nowhere", headers={"X-API-Key": live.key("admin")}), 404, "NOT_FOUND")


def test_a_running_api_sees_new_revoked_and_rotated_keys(live: Any) -> None:
    kept, key = live.store.add("shop", ["metrics"])

    def status(key: str) -> int:
        code: int = live.client.get("/metrics", headers={"X-API-Key": key}).status_code
        return code

    live.wait(lambda: status(key) == 200)
    new, new_key = live.store.rotate(kept.key_id)
    live.wait(lambda: status(new_key) == 200 and status(key) == 401)
    live.store.revoke(new.key_id)
    live.wait(lambda: status(new_key) == 401)
    reply = live.client.get("/metrics", headers={"X-API-Key": new_key})
    assert "revoked" in error_of(reply, 401, "UNAUTHORIZED")["message"]


def test_tokens_are_admitted_until_they_end(open_live: Any) -> None:
    def bearer(**claims: Any) -> dict[str, str]:
        claims = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "metrics", **claims}
        return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}

    with open_live(jwt_secret=SECRET) as live:
        assert live.client.get("/metrics", headers=bearer()).json()["caller"] == "token:alice"
        error_of(live.client.get("/data/traffic", headers=bearer()), 403, "FORBIDDEN")
        expired = live.client.get("/metrics", headers=bearer(exp=int(time.time()) - 60))
        assert "expired" in error_of(expired, 401, "UNAUTHORIZED")["message"]
        forged = {"Authorization": bearer()["Authorization"][:-4] + "AAAA"}
        error_of(live.client.get("/metrics", headers=forged), 401, "UNAUTHORIZED")


def test_each_key_has_its_limit_and_is_told_what_is_left(live: Any) -> None:
    headers = {"X-API-Key": live.key("metrics", "data", requests_per_minute=3000)}
    before_s = time.time()
    replies = [live.client.get("/metrics", headers=headers) for _ in range(3)]
    left = [int(reply.headers["x-ratelimit-remaining"]) for reply in replies]
    # A minute may end in between.
    assert left in ([left[0] - number for number in range(3)], [left[0], 2999, 2998], [left[0], left[0] - 1, 2999])
    assert replies[0].headers["x-ratelimit-limit"] == "3000"
    assert before_s < int(replies[0].headers["x-ratelimit-reset"]) <= time.time() + 60
    free = live.client.get("/metrics", headers={"X-API-Key": live.key("metrics", requests_per_minute=0)})
    assert "x-ratelimit-limit" not in free.headers
    assert "x-ratelimit-limit" not in live.client.get("/health/live").headers


def test_too_many_requests_are_refused_until_the_minute_ends(live: Any) -> None:
    headers = {"X-API-Key": live.key("metrics", requests_per_minute=2)}
    # Of eight at least three are too many, even if a minute ends in between.
    replies = [live.client.get("/metrics", headers=headers) for _ in range(8)]
    reply = next(reply for reply in replies if reply.status_code != 200)
    assert "2 requests a minute" in error_of(reply, 429, "RATE_LIMITED")["message"]
    assert reply.headers["x-ratelimit-remaining"] == "0"
    assert 1 <= int(reply.headers["retry-after"]) <= 60
    # Others are not held back by it, and nor is what is public.
    assert live.client.get("/metrics", headers={"X-API-Key": live.key("metrics")}).status_code == 200
    assert live.client.get("/health/live").status_code == 200


def test_a_limit_is_one_over_two_apis_that_share_a_redis(open_live: Any, redis: Any, tmp_path: Any) -> None:
    shared = {"limits_redis_url": redis.url}
    with open_live(**shared) as first, open_live(**shared) as second:
        headers = {"X-API-Key": first.key("metrics", requests_per_minute=20)}
        second.wait(lambda: second.client.get("/metrics", headers=headers).status_code != 401)
        # However the minute falls, within two of them no more than twice the limit and a share each gets through.
        statuses = [
            api.client.get("/metrics", headers=headers).status_code for _ in range(60) for api in (first, second)
        ]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= 2 * (20 + 2)
        redis.kill()
        assert first.client.get("/metrics", headers=headers).status_code in (200, 429)


@pytest.mark.parametrize(
    ("choice", "host", "on"),
    [("auto", "127.0.0.1", False), ("auto", "0.0.0.0", True), ("on", "::1", True), ("off", "0.0.0.0", False)],
)
def test_whether_callers_are_asked_depends_on_the_host(choice: Any, host: str, on: bool) -> None:
    assert Security(SecuritySettings(security=choice), host=host).guard.asks is on


def test_on_loopback_nobody_is_asked_unless_the_settings_say_so(open_live: Any) -> None:
    with open_live(security="auto") as live:
        assert live.client.get("/releases").json()["caller"] == "loopback"
        assert "x-ratelimit-limit" not in live.client.get("/metrics").headers
    with open_live(security="off", requests_per_minute=50) as live:
        assert live.client.get("/metrics").headers["x-ratelimit-limit"] == "50"


def test_what_is_reached_from_elsewhere_by_mistake_is_refused(open_live: Any) -> None:
    """The host of the settings says loopback, but whoever started the server gave another address."""
    with open_live(security="auto") as live:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "query_string": b"",
            "headers": [],
            "client": ("10.0.0.7", 1),
            "server": ("10.0.0.1", 8000),
        }
        sent: list[Any] = []

        async def run() -> None:
            async def receive() -> Any:
                return {"type": "http.request"}

            async def send(message: Any) -> None:
                sent.append(message)

            await live.app(scope, receive, send)

        asyncio.run(run())
    assert sent[0]["status"] == 401
    assert "TOWNCAST_HOST" in json.loads(sent[1]["body"])["error"]["message"]


def test_request_ids_are_taken_made_and_repeated(live: Any) -> None:
    reply = live.client.get("/health/live", headers={"X-Request-Id": "mine-7"})
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "mine-7"
    for unusable in (b"x" * 129, b"\xe9", b"a\tb", b""):
        reply = live.client.get("/health/live", headers=[(b"X-Request-Id", unusable)])
        assert re.fullmatch(r"req-\d{8}-[0-9a-f]{16}", reply.json()["request_id"])
    made = {live.client.get("/health/live").json()["request_id"] for _ in range(20)}
    assert len(made) == 20
    assert (
        error_of(live.client.get("/metrics", headers={"X-Request-Id": "mine-8"}), 401, "UNAUTHORIZED")["request_id"]
        == "mine-8"
    )


def test_the_unexpected_is_told_by_its_id_alone(live: Any) -> None:
    headers = {"X-API-Key": live.key("predict"), "X-Request-Id": "mine-9"}
    reply = live.client.get("/predict/broken", headers=headers)
    assert error_of(reply, 500, "INTERNAL_ERROR")["request_id"] == "mine-9"
    assert "secret" not in reply.text
    assert len(reply.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/predict/traffic", 1024),
        ("/predict/traffic/batch", 4096),
        ("/readings", 2048),
        ("/v2/models/towncast-traffic/infer", 8192),
    ],
)
def test_each_path_has_its_largest_body_announced_or_streamed(open_live: Any, path: str, limit: int) -> None:
    def streamed(length: int) -> Any:
        yield b" " * (length - 500)
        yield b" " * 500

    with open_live(security="off", readings_body_limit_bytes=2048, infer_body_limit_bytes=8192) as live:
        for content in (b" " * limit, streamed(limit)):
            assert live.client.post(path, content=content).json()["length"] == limit
        for content in (b" " * (limit + 1), streamed(limit + 1)):
            reply = live.client.post(path, content=content)
            assert str(limit) in error_of(reply, 413, "BODY_TOO_LARGE")["message"]
            assert reply.headers["connection"] == "close"


def test_a_refused_body_is_not_taken_for_the_next_request(open_live: Any) -> None:
    with open_live(security="off") as live:
        smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST /predict/traffic HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
        received, hung_up = raw(live.port, head + smuggled)
        assert received.startswith(b"HTTP/1.1 413")
        assert received.count(b"HTTP/1.1") == 1
        assert hung_up


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "GZIP", "x" * 300])
def test_compressed_bodies_are_not_unpacked(open_live: Any, encoding: str) -> None:
    bomb = gzip.compress(b" " * 1_000_000, mtime=0)[:1024]
    with open_live(security="off") as live:
        reply = live.client.post("/predict/traffic", content=bomb, headers={"Content-Encoding": encoding})
        error_of(reply, 415, "UNSUPPORTED_MEDIA_TYPE")
        assert reply.headers["accept-encoding"] == "identity"
        plain = live.client.post("/predict/traffic", content=bomb, headers={"Content-Encoding": "identity"})
        assert plain.status_code == 200


def test_a_slow_body_is_given_up_and_a_fast_one_beside_it_is_not(open_live: Any) -> None:
    with open_live(security="off", body_timeout_s=0.3) as live:
        head = b"POST /predict/traffic HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        began_s = time.monotonic()
        received, hung_up = raw(live.port, head, b"a", b"b")
        assert 0.3 <= time.monotonic() - began_s < 10
        assert received.startswith(b"HTTP/1.1 408")
        assert b"BODY_TIMEOUT" in received
        assert hung_up
        assert live.client.post("/predict/traffic", content=b"abc").json()["length"] == 3
        chunked = b"POST /predict/traffic HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
        assert raw(live.port, chunked)[0].startswith(b"HTTP/1.1 408")
        assert live.app.state.refused == ["body", "body"]


def test_a_drip_of_bytes_does_not_prolong_the_time(open_live: Any) -> None:
    with open_live(security="off", body_timeout_s=0.3) as live:
        head = b"POST /predict/traffic HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with closing(socket.create_connection(("127.0.0.1", live.port), timeout=20)) as opened:
            opened.sendall(head)
            until_s = time.monotonic() + 20
            opened.settimeout(0.05)
            received = b""
            while not received and time.monotonic() < until_s:
                try:
                    opened.sendall(b"a")
                    received = opened.recv(65536)
                except TimeoutError:
                    continue
        assert received.startswith(b"HTTP/1.1 408")


def test_a_request_that_takes_too_long_is_ended(open_live: Any) -> None:
    with open_live(security="off", request_timeout_s=0.3) as live:
        error_of(live.client.get("/predict/slow"), 504, "REQUEST_TIMEOUT")
        assert live.client.get("/health/live").status_code == 200
        assert live.app.state.refused == ["timeout"]
        # Half a reply must not pass for a whole one.
        with pytest.raises(httpx.RemoteProtocolError):
            live.client.get("/predict/endless")
        assert live.client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/simulate/state/..", 404),
        (b"/simulate/state/%2e%2e", 404),
        (b"/simulate/state/%252e%252e", 404),
        (b"/simulate/state/..%2f..%2fmetrics", 404),
        (b"/simulate/state/..%5c..%5cetc", 404),
        (b"/simulate/../metrics", 404),
        (b"/health/./live", 404),
        (b"/simulate/state/a%00b", 404),
        (b"/simulate/state/a%0d%0ab", 404),
        (b"/simulate/state/%ff%fe", 200),
        (b"/simulate/state/a..b", 200),
        (b"/simulate/state/" + b"x" * 9000, 414),
        (b"/metrics?x=" + b"x" * 9000, 414),
        (b"/metrics?x=../..", 200),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(open_live: Any, target: bytes, status: int) -> None:
    with open_live(security="off") as live:
        received, _ = raw(live.port, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert status == 200 or set(json.loads(body)) == {"error"}


def test_pages_of_other_origins_may_ask_only_where_it_is_allowed(open_live: Any) -> None:
    origin = {"Origin": "https://town.example"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    with open_live(cors_origins="https://town.example, https://other.example") as live:
        reply = live.client.options("/predict/traffic", headers=preflight)
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://town.example"
        refused = live.client.post("/predict/traffic", headers=origin)
        error_of(refused, 401, "UNAUTHORIZED")
        assert refused.headers["access-control-allow-origin"] == "https://town.example"
        assert "X-RateLimit-Remaining" in refused.headers["access-control-expose-headers"]
        stranger = live.client.options("/predict/traffic", headers={**preflight, "Origin": "https://evil.example"})
        assert stranger.status_code == 400
        assert "access-control-allow-origin" not in stranger.headers
    with open_live() as live:
        assert live.client.options("/predict/traffic", headers=preflight).status_code == 401


def test_refusals_are_in_the_audit_log_without_the_key(live: Any) -> None:
    key = live.key("predict", name="shop")
    live.client.get("/data/traffic", headers={"X-API-Key": key, "X-Request-Id": "mine"})
    live.client.get("/data/traffic", headers={"X-API-Key": key[:-1]})
    live.wait(lambda: '"/data/traffic", "scope"' in live.audit())
    lines = [json.loads(line) for line in live.audit().splitlines()]
    forbidden = next(line for line in lines if line["reason"] == "forbidden" and line["path"] == "/data/traffic")
    assert (forbidden["caller"], forbidden["request_id"], forbidden["client"]) == ("shop", "mine", "127.0.0.1")
    assert (forbidden["path"], forbidden["scope"]) == ("/data/traffic", "data")
    assert key.rpartition("_")[2][:20] not in live.audit()


NAMES = st.sampled_from(
    ["X-API-Key", "Authorization", "X-Request-Id", "Content-Length", "Content-Encoding", "Content-Type", "Host",
     "Transfer-Encoding", "Connection", "Expect", "Origin", "Upgrade", "Sec-WebSocket-Protocol"]
)  # fmt: skip
VALUES = st.binary(max_size=60).map(lambda value: value.translate(None, b"\r\n\0")) | st.sampled_from(
    [b"Bearer ", b"bearer tc_a_b", b"Bearer a.b.c", b"tc__", b"-1", b"0", b"99999999999999999999", b"1e3", b"chunked",
     b"gzip", b"websocket", b"close", b"100-continue", b"Basic dG93bjpjYXN0", b"Bearer eyJhbGciOiJub25lIn0.e30."]
)  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from([b"GET", b"POST"]),
    path=st.sampled_from([b"/predict/traffic", b"/health/live", b"/ws"]),
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=4),
)
def test_no_headers_give_a_5xx(guarded_port: int, method: bytes, path: bytes, headers: list[tuple[str, bytes]]) -> None:
    lines = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    with closing(socket.create_connection(("127.0.0.1", guarded_port), timeout=20)) as opened:
        opened.sendall(method + b" " + path + b" HTTP/1.1\r\n" + lines + b"\r\n")
        received = opened.recv(65536)
    assert re.match(rb"HTTP/1.1 [1-4]\d\d", received), received
