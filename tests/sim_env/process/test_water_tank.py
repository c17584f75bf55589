"""The water tank: Torricelli's law, a closed balance, and a level within its bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InvalidParameterError
from sim_env.process.native import roll
from sim_env.process.water_tank import WATER_TANK

EMPTY = {"level": 0.0}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    area=st.floats(2, 1e4),
    outlet=st.floats(0, 100),
    height=st.floats(1, 20),
    fill=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_water_is_neither_made_nor_lost_and_the_level_stays_in_the_tank(
    area: float, outlet: float, height: float, fill: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    inflow_BT, draw_BT = rng.choice([0.0, 5.0, 50.0, 200.0], (2, 1, 24))
    parameters = {"area": area, "outlet_coefficient": outlet, "height": height, "draw": draw_BT}
    state_TS = roll(WATER_TANK, [[fill * height, 0.0, 0.0, 0.0]], inflow_BT, 900.0, parameters)[0]
    level_T, left_T = state_TS[:, 0], state_TS[:, 1:].sum(axis=1)
    assert level_T.min() >= 0.0
    assert level_T.max() <= height
    came_T = np.cumsum(inflow_BT[0]) * 0.9
    np.testing.assert_allclose(left_T + area * (level_T - fill * height), came_T, atol=1e-6)
    assert (np.diff(state_TS[:, 1:], axis=0) >= -1e-6).all()
    assert (np.diff(state_TS[:, 2]) <= draw_BT[0, 1:] * 0.9 + 1e-6).all()


def test_a_tank_runs_empty_by_torricellis_law() -> None:
    model = WATER_TANK.native(parameters={"outlet_coefficient": 5.0}, state={"level": 2.0})
    for step in range(1, 41):
        level_m = model.step(0.0, delta_time_s=100.0)["level"]
        exact_m = max(0.0, np.sqrt(2.0) - 5.0 * step * 100.0 / (2 * 1000.0 * 10.0)) ** 2
        assert level_m == pytest.approx(exact_m, rel=0.01, abs=0.02)


def test_the_level_settles_where_the_outlet_carries_the_inflow() -> None:
    state_BTS = roll(WATER_TANK, [[0.2, 0.0, 0.0, 0.0]], np.full((1, 100), 10.0), 3600.0)
    assert state_BTS[0, -1, 0] == pytest.approx((10.0 / 8.0) ** 2, rel=1e-4)


def test_a_zone_gets_all_it_draws_from_a_full_tank_and_nothing_from_an_empty_one() -> None:
    full = WATER_TANK.native(parameters={"draw": 20.0}).step(10.0, delta_time_s=60.0)
    assert full["draw_volume"] == pytest.approx(20.0 * 0.06, rel=1e-6)
    empty = WATER_TANK.native(parameters={"draw": 20.0}, state=EMPTY).step(0.0, delta_time_s=3600.0)
    assert list(empty.values()) == pytest.approx([0.0, 0.0, 0.0, 0.0], abs=1e-5)


def test_a_full_tank_spills_what_comes_and_a_low_one_nothing() -> None:
    closed = {"outlet_coefficient": 0.0}
    full = WATER_TANK.native(parameters=closed, state={"level": 2.9})
    settled = full.step(50.0, delta_time_s=3600.0)
    spilt_m3 = full.step(50.0, delta_time_s=3600.0)["overflow_volume"] - settled["overflow_volume"]
    assert spilt_m3 == pytest.approx(180.0, rel=1e-6)
    low = WATER_TANK.native(parameters=closed, state={"level": 1.0}).step(1.0, delta_time_s=3600.0)
    assert low["overflow_volume"] == pytest.approx(0.0, abs=1e-4)


def test_a_brim_below_the_water_is_refused_and_changes_nothing() -> None:
    model = WATER_TANK.native(state={"level": 2.5})
    before = model.parameters
    with pytest.raises(InvalidParameterError, match="above its height"):
        model.update_parameters({"height": 2.0, "area": 5.0})
    assert model.parameters == before
    with pytest.raises(InvalidParameterError, match="above its height"):
        model.set_state({"level": 3.5, "draw_volume": 1.0})
    assert model.state == {"level": 2.5, "outflow_volume": 0.0, "draw_volume": 0.0, "overflow_volume": 0.0}
    with pytest.raises(InvalidParameterError, match="above its height"):
        WATER_TANK.native(parameters={"height": 2.0}, state={"level": 2.5})


def test_a_tank_lower_than_the_usual_level_begins_full() -> None:
    assert WATER_TANK.native(parameters={"height": 1.0}).state["level"] == 1.0
