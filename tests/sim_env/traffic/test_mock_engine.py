"""The engine without SUMO: vehicles behave as the cell transmission model says, and runs can be repeated."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from features.errors import InvalidParameterError, StorageError
from sim_env.traffic.cell_transmission import StreetNetwork
from sim_env.traffic.engine import Control, Edge, EngineError
from sim_env.traffic.mock_engine import MockEngine, ramp_controls, small_town

# 15 m/s and 5 m/s backwards: 0.5 vehicles a second pass on a lane at most.
CAPACITY_VEH_PER_H = 1800.0


def street(name: str, *, lanes: int = 1, length_m: float = 750.0) -> Edge:
    return Edge(name=name, shape=((0.0, 0.0), (1.0, 0.0)), length_m=length_m, lanes=lanes, speed_limit_mps=15.0)


def one_street(*, baseline: float = 3600.0, lanes: int = 1) -> MockEngine:
    network = StreetNetwork(edges=(street("only", lanes=lanes),), following={})
    return MockEngine(network, [Control(control_id="c", edge_id="only", baseline_veh_per_hour=baseline)])


def test_a_street_lets_through_its_capacity_and_no_more() -> None:
    for lanes in (1, 2):
        engine = one_street(baseline=10_000.0, lanes=lanes)
        engine.reset(seed=0)
        engine.step([1.0], duration_s=600.0)
        before = engine.step([1.0]).vehicles.left
        passed = engine.step([1.0], duration_s=3600.0).vehicles.left - before
        assert passed == pytest.approx(lanes * CAPACITY_VEH_PER_H, rel=0.04)
        assert passed <= lanes * CAPACITY_VEH_PER_H


def test_vehicles_of_an_empty_street_leave_after_its_travel_time() -> None:
    engine = one_street(baseline=720.0)
    engine.reset(seed=0)
    engine.step([1.0], duration_s=50.0)
    # 750 m at 15 m/s: who began in the first 50 s has left 55 s after the last could.
    state = engine.step([0.0], duration_s=55.0)
    assert (state.vehicles.entered, state.vehicles.left) == (10, 10)


def test_a_queue_is_slow_and_reaches_back_into_the_street_before() -> None:
    wide, narrow = street("wide", lanes=3), street("narrow")
    network = StreetNetwork(edges=(wide, narrow, street("out")), following={"wide": ("narrow",), "narrow": ("out",)})
    engine = MockEngine(network, [Control(control_id="c", edge_id="wide", baseline_veh_per_hour=4000.0)])
    engine.reset(seed=0)
    state = engine.step([1.0], duration_s=1800.0)
    assert state.mean_speed_E_mps[0] < 5.0
    assert state.veh_count_E[0] > 200
    assert state.mean_speed_E_mps[2] == 15.0
    assert state.vehicles.waiting > 0


def test_fractions_of_a_vehicle_wait_for_the_next_interval() -> None:
    engine = one_street(baseline=90.0)
    engine.reset(seed=0)
    assert [int(engine.step([1.0]).injected_P[0]) for _ in range(6)] == [1, 2, 1, 2, 1, 2]


def test_more_demand_puts_more_vehicles_on_the_town() -> None:
    engine = MockEngine()
    entered = []
    for multiplier in (0.25, 0.5, 1.0):
        engine.reset(seed=3)
        entered.append(engine.step([multiplier] * 4, duration_s=3600.0).vehicles.entered)
    assert entered == [pytest.approx(2200 * multiplier, abs=25) for multiplier in (0.25, 0.5, 1.0)]


def test_a_town_that_is_stuck_gets_going_again() -> None:
    # Everybody on the ring wants to go on around it: without a tow truck nobody would move for ever.
    ring = tuple(street(name, length_m=75.0) for name in "ab")
    network = StreetNetwork(edges=ring, following={"a": ("b",), "b": ("a",)})
    controls = [
        Control(control_id=name, edge_id=name, baseline_veh_per_hour=9000.0, destinations=(other,))
        for name, other in (("a", "b"), ("b", "a"))
    ]
    engine = MockEngine(network, controls)
    engine.reset(seed=0)
    state = engine.step([1.0, 1.0], duration_s=3600.0)
    assert state.vehicles.left > 0
    assert state.vehicles.entered == state.vehicles.left + state.vehicles.present


def test_the_same_seed_gives_the_same_states_in_another_process() -> None:
    program = (
        "from sim_env.traffic.mock_engine import MockEngine\n"
        "engine = MockEngine(); engine.reset(seed=5)\n"
        "print([engine.step([2.0] * 4).veh_count_E.tolist() for _ in range(5)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    engine = MockEngine()
    engine.reset(seed=5)
    assert done.stdout.strip() == str([engine.step([2.0] * 4).veh_count_E.tolist() for _ in range(5)])
    engine.reset(seed=6)
    assert done.stdout.strip() != str([engine.step([2.0] * 4).veh_count_E.tolist() for _ in range(5)])


def test_the_small_town_has_the_ramps_of_the_generator_and_ways_between_all_of_them() -> None:
    town = small_town()
    assert len(town.edges) == 24 + 8
    assert sorted(town.exits) == ["X1", "X2", "X3", "X4"]
    assert [control.control_id for control in ramp_controls()] == ["ramp_1", "ramp_2", "ramp_3", "ramp_4"]
    for control in ramp_controls():
        assert set(control.destinations) <= set(town.routes_from(control.edge_id))


def test_a_control_that_does_not_fit_is_named_with_what_would() -> None:
    far = Control(control_id="c", edge_id="E9", baseline_veh_per_hour=1.0)
    with pytest.raises(EngineError, match=r"'E9'\)\. Did you mean: E4"):
        MockEngine(controls=[far]).reset(seed=0)
    back = Control(control_id="c", edge_id="X1", baseline_veh_per_hour=1.0, destinations=("E1",))
    with pytest.raises(EngineError, match=r"does not connect.*from 'X1' to 'E1'"):
        MockEngine(controls=[back]).reset(seed=0)


def test_a_duration_between_two_steps_is_refused() -> None:
    engine = one_street()
    engine.reset(seed=0)
    with pytest.raises(InvalidParameterError, match="control interval cannot be"):
        engine.step([1.0], duration_s=7.0)


def test_a_state_of_another_town_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    engine = MockEngine()
    engine.reset(seed=0)
    engine.step([1.0] * 4)
    engine.save(tmp_path / "state.json")
    with pytest.raises(EngineError, match="another network"):
        one_street().restore(tmp_path / "state.json")
    (tmp_path / "cut.json").write_text((tmp_path / "state.json").read_text()[:200])
    for name in ("cut.json", "absent.json"):
        with pytest.raises(EngineError, match="not a saved state"):
            engine.restore(tmp_path / name)
    np.testing.assert_array_equal(engine.restore(tmp_path / "state.json").injected_P, 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        engine.save(tmp_path / "file" / "state.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.json", "file", "state.json"]
