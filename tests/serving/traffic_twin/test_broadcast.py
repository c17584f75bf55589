"""Clients of the broadcast: late, slow, silly or gone, none of them is anybody else's trouble."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

LARGE = json.dumps({"ts": "x" * 300_000}).encode()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, timeout=60))


def small(number: int) -> bytes:
    return json.dumps({"number": number}).encode()


def test_every_client_gets_every_message_in_order(serve_clients: Callable[..., Any], next_message: Any) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port), contextlib.AsyncExitStack() as stack:
            address = f"ws://127.0.0.1:{port}"
            clients = [await stack.enter_async_context(connect(address, proxy=None)) for _ in range(20)]
            while len(broadcaster) < 20:
                await asyncio.sleep(0.01)
            for number in range(5):
                broadcaster.publish(small(number))
            for client in clients:
                assert [(await next_message(client))["number"] for _ in range(5)] == [0, 1, 2, 3, 4]

    run(work())


def test_a_late_client_gets_the_latest_state_at_once(serve_clients: Callable[..., Any], next_message: Any) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port):
            for number in range(3):
                broadcaster.publish(small(number))
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
                assert await next_message(client) == {"number": 2}
                broadcaster.publish(small(3))
                assert await next_message(client) == {"number": 3}

    run(work())


async def silent_client(port: int) -> socket.socket:
    """A client that opens a WebSocket and never reads, with little room for what it does not read."""
    stubborn = socket.socket()
    stubborn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stubborn.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(stubborn, ("127.0.0.1", port))
    request = (
        "GET / HTTP/1.1\r\nHost: town\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(stubborn, request.encode())
    assert b"101" in await loop.sock_recv(stubborn, 12)
    return stubborn


def test_a_slow_client_is_dropped_and_the_others_go_on(
    serve_clients: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with serve_clients(twin_outbox_messages=4) as (broadcaster, port):
            async with connect(f"ws://127.0.0.1:{port}", proxy=None, max_size=None) as client:
                with await silent_client(port):
                    while len(broadcaster) < 2:
                        await asyncio.sleep(0.01)
                    sent = 0
                    while len(broadcaster) == 2:
                        broadcaster.publish(LARGE)
                        sent += 1
                        # The client that reads has it before the next: the silent one has not held it up.
                        assert len(await client.recv()) == len(LARGE)
                        assert sent < 1000
                    broadcaster.publish(small(1))
                    assert json.loads(await client.recv()) == {"number": 1}
        assert sent > 4

    run(work())
    assert "reads too slowly and is dropped" in caplog.text


@pytest.mark.parametrize(
    ("said", "code"),
    [("x" * 2000, 1009), (b"y" * 2000, 1009), (["x" * 600, "y" * 600], 1009)],
    ids=["large text", "large bytes", "large in fragments"],
)
def test_a_message_that_is_too_large_closes_that_client_alone(
    serve_clients: Callable[..., Any], next_message: Any, said: Any, code: int
) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port):
            address = f"ws://127.0.0.1:{port}"
            async with connect(address, proxy=None) as other, connect(address, proxy=None) as client:
                await client.send(said)
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == code
                while len(broadcaster) != 1:
                    await asyncio.sleep(0.01)
                broadcaster.publish(small(1))
                assert await next_message(other) == {"number": 1}

    run(work())


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff not a frame", b"\x81\x83\x00\x00\x00\x00\xff\xfe\xfd"])
def test_bytes_that_are_no_frame_or_no_text_close_that_client_alone(
    serve_clients: Callable[..., Any], next_message: Any, garbage: bytes
) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port):
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as other:
                with await silent_client(port) as client:
                    await asyncio.get_running_loop().sock_sendall(client, garbage)
                    number = 0
                    while len(broadcaster) != 1 or number == 0:
                        broadcaster.publish(small(number))
                        assert await next_message(other) == {"number": number}
                        number += 1
                        await asyncio.sleep(0.05)

    run(work())


def test_what_clients_say_is_ignored_until_it_is_too_much(serve_clients: Callable[..., Any], next_message: Any) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port):
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
                await client.send('{"multiplier": 5}')
                broadcaster.publish(small(1))
                assert await next_message(client) == {"number": 1}
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(2000):
                        await client.send("again")
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                assert client.close_code == 1008

    run(work())


def test_a_failure_is_told_to_all_and_to_those_who_come_after(serve_clients: Callable[..., Any]) -> None:
    async def work() -> None:
        async with serve_clients() as (broadcaster, port):
            address = f"ws://127.0.0.1:{port}"
            async with connect(address, proxy=None) as client:
                while not len(broadcaster):
                    await asyncio.sleep(0.01)
                await broadcaster.fail("The engine's process is gone" + "…" * 200)
                for one in (client, await connect(address, proxy=None)):
                    with pytest.raises(ConnectionClosed):
                        await one.recv()
                    assert one.close_code == 1011
                    assert one.close_reason is not None
                    assert one.close_reason.startswith("The engine's process is gone")

    run(work())


def test_the_page_its_files_and_the_network_are_served_and_nothing_else(serve_clients: Callable[..., Any]) -> None:
    async def work() -> None:
        async with serve_clients(b'{"edges": []}') as (_, port):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for path, kind in (
                    ("/", "text/html"),
                    ("/page.js", "text/javascript"),
                    ("/drawing.js", "text/javascript"),
                    ("/page.css", "text/css"),
                ):
                    answer = await client.get(path)
                    assert answer.status_code == 200
                    assert answer.headers["content-type"].startswith(kind)
                    # Nothing from elsewhere, and the browser is told so.
                    assert "https://" not in answer.text
                    assert "default-src 'none'" in answer.headers["content-security-policy"]
                assert (await client.get("/network.json?x=1")).json() == {"edges": []}
                for path in ("/live.py", "/../live.py", "/page/page.js", "/%2e%2e/live.py"):
                    assert (await client.get(path)).status_code == 404
                with pytest.raises(httpx.HTTPError):
                    await client.post("/")

    run(work())
