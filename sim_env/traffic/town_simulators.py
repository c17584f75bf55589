"""SUMO as a simulator of two domains: counters on roads (traffic), and what enters at the gates (demand).

Array names carry their axes: E roads, P control points, T hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from features.domains.demand import DEMAND
from features.domains.traffic import TRAFFIC
from features.vocabulary import Domain, Site
from sim_env.sensors import delays_h, hourly_readings, outages
from sim_env.traffic.control_points import BASELINE
from sim_env.traffic.engine import Edge
from sim_env.traffic.town_network import position, town_edges
from sim_env.traffic.town_run import TownRun, run_town
from sim_env.traffic.town_scenario import TownScenario

_NEIGHBOURS = 3


class SumoTrafficSimulator:
    """Rollouts of SUMO as readings of counters on roads."""

    @property
    def domain(self) -> Domain:
        """Traffic."""
        return TRAFFIC

    def scenarios(self) -> Mapping[str, TownScenario]:
        """A usual day of the built-in town, and one with many incidents in the rain."""
        return town_days()

    def sites(self, scenario: TownScenario) -> list[Site]:
        """The roads with a counter, with their lanes and the counters nearest to them."""
        edges = counted_edges(scenario)
        return [
            _site(scenario, edge.name, edge, neighbours=_nearest(edge, edges), attributes={"lanes": float(edge.lanes)})
            for edge in edges
        ]

    def rollout(self, scenario: TownScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly volume [veh/h], speed [km/h] and weather at every counter.

        Raises:
            EngineError: SUMO cannot run it.
        """
        return traffic_readings(run_town(scenario, rng=rng))

    def imbalance(self, scenario: TownScenario, *, rng: np.random.Generator) -> float:
        """Vehicles that came from nowhere or are lost, over those that began."""
        return run_town(scenario, rng=rng).imbalance


class SumoDemandSimulator:
    """Rollouts of SUMO as readings of what enters at the control points."""

    @property
    def domain(self) -> Domain:
        """Demand."""
        return DEMAND

    def scenarios(self) -> Mapping[str, TownScenario]:
        """The same as those of traffic."""
        return town_days()

    def sites(self, scenario: TownScenario) -> list[Site]:
        """The control points with their baselines."""
        edges = {edge.name: edge for edge in _edges(scenario)}
        return [
            _site(
                scenario,
                control.control_id,
                edges[control.edge_id],
                attributes={BASELINE: control.baseline_veh_per_hour},
            )
            for control in scenario.controls
        ]

    def rollout(self, scenario: TownScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly trips [trip/h] and weather at every control point.

        Raises:
            EngineError: SUMO cannot run it.
        """
        return demand_readings(run_town(scenario, rng=rng))

    def imbalance(self, scenario: TownScenario, *, rng: np.random.Generator) -> float:
        """Vehicles that came from nowhere or are lost, over those that began."""
        return run_town(scenario, rng=rng).imbalance


def town_days() -> dict[str, TownScenario]:
    """Ready-made scenarios of a day: a usual one, and one of incidents in the rain."""
    return {
        "usual": TownScenario(hours=24),
        "wet_incidents": TownScenario(name="wet_incidents", hours=24, week=26, wetness=4.0, incidents_per_week=60.0),
    }


def traffic_readings(run: TownRun) -> pd.DataFrame:
    """What the counters of a run report; a counter that is out has no volume and no speed."""
    scenario, rng = run.scenario, np.random.default_rng([run.sensor_seed, 1])
    names = scenario.counters or tuple(edge.name for edge in run.edges)
    rows = run.edge_rows(names)
    passed = run.volume_ET[rows]
    seen = rng.binomial(passed.astype(np.int64), scenario.detected_share).astype(np.float64)
    speed = run.speed_ET_km_per_h[rows] * np.exp(rng.normal(0.0, 0.02, passed.shape))
    absent = outages(rng, *passed.shape, per_week=scenario.outages_per_week)
    return hourly_readings(
        names,
        scenario.moments,
        {
            "volume": np.where(absent, np.nan, seen),
            "speed": np.where(absent, np.nan, np.round(speed, 1)),
            "temperature": np.round(run.weather["temperature"] + rng.normal(0.0, 0.2, passed.shape), 1),
            "rainfall": np.round(run.weather["rainfall"], 1),
            "snowfall": np.zeros(scenario.hours),
            "cloud_cover": np.round(run.weather["cloud_cover"]),
        },
        delay_h=delays_h(rng, *passed.shape, late_share=scenario.late_share),
        source=run.source,
    )


def demand_readings(run: TownRun) -> pd.DataFrame:
    """What entered at the control points of a run, with the weather; every vehicle is counted."""
    scenario = run.scenario
    names = [control.control_id for control in scenario.controls]
    return hourly_readings(
        names,
        scenario.moments,
        {
            "trips": run.entered_PT,
            "temperature": np.round(run.weather["temperature"], 1),
            "humidity": np.round(run.weather["humidity"]),
            "wind_speed": np.round(run.weather["wind_speed"], 1),
        },
        delay_h=np.zeros(run.entered_PT.shape, dtype=np.int64),
        source=run.source,
    )


def _edges(scenario: TownScenario) -> tuple[Edge, ...]:
    if scenario.configuration is None:
        return town_edges()
    from sim_env.traffic.sumo import network_edges

    return network_edges(scenario.configuration)


def counted_edges(scenario: TownScenario) -> list[Edge]:
    """The roads with a counter."""
    by_name = {edge.name: edge for edge in _edges(scenario)}
    return [by_name[name] for name in scenario.counters] if scenario.counters else list(by_name.values())


def _site(
    scenario: TownScenario,
    name: str,
    edge: Edge,
    *,
    neighbours: tuple[str, ...] = (),
    attributes: dict[str, float],
) -> Site:
    latitude, longitude = place(scenario, edge.name)
    return scenario.site(name, latitude=latitude, longitude=longitude, neighbours=neighbours, attributes=attributes)


def place(scenario: TownScenario, name: str) -> tuple[float, float]:
    """Degrees north and east of the middle of a road; NaN in a network of which nobody said where it lies."""
    return position(name) if scenario.configuration is None else (math.nan, math.nan)


def _nearest(edge: Edge, among: list[Edge]) -> tuple[str, ...]:
    """The counters nearest to a road, of other roads."""
    x, y = middle(edge)
    others = [other for other in among if other.name != edge.name]
    others.sort(key=lambda other: (math.dist((x, y), middle(other)), other.name))
    return tuple(other.name for other in others[:_NEIGHBOURS])


def middle(edge: Edge) -> tuple[float, float]:
    """The point half way along a road, x and y [m]."""
    line = np.array(edge.shape)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    half = along[-1] / 2
    return float(np.interp(half, along, line[:, 0])), float(np.interp(half, along, line[:, 1]))
