"""The reactor: the published steady states, and an ignition that keeps the energy balance."""

import numpy as np
import pytest

from sim_env.process.reactor import REACTOR, reactor_rates


def test_the_published_steady_state_stays() -> None:
    state = REACTOR.native().step(300.0, delta_time_s=600.0)
    assert state == pytest.approx({"T": 324.475443431599, "Ca": 877.25294608097}, rel=1e-9)


def test_the_books_nominal_point_is_a_steady_state_that_a_degree_upsets() -> None:
    rate_S = np.empty(2)
    parameter_P = np.array([variable.default for variable in REACTOR.parameters])
    reactor_rates(np.array([350.0, 500.0]), 300.0, parameter_P, rate_S)
    # The reaction alone is 8.3 mol/(m3 s); the book's constants are rounded.
    np.testing.assert_allclose(rate_S, 0.0, atol=0.01)
    cold, hot = (REACTOR.native(state={"T": kelvin, "Ca": 500.0}) for kelvin in (349.0, 351.0))
    assert cold.step(300.0, delta_time_s=60.0)["T"] < 340.0
    assert max(hot.step(300.0, delta_time_s=2.0)["T"] for _ in range(60)) > 365.0


def test_a_warm_coolant_ignites_the_reactor_and_a_cold_one_puts_it_out() -> None:
    model = REACTOR.native()
    hottest = max(model.step(310.0, delta_time_s=2.0)["T"] for _ in range(100))
    assert hottest > 420.0
    for _ in range(10):
        state = model.step(270.0, delta_time_s=60.0)
    assert state["T"] < 320.0
    assert state["Ca"] > 850.0


def test_without_feed_and_cooling_the_heat_of_reaction_is_all_that_warms() -> None:
    closed = {"feed_flow": 0.0, "heat_transfer": 0.0}
    state = REACTOR.native(parameters=closed, state={"T": 370.0, "Ca": 1000.0}).step(300.0, delta_time_s=600.0)
    assert state["Ca"] == pytest.approx(0.0, abs=1e-6)
    assert state["T"] == pytest.approx(370.0 + 5e4 * 1000.0 / (1000.0 * 239.0), rel=1e-9)
