"""A week of a town's traffic, and what chance makes of it: demand, incidents, weather, failing counters.

Array names carry their axes: P control points, Q quarters of an hour, T hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim_env.run_part import RunPart
from sim_env.simulator import require_in_scenario
from sim_env.traffic.engine import Control
from sim_env.traffic.shapes import WEEK_HOURS, Array, daily_shape, fade, hump, local_calendar
from sim_env.traffic.town_network import COUNTERS, town_controls

if TYPE_CHECKING:
    from sim_env.traffic.sumo.network import RoadNetwork

QUARTER_S = 900
QUARTERS = 4
# Demand of the usual working day's peak over the baseline.
_PEAK = 2.2
# Inverse of the variance of a quarter of an hour's inflow around its rate.
_EVENNESS = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TownScenario(RunPart):
    """Some hours of a long run of a road network.

    Attributes:
        name: Enters the readings' source.
        network: A `.sumocfg`; empty for the built-in town.
        network_hash: Hash of its files' content; empty for the built-in town.
        controls: Where vehicles enter.
        counters: Edges with a counter: the sites; empty for every edge.
        mesoscopic: Whether queues are simulated in place of single vehicles: for bulk.
        growth_per_year: Relative growth of the demand in a year.
        noise: Standard deviation of the logarithm of demand around its shape.
        incidents_per_week: Mean number of incidents in the network in a week.
        events_per_week: Mean number of events that fill the roads to one gate for an evening in a week.
        outages_per_week: Mean number of outages of a counter in a week.
        late_share: Share of hours whose readings come 1 to 3 h late.
        detected_share: Share of the vehicles that a counter sees.
    """

    name: str = "usual"
    network: str = ""
    network_hash: str = ""
    controls: tuple[Control, ...] = field(default_factory=town_controls)
    counters: tuple[str, ...] = COUNTERS
    mesoscopic: bool = True
    growth_per_year: float = 0.05
    noise: float = 0.2
    incidents_per_week: float = 4.0
    events_per_week: float = 0.5
    outages_per_week: float = 0.15
    late_share: float = 0.02
    detected_share: float = 0.98

    def __post_init__(self) -> None:
        RunPart.__post_init__(self)
        require_in_scenario(len(self.controls) > 0, "controls", 0, "one control point or more")
        for name in ("noise", "incidents_per_week", "events_per_week", "outages_per_week"):
            value = getattr(self, name)
            require_in_scenario(math.isfinite(value) and value >= 0, name, value, "0 or more")
        for name in ("late_share", "detected_share"):
            require_in_scenario(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        require_in_scenario(-1 < self.growth_per_year < 10, "growth_per_year", self.growth_per_year, "-1 to 10")

    @property
    def configuration(self) -> Path | None:
        """The `.sumocfg`, None for the built-in town."""
        return Path(self.network) if self.network else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A road that carries less for a while.

    Attributes:
        edge_index: Which edge, over the number of edges (0 to 1).
        begins: Quarter of an hour in which it begins.
        ends: First quarter of an hour after it.
        factor: What is left of the allowed speed.
    """

    edge_index: float
    begins: int
    ends: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What chance made of a scenario.

    Attributes:
        multiplier_QP: Inflow over the baseline, in each quarter of an hour; the first hour is there to fill the roads.
        speed_factor_Q: What the weather leaves of the allowed speed.
        incidents: Where roads carry less.
        weather: Channels of `sim_env.weather.years_of_weather` in each hour (T).
    """

    multiplier_QP: Array
    speed_factor_Q: Array
    incidents: tuple[Incident, ...]
    weather: dict[str, Array]


def draw(scenario: TownScenario, *, rng: np.random.Generator) -> Drawn:
    """Draw what happens in a scenario: from `run_seed` what the run's weeks share, from `rng` the rest.

    Inflow is the baseline times a daily shape, slow noise of the town and of the control point, growth, and events.
    """
    weather = scenario.weather()
    rate_TP = _rate(scenario, weather, rng)
    # An hour before the first fills the empty roads; nothing of it is read.
    rate_QP = np.repeat(np.concatenate([rate_TP[:1], rate_TP]), QUARTERS, axis=0)
    # A small network carries a tenth of a town's vehicles: were they to come as a Poisson process, its noise would
    # drown what can be forecast.
    multiplier_QP = rate_QP * rng.gamma(_EVENNESS, 1.0 / _EVENNESS, rate_QP.shape)
    soaked_T = 1.0 - np.exp(-weather["rainfall"] / 4.0)
    speed_factor_T = 1.0 - 0.12 * soaked_T
    return Drawn(
        multiplier_QP=multiplier_QP,
        speed_factor_Q=np.repeat(np.concatenate([speed_factor_T[:1], speed_factor_T]), QUARTERS),
        incidents=_incidents(scenario, rng),
        weather=weather,
    )


def _rate(scenario: TownScenario, weather: dict[str, Array], rng: np.random.Generator) -> Array:
    """Expected inflow over the baseline, (T, P)."""
    hours, points = scenario.hours, len(scenario.controls)
    habits = np.random.default_rng([scenario.run_seed, 2])
    morning_P = habits.uniform(0.7, 1.3, points)
    calendar = local_calendar(scenario.moments, scenario.clock)
    shape_PT = daily_shape(calendar, morning_P)
    years_T = (scenario.first_hour + np.arange(hours)) / (24 * 365.25)
    slow_T = scenario.slow_swing(5, persistence=0.95)
    own_PT = fade(rng.normal(size=(points, hours)), 0.95)
    soaked_T = 1.0 - np.exp(-weather["rainfall"] / 4.0)
    grown_T = (1.0 + scenario.growth_per_year) ** years_T * (1.0 - 0.25 * soaked_T)
    rate_PT: Array = _PEAK * shape_PT * grown_T * np.exp(scenario.noise * (0.3 * slow_T + 0.95 * own_PT))
    for _ in range(rng.poisson(scenario.events_per_week * hours / WEEK_HOURS)):
        point, day, hour = rng.integers(points), rng.integers(max(1, hours // 24)), rng.uniform(17.0, 21.0)
        on_day = np.arange(hours) // 24 == day
        rate_PT[point] += rng.uniform(0.4, 1.0) * hump(calendar["middle"], hour, 1.2) * on_day
    return rate_PT.T


def _incidents(scenario: TownScenario, rng: np.random.Generator) -> tuple[Incident, ...]:
    quarters = (scenario.hours + 1) * QUARTERS
    count = rng.poisson(scenario.incidents_per_week * scenario.hours / WEEK_HOURS)
    begins = rng.integers(0, quarters, count)
    lengths = rng.integers(2, 4 * QUARTERS, count)
    return tuple(
        Incident(edge_index=float(where), begins=int(begin), ends=int(begin + length), factor=float(factor))
        for where, begin, length, factor in zip(
            rng.random(count), begins, lengths, rng.uniform(0.15, 0.5, count), strict=True
        )
    )


def make_scenario(
    configuration: Path | None = None,
    controls: Path | None = None,
    counters: tuple[str, ...] | None = None,
    *,
    mesoscopic: bool = True,
    start: str | None = None,
) -> TownScenario:
    """The scenario of an ordinary week on a network.

    Args:
        configuration: Any `.sumocfg` or `.net.xml`; None for the built-in town.
        controls: JSON file of control points; None for the town's own, or for those that are proposed.
        counters: Edges with a counter, () for every edge; None for the town's own, or for the busiest twelve.
        mesoscopic: Whether queues are simulated in place of single vehicles.
        start: First moment of the run, ISO 8601.

    Raises:
        EngineError: The network cannot be read, or a control or counter is not on it.
        InvalidParameterError: The controls' file or the start cannot be.
    """
    given: dict[str, Any] = {"mesoscopic": mesoscopic} | ({} if start is None else {"start": start})
    if counters is not None:
        given["counters"] = counters
    from sim_env.traffic.controls import read_controls

    if controls is not None:
        given["controls"] = read_controls(controls)
    if configuration is None:
        return TownScenario(**given)
    from sim_env.traffic.sumo.configuration import read_configuration
    from sim_env.traffic.sumo.network import read_network
    from sim_env.traffic.sumo.propose import propose_controls

    network = read_network(read_configuration(configuration).net_file)
    points = given.setdefault("controls", propose_controls(configuration))
    for name in given.setdefault("counters", busiest(points, network)):
        network.position(name)
    return TownScenario(
        **given,
        name=configuration.resolve().parent.name,
        network=str(configuration.resolve()),
        network_hash=network.hash,
    )


def busiest(controls: tuple[Control, ...], network: RoadNetwork, *, most: int = 12) -> tuple[str, ...]:
    """The edges that most vehicles would pass if each control's took the fastest ways to its destinations."""
    flow: dict[str, float] = {}
    for control in controls:
        ends = control.destinations or network.exits(control.edge_id, most=8)
        for end in ends:
            for edge in network.route(control.edge_id, end):
                flow[edge] = flow.get(edge, 0.0) + control.baseline_veh_per_hour / len(ends)
    return tuple(sorted(flow, key=lambda name: (-flow[name], name))[:most])
