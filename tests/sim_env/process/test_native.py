"""Native integration: right, the same alive and in bulk, and clear about what it cannot do."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from features.errors import InvalidParameterError, UnknownNameError
from sim_env.process import PROCESSES
from sim_env.process.differential import DifferentialProcess
from sim_env.process.native import roll
from sim_env.process.reactor import REACTOR
from sim_env.process.room_temperature import ROOM_TEMPERATURE, held_temperature
from sim_env.process.runge_kutta import _compiled
from sim_env.process.system import ConvergenceError
from sim_env.process.water_tank import WATER_TANK

SHARES = st.floats(0.0, 1.0)


def start_of(process: DifferentialProcess) -> np.ndarray:
    return np.array([variable.default for variable in process.states])


def by_radau(process: DifferentialProcess, control: float, parameters: dict[str, float], time_s: float) -> np.ndarray:
    parameter_P = np.array([parameters.get(variable.name, variable.default) for variable in process.parameters])

    def rates(_: float, state_S: np.ndarray) -> np.ndarray:
        rate_S = np.empty_like(state_S)
        process.rates(state_S, control, parameter_P, rate_S)
        return rate_S

    solution = solve_ivp(rates, (0.0, time_s), start_of(process), method="Radau", rtol=1e-12, atol=1e-12)
    return solution.y[:, -1]


@pytest.mark.parametrize("name", list(PROCESSES))
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_step_is_that_of_scipys_radau_to_a_part_in_a_hundred_million(name: str, data: st.DataObject) -> None:
    process = PROCESSES[name]
    control = process.control.lower + data.draw(SHARES) * (process.control.upper - process.control.lower)
    parameters = {
        variable.name: min(variable.default * data.draw(st.floats(0.8, 1.25)), variable.upper)
        for variable in process.parameters
    }
    time_s = data.draw(st.floats(0.01, 60.0))
    state = process.native(parameters=parameters).step(control, delta_time_s=time_s)
    np.testing.assert_allclose(list(state.values()), by_radau(process, control, parameters, time_s), 1e-8, 1e-10)


def test_a_reactor_that_ignites_is_followed_to_a_part_in_a_hundred_million() -> None:
    state = REACTOR.native().step(330.0, delta_time_s=120.0)
    assert state["Ca"] < 100.0
    np.testing.assert_allclose(list(state.values()), by_radau(REACTOR, 330.0, {}, 120.0), rtol=1e-8)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    heater_w=st.floats(0, 20_000),
    outdoor_c=st.floats(-60, 60),
    loss=st.floats(50, 1000),
    capacity=st.floats(1e5, 1e8),
    time_s=st.floats(0.01, 3600),
)
def test_a_rooms_temperature_is_the_exact_solution(
    heater_w: float, outdoor_c: float, loss: float, capacity: float, time_s: float
) -> None:
    parameters = {"outdoor_temperature": outdoor_c, "heat_loss": loss, "heat_capacity": capacity}
    state = ROOM_TEMPERATURE.native(parameters=parameters).step(heater_w, delta_time_s=time_s)
    exact = held_temperature(
        temperature_c=18.0,
        heater_w=heater_w,
        outdoor_temperature_c=outdoor_c,
        heat_loss_w_per_k=loss,
        heat_capacity_j_per_k=capacity,
        time_s=time_s,
    )
    assert state["temperature"] == pytest.approx(exact, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", list(PROCESSES))
def test_a_rollout_gives_the_numbers_of_living_models_to_the_last_bit_in_any_number_of_threads(name: str) -> None:
    process = PROCESSES[name]
    rng = np.random.default_rng(3)
    share_BT = rng.random((5, 6))
    control_BT = process.control.lower + share_BT * (process.control.upper - process.control.lower)
    first, second = process.parameters[0], process.parameters[1]
    each_B = first.default * rng.uniform(0.9, 1.1, 5)
    each_BT = second.default * rng.uniform(0.9, 1.1, (5, 6))
    start_BS = np.tile(start_of(process), (5, 1))
    parameters = {first.name: each_B, second.name: each_BT}
    state_BTS = roll(process, start_BS, control_BT, 20.0, parameters)
    np.testing.assert_array_equal(roll(process, start_BS, control_BT, 20.0, parameters, threads=3), state_BTS)
    for run in range(5):
        model = process.native(parameters={first.name: each_B[run]})
        for step in range(6):
            model.update_parameters({second.name: each_BT[run, step]})
            state = model.step(control_BT[run, step], delta_time_s=20.0)
            assert list(state.values()) == state_BTS[run, step].tolist()


def test_a_rollout_of_no_runs_or_no_steps_is_empty() -> None:
    assert roll(WATER_TANK, np.empty((0, 4)), np.empty((0, 3)), 60.0).shape == (0, 3, 4)
    assert roll(WATER_TANK, [[1.0, 0.0, 0.0, 0.0]], np.empty((1, 0)), 60.0).shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control_BT": [[10.0, math.nan]]}, "inflow is not a finite number"),
        ({"control_BT": [[10.0, 1e6]]}, r"inflow is outside what is allowed \(found: 1000000.0\)"),
        ({"control_BT": [10.0, 10.0]}, "The shape of state does not fit"),
        ({"state_BS": [[1.0, 0.0, 0.0, 0.0]] * 2}, "The shape of state does not fit"),
        ({"state_BS": [[math.inf, 0.0, 0.0, 0.0]]}, "state.level is not a finite number"),
        ({"state_BS": [[4.0, 0.0, 0.0, 0.0]]}, "The level of the water_tank is above its height"),
        ({"delta_time_s": 0.0}, "delta_time is outside"),
        ({"delta_time_s": math.nan}, "delta_time is not a finite"),
        ({"delta_time_s": 1e9}, "delta_time is outside"),
        ({"parameters": {"area": -1.0}}, "parameters.area is outside"),
        ({"parameters": {"area": [10.0, 20.0, 30.0]}}, "The shape of parameters.area does not fit"),
        ({"parameters": {"area": "wide"}}, "parameters.area is not made of numbers"),
    ],
)
def test_a_rollout_refuses_what_cannot_be(change: dict[str, object], said: str) -> None:
    usual = {"state_BS": [[1.0, 0.0, 0.0, 0.0]], "control_BT": [[10.0, 10.0]], "delta_time_s": 60.0}
    with pytest.raises(InvalidParameterError, match=said):
        roll(WATER_TANK, **{**usual, **change})  # type: ignore[arg-type]


def test_a_rollout_names_parameters_near_an_unknown_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: height"):
        roll(WATER_TANK, [[1.0, 0.0, 0.0, 0.0]], [[10.0]], 60.0, {"heigth": 3.0})


def test_a_rollout_says_which_run_and_step_has_no_solution() -> None:
    hot = {"rate_constant": np.array([[1.2e9] * 3, [1.2e9, 2e10, 1.2e9]]), "activation_temperature": 7000.0}
    hot["heat_capacity"] = np.array([5000.0, 200.0])
    start_BS = [[324.0, 800.0], [600.0, 1500.0]]
    with pytest.raises(ConvergenceError, match=r"\(run 1, step \d\)"):
        roll(REACTOR, start_BS, np.full((2, 3), 300.0), 600.0, hot)


def test_code_compiles_where_numba_finds_no_folder_for_its_cache() -> None:
    from numba import float64

    scope: dict[str, object] = {}
    exec(compile("def double(value):\n    return 2.0 * value", "<nowhere>", "exec"), scope)
    assert _compiled(scope["double"], float64(float64))(21.0) == 42.0  # type: ignore[arg-type]


def test_neither_numba_nor_gekko_is_imported_before_a_step() -> None:
    program = (
        "import sys; from sim_env.process import PROCESSES; [PROCESSES[n].native() for n in PROCESSES];"
        "[PROCESSES[n].gekko() for n in PROCESSES]; print('numba' in sys.modules or 'gekko' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
