"""What both stores of sessions promise, in memory and in a real Redis."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from features.errors import InvalidParameterError
from features.registry import Registry
from serving.sessions.errors import SessionExpiredError, SessionLimitError, SessionStoreError, UnknownSessionError
from serving.sessions.service import SimulationSessions
from serving.sessions.stores import MemoryStore, SessionLimits
from sim_env.process import PROCESSES

Make = Callable[..., SimulationSessions]


def step(sessions: SimulationSessions, session_id: str, control_input: float = 25.0) -> Any:
    return sessions.step(session_id, control_input=control_input, delta_time_s=7.0)


def test_a_session_is_kept_to_the_last_bit(make_sessions: Make) -> None:
    sessions = make_sessions()
    model = PROCESSES["reactor"].native(state={"T": 330.0})
    session_id = sessions.create("reactor", initial_state={"T": 330.0}).session_id
    for control in (290.0, 301.7, 310.123456789):
        expected = model.step(control, delta_time_s=7.0)
        assert step(sessions, session_id, control).state == expected
        assert sessions.state(session_id).state == expected
    assert sessions.history(session_id).entries[-1].state == expected
    assert sessions.state(session_id).parameters == model.parameters


def test_the_oldest_entries_make_room_for_the_newest(make_sessions: Make) -> None:
    sessions = make_sessions(history=4, log=3)
    session_id = sessions.create("water_tank").session_id
    for number in range(6):
        step(sessions, session_id)
        sessions.update_params(session_id, {"draw": float(number)})
    history = sessions.history(session_id, start=0, limit=2)
    assert [entry.step for entry in history.entries] == [3, 4]
    assert (history.first, history.following, history.total, history.dropped) == (3, 5, 7, 3)
    logs = sessions.logs(session_id, start=5, limit=100)
    assert [entry.message[-6:] for entry in logs.entries] == ["draw 4", "draw 5"]
    assert (logs.first, logs.following, logs.total, logs.dropped) == (5, None, 7, 4)


def test_a_reset_forgets_the_history_and_keeps_the_log(make_sessions: Make) -> None:
    sessions = make_sessions(history=2)
    session_id = sessions.create("room_temperature").session_id
    for _ in range(3):
        step(sessions, session_id)
    sessions.reset(session_id)
    history = sessions.history(session_id)
    assert [(entry.step, entry.time_s) for entry in history.entries] == [(0, 0.0)]
    assert (history.total, history.dropped) == (1, 0)
    assert sessions.logs(session_id).total == 2


def test_what_is_refused_changes_the_log_alone(make_sessions: Make) -> None:
    sessions = make_sessions()
    session_id = sessions.create("water_tank").session_id
    before = step(sessions, session_id)
    refused: list[Callable[[], Any]] = [
        lambda: step(sessions, session_id, float("nan")),
        lambda: sessions.step(session_id, control_input=1.0, delta_time_s=float("inf")),
        lambda: sessions.update_params(session_id, {"area": 20.0, "height": float("nan")}),
        lambda: sessions.reset(session_id, params={"area": -1.0}),
    ]
    for ask in refused:
        with pytest.raises(InvalidParameterError):
            ask()
    after = sessions.state(session_id)
    assert (after.state, after.parameters, after.steps) == (before.state, before.parameters, 1)
    assert [entry.level for entry in sessions.logs(session_id).entries] == ["INFO", *["ERROR"] * len(refused)]
    assert sessions.history(session_id).total == 2


def test_an_unused_session_expires_and_a_used_one_does_not(
    make_sessions: Make, pass_time: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="SimulationManager")
    sessions = make_sessions(ttl_s=3600.0)
    stepped, looked_at, left = (sessions.create("water_tank").session_id for _ in range(3))
    for _ in range(3):
        pass_time(1799.0)
        step(sessions, stepped)
        sessions.logs(looked_at)
    assert sessions.state(stepped).steps == 3
    assert sessions.history(stepped).total == 4
    assert sessions.state(looked_at).steps == 0
    uses: list[Callable[[], Any]] = [
        lambda: sessions.state(left),
        lambda: sessions.history(left),
        lambda: sessions.logs(left),
        lambda: step(sessions, left),
        lambda: sessions.reset(left),
    ]
    for _ in ("before it is swept", "and after"):
        for use in uses:
            with pytest.raises(SessionExpiredError, match="expired: it was not used for 3600 seconds"):
                use()
        sessions.sweep()
    assert [message for message in caplog.messages if message.endswith(" expired")] == [f"Session {left} expired"]


def test_expired_sessions_make_room(make_sessions: Make, pass_time: Callable[[float], None]) -> None:
    sessions = make_sessions(ttl_s=60.0, sessions=2)
    first = sessions.create("water_tank").session_id
    pass_time(30.0)
    second = sessions.create("water_tank").session_id
    with pytest.raises(SessionLimitError, match="found: 2"):
        sessions.create("water_tank")
    pass_time(31.0)
    third = sessions.create("water_tank").session_id
    with pytest.raises(SessionLimitError):
        sessions.create("water_tank")
    assert [sessions.state(kept).steps for kept in (second, third)] == [0, 0]
    with pytest.raises(SessionExpiredError):
        sessions.state(first)


def test_an_expired_session_is_not_remembered_for_ever(make_sessions: Make, pass_time: Callable[[float], None]) -> None:
    sessions = make_sessions(ttl_s=60.0, sessions=2)
    ids = []
    for _ in range(3):
        ids.append(sessions.create("water_tank").session_id)
        pass_time(61.0)
        sessions.sweep()
    with pytest.raises(UnknownSessionError):
        sessions.state(ids[0])
    for known in ids[1:]:
        with pytest.raises(SessionExpiredError):
            sessions.state(known)


def test_asking_for_an_expired_session_does_not_keep_its_place(
    make_sessions: Make, pass_time: Callable[[float], None]
) -> None:
    sessions = make_sessions(ttl_s=60.0, sessions=1)
    session_id = sessions.create("water_tank").session_id
    pass_time(61.0)
    with pytest.raises(SessionExpiredError):
        sessions.state(session_id)
    assert sessions.create("water_tank").steps == 0


class SlowTank:
    """The water tank, which takes long enough to come to life that other requests come in between."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PROCESSES["water_tank"], name)

    def native(self, **given: Any) -> Any:
        time.sleep(0.002)
        return PROCESSES["water_tank"].native(**given)


