"""A real Redis, a clock that is set, and sessions in either store."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis

from features.registry import Registry
from serving.app import create_app
from serving.sessions.redis_store import RedisStore
from serving.sessions.service import SimulationSessions
from serving.sessions.stores import MemoryStore, SessionLimits, SessionStore
from serving.settings import ServingSettings
from sim_env.process.system import PROCESSES, Process
from tests.serving.redis_server import RedisServer

NOW_S = 1770368400.0


class Clock:
    """Seconds since 1970 that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(running_redis: RedisServer) -> RedisServer:
    """A Redis that runs and is empty."""
    with closing(Redis.from_url(running_redis.url)) as client:
        client.flushall()
    return running_redis


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> RedisServer | None:
    """The Redis that keeps the sessions, or none where memory does."""
    if request.param == "memory":
        return None
    started: RedisServer = request.getfixturevalue("redis")
    return started


@pytest.fixture
def make_sessions(server: RedisServer | None, clock: Clock) -> Iterator[Callable[..., SimulationSessions]]:
    """Makes simulations over a store of either kind; keywords are its limits."""
    opened: list[SimulationSessions] = []

    def make(*, processes: Registry[Process] = PROCESSES, **limits: Any) -> SimulationSessions:
        kept = SessionLimits(**limits)
        store: SessionStore = (
            RedisStore(server.url, kept, clock=clock) if server is not None else MemoryStore(kept, clock=clock)
        )
        opened.append(SimulationSessions(store, processes=processes, clock=clock))
        return opened[-1]

    yield make
    for sessions in opened:
        sessions.close()


@pytest.fixture
def pass_time(server: RedisServer | None, clock: Clock) -> Callable[[float], None]:
    """Lets time go by, for the clock and for the keys of Redis."""

    def by(seconds: float) -> None:
        clock.now_s += seconds
        if server is None:
            return
        with closing(Redis.from_url(server.url)) as client:
            for key in client.scan_iter():
                left_ms: Any = client.pttl(key)
                if left_ms > 0:
                    client.pexpire(key, max(0, left_ms - round(seconds * 1000)))

    return by


@pytest.fixture
def open_simulations(open_api: Any) -> Callable[..., Any]:
    """Makes an app without any model; keywords are settings, `sessions` are in place of those of the settings."""

    def make(*, sessions: SimulationSessions | None = None, **settings: Any) -> Any:
        return open_api(create_app(ServingSettings(**settings), services=[], sessions=sessions))

    return make


@pytest.fixture
def simulations(open_simulations: Callable[..., Any]) -> Iterator[Any]:
    with open_simulations() as api:
        yield api
