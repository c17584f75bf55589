"""A town behind a real server on a free port, with its live updates."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect

from features.feast_repository import FeatureRepository
from features.online_history import OnlineHistory
from serving.errors import install_error_replies
from serving.live.hub import LiveHub
from serving.live.pages import dashboard_routes
from serving.live.routes import live_routes
from serving.live.settings import LiveSettings
from serving.memory import WindowMemory
from serving.metrics import Metrics
from serving.security.security import Security
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.town import Town


class LiveTown:
    """A served town."""

    def __init__(self, town: Town, hub: LiveHub, port: int) -> None:
        self.town = town
        self.hub = hub
        self.port = port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self, path: str = "/ws", **options: Any) -> connect:
        return connect(f"ws://{self.address}{path}", **{"proxy": None, "max_size": None, **options})


def live_app(hub: LiveHub, security: Security | None = None) -> FastAPI:
    """The town with nothing but its live updates and the dashboard."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if security is not None:
            await security.start()
        hub.start()
        await hub.town.start()
        yield
        await hub.close()
        await hub.town.close()
        if security is not None:
            await security.close()

    app, metrics = FastAPI(lifespan=lifespan), Metrics()
    install_error_replies(app)
    for prefix in ("", "/v1"):
        app.include_router(live_routes(hub, metrics), prefix=prefix)
    app.include_router(dashboard_routes(metrics))
    if security is not None:
        security.install(app, body_limit_bytes=65536, batch_body_limit_bytes=65536)
    return app


@pytest.fixture(scope="session")
def serve_live() -> Callable[..., AbstractAsyncContextManager[LiveTown]]:
    """Serves services, live. Keywords that are not named are settings of live updates."""

    @contextlib.asynccontextmanager
    async def served(
        services: Sequence[ForecastService] | None,
        *,
        town: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        security: Security | None = None,
        send_buffer_bytes: int = 0,
        **settings: Any,
    ) -> AsyncIterator[LiveTown]:
        hub = LiveHub(Town(ServingSettings(**(town or {})), services), LiveSettings(**settings))
        options = {"ws_max_size": 262144, "ws_per_message_deflate": False, "timeout_graceful_shutdown": 5}
        running = uvicorn.Server(
            uvicorn.Config(live_app(hub, security), log_config=None, **{**options, **(server or {})})
        )
        listener = socket.create_server(("127.0.0.1", 0))
        if send_buffer_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        task = asyncio.create_task(running.serve([listener]))
        while not running.started:
            assert not task.done(), "the server ended before it had begun"
            await asyncio.sleep(0.01)
        try:
            yield LiveTown(hub.town, hub, listener.getsockname()[1])
        finally:
            running.should_exit = True
            await task

    return served


class ChangingRepository:
    """Features whose last reading of a site can be set, as if it had just come in."""

    def __init__(self, repository: FeatureRepository) -> None:
        self._repository = repository
        self.last: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    def online(self, names: list[str]) -> dict[str, OnlineHistory]:
        found = self._repository.online(names)
        for name, history in found.items():
            if name in self.last:
                values = history.value_TK.copy()
                values[self._repository.domain.history_steps - 1, 0] = self.last[name]
                found[name] = OnlineHistory(valid_until_s=history.valid_until_s, value_TK=values)
        return found

    async def push(self, live: LiveTown, **values: float) -> None:
        """A new last reading of some roads."""
        self.last |= values
        windows = live.town.windows("traffic")
        assert windows is not None
        await windows.notice(values)


@pytest.fixture
def changing(repository: FeatureRepository) -> ChangingRepository:
    return ChangingRepository(repository)


@pytest.fixture
def roads(make_service: Callable[..., ForecastService], changing: ChangingRepository) -> ForecastService:
    memory: Any = WindowMemory(changing)  # type: ignore[arg-type]
    return make_service(memory=memory)


class Talk:
    """A client's side of a conversation."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.updates: list[dict[str, Any]] = []

    async def say(self, action: str, channel: str | None = None, **more: Any) -> dict[str, Any]:
        """Say something and wait for the answer; updates that come before it are kept."""
        return await self.say_text(json.dumps({"action": action, "channel": channel, **more}))

    async def say_text(self, text: str | bytes) -> dict[str, Any]:
        await self.socket.send(text)
        while True:
            message = await self._next(20)
            if "event" in message or ("error" in message and "channel" not in message):
                return message
            self.updates.append(message)

    async def update(self, timeout_s: float = 20) -> dict[str, Any]:
        """The next update."""
        return self.updates.pop(0) if self.updates else await self._next(timeout_s)

    async def silent(self, for_s: float) -> bool:
        """Whether no update comes for some time."""
        with contextlib.suppress(TimeoutError):
            self.updates.append(await self._next(for_s))
        return not self.updates

    async def _next(self, timeout_s: float) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), timeout_s))
        return message


@pytest.fixture(scope="session")
def talk() -> type[Talk]:
    return Talk
