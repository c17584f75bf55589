"""Bad input to sessions: each kind is refused with a remedy, and the session is as it was."""

from collections.abc import Callable
from typing import Any

import pytest

from sim_env.process import PROCESSES

UNKNOWN_ID = "123e4567-e89b-12d3-a456-426614174000"


@pytest.fixture
def session_id(simulations: Any) -> str:
    body = {"model_name": "water_tank", "params": {}}
    found: str = simulations.request("POST", "/simulate/init", json=body).json()["session_id"]
    simulations.request("POST", "/simulate/step", json={"session_id": found, "control_input": 10.0, "delta_time": 1.0})
    return found


def error_of(reply: Any, *, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == code
    return error


def without_end(reply: Any) -> dict[str, Any]:
    content: dict[str, Any] = reply.json()
    content.pop("expires_at")
    return content


STEPS = [
    ('"control_input": NaN, "delta_time": 1', "control_input"),
    ('"control_input": Infinity, "delta_time": 1', "control_input"),
    ('"control_input": 1e999, "delta_time": 1', "control_input"),
    ('"control_input": -0.1, "delta_time": 1', "control_input"),
    ('"control_input": 1e9, "delta_time": 1', "control_input"),
    ('"control_input": "10", "delta_time": 1', "control_input"),
    ('"control_input": true, "delta_time": 1', "control_input"),
    ('"control_input": null, "delta_time": 1', "control_input"),
    ('"delta_time": 1', "control_input"),
    ('"control_input": 10, "delta_time": 0', "delta_time"),
    ('"control_input": 10, "delta_time": -1', "delta_time"),
    ('"control_input": 10, "delta_time": 1e9', "delta_time"),
    ('"control_input": 10, "delta_time": 1e-300', "delta_time"),
    ('"control_input": 10, "delta_time": NaN', "delta_time"),
    ('"control_input": 10, "delta_time": "1"', "delta_time"),
    ('"control_input": 10', "delta_time"),
    ('"control_input": 10, "delta_time": 1, "dt": 1', "dt"),
]


@pytest.mark.parametrize(("fields", "parameter"), STEPS)
def test_a_step_that_cannot_be_changes_nothing(simulations: Any, session_id: str, fields: str, parameter: str) -> None:
    before = without_end(simulations.request("GET", f"/simulate/state/{session_id}"))
    body = f'{{"session_id": "{session_id}", {fields}}}'
    reply = simulations.request("POST", "/simulate/step", content=body, headers={"Content-Type": "application/json"})
    assert error_of(reply, status=400, code="INVALID_PARAMETER")["details"]["parameter"] == parameter
    assert without_end(simulations.request("GET", f"/simulate/state/{session_id}")) == before
    assert simulations.request("GET", f"/simulate/history/{session_id}").json()["total"] == 2


def test_a_value_out_of_range_is_answered_with_the_range(simulations: Any, session_id: str) -> None:
    process = PROCESSES["water_tank"]
    area = next(variable for variable in process.parameters if variable.name == "area")
    body = {"session_id": session_id, "control_input": 10.0, "delta_time": 1e9}
    error = error_of(simulations.request("POST", "/simulate/step", json=body), status=400, code="INVALID_PARAMETER")
    assert error["message"] == f"Invalid delta_time. Must be 0.001 to {process.longest_step_s:g} s"
    body = {"session_id": session_id, "params": {"area": -1.0}}
    error = error_of(simulations.request("PATCH", "/simulate/params", json=body), status=400, code="INVALID_PARAMETER")
    assert error["message"] == f"Invalid params.area. Must be {area.lower:g} to {area.upper:g} m2"


PARAMS = [
    ({"aera": 1.0}, "params.aera"),
    ({"area": 20.0, "height": 1e9}, "params.height"),
    ({"area": "20"}, "params.area"),
    ({"area": None}, "params.area"),
    ({"draw": 201.0}, "params.draw"),
    ([], "params"),
]


@pytest.mark.parametrize(("params", "parameter"), PARAMS)
@pytest.mark.parametrize(
    ("method", "path"), [("PATCH", "/simulate/params"), ("POST", "/simulate/reset"), ("POST", "/simulate/init")]
)
def test_parameters_that_cannot_be_change_nothing(
    simulations: Any, session_id: str, method: str, path: str, params: Any, parameter: str
) -> None:
    before = without_end(simulations.request("GET", f"/simulate/state/{session_id}"))
    named = {"model_name": "water_tank"} if path.endswith("init") else {"session_id": session_id}
    reply = simulations.request(method, path, json={**named, "params": params})
    assert error_of(reply, status=400, code="INVALID_PARAMETER")["details"]["parameter"] == parameter
    assert without_end(simulations.request("GET", f"/simulate/state/{session_id}")) == before


def test_an_unknown_parameter_is_answered_with_near_names(simulations: Any, session_id: str) -> None:
    reply = simulations.request("PATCH", "/simulate/params", json={"session_id": session_id, "params": {"aera": 1.0}})
    error = error_of(reply, status=400, code="INVALID_PARAMETER")
    assert error["details"]["nearest"][0] == "area"
    assert error["details"]["allowed"] == ["area", "outlet_coefficient", "height", "draw"]


@pytest.mark.parametrize("state", [{"levle": 1.0}, {"level": -1.0}, {"level": 19.0}])
def test_a_start_that_cannot_be_is_refused(simulations: Any, state: dict[str, float]) -> None:
    body = {"model_name": "water_tank", "initial_state": state}
    error = error_of(simulations.request("POST", "/simulate/init", json=body), status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == f"initial_state.{next(iter(state))}"


def test_a_brim_below_the_water_is_refused(simulations: Any, session_id: str) -> None:
    body = {"session_id": session_id, "params": {"height": 1.0}}
    error = error_of(simulations.request("PATCH", "/simulate/params", json=body), status=400, code="INVALID_PARAMETER")
    assert "height" in error["message"]


def test_an_unknown_model_is_answered_with_near_names(simulations: Any) -> None:
    reply = simulations.request("POST", "/simulate/init", json={"model_name": "WaterTank", "params": {}})
    error = error_of(reply, status=404, code="UNKNOWN_NAME")
    assert error["details"]["nearest"] == ["water_tank"]


@pytest.mark.parametrize("wrong", [UNKNOWN_ID, "nobody", "living", "../../etc", "x" * 64, "é", " "])
def test_an_unknown_session_is_not_found_whatever_is_asked(simulations: Any, wrong: str) -> None:
    bodies: dict[tuple[str, str], dict[str, Any]] = {
        ("POST", "step"): {"control_input": 10.0, "delta_time": 1.0},
        ("POST", "reset"): {},
        ("PATCH", "params"): {"params": {}},
    }
    for (method, name), body in bodies.items():
        reply = simulations.request(method, f"/simulate/{name}", json={"session_id": wrong, **body})
        error = error_of(reply, status=404, code="UNKNOWN_SESSION")
        assert "Begin a new session" in error["message"]
    for view in ("state", "history", "logs") if "/" not in wrong else ():
        error_of(simulations.request("GET", f"/simulate/{view}/{wrong}"), status=404, code="UNKNOWN_SESSION")


@pytest.mark.parametrize(
    "query", [{"start": "-1"}, {"limit": "0"}, {"limit": "1001"}, {"start": "one"}, {"limit": ""}, {"page": "1"}]
)
@pytest.mark.parametrize("view", ["history", "logs"])
def test_a_page_that_cannot_be_is_refused(simulations: Any, session_id: str, view: str, query: dict[str, str]) -> None:
    reply = simulations.request("GET", f"/simulate/{view}/{session_id}", params=query)
    error = error_of(reply, status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == next(iter(query))


@pytest.mark.parametrize("path", ["init", "step", "reset"])
@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"session_id": "\\ud800"}', b"[" * 20000])
def test_broken_bodies_are_the_callers_fault(simulations: Any, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    reply = simulations.request("POST", f"/simulate/{path}", content=body, headers=headers)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] in {"MALFORMED_JSON", "INVALID_PARAMETER"}


def test_another_media_type_or_method_is_refused(simulations: Any) -> None:
    reply = simulations.request("POST", "/simulate/init", content=b"a=b", headers={"Content-Type": "text/plain"})
    error_of(reply, status=415, code="UNSUPPORTED_MEDIA_TYPE")
    error_of(simulations.request("GET", "/simulate/init"), status=405, code="METHOD_NOT_ALLOWED")


def test_one_session_too_many_is_refused_and_the_others_go_on(open_simulations: Callable[..., Any]) -> None:
    with open_simulations(session_limit=2) as api:
        begun = [api.request("POST", "/simulate/init", json={"model_name": "reactor"}) for _ in range(3)]
        assert "TOWNCAST_SESSION_LIMIT" in error_of(begun[2], status=503, code="TOO_MANY_SESSIONS")["message"]
        for reply in begun[:2]:
            assert api.request("GET", f"/simulate/state/{reply.json()['session_id']}").status_code == 200


def test_a_step_without_a_solution_leaves_the_session_as_it_was(simulations: Any) -> None:
    """A reaction of a nanosecond's time cannot be followed for ten minutes."""
    params = {"rate_constant": 1e12, "activation_temperature": 5000.0, "volume": 0.02, "heat_transfer": 1e5}
    body = {"model_name": "reactor", "params": params, "initial_state": {"T": 1500.0}}
    session_id = simulations.request("POST", "/simulate/init", json=body).json()["session_id"]
    before = without_end(simulations.request("GET", f"/simulate/state/{session_id}"))
    asked = {"session_id": session_id, "control_input": 300.0, "delta_time": 600.0}
    error_of(simulations.request("POST", "/simulate/step", json=asked), status=422, code="NO_SOLUTION")
    assert without_end(simulations.request("GET", f"/simulate/state/{session_id}")) == before
    milder = {"rate_constant": 1.2e9, "activation_temperature": 8750.0}
    simulations.request("POST", "/simulate/reset", json={"session_id": session_id, "params": milder})
    reply = simulations.request("POST", "/simulate/step", json={**asked, "delta_time": 1.0})
    assert reply.status_code == 200, reply.text
