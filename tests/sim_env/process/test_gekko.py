"""GEKKO alive: equal to native integration, told what it starts from, and clean when it fails or closes."""

import gc
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_env.process import PROCESSES, gekko_model
from sim_env.process.differential import DifferentialProcess
from sim_env.process.gekko_model import GekkoSolver, elements
from sim_env.process.living import LivingModel
from sim_env.process.reactor import REACTOR
from sim_env.process.system import ConvergenceError, ProcessModel
from sim_env.process.water_tank import WATER_TANK

SHARES = st.floats(0.0, 1.0)


@pytest.fixture
def memory_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of this test's own in the place of the system's memory file system."""
    monkeypatch.setattr(gekko_model, "_MEMORY_FOLDER", tmp_path)
    return tmp_path


def assert_equal(process: DifferentialProcess, left: dict[str, float], right: dict[str, float]) -> None:
    for name, tolerance in process.tolerance.items():
        assert left[name] == pytest.approx(right[name], rel=0.0, abs=tolerance), name


@pytest.mark.parametrize("name", list(PROCESSES))
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_gekko_and_native_integration_agree_whatever_is_asked(name: str, data: st.DataObject) -> None:
    process = PROCESSES[name]
    parameters = {
        variable.name: min(variable.default * data.draw(st.floats(0.8, 1.25)), variable.upper)
        for variable in process.parameters
    }
    native = process.native(parameters=parameters)
    first = process.states[0]
    native.set_state({first.name: first.default * data.draw(st.floats(0.9, 1.1))})
    living = process.gekko(parameters=parameters, state=native.state)
    # Through an ignition a difference grows a hundredfold and more: the reactor is held below it.
    upper = 303.0 if process is REACTOR else process.control.upper
    for _ in range(4):
        control = process.control.lower + data.draw(SHARES) * (upper - process.control.lower)
        time_s = data.draw(st.floats(0.1, 60.0))
        assert_equal(process, living.step(control, delta_time_s=time_s), native.step(control, delta_time_s=time_s))
    living.close()


def test_gekko_follows_an_ignition_step_by_step() -> None:
    living, native = REACTOR.gekko(), REACTOR.native()
    for _ in range(12):
        living.set_state(native.state)
        assert_equal(REACTOR, living.step(312.0, delta_time_s=6.0), native.step(312.0, delta_time_s=6.0))
    assert native.state["T"] > 380.0
    living.close()


def test_steps_of_very_different_lengths_follow_each_other() -> None:
    living, native = WATER_TANK.gekko(), WATER_TANK.native()
    counts = set()
    for time_s in (1.0, 3600.0, 60.0, 2.0):
        before_S = np.array(list(native.state.values()))
        parameter_P = np.array(list(native.parameters.values()))
        counts.add(len(elements(WATER_TANK, before_S, 50.0, parameter_P, delta_time_s=time_s)))
        assert_equal(WATER_TANK, living.step(50.0, delta_time_s=time_s), native.step(50.0, delta_time_s=time_s))
    assert len(counts) > 1
    living.close()


def test_gekko_solves_its_own_equations_and_takes_only_the_elements_from_native_integration() -> None:
    def wrong(state_S: np.ndarray, control: float, parameter_P: np.ndarray, rate_S: np.ndarray) -> None:
        rate_S[0] = 0.0
        rate_S[1] = 0.0

    process = replace(REACTOR, rates=wrong)
    state = process.gekko().step(290.0, delta_time_s=1.0)
    assert_equal(REACTOR, state, REACTOR.native().step(290.0, delta_time_s=1.0))


def test_a_measured_state_and_changed_parameters_take_effect_from_the_next_step_on() -> None:
    model = REACTOR.gekko()
    model.step(300.0, delta_time_s=6.0)
    model.set_state({"T": 335.0})
    model.update_parameters({"feed_flow": 2.0})
    fresh = REACTOR.gekko(parameters={"feed_flow": 2.0}, state=model.state)
    assert model.step(295.0, delta_time_s=6.0) == fresh.step(295.0, delta_time_s=6.0)
    model.update_parameters({"feed_flow": 1.2, "feed_temperature": 340.0})
    fresh = REACTOR.gekko(parameters={"feed_flow": 1.2, "feed_temperature": 340.0}, state=model.state)
    after = model.step(295.0, delta_time_s=6.0)
    assert after == pytest.approx(fresh.step(295.0, delta_time_s=6.0), rel=1e-7)
    assert after["T"] < 334.0


def test_a_parameter_that_changes_again_needs_no_new_object(memory_folder: Path) -> None:
    model = REACTOR.gekko()
    folders = []
    for flow in (1.0, 1.1, 1.2, 1.3):
        model.update_parameters({"feed_flow": flow})
        model.step(300.0, delta_time_s=1.0)
        folders.append(next(memory_folder.iterdir()))
    assert folders[1] == folders[2] == folders[3]
    model.close()


def test_water_is_neither_made_nor_lost_by_gekko() -> None:
    model = WATER_TANK.gekko(parameters={"draw": 5.0}, state={"level": 2.6, "outflow_volume": 1e6})
    for inflow in (80.0, 0.0, 30.0):
        before = model.state
        after = model.step(inflow, delta_time_s=120.0)
        left_m3 = sum(after[name] - before[name] for name in WATER_TANK.accumulated)
        rise_m3 = 10.0 * (after["level"] - before["level"])
        assert left_m3 + rise_m3 == pytest.approx(inflow * 0.12, abs=1e-5)
        assert 0.0 <= after["level"] <= 3.0
    model.close()


def assert_recovers(model: ProcessModel, fail: Callable[[], object], said: str, folder: Path) -> None:
    before = model.state
    with pytest.raises(ConvergenceError, match=said):
        fail()
    assert model.state == before
    assert list(folder.iterdir()) == []


def test_a_solver_that_takes_too_long_is_stopped_and_the_model_goes_on(memory_folder: Path) -> None:
    solver = GekkoSolver(REACTOR, time_limit_s=1e-4)
    model = LivingModel(REACTOR, solver, parameters={}, state={})
    assert_recovers(model, lambda: model.step(310.0, delta_time_s=600.0), "Time Limit Exceeded", memory_folder)
    solver.time_limit_s = 60.0
    assert_equal(REACTOR, model.step(295.0, delta_time_s=6.0), REACTOR.native().step(295.0, delta_time_s=6.0))
    model.close()


def test_equations_without_a_solution_are_an_error_and_the_model_goes_on(memory_folder: Path) -> None:
    # Without native sight of it, IPOPT meets a temperature whose square root is that of a negative number.
    process = replace(
        REACTOR,
        gekko_rates=lambda model, state, control, parameter: {
            "T": model.sqrt(control - 299.0) - 1.0 + 0.0 * state["T"],
            "Ca": 0.0 * state["Ca"],
        },
    )
    model = process.gekko()
    steady = model.step(300.0, delta_time_s=1.0)
    assert_recovers(model, lambda: model.step(260.0, delta_time_s=1.0), "did not solve", memory_folder)
    assert model.step(300.0, delta_time_s=1.0) == pytest.approx(steady)
    model.close()


def test_a_folder_that_vanishes_under_the_solver_costs_one_step(memory_folder: Path) -> None:
    model = REACTOR.gekko()
    model.step(300.0, delta_time_s=1.0)
    shutil.rmtree(next(memory_folder.iterdir()))
    assert_recovers(model, lambda: model.step(300.0, delta_time_s=1.0), "did not solve", memory_folder)
    model.step(300.0, delta_time_s=1.0)
    model.close()


def test_what_is_too_stiff_is_refused_before_gekko_starts(memory_folder: Path) -> None:
    absurd = {"rate_constant": 2e10, "activation_temperature": 7000.0, "heat_transfer": 0.0}
    model = REACTOR.gekko(parameters=absurd, state={"T": 1000.0, "Ca": 10.0})
    assert_recovers(model, lambda: model.step(300.0, delta_time_s=600.0), "no solution in", memory_folder)
    model.set_state({"T": 310.0})
    model.step(300.0, delta_time_s=0.1)
    model.close()


def test_close_leaves_no_file_also_twice_and_an_abandoned_model_leaves_none(memory_folder: Path) -> None:
    model = REACTOR.gekko()
    assert list(memory_folder.iterdir()) == []
    before = tempfile.tempdir
    model.step(300.0, delta_time_s=1.0)
    assert tempfile.tempdir == before
    assert len(list(memory_folder.iterdir())) == 1
    model.close()
    model.close()
    assert list(memory_folder.iterdir()) == []
    model.step(300.0, delta_time_s=1.0)
    assert len(list(memory_folder.iterdir())) == 1
    del model
    gc.collect()
    assert list(memory_folder.iterdir()) == []


def test_models_in_two_threads_give_what_each_gives_alone() -> None:
    def run(coolant: float) -> list[dict[str, float]]:
        model = REACTOR.gekko()
        states = [model.step(coolant + step, delta_time_s=3.0) for step in range(5)]
        model.close()
        return states

    alone = [run(290.0), run(298.0)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, (290.0, 298.0))) == alone


def test_threads_that_share_a_model_take_turns() -> None:
    model = WATER_TANK.gekko(parameters={"outlet_coefficient": 0.0})
    threads = [threading.Thread(target=model.step, args=(10.0,), kwargs={"delta_time_s": 5.0}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.state["level"] == pytest.approx(1.0 + 4 * 5.0 * 0.01 / 10.0, abs=1e-6)
    model.close()
