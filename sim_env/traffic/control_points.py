"""The control points generator: hourly inflow at the places where a road simulation injects vehicles.

A control point is a source or an on-ramp with a baseline flow, as in the design document of the SUMO twin. Its inflow
is the baseline times a daily shape, a slow drift of the town's demand, the weather, and noise that dies away within
hours (AR(1)). Divided by the baseline it is the multiplier that drives the simulator: 1 is the baseline.

Array names carry their axes: P control points, T hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from features.domains.demand import DEMAND
from features.errors import InvalidParameterError
from features.vocabulary import Domain, Site
from sim_env.sensors import hourly_readings
from sim_env.simulator import scenario_source
from sim_env.traffic.shapes import DAYS_OF_YEAR, WEEK_HOURS, Array, fade, hump, local_calendar, town_weather

# Attribute of a site that holds its baseline flow.
BASELINE = "baseline_veh_per_hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPoint:
    """Where vehicles are injected.

    Attributes:
        name: Unique in its scenario.
        baseline_veh_per_hour: Inflow of about an average daytime hour of a working day [veh/h].
        morning_weight: Height of the morning's peak over the evening's; above 1 on the way into town.
        latitude: [degrees north].
        longitude: [degrees east].
    """

    name: str
    baseline_veh_per_hour: float
    morning_weight: float = 1.0
    latitude: float = math.nan
    longitude: float = math.nan


# On-ramps around the centre of Austin, the town of the design document; places and flows are made up, but plausible.
AUSTIN_RAMPS: tuple[ControlPoint, ...] = (
    ControlPoint(name="ramp_1", baseline_veh_per_hour=600.0, latitude=30.2672, longitude=-97.7360),
    ControlPoint(name="ramp_2", baseline_veh_per_hour=450.0, morning_weight=1.3, latitude=30.2850, longitude=-97.7330),
    ControlPoint(name="ramp_3", baseline_veh_per_hour=800.0, morning_weight=0.7, latitude=30.2500, longitude=-97.7500),
    ControlPoint(name="ramp_4", baseline_veh_per_hour=350.0, morning_weight=1.1, latitude=30.2740, longitude=-97.7650),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPointsScenario:
    """A run of the control points generator.

    Attributes:
        name: Enters the readings' source.
        points: The control points.
        timezone: IANA name of the town's clock.
        country: ISO 3166 code for the holidays.
        subdivision: Holiday subdivision.
        start: First moment, ISO 8601, a whole hour UTC.
        weeks: Length of the run [weeks].
        wetness: How easily it rains, 1 for a usual year.
        growth_per_year: Relative growth of the demand in a year.
        noise: Standard deviation of the logarithm of inflow around its shape.
    """

    name: str = "usual"
    points: tuple[ControlPoint, ...] = AUSTIN_RAMPS
    timezone: str = "America/Chicago"
    country: str = "US"
    subdivision: str = "TX"
    start: str = "2025-01-06T00:00:00Z"
    weeks: int = 40
    wetness: float = 1.0
    growth_per_year: float = 0.05
    noise: float = 0.1

    def __post_init__(self) -> None:
        names = {point.name for point in self.points}
        if not (self.weeks >= 1 and len(names) == len(self.points) > 0):
            raise InvalidParameterError(
                parameter="scenario",
                provided=f"{self.weeks} weeks, {len(self.points)} control points",
                allowed="a week or more; one control point or more, each name once",
                fact="The scenario cannot be run",
                remedy="Give at least a week and distinct names.",
            )


class ControlPointsSimulator:
    """The generator as a simulator of the demand domain."""

    @property
    def domain(self) -> Domain:
        """Demand."""
        return DEMAND

    def scenarios(self) -> Mapping[str, ControlPointsScenario]:
        """A usual year's first 40 weeks, and one of a town that grows fast."""
        return {
            "usual": ControlPointsScenario(),
            "growing": ControlPointsScenario(name="growing", growth_per_year=0.5),
        }

    def sites(self, scenario: ControlPointsScenario) -> list[Site]:
        """The control points with their baselines."""
        return [
            Site(
                name=point.name,
                latitude=point.latitude,
                longitude=point.longitude,
                timezone=scenario.timezone,
                country=scenario.country,
                subdivision=scenario.subdivision,
                attributes={BASELINE: point.baseline_veh_per_hour},
            )
            for point in scenario.points
        ]

    def rollout(self, scenario: ControlPointsScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly trips [trip/h] of every control point, temperature [degC]; a stamp is the end of its hour.

        Args:
            scenario: The control points and their rates.
            rng: All randomness.

        Returns:
            Readings of all control points.
        """
        hours = scenario.weeks * WEEK_HOURS
        moments = pd.Timestamp(scenario.start) + pd.to_timedelta(np.arange(1, hours + 1), unit="h")
        calendar = local_calendar(moments, self.sites(scenario)[0])
        weather = town_weather(calendar, wetness=scenario.wetness, rng=rng)
        trips_PT = rng.poisson(_inflow(calendar, weather, scenario, rng)).astype(np.float64)
        return hourly_readings(
            [point.name for point in scenario.points],
            moments,
            {"trips": trips_PT, "temperature": np.round(weather["temperature"], 1)},
            delay_h=np.zeros(trips_PT.shape, dtype=np.int64),
            source=scenario_source("control_points", scenario.name, scenario),
        )


def _inflow(
    calendar: dict[str, Array], weather: dict[str, Array], scenario: ControlPointsScenario, rng: np.random.Generator
) -> Array:
    """Expected inflow [veh/h], (P, T)."""
    hour = calendar["middle"]
    points, hours = len(scenario.points), len(hour)
    baseline_P = np.array([point.baseline_veh_per_hour for point in scenario.points])
    morning_P = np.array([point.morning_weight for point in scenario.points])
    working_PT = 0.15 + 1.6 * hump(hour, 17.5, 2.2)[None, :] + 1.6 * morning_P[:, None] * hump(hour, 8.0, 1.6)[None, :]
    free_T = 0.15 + 1.1 * hump(hour, 15.0, 4.5)
    at_home = (calendar["day_of_week"] >= 5) | (calendar["holiday"] > 0)
    shape_PT = np.where(at_home[None, :], free_T[None, :], working_PT)
    years_T = np.arange(hours) / (24 * DAYS_OF_YEAR)
    grown_T = (1.0 + scenario.growth_per_year) ** years_T * (1.0 - 0.2 * (1.0 - np.exp(-weather["rainfall"] / 4.0)))
    noise_PT = 0.8 * fade(rng.normal(size=(points, hours)), 0.8) + 0.6 * fade(rng.normal(size=hours), 0.9)
    inflow: Array = baseline_P[:, None] * shape_PT * grown_T[None, :] * np.exp(scenario.noise * noise_PT)
    return inflow
