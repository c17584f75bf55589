"""A part of a long run: what scenarios of one town share, whichever of its weeks they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from features.vocabulary import Site
from sim_env.simulator import require_in_scenario, scenario_start
from sim_env.traffic.shapes import WEEK_HOURS, Array, fade
from sim_env.weather import LONGEST_RUN_WEEKS, years_of_weather

# The clock and the holidays of the built-in town: Ahmedabad's.
TIMEZONE, COUNTRY, SUBDIVISION = "Asia/Kolkata", "IN", "GJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """Some hours of a long run, whose weeks share weather, habits and slow swings.

    Attributes:
        timezone: IANA name of the town's clock.
        country: ISO 3166 code for the holidays.
        subdivision: Holiday subdivision.
        start: First moment of the run, ISO 8601, a whole hour UTC.
        run_seed: Of what all weeks of the run share.
        week: Which week of the run, from 0.
        hours: Length [h], beginning with that week.
        wetness: How easily it rains, 1 for a usual year.
    """

    timezone: str = TIMEZONE
    country: str = COUNTRY
    subdivision: str = SUBDIVISION
    start: str = "2025-01-06T00:00:00Z"
    run_seed: int = 0
    week: int = 0
    hours: int = WEEK_HOURS
    wetness: float = 1.0

    def __post_init__(self) -> None:
        require_in_scenario(self.hours >= 1, "hours", self.hours, "1 or more")
        last = LONGEST_RUN_WEEKS - -(-self.hours // WEEK_HOURS)
        require_in_scenario(0 <= self.week <= last, "week", self.week, f"0 to {last}")
        require_in_scenario(0 <= self.wetness < np.inf, "wetness", self.wetness, "0 or more")
        scenario_start(self.start)

    @property
    def first_hour(self) -> int:
        """Hours of the run before this part."""
        return self.week * WEEK_HOURS

    @property
    def moments(self) -> pd.DatetimeIndex:
        """End of each hour (T)."""
        return scenario_start(self.start) + pd.to_timedelta(self.first_hour + np.arange(1, self.hours + 1), unit="h")

    @property
    def clock(self) -> Site:
        """A site with the town's clock and holidays."""
        return Site(name="town", timezone=self.timezone, country=self.country, subdivision=self.subdivision)

    def site(self, name: str, **facts: Any) -> Site:
        """A site of the town: its clock and holidays, and other facts as `Site` names them."""
        return replace(self.clock, name=name, **facts)

    def weather(self) -> dict[str, Array]:
        """Channels of `sim_env.weather.years_of_weather` in each hour (T)."""
        start = scenario_start(self.start)
        years = years_of_weather(self.clock, start, wetness=self.wetness, seed=self.run_seed)
        return {name: self._hours_of(values) for name, values in years.items()}

    def slow_swing(self, stream: int, *, persistence: float) -> Array:
        """AR(1) noise of unit standard deviation that runs through the weeks (T).

        Args:
            stream: Which of the run's independent noises.
            persistence: Correlation of one hour with the next.
        """
        rng = np.random.default_rng([self.run_seed, stream])
        return self._hours_of(fade(rng.normal(size=LONGEST_RUN_WEEKS * WEEK_HOURS), persistence))

    def _hours_of(self, years: Array) -> Array:
        return years[self.first_hour : self.first_hour + self.hours]