def test_steps_from_many_threads_are_all_taken_one_after_the_other(make_sessions: Make) -> None:
    processes: Registry[Any] = Registry("process")
    processes.register("slow_tank", SlowTank())
    sessions = make_sessions(processes=processes)
    session_id = sessions.create("slow_tank").session_id
    model = PROCESSES["water_tank"].native()
    for _ in range(80):
        model.step(25.0, delta_time_s=7.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: step(sessions, session_id), range(80)))
    after = sessions.state(session_id)
    assert (after.steps, after.state) == (80, model.state)
    entries = sessions.history(session_id).entries
    assert [entry.step for entry in entries] == list(range(81))
    assert entries[-1].state == model.state


def test_expired_sessions_go_where_no_request_comes_either(clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Also after the store was away for a while."""
    caplog.set_level(logging.INFO, logger="SimulationManager")

    class Faltering(MemoryStore):
        times = 0

        def sweep(self) -> list[str]:
            self.times += 1
            if self.times == 2:
                raise SessionStoreError("The store of sessions does not answer", remedy="Wait.")
            return super().sweep()

    store = Faltering(SessionLimits(ttl_s=0.01), clock=clock)
    sessions = SimulationSessions(store, clock=clock)
    session_id = sessions.create("water_tank").session_id
    clock.now_s += 1.0

    async def wait() -> None:
        sweeping = asyncio.create_task(sessions.keep_sweeping())
        while f"Session {session_id} expired" not in caplog.messages:
            await asyncio.sleep(0.005)
        sweeping.cancel()

    asyncio.run(wait())
    assert any("does not answer" in message for message in caplog.messages)
