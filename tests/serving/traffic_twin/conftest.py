"""Clients and servers of a twin, on free ports."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from serving.traffic_twin.broadcast import Broadcaster
from serving.traffic_twin.live import TwinPlan, listen, run_twin, served
from serving.traffic_twin.pages import Pages
from serving.traffic_twin.settings import TwinSettings
from sim_env.traffic.mock_engine import MockEngine

BEGAN_S = 1_770_368_400  # 2026-02-06T09:00:00Z


@pytest.fixture(scope="session")
def began_s() -> int:
    """The simulated moment at which runs begin: 9:00 UTC on Friday, 6 February 2026, the last reading's."""
    return BEGAN_S


@pytest.fixture(scope="session")
def serve_clients() -> Callable[..., AbstractAsyncContextManager[tuple[Broadcaster, int]]]:
    """Opens a broadcaster without any engine; gives it and its port. Keywords are settings."""

    @contextlib.asynccontextmanager
    async def opened(
        network: bytes = b"{}", *, port: int = 0, **settings: Any
    ) -> AsyncIterator[tuple[Broadcaster, int]]:
        chosen = TwinSettings(**settings)
        pages = Pages(lambda: network)
        pages.load()
        broadcaster = Broadcaster(outbox_messages=chosen.twin_outbox_messages)
        with listen("127.0.0.1", port) as listener:
            async with served(broadcaster, pages, listener, chosen):
                yield broadcaster, listener.getsockname()[1]

    return opened


class RunningTwin:
    """A twin that runs beside the test."""

    def __init__(self, task: "asyncio.Task[None]", port: int) -> None:
        self.task = task
        self.port = port

    @property
    def address(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def running_twin() -> Callable[..., AbstractAsyncContextManager[RunningTwin]]:
    """Runs a whole twin, by default the small town at the baseline. Keywords are settings or arguments of its plan."""

    @contextlib.asynccontextmanager
    async def run(
        *, speed: float = 600.0, interval_s: float = 60.0, data_dir: Any = "var", **plan: Any
    ) -> AsyncIterator[RunningTwin]:
        settings = TwinSettings(twin_port=0, twin_speed=speed, twin_interval_s=interval_s, data_dir=data_dir)
        whole = TwinPlan(**{"engine": "mock", "build": MockEngine, "artifact": None, "began_s": BEGAN_S, **plan})
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run_twin(whole, settings, ready=address.set_result))
        try:
            await asyncio.wait([task, address], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            yield RunningTwin(task, int(address.result().rpartition(":")[2]))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return run


@pytest.fixture(scope="session")
def next_message() -> Callable[[Any], Any]:
    """Waits for a client's next message, parsed."""

    async def wait(client: Any) -> Any:
        return json.loads(await asyncio.wait_for(client.recv(), timeout=60))

    return wait
