"""Rollouts of the air: what the traffic of a SUMO rollout gives off, as measured at three stations.

Array names carry their axes: E roads, M stations, T hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from features.domains.pollution import POLLUTION
from features.vocabulary import Domain, Site
from sim_env.air.dispersion import emission, road_points, transfer, washed
from sim_env.sensors import hourly_readings, outages
from sim_env.traffic.shapes import Array, local_calendar
from sim_env.traffic.town_network import METRES_PER_DEGREE
from sim_env.traffic.town_run import TownRun, run_town
from sim_env.traffic.town_scenario import TownScenario
from sim_env.traffic.town_simulators import counted_edges, middle, place, town_days

# Beside the first counter's road, over the roofs, and at the edge of the town [m eastward, m northward of it].
STATIONS: dict[str, tuple[float, float]] = {
    "kerbside": (10.0, 25.0),
    "background": (300.0, 310.0),
    "outskirts": (-1900.0, -1500.0),
}
# What comes with the air mass, in a usual hour [ug/m3]; particles swing far more than gases.
_ARRIVING: dict[str, float] = {"pm2_5": 28.0, "pm10": 60.0, "no2": 9.0, "co": 350.0, "so2": 7.0}
_UG_PER_G = 1.0e6


class DispersionSimulator:
    """The dispersion model as a simulator of the pollution domain, driven by SUMO."""

    @property
    def domain(self) -> Domain:
        """Pollution."""
        return POLLUTION

    def scenarios(self) -> Mapping[str, TownScenario]:
        """The same as those of traffic."""
        return town_days()

    def sites(self, scenario: TownScenario) -> list[Site]:
        """The stations, each the others' neighbour."""
        latitude, longitude = place(scenario, counted_edges(scenario)[0].name)
        return [
            scenario.site(
                name,
                latitude=latitude + north / METRES_PER_DEGREE,
                longitude=longitude + east / (METRES_PER_DEGREE * math.cos(math.radians(latitude))),
                neighbours=tuple(other for other in STATIONS if other != name),
            )
            for name, (east, north) in STATIONS.items()
        ]

    def rollout(self, scenario: TownScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly particles and gases [ug/m3] and weather at every station.

        Raises:
            EngineError: SUMO cannot run it.
        """
        return air_readings(run_town(scenario, rng=rng))

    def imbalance(self, scenario: TownScenario, *, rng: np.random.Generator) -> float:
        """Vehicles of the rollout that came from nowhere or are lost, over those that began."""
        return run_town(scenario, rng=rng).imbalance


def air_readings(run: TownRun) -> pd.DataFrame:
    """What stations report of the air above a run's traffic."""
    scenario, rng = run.scenario, np.random.default_rng([run.sensor_seed, 2])
    shape = (len(STATIONS), scenario.hours)
    absent = outages(rng, *shape, per_week=scenario.outages_per_week)
    table: dict[str, Array] = {}
    for name, concentration_MT in concentrations(run).items():
        measured = concentration_MT * np.exp(rng.normal(0.0, 0.05, shape))
        table[name] = np.where(absent, np.nan, np.round(measured, 1))
    # Channels of the weather that every station measures.
    for name, digits in {
        "temperature": 1,
        "pressure": 1,
        "dew_point": 1,
        "rainfall": 1,
        "wind_direction": 0,
        "wind_speed": 1,
    }.items():
        table[name] = np.round(run.weather[name], digits)
    return hourly_readings(
        list(STATIONS), scenario.moments, table, delay_h=np.zeros(shape, dtype=np.int64), source=run.source
    )


def concentrations(run: TownRun) -> dict[str, Array]:
    """True concentrations at the stations by quantity, (M, T) [ug/m3]."""
    scenario = run.scenario
    first = counted_edges(scenario)[0].name
    anchor = np.array(middle(next(edge for edge in run.edges if edge.name == first)))
    station_M2 = anchor + np.array(list(STATIONS.values()))
    hour_T = local_calendar(scenario.moments, scenario.clock)["middle"]
    points = road_points([np.array(edge.shape) for edge in run.edges])
    transfer_MET = transfer(points, station_M2, run.weather, hour_T)
    limits_E = np.array([edge.speed_limit_mps * 3.6 for edge in run.edges])
    speed_ET = np.where(np.isfinite(run.speed_ET_km_per_h), run.speed_ET_km_per_h, limits_E[:, None])
    found = {}
    for name, arriving_T in _arriving(scenario, run.weather).items():
        given_off_ET = emission(name, run.volume_ET, speed_ET)
        from_roads_MT = _UG_PER_G * np.einsum("met,et->mt", transfer_MET, given_off_ET)
        found[name] = washed(name, from_roads_MT, run.weather["rainfall"]) + arriving_T
    return found


def _arriving(scenario: TownScenario, weather: dict[str, Array]) -> dict[str, Array]:
    """What the air mass brings in each hour, by quantity (T) [ug/m3]: dense in calm and cold, swinging over days."""
    slow_T = scenario.slow_swing(3, persistence=0.985)
    calm_T = (2.4 / np.maximum(weather["wind_speed"], 0.5)) ** 0.35
    cold_T = np.exp(-0.03 * (weather["temperature"] - 26.0))
    swing = {"pm2_5": 0.5, "pm10": 0.45}
    return {
        name: washed(name, usual * calm_T * cold_T * np.exp(swing.get(name, 0.2) * slow_T), weather["rainfall"])
        for name, usual in _ARRIVING.items()
    }
