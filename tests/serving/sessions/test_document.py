"""The session API against the document: its example, its paths, and what each of them answers."""

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.sessions.service import SimulationSessions
from serving.sessions.stores import MemoryStore, SessionLimits
from sim_env.process import PROCESSES


def begin(api: Any, model_name: str = "water_tank", **fields: Any) -> str:
    reply = api.request("POST", "/simulate/init", json={"model_name": model_name, "params": {}, **fields})
    assert reply.status_code == 200, reply.text
    session_id: str = reply.json()["session_id"]
    return session_id


def step(api: Any, session_id: str, control_input: float = 10.0, delta_time: float = 1.0) -> dict[str, Any]:
    body = {"session_id": session_id, "control_input": control_input, "delta_time": delta_time}
    reply = api.request("POST", "/simulate/step", json=body)
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


def get(api: Any, view: str, session_id: str, **query: int) -> dict[str, Any]:
    reply = api.request("GET", f"/simulate/{view}/{session_id}", params=query)
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


def test_the_documents_example(simulations: Any) -> None:
    session_id = begin(simulations)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", session_id)
    stepped = step(simulations, session_id)
    assert (stepped["session_id"], stepped["model_name"]) == (session_id, "water_tank")
    assert (stepped["time_s"], stepped["steps"]) == (1.0, 1)
    # In a second 10 L come in and 8 sqrt(level) go out, on 10 m2.
    assert stepped["state"]["level"] == pytest.approx(1.0 + (10.0 - 8.0) / 1000 / 10, abs=1e-6)
    shown = get(simulations, "state", session_id)
    assert shown.pop("expires_at") >= stepped.pop("expires_at")
    assert shown == stepped


@pytest.mark.parametrize("name", PROCESSES)
def test_a_session_steps_as_the_process_does(simulations: Any, name: str) -> None:
    process = PROCESSES[name]
    controls = np.random.default_rng(0).uniform(process.control.lower, process.control.upper, 5).tolist()
    session_id = begin(simulations, name)
    model = process.native()
    for control in controls:
        state = step(simulations, session_id, control, 2.5)["state"]
        assert state == model.step(control, delta_time_s=2.5)
        assert list(state) == [variable.name for variable in process.states]


def test_sessions_do_not_see_each_other(simulations: Any) -> None:
    first, second = begin(simulations), begin(simulations)
    assert first != second
    before = get(simulations, "state", second)["state"]
    step(simulations, first, 100.0, 60.0)
    simulations.request("PATCH", "/simulate/params", json={"session_id": first, "params": {"area": 20.0}})
    other = get(simulations, "state", second)
    assert (other["state"], other["steps"], other["params"]["area"]) == (before, 0, 10.0)
    assert get(simulations, "history", second)["total"] == 1
    assert get(simulations, "logs", second)["total"] == 1


def test_parameters_and_states_can_be_given_at_the_start(simulations: Any) -> None:
    given = {"params": {"area": 25}, "initial_state": {"level": 2.5}}
    shown = get(simulations, "state", begin(simulations, **given))
    assert shown["params"] == {"area": 25.0, "outlet_coefficient": 8.0, "height": 3.0, "draw": 0.0}
    assert shown["state"]["level"] == 2.5


def test_history_tells_every_step_and_comes_in_pages(simulations: Any) -> None:
    session_id = begin(simulations)
    states = [get(simulations, "state", session_id)["state"]]
    states += [step(simulations, session_id, 5.0 * number, 2.0)["state"] for number in range(5)]
    whole = get(simulations, "history", session_id)
    assert whole["entries"][0] == {
        "step": 0,
        "time_s": 0.0,
        "control_input": None,
        "delta_time": None,
        "state": states[0],
    }
    assert [entry["state"] for entry in whole["entries"]] == states
    assert [entry["control_input"] for entry in whole["entries"][1:]] == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert [entry["time_s"] for entry in whole["entries"]] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert (whole["first"], whole["next"], whole["total"], whole["dropped"]) == (0, None, 6, 0)
    read, start = [], 0
    while start is not None:
        page = get(simulations, "history", session_id, start=start, limit=4)
        read += page["entries"]
        start = page["next"]
    assert read == whole["entries"]
    beyond = get(simulations, "history", session_id, start=99)
    assert (beyond["entries"], beyond["first"], beyond["next"]) == ([], 6, None)


def test_what_is_dropped_from_a_history_is_said(open_simulations: Callable[..., Any]) -> None:
    with open_simulations(session_history_limit=3) as api:
        session_id = begin(api)
        for _ in range(5):
            step(api, session_id)
        page = get(api, "history", session_id)
    assert [entry["step"] for entry in page["entries"]] == [3, 4, 5]
    assert (page["first"], page["total"], page["dropped"]) == (3, 6, 3)


