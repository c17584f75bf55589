"""The roads generator, and the check that every simulator passes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.domains.traffic import TRAFFIC
from features.errors import InvalidParameterError
from features.quality import check_readings
from features.vocabulary import Domain, Site
from sim_env import SIMULATORS, check_simulator
from sim_env.simulator import SimulatorError
from sim_env.traffic.generator import RoadsSimulator, travel_speed
from sim_env.traffic.scenario import AHMEDABAD_ROADS, RoadsScenario


def run(scenario: RoadsScenario, *, seed: int = 0) -> pd.DataFrame:
    return RoadsSimulator().rollout(scenario, rng=np.random.default_rng(seed))


def local(readings: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Values by hour (the beginning of it, on the local clock) and road."""
    chosen = readings[readings["quantity"] == quantity]
    wide = chosen.pivot_table(index="valid_at", columns="site", values="value")
    wide.index = (pd.DatetimeIndex(wide.index) - pd.Timedelta("1h")).tz_convert("Asia/Kolkata")
    return wide


def test_domains_name_simulators_that_exist() -> None:
    for domain in DOMAINS.values():
        assert all(SIMULATORS[name].domain is domain for name in domain.simulators)


def test_working_days_have_two_peaks_and_free_days_one_hump() -> None:
    volume = local(run(RoadsScenario(weeks=10, incidents_per_week=0.0)), "volume").sum(axis=1)
    working = volume[volume.index.dayofweek < 5]
    working = working.groupby(working.index.hour).mean()
    sunday = volume[volume.index.dayofweek == 6]
    sunday = sunday.groupby(sunday.index.hour).mean()
    assert working[10] > 1.5 * working[14]
    assert working[18] > 1.5 * working[14]
    assert sunday.idxmax() in range(15, 20)
    assert sunday[10] < sunday[13] < sunday[17]


def test_a_holiday_looks_like_a_sunday() -> None:
    scenario = RoadsScenario(start="2025-08-11T00:00:00Z", weeks=1, incidents_per_week=0.0, outages_per_week=0.0)
    volume = local(run(scenario), "volume").sum(axis=1)
    independence_day, thursday, sunday = (volume[volume.index.day == day] for day in (15, 14, 17))
    peak = slice(9, 12)
    assert thursday[peak].sum() > 2 * independence_day[peak].sum()
    assert 0.7 < independence_day[peak].sum() / sunday[peak].sum() < 1.4


def test_rain_and_incidents_slow_the_roads() -> None:
    dry = local(run(RoadsScenario(weeks=4, incidents_per_week=0.0, wetness=0.0)), "speed").to_numpy()
    struck = local(run(RoadsScenario(weeks=4, incidents_per_week=15.0, wetness=0.0)), "speed").to_numpy()
    wet = local(run(RoadsScenario(weeks=4, incidents_per_week=0.0, wetness=400.0)), "speed").to_numpy()
    assert np.nanmean(struck) < np.nanmean(dry)
    assert np.nanmean(wet) < np.nanmean(dry)


def test_rates_of_zero_mean_never() -> None:
    quiet = run(RoadsScenario(weeks=2, outages_per_week=0.0, late_share=0.0, wetness=0.0))
    assert len(quiet) == 2 * 168 * 6 * 6
    assert (quiet["available_at"] == quiet["valid_at"]).all()
    assert (quiet.loc[quiet["quantity"] == "rainfall", "value"] == 0).all()


def test_outages_and_late_arrivals_happen_at_about_their_rates() -> None:
    readings = run(RoadsScenario(weeks=30))
    late = readings["available_at"] - readings["valid_at"]
    assert set(late.unique()) == {pd.Timedelta(hours=hours) for hours in range(4)}
    assert 0.015 < (late > pd.Timedelta(0)).mean() < 0.025
    volume, weather = ((readings["quantity"] == name).sum() for name in ("volume", "temperature"))
    assert 0.9 * weather < volume < weather
    assert check_readings(readings, TRAFFIC).quarantined.empty


def test_speed_follows_the_curve_of_the_bureau_of_public_roads() -> None:
    np.testing.assert_allclose(travel_speed(60.0, [0.0, 1.0, 2.0]), [60.0, 60.0 / 1.15, 60.0 / 3.4])


def test_the_source_tells_scenarios_apart() -> None:
    one, other = (run(RoadsScenario(weeks=1, noise=noise))["source"].unique() for noise in (0.08, 0.09))
    assert len(one) == 1
    assert one[0].startswith("sim:roads:usual@")
    assert one[0] != other[0]


def test_sites_carry_what_the_domain_asks_for() -> None:
    sites = RoadsSimulator().sites(RoadsScenario())
    names = {site.name for site in sites}
    assert names == {f"R00{number}" for number in range(1, 7)}
    for site in sites:
        assert set(site.attributes) >= set(TRAFFIC.static_names)
        assert len(site.neighbours) >= TRAFFIC.neighbour_count
        assert set(site.neighbours) < names


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"weeks": 0}, "scenario.weeks"),
        ({"roads": ()}, "scenario.roads"),
        ({"roads": AHMEDABAD_ROADS[:2]}, "scenario.roads"),
        ({"late_share": 1.5}, "scenario.late_share"),
        ({"incidents_per_week": float("nan")}, "scenario.incidents_per_week"),
        ({"start": "soon"}, "scenario.start"),
        ({"start": "2025-01-01T00:30Z"}, "scenario.start"),
    ],
)
def test_an_impossible_scenario_is_refused(changes: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        RoadsScenario(**changes)
    assert raised.value.parameter == parameter


class Faulty:
    """A simulator whose rollout is changed before it is given out."""

    domain: Domain = TRAFFIC

    def __init__(self, **fault: Any) -> None:
        self.fault = fault

    def scenarios(self) -> Mapping[str, RoadsScenario]:
        return {"usual": RoadsScenario(weeks=1)}

    def sites(self, scenario: RoadsScenario) -> list[Site]:
        return RoadsSimulator().sites(scenario)

    def rollout(self, scenario: RoadsScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        seedless = self.fault.get("rng")
        return (
            RoadsSimulator()
            .rollout(scenario, rng=seedless or rng)
            .assign(**{key: value for key, value in self.fault.items() if key != "rng"})
        )


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        ({"rng": np.random.default_rng(0)}, "The same seed gives other readings"),
        ({"quantity": "colour"}, "quantities that the domain lacks"),
        ({"value": -100.0, "quantity": "volume"}, "Another seed gives the same|leaves its bounds"),
        ({"available_at": pd.Timestamp("2020-01-01T00:00Z").as_unit("us")}, "available before"),
        ({"source": "sensor:true"}, "sim:<engine>"),
        ({"site": "R9"}, "comes twice|sites differ"),
        ({"extra": 1}, "other columns"),
    ],
)
def test_the_check_finds_a_broken_promise(fault: dict[str, Any], fact: str) -> None:
    simulator = Faulty(**fault)
    with pytest.raises(SimulatorError, match=fact):
        check_simulator(simulator, RoadsScenario(weeks=1))
