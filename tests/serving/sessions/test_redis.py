"""What Redis adds: several workers share a session, it outlives them, and they outlive Redis."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis

from features.errors import InvalidParameterError
from serving.sessions.errors import SessionBusyError, SessionLimitError, SessionStoreError
from serving.sessions.redis_store import RedisStore
from serving.sessions.service import SimulationSessions
from serving.sessions.session import Change, Session
from serving.sessions.stores import SessionLimits
from serving.settings import ServingSettings
from sim_env.process import PROCESSES


@contextmanager
def worker(url: str, **limits: Any) -> Iterator[SimulationSessions]:
    with closing(SimulationSessions(RedisStore(url, SessionLimits(**limits)))) as sessions:
        yield sessions


def test_two_workers_share_a_session_and_lose_no_step(redis: Any) -> None:
    with worker(redis.url) as first, worker(redis.url) as second:
        session_id = first.create("water_tank").session_id
        model = PROCESSES["water_tank"].native()
        for _ in range(100):
            model.step(25.0, delta_time_s=7.0)
        begin = threading.Barrier(4)

        def work(sessions: SimulationSessions) -> None:
            begin.wait()
            for _ in range(25):
                sessions.step(session_id, control_input=25.0, delta_time_s=7.0)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, [first, second, first, second]))
        for sessions in (first, second):
            assert (sessions.state(session_id).steps, sessions.state(session_id).state) == (100, model.state)
        assert [entry.step for entry in second.history(session_id, start=1).entries] == list(range(1, 101))


def test_workers_together_keep_to_the_limit_and_give_refused_places_back(redis: Any) -> None:
    with worker(redis.url, sessions=5) as first, worker(redis.url, sessions=5) as second:

        def work(sessions: SimulationSessions) -> bool:
            try:
                sessions.create("water_tank")
            except SessionLimitError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            begun = list(pool.map(work, [first, second] * 8))
        assert sum(begun) <= 5
        while sum(begun) < 5:
            begun.append(work(first))
            assert begun[-1]
        assert not work(second)
    with closing(Redis.from_url(redis.url)) as client:
        assert len(list(client.scan_iter("towncast:session:*"))) == 5


def test_a_session_outlives_the_app(redis: Any, open_simulations: Callable[..., Any]) -> None:
    with open_simulations(sessions_redis_url=redis.url) as api:
        session_id = api.request("POST", "/simulate/init", json={"model_name": "water_tank"}).json()["session_id"]
        body = {"session_id": session_id, "control_input": 10.0, "delta_time": 1.0}
        stepped = api.request("POST", "/simulate/step", json=body).json()
    with open_simulations(sessions_redis_url=redis.url) as api:
        shown = api.request("GET", f"/simulate/state/{session_id}").json()
        assert (shown["state"], shown["steps"]) == (stepped["state"], 1)
        assert api.request("POST", "/simulate/step", json=body).json()["steps"] == 2
        assert api.request("GET", f"/simulate/history/{session_id}").json()["total"] == 3
        assert api.request("GET", f"/simulate/logs/{session_id}").json()["total"] == 1


def test_redis_itself_cleans_up(redis: Any, open_simulations: Callable[..., Any]) -> None:
    with open_simulations(sessions_redis_url=redis.url, session_ttl_s=0.3) as api:
        session_id = api.request("POST", "/simulate/init", json={"model_name": "water_tank"}).json()["session_id"]
        with closing(Redis.from_url(redis.url)) as client:
            while list(client.scan_iter("towncast:session*:*-*")):
                time.sleep(0.05)
        reply = api.request("GET", f"/simulate/state/{session_id}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (410, "SESSION_EXPIRED")


def test_without_redis_simulations_say_so_and_go_on_when_it_is_back(
    redis: Any, open_simulations: Callable[..., Any]
) -> None:
    with open_simulations(sessions_redis_url=redis.url) as api:
        body = {"model_name": "water_tank", "params": {}}
        session_id = api.request("POST", "/simulate/init", json=body).json()["session_id"]
        redis.kill()
        step = {"session_id": session_id, "control_input": 10.0, "delta_time": 1.0}
        replies = [
            api.request("POST", "/simulate/init", json=body),
            api.request("POST", "/simulate/step", json=step),
            api.request("GET", f"/simulate/state/{session_id}"),
            api.request("GET", f"/simulate/history/{session_id}"),
        ]
        for reply in replies:
            assert reply.status_code == 503, reply.text
            assert reply.json()["error"]["code"] == "SESSIONS_UNAVAILABLE"
            assert "TOWNCAST_SESSIONS_REDIS_URL" in reply.json()["error"]["message"]
            assert str(redis.port) not in reply.text
        assert api.request("GET", "/health/live").status_code == 200
        redis.start()
        # It kept nothing on disk, so the old session is gone; a new one works at once.
        assert api.request("GET", f"/simulate/state/{session_id}").status_code == 404
        step["session_id"] = api.request("POST", "/simulate/init", json=body).json()["session_id"]
        assert api.request("POST", "/simulate/step", json=step).status_code == 200


def test_an_app_starts_without_its_redis(redis: Any, open_simulations: Callable[..., Any]) -> None:
    redis.kill()
    try:
        with open_simulations(sessions_redis_url=redis.url) as api:
            assert api.request("GET", "/simulate/models").status_code == 200
            assert api.request("POST", "/simulate/init", json={"model_name": "reactor"}).status_code == 503
    finally:
        redis.start()


class CuttingProxy:
    """Stands before Redis and, when told to, hangs up after the next transaction was sent and before its answer."""

    def __init__(self, port: int) -> None:
        self._redis_port = port
        self.cut = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            if not self._redis_port:
                client.close()
                return
            thread = threading.Thread(target=self._relay, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._redis_port)) as server:
            while asked := client.recv(65536):
                server.sendall(asked)
                # One request's answer comes in one piece: they are far smaller than a packet on loopback.
                answer = server.recv(65536)
                if b"EXEC" in asked and self.cut.is_set():
                    self.cut.clear()
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._redis_port = 0
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in (self._accepting, *self._threads):
            thread.join()
        self._listening.close()


def test_a_step_whose_answer_is_lost_is_not_taken_twice(redis: Any) -> None:
    with closing(CuttingProxy(redis.port)) as proxy, worker(f"redis://127.0.0.1:{proxy.port}/0") as sessions:
        session_id = sessions.create("water_tank").session_id
        sessions.step(session_id, control_input=10.0, delta_time_s=1.0)
        proxy.cut.set()
        with pytest.raises(SessionStoreError, match="may have been made"):
            sessions.step(session_id, control_input=10.0, delta_time_s=1.0)
        assert sessions.state(session_id).steps == 2
        assert sessions.step(session_id, control_input=10.0, delta_time_s=1.0).steps == 3


def test_a_change_that_never_gets_a_turn_is_given_up(redis: Any) -> None:
    limits = SessionLimits()
    with closing(RedisStore(redis.url, limits)) as store, closing(SimulationSessions(store)) as sessions:
        session_id = sessions.create("water_tank").session_id

        def overtaken(session: Session) -> Change:
            sessions.step(session_id, control_input=10.0, delta_time_s=1.0)
            return Change(session=session)

        with pytest.raises(SessionBusyError, match="one request after the other"):
            store.update(session_id, overtaken)
        assert sessions.state(session_id).steps > 0


def test_a_record_that_is_no_session_is_said_to_be_none(redis: Any) -> None:
    with worker(redis.url) as sessions, closing(Redis.from_url(redis.url)) as client:
        session_id = sessions.create("water_tank").session_id
        assert json.loads(str(client.get(f"towncast:session:{session_id}"), "utf-8"))["process"] == "water_tank"
        for record in ("{}", "no JSON", '{"session_id": 1}'):
            client.set(f"towncast:session:{session_id}", record)
            with pytest.raises(SessionStoreError, match="begin a new session"):
                sessions.state(session_id)
            with pytest.raises(SessionStoreError, match="begin a new session"):
                sessions.step(session_id, control_input=10.0, delta_time_s=1.0)


@pytest.mark.parametrize("wrong", ["living", "expired", "nobody:history", "*", "\n", "é" * 64])
def test_no_key_of_redis_can_be_taken_for_a_session(
    redis: Any, open_simulations: Callable[..., Any], wrong: str
) -> None:
    with open_simulations(sessions_redis_url=redis.url) as api:
        api.request("POST", "/simulate/init", json={"model_name": "water_tank"})
        body = {"session_id": wrong, "control_input": 10.0, "delta_time": 1.0}
        reply = api.request("POST", "/simulate/step", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "UNKNOWN_SESSION")


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost:6379", " "])
def test_an_address_that_is_none_of_redis_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TOWNCAST_SESSIONS_REDIS_URL", url)
    with pytest.raises(ValidationError, match="sessions_redis_url"):
        ServingSettings()


def test_an_address_without_a_sound_port_is_refused_and_not_repeated(open_simulations: Callable[..., Any]) -> None:
    with pytest.raises(InvalidParameterError, match="TOWNCAST_SESSIONS_REDIS_URL") as caught:
        open_simulations(sessions_redis_url="redis://:secret@localhost:port/0")
    assert "secret" not in str(caught.value)
