"""Many clients, one that never reads, and clients that say anything."""

import asyncio
import base64
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.live.client import Client
from serving.live.hub import LiveHub
from serving.live.settings import LiveSettings
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.town import Town

Run = Callable[[Any], Any]
FOLLOW = json.dumps({"action": "subscribe", "channel": "traffic"})


@contextlib.asynccontextmanager
async def never_reads(port: int) -> AsyncIterator[None]:
    """A client with as small a buffer as can be, which follows all and reads nothing after the handshake."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(raw, ("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET /ws HTTP/1.1", "Host: town", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        await loop.sock_sendall(raw, "\r\n".join(lines).encode())
        assert b" 101 " in await loop.sock_recv(raw, 1024)
        # One masked text frame, by a mask of zeros (RFC 6455, section 5.2).
        await loop.sock_sendall(raw, bytes([0x81, 0x80 | len(FOLLOW)]) + bytes(4) + FOLLOW.encode())
        yield
    finally:
        raw.close()


def test_one_that_never_reads_is_dropped_and_fifty_others_hear_all(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        limits = {"live_send_timeout_s": 2, "send_buffer_bytes": 2048}
        async with serve_live([roads], **limits) as live, never_reads(live.port), contextlib.AsyncExitStack() as stack:
            while not live.hub.clients:
                await asyncio.sleep(0.01)
            (stuck,) = live.hub.clients
            sockets = [await stack.enter_async_context(live.connect()) for _ in range(50)]
            clients = [talk(each) for each in sockets]
            for client in clients:
                await client.say("subscribe", "traffic", filters={"roads": ["R001"]})
            assert len(live.hub.clients) == 51
            heard = [asyncio.create_task(until(client, 798)) for client in clients]
            for step in range(40):
                await changing.push(live, R001=605.0 + 25 * step, R002=605.0 - 5 * step)
                await asyncio.sleep(0.01)
            # 605 gives 698, see `last_week_graph`.
            await changing.push(live, R001=1605.0)
            assert all(count >= 1 for count in await asyncio.gather(*heard))
            assert await stuck.ended == (1013, "too slow")
            while stuck in live.hub.clients:
                await asyncio.sleep(0.01)
            assert len(live.hub.clients) == 50

    run(work())


async def until(client: Any, volume: int) -> int:
    """How many updates came up to the one of a volume."""
    count = 1
    while (await client.update())["data"]["traffic_volume"] != volume:
        count += 1
    return count


def test_what_waits_for_a_client_is_bounded_by_what_it_follows(
    run: Run, serve_live: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live:
            stuck = asyncio.Event()

            async def send(text: str) -> None:
                await stuck.wait()

            client = Client(send, send_timeout_s=60)
            live.hub.clients.add(client)
            sending = asyncio.create_task(client.keep_sending())
            live.hub.hear(client, FOLLOW)
            for step in range(36):
                live.hub.hear(client, FOLLOW)
                live.hub.hear(client, FOLLOW.replace("}", ', "filters": {"update_frequency": "1h"}}'))
                await changing.push(live, R001=600.0 + step)
                await asyncio.sleep(0)
            waiting = sum(followed.update is not None for followed in client.topics.values())
            assert (len(client.topics), waiting <= 2) == (2, True)
            assert len(client._later) < 100
            assert len(client._answers) <= 64
            assert (await asyncio.wait_for(client.ended, 10))[0] == 1008
            sending.cancel()
            live.hub.forget(client)
            assert not live.hub._followers

    run(work())


@pytest.fixture(scope="module")
def hub_of() -> Iterator[Callable[..., Any]]:
    """Runs work on a hub over services, without any server."""
    with asyncio.Runner() as runner:

        def work_on(services: list[ForecastService], work: Callable[[LiveHub], Any]) -> Any:
            async def whole() -> Any:
                hub = LiveHub(Town(ServingSettings(), services), LiveSettings(live_messages_per_s=1000))
                hub.start()
                await hub.town.start()
                try:
                    return await work(hub)
                finally:
                    await hub.close()
                    await hub.town.close()

            return runner.run(whole())

        yield work_on


NAMES = st.sampled_from(["R001", "R002", "r001", "", "P001", "R001\u0000", "\U0001f6a6"]) | st.text(max_size=12)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "roads": st.lists(NAMES, max_size=4),
        "sites": st.lists(NAMES, max_size=4),
        "stations": st.lists(NAMES, max_size=2),
        "update_frequency": st.sampled_from(["1s", "30s", "5m", "1h", "0s", "1d", "-1s", "", "9999999s"]),
    },
)
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
SOUND = st.fixed_dictionaries(
    {"action": st.sampled_from(["subscribe", "unsubscribe", "list", "ping", "listen"])},
    optional={
        "channel": st.sampled_from(["traffic", "readings", "water", "trafik", ""]),
        "filters": FILTERS,
        "request_id": st.text(max_size=4),
    },
)
MESSAGES = st.one_of(
    SOUND.map(json.dumps),
    SOUND.flatmap(
        lambda sound: st.dictionaries(st.sampled_from(["action", "filters", "x"]), ANYTHING).map(sound.__or__)
    ).map(json.dumps),
    ANYTHING.map(json.dumps),
    st.text(max_size=60),
    st.binary(max_size=60),
)


def test_no_message_is_left_without_an_answer(hub_of: Any, make_service: Callable[..., ForecastService]) -> None:
    async def work(hub: LiveHub) -> None:
        sent: list[str] = []

        async def send(text: str) -> None:
            sent.append(text)

        @settings(
            max_examples=300, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck]
        )
        @given(messages=st.lists(MESSAGES, max_size=4))
        def say(messages: list[str | bytes]) -> None:
            client = Client(send, send_timeout_s=60)
            hub.clients.add(client)
            for message in messages:
                hub.hear(client, message)
            answers = [json.loads(text) for text in client._answers]
            assert len(answers) == len(messages)
            for answer in answers:
                assert ("event" in answer) != ("error" in answer)
                assert answer.get("error", {}).get("code") != "INTERNAL_ERROR"
            assert not client.ended.done()
            hub.forget(client)

        say()
        assert not hub._followers
        assert not hub._present

    hub_of([make_service()], work)
