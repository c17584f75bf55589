"""The control points generator, and the multipliers that a forecast gives."""

import dataclasses

import numpy as np
import pytest

from features.errors import InvalidParameterError
from features.vocabulary import Forecast
from sim_env.traffic.control_points import BASELINE, ControlPointsScenario, ControlPointsSimulator
from sim_env.traffic.inflow import LARGEST_MULTIPLIER, plan_inflow

SIMULATOR = ControlPointsSimulator()
SCENARIO = ControlPointsScenario(weeks=6)


def forecast_of(trips_PH: list[list[float]], origins: list[int] | None = None) -> Forecast:
    values = np.asarray(trips_PH, dtype=np.float32)[:, :, None]
    names = tuple(point.name for point in SCENARIO.points[: len(values)])
    return Forecast(
        quantity="trips",
        unit="trip/h",
        sites=names,
        origins=np.array(origins or [7200] * len(values), dtype=np.int64),
        step_s=3600,
        levels=(0.5,),
        value_BHQ=values,
        model="demand-gru",
    )


def test_inflow_of_working_days_is_about_the_baseline_and_has_two_peaks() -> None:
    readings = SIMULATOR.rollout(SCENARIO, rng=np.random.default_rng(2))
    trips = readings[readings["quantity"] == "trips"]
    local = trips["valid_at"].dt.tz_convert(SCENARIO.timezone)
    for point in SCENARIO.points:
        own = trips[(trips["site"] == point.name) & (local.dt.dayofweek < 5)]
        daytime = own[local[own.index].dt.hour.between(7, 19)]
        assert daytime["value"].mean() == pytest.approx(point.baseline_veh_per_hour, rel=0.4)
        by_hour = own.groupby(local[own.index].dt.hour)["value"].mean()
        assert by_hour[8] > by_hour[12] < by_hour[18]


def test_a_constant_baseline_gives_ones_for_every_interval() -> None:
    sites = SIMULATOR.sites(SCENARIO)
    plan = plan_inflow(forecast_of([[600.0] * 3, [450.0] * 3]), sites)
    assert plan.control_ids == ("ramp_1", "ramp_2")
    assert plan.multiplier_IP.shape == (180, 2)
    np.testing.assert_allclose(plan.multiplier_IP, 1.0)
    assert plan.begins_s[[0, 1, -1]].tolist() == [7200, 7260, 7200 + 3 * 3600 - 60]


def test_multipliers_run_smoothly_between_hours_and_are_bounded() -> None:
    plan = plan_inflow(forecast_of([[600.0, 1200.0, 60_000.0]]), SIMULATOR.sites(SCENARIO), interval_s=1800)
    assert plan.multiplier_IP[:, 0].tolist() == [1.0, 1.25, 1.75, LARGEST_MULTIPLIER, LARGEST_MULTIPLIER,
                                                 LARGEST_MULTIPLIER]  # fmt: skip


def test_what_cannot_drive_a_simulation_is_refused() -> None:
    sites = SIMULATOR.sites(SCENARIO)
    with pytest.raises(InvalidParameterError, match="does not divide"):
        plan_inflow(forecast_of([[1.0]]), sites, interval_s=7)
    with pytest.raises(InvalidParameterError, match="different moments"):
        plan_inflow(forecast_of([[1.0], [1.0]], origins=[0, 3600]), sites)
    bare = [dataclasses.replace(site, attributes={BASELINE: 0.0}) for site in sites]
    with pytest.raises(InvalidParameterError, match="no baseline"):
        plan_inflow(forecast_of([[1.0]]), bare)
    with pytest.raises(InvalidParameterError, match="cannot be run"):
        ControlPointsScenario(weeks=0)
