"""The roads generator: hourly readings of a small network of roads, from documented shapes and random parts.

Demand of a road is its capacity times a daily shape (two peaks on working days, one hump on others), a yearly swing,
the weather, and noise that dies away within hours (AR(1)), part of it shared by the town. Incidents take capacity away
for some hours and push vehicles to the neighbours. Speed follows the curve of the Bureau of Public Roads (Traffic
Assignment Manual, 1964): t = t0 (1 + 0.15 (v/c)^4), v being the demand, c the capacity, t the travel time.

Array names carry their axes: R roads, T hours.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.card import BPR_FACTOR, BPR_POWER
from features.domains.traffic import TRAFFIC
from features.vocabulary import Domain, Site
from sim_env.sensors import delays_h, hourly_readings, outages
from sim_env.simulator import scenario_source
from sim_env.traffic.scenario import RoadsScenario
from sim_env.traffic.shapes import (
    DAYS_OF_YEAR,
    WEEK_HOURS,
    Array,
    daily_shape,
    episodes,
    fade,
    local_calendar,
    town_weather,
)

# A queue lets hardly more through than the capacity.
_LARGEST_LOAD = 1.05


class RoadsSimulator:
    """The generator as a simulator of the traffic domain."""

    @property
    def domain(self) -> Domain:
        """Traffic."""
        return TRAFFIC

    def scenarios(self) -> Mapping[str, RoadsScenario]:
        """A usual year's first 40 weeks, one with heavy rain, and one with many incidents."""
        return {
            "usual": RoadsScenario(),
            "wet": RoadsScenario(name="wet", wetness=3.0),
            "incidents": RoadsScenario(name="incidents", incidents_per_week=2.0),
        }

    def sites(self, scenario: RoadsScenario) -> list[Site]:
        """The roads, with their lanes and neighbours."""
        return [
            Site(
                name=road.name,
                latitude=road.latitude,
                longitude=road.longitude,
                timezone=scenario.timezone,
                country=scenario.country,
                subdivision=scenario.subdivision,
                neighbours=road.neighbours,
                attributes={"lanes": float(road.lanes)},
            )
            for road in scenario.roads
        ]

    def rollout(self, scenario: RoadsScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly volume [veh/h], speed [km/h], temperature [degC], rainfall, snowfall [mm/h] and cloud cover [percent].

        A stamp is the end of its hour. Hours of an outage have no volume and no speed.

        Args:
            scenario: The network and its rates.
            rng: All randomness.

        Returns:
            Readings of all roads.
        """
        hours = scenario.weeks * WEEK_HOURS
        moments = scenario.start_at + pd.to_timedelta(np.arange(1, hours + 1), unit="h")
        calendar = local_calendar(moments, self.sites(scenario)[0])
        weather = town_weather(calendar, wetness=scenario.wetness, rng=rng)
        roads = len(scenario.roads)
        volume_RT, speed_RT = _traffic(calendar, weather, scenario, rng)

        absent_RT = outages(rng, roads, hours, per_week=scenario.outages_per_week)
        delay_h_RT = delays_h(rng, roads, hours, late_share=scenario.late_share)
        thermometer_RT = weather["temperature"] + rng.normal(0.0, 0.2, (roads, hours))
        return hourly_readings(
            [road.name for road in scenario.roads],
            moments,
            {
                "volume": np.where(absent_RT, np.nan, volume_RT),
                "speed": np.where(absent_RT, np.nan, np.round(speed_RT, 1)),
                "temperature": np.round(thermometer_RT, 1),
                "rainfall": np.round(weather["rainfall"], 1),
                "snowfall": np.zeros(hours),
                "cloud_cover": np.round(weather["cloud_cover"]),
            },
            delay_h=delay_h_RT,
            source=scenario_source("roads", scenario.name, scenario),
        )


def travel_speed(free_speed_km_per_h: npt.ArrayLike, load: npt.ArrayLike) -> Array:
    """Mean speed on a road by the curve of the Bureau of Public Roads (1964), t = t0 (1 + 0.15 (v/c)^4).

    Args:
        free_speed_km_per_h: Speed on the empty road [km/h].
        load: Demand over capacity, v/c.

    Returns:
        Speed [km/h].
    """
    free, ratio = np.asarray(free_speed_km_per_h, dtype=np.float64), np.asarray(load, dtype=np.float64)
    speed: Array = free / (1.0 + BPR_FACTOR * ratio**BPR_POWER)
    return speed


def _traffic(
    calendar: dict[str, Array], weather: dict[str, Array], scenario: RoadsScenario, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Volume [veh/h] and speed [km/h], both (R, T)."""
    roads = scenario.roads
    shape = (len(roads), len(calendar["middle"]))
    capacity_R = np.array([road.capacity_veh_per_h for road in roads])
    soaked_T = 1.0 - np.exp(-weather["rainfall"] / 4.0)
    season_T = 1.0 + scenario.seasonal_swing * np.cos(2 * np.pi * (calendar["day_of_year"] - 15.0) / DAYS_OF_YEAR)
    noise_RT = 0.8 * fade(rng.normal(size=shape), 0.7) + 0.6 * fade(rng.normal(size=shape[1]), 0.8)
    demand_RT = (
        np.array([road.peak_load for road in roads])[:, None]
        * capacity_R[:, None]
        * daily_shape(calendar, np.array([road.morning_weight for road in roads]))
        * (season_T * (1.0 - scenario.rain_loss * soaked_T))[None, :]
        * np.exp(scenario.noise * noise_RT)
    )
    struck_RT = episodes(rng, *shape, per_week=scenario.incidents_per_week, hours_low=1, hours_high=5)
    lost_RT = np.where(struck_RT, rng.uniform(0.3, 0.6, shape), 0.0)
    # Half of those who meet an incident take a neighbouring road; the lost share of capacity says how many meet it.
    leaving_RT = 0.5 * lost_RT * demand_RT
    demand_RT = demand_RT - leaving_RT + _spill_matrix(scenario).T @ leaving_RT
    load_RT = demand_RT / (capacity_R[:, None] * (1.0 - lost_RT) * (1.0 - 0.1 * soaked_T))
    served_RT = demand_RT * np.minimum(1.0, _LARGEST_LOAD / np.maximum(load_RT, 1e-9))
    volume_RT = rng.poisson(served_RT).astype(np.float64)
    free_R = np.array([road.free_speed_km_per_h for road in roads])
    steady_RT = travel_speed(free_R[:, None] * (1.0 - 0.08 * soaked_T), load_RT)
    speed_RT = np.clip(steady_RT * np.exp(rng.normal(0.0, 0.03, shape)), 3.0, 150.0)
    return volume_RT, speed_RT


def _spill_matrix(scenario: RoadsScenario) -> Array:
    """Share of those leaving a road (row) that goes to each other road (column), (R, R)."""
    index = {road.name: position for position, road in enumerate(scenario.roads)}
    matrix = np.zeros((len(index), len(index)))
    for road in scenario.roads:
        for neighbour in road.neighbours:
            matrix[index[road.name], index[neighbour]] = 1.0 / len(road.neighbours)
    return matrix
