"""An app behind a gateway on a real port, keys, and a real Redis."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from serving.errors import install_error_replies
from serving.request_context import CALLER, REQUEST_ID
from serving.security.keys import KeyStore
from serving.security.security import Security
from serving.security.settings import SecuritySettings
from tests.serving.redis_server import RedisServer

REFRESH_S = 0.05


def small_app(security: Security, *, body_limit_bytes: int = 1024) -> FastAPI:
    """An app of a few paths behind the gateway; `app.state.refused` has the reasons that were counted."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        await security.start()
        yield
        await security.close()

    app = FastAPI(lifespan=lifespan)
    app.state.refused = []
    install_error_replies(app)

    async def length(request: Request) -> dict[str, Any]:
        caller = CALLER.get()
        body = await request.body()
        return {"length": len(body), "caller": caller and caller.name, "request_id": REQUEST_ID.get()}

    for path in ("/predict/traffic", "/predict/traffic/batch", "/readings", "/v2/models/towncast-traffic/infer"):
        app.post(path)(length)
    for path in (
        "/data/traffic",
        "/metrics",
        "/releases",
        "/health/live",
        "/v1/data/traffic",
        "/simulate/state/{name}",
    ):
        app.get(path)(length)

    @app.get("/predict/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.get("/predict/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"more "
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())

    @app.get("/predict/broken")
    async def broken() -> None:
        raise RuntimeError("secret of the server")

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        caller = CALLER.get()
        await websocket.accept()
        await websocket.send_json({"caller": caller and caller.name, "offered": websocket.scope["subprotocols"]})
        await websocket.close()

    security.install(
        app,
        body_limit_bytes=body_limit_bytes,
        batch_body_limit_bytes=4 * body_limit_bytes,
        count_refusal=app.state.refused.append,
    )
    return app


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app on a free port of loopback, served by a uvicorn of its own."""
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        opened.close()


class Live:
    """An app that is served, and the store of its keys."""

    def __init__(self, app: FastAPI, url: str, store: KeyStore, settings: SecuritySettings) -> None:
        self.app = app
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.store = store
        self.settings = settings
        self.client = httpx.Client(base_url=url, timeout=20)

    def key(self, *scopes: str, name: str = "", **options: Any) -> str:
        """A new key that the app knows."""
        name = name or f"caller-{len(self.store.keys())}"
        _, key = self.store.add(name, scopes, **options)
        self.wait(lambda: self.client.get("/nowhere", headers={"X-API-Key": key}).status_code != 401)
        return key

    def wait(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so; far longer than it should take, because other tests may have the processors."""
        until_s = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < until_s
            time.sleep(0.01)

    def audit(self) -> str:
        return self.settings.audit_file.read_text() if self.settings.audit_file.exists() else ""


@pytest.fixture
def open_live(tmp_path: Path) -> Any:
    """Serves a small app; keywords are settings of security."""

    @contextmanager
    def opened(**changes: Any) -> Iterator[Live]:
        settings = SecuritySettings(**{"data_dir": tmp_path, "security": "on", **changes})
        security = Security(settings, host="127.0.0.1", refresh_s=REFRESH_S)
        app = small_app(security)
        store = KeyStore(settings.keys_address)
        with served(app) as url:
            live = Live(app, url, store, settings)
            with closing(live.client), closing(store):
                yield live

    return opened


@pytest.fixture
def live(open_live: Any) -> Iterator[Live]:
    with open_live() as opened:
        yield opened


@pytest.fixture(scope="module")
def guarded_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a small app that wants keys or tokens, and has little patience."""
    settings = SecuritySettings(
        data_dir=tmp_path_factory.mktemp("guarded"), security="on", jwt_secret="s" * 32, body_timeout_s=0.1
    )
    with served(small_app(Security(settings, host="127.0.0.1"))) as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()
