"""`/ws`, and the list of what can be followed there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from serving.errors import BodyTooLargeError, Refusal, refusal, refuse
from serving.live.client import RESTART, Client
from serving.live.hub import LiveHub
from serving.live.overview import LiveOverview, overview
from serving.metrics import Metrics

_LOG = logging.getLogger(__name__)
# What a browser says beside a key, because it can send no other header: it must be said back to it.
_SUBPROTOCOL = "bearer"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CLOSE_S = 1.0


def live_routes(hub: LiveHub, metrics: Metrics) -> APIRouter:
    """The WebSocket and its list."""
    router = APIRouter(tags=["live"])

    @router.get("/data/live", summary="What can be followed live?", response_model_exclude_none=True)
    async def followed() -> LiveOverview:
        """Channels of `/ws`, their sites, and the versions that answer; why a domain is not there, if it is not.

        A client of `/ws` says `{"action": "subscribe", "channel": "traffic", "filters": {"roads": ["R001"],
        "update_frequency": "30s"}}` and gets each road's present forecast, and then every new one; `unsubscribe`,
        `list` and `ping` are the other actions. Without names all sites are meant.
        """
        metrics.count_request("/data/live", 200, "GET")
        return overview(hub.town)

    @router.websocket("/ws")
    async def live(websocket: WebSocket) -> None:
        refused = _refused(hub, websocket)
        metrics.count_request("/ws", 101 if refused is None else refused.status, "GET")
        if refused is not None:
            await websocket.send_denial_response(refused.reply())
            return
        await _converse(hub, websocket)

    return router


def _refused(hub: LiveHub, websocket: WebSocket) -> Refusal | None:
    """Why a connection is not accepted, None where it is."""
    origin = websocket.headers.get("origin")
    if origin is not None and not may_connect(origin, websocket.headers.get("host", ""), hub.settings.cors_origins):
        return refuse(
            "FORBIDDEN",
            "Pages of this origin may not connect. Add it to TOWNCAST_CORS_ORIGINS",
            status=403,
            details={"parameter": "Origin", "provided": origin[:200]},
        )
    if len(hub.clients) >= hub.settings.live_clients:
        most = hub.settings.live_clients
        return refuse("TOO_MANY_CLIENTS", f"{most} clients are connected. Try again later", status=503)
    return None


def may_connect(origin: str, host: str, allowed: Sequence[str]) -> bool:
    """Whether a page of an origin may connect: one of the API's own host, or of an origin that is allowed.

    Browsers let any site's page open a WebSocket, with no regard to CORS (RFC 6455, section 10.2).
    """
    if "*" in allowed or origin.rstrip("/") in {one.rstrip("/") for one in allowed}:
        return True
    try:
        page = urlsplit(origin)
        default = _DEFAULT_PORTS.get(page.scheme)
        own = urlsplit(f"//{host}")
        return (
            default is not None
            and own.hostname is not None
            and (page.hostname, page.port or default) == (own.hostname, own.port or default)
        )
    except ValueError:
        return False


async def _converse(hub: LiveHub, websocket: WebSocket) -> None:
    """Hear and send, until the client leaves or is to go."""
    await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in websocket.scope.get("subprotocols", ()) else None)
    client = Client(websocket.send_text, send_timeout_s=hub.settings.live_send_timeout_s)
    hub.clients.add(client)
    hearing, sending = (asyncio.create_task(work) for work in (_hear(hub, client, websocket), client.keep_sending()))
    tasks: list[asyncio.Future[Any]] = [hearing, sending, client.ended]
    try:
        await asyncio.wait(tasks, timeout=hub.settings.live_lifetime_s, return_when=asyncio.FIRST_COMPLETED)
        client.end(RESTART, "connect again")
        gone = hearing.done() or (sending.done() and sending.exception() is not None)
    finally:
        hub.forget(client)
        hearing.cancel()
        sending.cancel()
        done = await asyncio.gather(hearing, sending, return_exceptions=True)
    for fault in done:
        if isinstance(fault, Exception) and not isinstance(fault, WebSocketDisconnect):
            raise fault
    if not gone:
        code, reason = client.ended.result()
        if code != RESTART:
            _LOG.warning("A client at %s is dropped: %s", websocket.client.host if websocket.client else "?", reason)
        await _close(websocket, code, reason)


async def _hear(hub: LiveHub, client: Client, websocket: WebSocket) -> None:
    """Do what the client says, not faster than it may say it, until it leaves."""
    loop, settings = asyncio.get_running_loop(), hub.settings
    began, number = loop.time(), 0
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            return
        if loop.time() - began >= 1.0:
            began, number = loop.time(), 0
        number += 1
        message: str | bytes = event.get("text") or event.get("bytes") or ""
        if len(message) > settings.live_message_bytes:
            client.answer(_too_large(len(message), settings.live_message_bytes))
        elif number > settings.live_messages_per_s:
            client.answer(_too_often(settings.live_messages_per_s))
            # What it sends meanwhile stays with it: the server reads no further message before this one is done.
            await asyncio.sleep(began + 1.0 - loop.time())
        else:
            hub.hear(client, message)


def _too_large(found: int, limit_bytes: int) -> str:
    error = BodyTooLargeError(
        "The message is too large", found=f"{found} bytes", remedy=f"Send at most {limit_bytes} bytes."
    )
    return refusal(error).content.model_dump_json()


def _too_often(limit_per_s: int) -> str:
    message = f"Too many messages: at most {limit_per_s} in a second are answered. This one was not"
    return refuse("RATE_LIMITED", message, status=429, details={"limit_per_s": limit_per_s}).content.model_dump_json()


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    """Say goodbye, for a moment only: a client that does not read gets none."""
    with contextlib.suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(_CLOSE_S):
            await websocket.close(code, reason)
