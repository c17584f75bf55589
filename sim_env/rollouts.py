"""Bulk rollouts: what there is to roll out, week by week, and which domains' readings come of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from features.domains import DOMAINS
from features.registry import Registry
from features.vocabulary import Site
from sim_env.air.stations import air_readings
from sim_env.process.zone_tanks import ZonesScenario, ZoneTanksSimulator
from sim_env.run_part import RunPart
from sim_env.simulator import SIMULATORS
from sim_env.traffic.town_run import run_town
from sim_env.traffic.town_scenario import TownScenario
from sim_env.traffic.town_simulators import demand_readings, traffic_readings

Scenario = TypeVar("Scenario", bound=RunPart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts(Generic[Scenario]):
    """A kind of bulk rollouts: scenario i is week i of one long run.

    Attributes:
        name: `traffic` or `process`.
        domains: Whose readings a rollout gives, and by which simulator their sites are named.
        usual: The scenario of an ordinary week.
        weeks: How many weeks are worth training on, where nobody says.
        run: Readings by domain of one scenario; all randomness comes from the generator.
    """

    name: str
    domains: dict[str, str]
    usual: Scenario
    weeks: int
    run: Callable[[Scenario, np.random.Generator], dict[str, pd.DataFrame]]

    def week(self, usual: Scenario, *, seed: int, week: int) -> Scenario:
        """Scenario `week` of a run."""
        return dataclasses.replace(usual, run_seed=seed, week=week)

    def readings(self, scenario: Scenario, *, seed: int, week: int) -> pd.DataFrame:
        """Readings of a week, with their `domain`; the same for the same arguments, in any process."""
        parts = self.run(scenario, np.random.default_rng([seed, week]))
        return pd.concat([frame.assign(domain=name) for name, frame in parts.items()], ignore_index=True)

    def sites(self, scenario: Scenario) -> dict[str, list[Site]]:
        """Sites of each domain."""
        return {name: SIMULATORS[simulator].sites(scenario) for name, simulator in self.domains.items()}


def run_name(kind: str, usual: Any, *, seed: int) -> str:
    """Name of a run: the same for the same scenario and seed, another for any other."""
    content = json.dumps([dataclasses.asdict(usual), seed], sort_keys=True)
    return f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


ROLLOUTS: Registry[Rollouts[Any]] = Registry("kind of rollouts")


def rollouts_of(domain: str) -> Rollouts[Any] | None:
    """The rollouts that give readings of a domain, None where it has none."""
    DOMAINS[domain]
    return next((kind for kind in ROLLOUTS.values() if domain in kind.domains), None)


def _town_readings(scenario: TownScenario, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    run = run_town(scenario, rng=rng)
    return {"traffic": traffic_readings(run), "demand": demand_readings(run), "pollution": air_readings(run)}


def _zones_readings(scenario: ZonesScenario, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    return {"water": ZoneTanksSimulator().rollout(scenario, rng=rng)}


ROLLOUTS.register(
    "traffic",
    Rollouts(
        name="traffic",
        domains={"traffic": "sumo", "demand": "sumo_demand", "pollution": "dispersion"},
        usual=TownScenario(),
        weeks=40,
        run=_town_readings,
    ),
)
ROLLOUTS.register(
    "process",
    Rollouts(
        name="process",
        domains={"water": "zone_tanks"},
        usual=ZonesScenario(),
        weeks=52,
        run=_zones_readings,
    ),
)