def test_changed_parameters_count_from_the_next_step(simulations: Any) -> None:
    session_id = begin(simulations, params={"outlet_coefficient": 0.0})
    step(simulations, session_id, 10.0, 100.0)
    body = {"session_id": session_id, "params": {"area": 20.0, "draw": 10.0}}
    reply = simulations.request("PATCH", "/simulate/params", json=body)
    assert reply.status_code == 200, reply.text
    changed = reply.json()
    assert changed["params"] == {"area": 20.0, "outlet_coefficient": 0.0, "height": 3.0, "draw": 10.0}
    assert (changed["time_s"], changed["steps"]) == (100.0, 1)
    assert changed["state"]["level"] == pytest.approx(1.1)
    # What comes in is drawn.
    assert step(simulations, session_id, 10.0, 100.0)["state"]["level"] == pytest.approx(1.1)


@pytest.mark.parametrize(("body", "area"), [({}, 20.0), ({"params": None}, 20.0), ({"params": {"area": 30.0}}, 30.0)])
def test_a_reset_begins_again_and_keeps_other_parameters(simulations: Any, body: dict[str, Any], area: float) -> None:
    session_id = begin(simulations, initial_state={"level": 2.0}, params={"height": 4.0})
    step(simulations, session_id, 0.0, 60.0)
    simulations.request("PATCH", "/simulate/params", json={"session_id": session_id, "params": {"area": 20.0}})
    reply = simulations.request("POST", "/simulate/reset", json={"session_id": session_id, **body})
    assert reply.status_code == 200, reply.text
    shown = reply.json()
    assert (shown["time_s"], shown["steps"], shown["state"]["level"]) == (0.0, 0, 2.0)
    assert (shown["params"]["area"], shown["params"]["height"]) == (area, 4.0)
    history = get(simulations, "history", session_id)
    assert [entry["step"] for entry in history["entries"]] == [0]
    assert history["dropped"] == 0
    assert "reset" in get(simulations, "logs", session_id)["entries"][-1]["message"]


def test_the_log_tells_what_happened_and_what_was_refused(simulations: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="SimulationManager")
    session_id = begin(simulations)
    step(simulations, session_id)
    body = {"session_id": session_id, "control_input": -1.0, "delta_time": 1.0}
    assert simulations.request("POST", "/simulate/step", json=body).status_code == 400
    simulations.request("PATCH", "/simulate/params", json={"session_id": session_id, "params": {"draw": 3.0}})
    entries = get(simulations, "logs", session_id)["entries"]
    assert [entry["level"] for entry in entries] == ["INFO", "ERROR", "INFO"]
    began, refused, changed = (entry["message"] for entry in entries)
    assert "water_tank" in began
    assert "after step 1" in refused
    assert "-1.0" in refused
    assert "draw 3" in changed
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"]) for entry in entries)
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    for entry in entries:
        assert ("SimulationManager", entry["level"], f"Session {session_id}: {entry['message']}") in told


def test_a_sessions_end_is_foretold_and_then_said(
    open_simulations: Callable[..., Any], clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="SimulationManager")
    sessions = SimulationSessions(MemoryStore(SessionLimits(ttl_s=60.0), clock=clock), clock=clock)
    with open_simulations(sessions=sessions) as api:
        reply = api.request("POST", "/simulate/init", json={"model_name": "reactor"}).json()
        assert reply["expires_at"] == "2026-02-06T09:01:00Z"
        clock.now_s += 59.0
        assert get(api, "state", reply["session_id"])["expires_at"] == "2026-02-06T09:01:59Z"
        clock.now_s += 60.0
        late = api.request("GET", f"/simulate/state/{reply['session_id']}")
        assert late.status_code == 410
        assert late.json()["error"]["code"] == "SESSION_EXPIRED"
        assert "expired" in late.json()["error"]["message"]
        begin(api)
    assert f"Session {reply['session_id']} expired" in caplog.messages


def test_the_models_say_what_can_be_sent(simulations: Any) -> None:
    models = {model["model_name"]: model for model in simulations.request("GET", "/simulate/models").json()["models"]}
    assert list(models) == ["water_tank", "room_temperature", "reactor"]
    for name, model in models.items():
        session_id = begin(simulations, name, params={one["name"]: one["default"] for one in model["params"]})
        for bound in ("lower", "upper"):
            stepped = step(simulations, session_id, model["control"][bound], 1.0)
            assert set(stepped["state"]) == {one["name"] for one in model["states"]}


def test_the_versioned_paths_answer_the_same(simulations: Any) -> None:
    reply = simulations.request("POST", "/v1/simulate/init", json={"model_name": "room_temperature", "params": {}})
    session_id = reply.json()["session_id"]
    stepped = step(simulations, session_id, 500.0)
    versioned = simulations.request("GET", f"/v1/simulate/state/{session_id}").json()
    assert versioned["state"] == stepped["state"]


def test_requests_are_counted_by_path_and_status(simulations: Any) -> None:
    get(simulations, "state", begin(simulations))
    simulations.request("GET", "/simulate/state/nobody")
    text = simulations.request("GET", "/metrics").text
    assert 'towncast_requests_total{method="POST",route="/simulate/init",status="200"} 1.0' in text
    assert 'towncast_requests_total{method="GET",route="/simulate/state/{session_id}",status="404"} 1.0' in text
