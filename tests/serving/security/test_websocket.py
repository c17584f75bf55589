"""WebSockets at the gateway: who opens one, and how it is refused."""

import asyncio
import json
from typing import Any

import pytest
import websockets
from websockets.exceptions import InvalidStatus


def test_a_websocket_says_who_it_is_by_header_or_by_subprotocol(live: Any) -> None:
    url, key = f"ws://127.0.0.1:{live.port}/ws", live.key("data", name="page")

    async def greeted(**options: Any) -> tuple[Any, str | None]:
        async with websockets.connect(url, **options) as opened:
            return json.loads(await opened.recv()), opened.subprotocol

    async def refused(**options: Any) -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as error:
            await greeted(**options)
        body = json.loads(error.value.response.body or b"{}")
        return error.value.response.status_code, body["error"]["code"]

    async def run() -> None:
        assert await greeted(additional_headers={"X-API-Key": key}) == ({"caller": "page", "offered": []}, None)
        greeting, chosen = await greeted(subprotocols=["bearer", key])
        # What comes behind the gateway never sees the key.
        assert (greeting, chosen) == ({"caller": "page", "offered": []}, "bearer")
        assert await refused() == (401, "UNAUTHORIZED")
        assert await refused(subprotocols=["bearer"]) == (401, "UNAUTHORIZED")
        assert await refused(subprotocols=["bearer", "tc_x_y"]) == (401, "UNAUTHORIZED")
        assert await refused(additional_headers={"X-API-Key": live.key("predict")}) == (403, "FORBIDDEN")

    asyncio.run(run())


def test_a_websocket_is_closed_by_code_where_the_server_can_send_no_reply(live: Any) -> None:
    scope = {"type": "websocket", "path": "/ws", "query_string": b"", "headers": [], "subprotocols": []}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(live.app(scope, receive, send))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 4401)]
