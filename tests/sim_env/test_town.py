"""The built-in town: its network, its weather, and what chance makes of a week."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import InvalidParameterError
from features.vocabulary import Site
from sim_env.simulator import scenario_start
from sim_env.traffic.engine import EngineError
from sim_env.traffic.sumo import network_edges
from sim_env.traffic.town_network import CENTRE, COUNTERS, build_town, position, streets, town_controls, town_edges
from sim_env.traffic.town_run import run_town
from sim_env.traffic.town_scenario import TownScenario, draw, make_scenario
from sim_env.traffic.town_simulators import SumoTrafficSimulator, traffic_readings
from sim_env.weather import dew_point, years_of_weather


def test_the_network_that_sumo_reads_has_the_roads_that_sites_are_named_after(tmp_path: Path) -> None:
    built = {edge.name: edge for edge in network_edges(build_town(tmp_path))}
    assert set(built) == {street.name for street in streets()} == {edge.name for edge in town_edges()}
    for edge in town_edges():
        assert built[edge.name].lanes == edge.lanes
        assert built[edge.name].speed_limit_mps == pytest.approx(edge.speed_limit_mps, abs=0.01)


def test_the_first_road_lies_where_the_documents_example_asks() -> None:
    assert position(COUNTERS[0]) == CENTRE
    first = SumoTrafficSimulator().sites(TownScenario())[0]
    assert (first.name, first.latitude, first.longitude) == ("R001", *CENTRE)


def test_every_gate_sends_vehicles_to_all_the_others() -> None:
    ends = {street.name: street for street in streets()}
    controls = town_controls()
    assert len(controls) == 8
    for control in controls:
        assert ends[control.edge_id].begins not in {ends[name].ends for name in control.destinations}
        assert len(control.destinations) == len(controls) - 1


def test_weather_is_the_same_whichever_week_is_asked_for_and_dew_never_lies_above_the_air() -> None:
    first, second = (draw(TownScenario(week=week, hours=24), rng=np.random.default_rng(0)) for week in (0, 1))
    site = Site(name="town", timezone="Asia/Kolkata", country="IN", subdivision="GJ")
    whole = years_of_weather(site, scenario_start(TownScenario().start), wetness=1.0, seed=0)
    np.testing.assert_array_equal(whole["temperature"][:24], first.weather["temperature"])
    np.testing.assert_array_equal(whole["temperature"][168:192], second.weather["temperature"])
    assert (whole["dew_point"] <= whole["temperature"]).all()
    assert dew_point(np.array([20.0]), np.array([100.0])) == pytest.approx(20.0)
    # From psychrometric tables.
    assert dew_point(np.array([25.0]), np.array([60.0])) == pytest.approx(16.7, abs=0.1)


def test_incidents_slow_their_roads_and_nobody_is_lost() -> None:
    calm = TownScenario(hours=24, incidents_per_week=0.0, outages_per_week=0.0)
    run = run_town(calm, rng=np.random.default_rng(3))
    struck = run_town(dataclasses.replace(calm, incidents_per_week=200.0), rng=np.random.default_rng(3))
    crawling, usual = ((speeds < 18.0).sum() for speeds in (struck.speed_ET_km_per_h, run.speed_ET_km_per_h))
    assert crawling > usual + 15
    # Some drive a tenth faster than is allowed, as SUMO's drivers do.
    assert np.nanmax(run.speed_ET_km_per_h) <= 1.2 * 50
    assert run.imbalance == 0.0


def test_counters_see_less_than_passed_and_fail_at_times() -> None:
    scenario = TownScenario(hours=48, outages_per_week=5.0, late_share=0.5, detected_share=0.9)
    run = run_town(scenario, rng=np.random.default_rng(0))
    readings = traffic_readings(run)
    volume = readings[readings["quantity"] == "volume"]
    assert len(volume) < len(COUNTERS) * 48
    assert volume["value"].sum() < 0.95 * run.volume_ET[run.edge_rows(COUNTERS)].sum()
    late = readings["available_at"] > readings["valid_at"]
    assert 0.3 < late.mean() < 0.7
    # A week has shapes: the evening carries many times what the small hours do.
    hours = run.volume_ET.sum(axis=0).reshape(2, 24).mean(axis=0)
    assert hours.max() > 5 * hours.min()


def test_any_network_can_be_rolled_out(tmp_path: Path) -> None:
    configuration = build_town(tmp_path / "elsewhere")
    scenario = dataclasses.replace(make_scenario(configuration), hours=2)
    assert scenario.name == "elsewhere"
    assert len(scenario.counters) == 12
    run = run_town(scenario, rng=np.random.default_rng(0))
    assert run.vehicles.entered > 0
    sites = SumoTrafficSimulator().sites(scenario)
    assert {site.name for site in sites} == set(traffic_readings(run)["site"])
    with pytest.raises(EngineError, match="no edge of this name"):
        make_scenario(configuration, counters=("R00l",))


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"controls": ()}, "scenario.controls"),
        ({"hours": 0}, "scenario.hours"),
        ({"week": 156}, "scenario.week"),
        ({"detected_share": 1.1}, "scenario.detected_share"),
        ({"noise": float("nan")}, "scenario.noise"),
        ({"start": "soon"}, "scenario.start"),
    ],
)
def test_an_impossible_scenario_is_refused(changes: dict[str, Any], parameter: str) -> None:
    with pytest.raises(InvalidParameterError) as raised:
        TownScenario(**changes)
    assert raised.value.parameter == parameter
