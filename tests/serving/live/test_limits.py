"""What the WebSocket refuses, and how it says so: bad messages, too many of them, other sites' pages, the end."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serving.live.routes import may_connect
from serving.service import ForecastService

Run = Callable[[Any], Any]
REFUSED = {
    "near_channel": ('{"action": "subscribe", "channel": "trafic"}', "UNKNOWN_NAME", ["traffic"]),
    "near_site": (
        '{"action": "subscribe", "channel": "traffic", "filters": {"roads": ["R01"]}}',
        "UNKNOWN_NAME",
        ["R001", "R002"],
    ),
    "near_action": ('{"action": "subscrib"}', "INVALID_PARAMETER", ["subscribe", "unsubscribe"]),
    "no_channel": ('{"action": "subscribe"}', "INVALID_PARAMETER", None),
    "other_filter": (
        '{"action": "subscribe", "channel": "traffic", "filters": {"zones": ["Z1"]}}',
        "INVALID_PARAMETER",
        None,
    ),
    "not_loaded": ('{"action": "subscribe", "channel": "water"}', "NOT_READY", None),
    "frequency": (
        '{"action": "subscribe", "channel": "traffic", "filters": {"update_frequency": "10ms"}}',
        "INVALID_PARAMETER",
        None,
    ),
    "too_seldom": (
        '{"action": "subscribe", "channel": "traffic", "filters": {"update_frequency": "2h"}}',
        "INVALID_PARAMETER",
        None,
    ),
    "extra_field": ('{"action": "ping", "colour": 1}', "INVALID_PARAMETER", None),
    "wrong_type": ('{"action": 1}', "INVALID_PARAMETER", None),
    "not_json": ("{", "MALFORMED_JSON", None),
    "empty": ("", "MALFORMED_JSON", None),
    "nan": ('{"action": NaN}', "INVALID_PARAMETER", None),
    "deep": ("[" * 30000, "MALFORMED_JSON", None),
    "deep_filter": ('{"action": "ping", "filters": ' + '{"roads": [' * 5000 + "]}" * 5000 + "}", None, None),
    "huge_number": ('{"action": "ping", "filters": {"roads": [1' + "0" * 4000 + "]}}", "INVALID_PARAMETER", None),
    "surrogate": ('{"action": "\\ud800"}', "MALFORMED_JSON", None),
    "unicode": ('{"action": "p\u0456ng \U0001f6a6\u202e"}', "INVALID_PARAMETER", None),
    "binary": (b"\x00\xff{}", "MALFORMED_JSON", None),
    "too_large": ('{"action": "ping", "request_id": "' + "a" * 70000 + '"}', "BODY_TOO_LARGE", None),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_wrong_is_answered_and_the_connection_stays(
    run: Run, serve_live: Any, talk: Any, make_service: Callable[..., ForecastService], name: str
) -> None:
    message, code, nearest = REFUSED[name]

    async def work() -> None:
        async with serve_live([make_service()]) as live, live.connect() as socket:
            client = talk(socket)
            error = (await client.say_text(message))["error"]
            assert set(error) == {"code", "message", "details", "request_id", "timestamp"}
            assert error["code"] in ([code] if code else ["INVALID_PARAMETER", "MALFORMED_JSON"])
            assert len(json.dumps(error)) < 2000
            assert nearest is None or error["details"]["nearest"] == nearest
            assert (await client.say("ping", request_id="still-here"))["request_id"] == "still-here"

    run(work())


def test_a_client_is_answered_so_often_and_follows_so_much(
    run: Run, serve_live: Any, talk: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with serve_live([make_service()], live_messages_per_s=3, live_subscriptions=1) as live:
            async with live.connect() as socket:
                client = talk(socket)
                error = (await client.say("subscribe", "traffic"))["error"]
                assert "at most 1 sites" in error["message"]
                while "error" not in (answer := await client.say("ping")):
                    pass
                assert answer["error"]["code"] == "RATE_LIMITED"
                # It was made to wait for the rest of the second, and is heard again.
                assert (await client.say("ping"))["event"] == "pong"

    run(work())


def test_there_are_no_more_clients_than_may_be(
    run: Run, serve_live: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with serve_live([make_service()], live_clients=1) as live, live.connect():
            with pytest.raises(InvalidStatus) as refused:
                await live.connect()
            assert refused.value.response.status_code == 503
            assert json.loads(refused.value.response.body)["error"]["code"] == "TOO_MANY_CLIENTS"

    run(work())


def test_pages_of_other_sites_may_not_connect(
    run: Run, serve_live: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with serve_live([make_service()]) as live:
            async with live.connect(origin=f"http://{live.address}"):
                pass
            for origin in ("https://elsewhere.example", "null", f"http://127.0.0.1:{live.port + 1}"):
                with pytest.raises(InvalidStatus) as refused:
                    await live.connect(origin=origin)
                assert refused.value.response.status_code == 403
                assert json.loads(refused.value.response.body)["error"]["code"] == "FORBIDDEN"
        async with serve_live([make_service()], cors_origins=("https://elsewhere.example",)) as live:
            async with live.connect(origin="https://elsewhere.example"):
                pass

    run(work())


@pytest.mark.parametrize(
    ("origin", "host", "fits"),
    [
        ("https://town.example", "town.example", True),
        ("https://town.example", "town.example:443", True),
        ("http://town.example", "town.example:8000", False),
        ("https://town.example.evil.example", "town.example", False),
        ("https://user@town.example", "town.example", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1", "[::1", False),
        ("http://a:99999", "a:99999", False),
        ("file://", "", False),
        ("", "", False),
    ],
)
def test_an_origin_is_the_hosts_own_or_not(origin: str, host: str, fits: bool) -> None:
    assert may_connect(origin, host, ()) is fits


async def drain(socket: Any) -> None:
    while True:
        await socket.recv()


def test_goodbye_is_said_when_the_api_stops_and_at_the_end_of_a_life(
    run: Run, serve_live: Any, talk: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with serve_live([make_service()]) as live:
            socket = await live.connect()
            await talk(socket).say("subscribe", "traffic")
        with pytest.raises(ConnectionClosed) as closed:
            await drain(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        async with serve_live([make_service()], live_lifetime_s=0.3) as live, live.connect() as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 20)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "connect again")

    run(work())
