"""What a town's roads are like: plain facts that the generator of readings runs on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from sim_env.simulator import require_in_scenario, scenario_start


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """One counted road.

    Attributes:
        name: Unique in its scenario.
        latitude: [degrees north].
        longitude: [degrees east].
        lanes: In the counted direction.
        neighbours: Roads that it shares a junction with, nearest first.
        free_speed_km_per_h: Mean speed on the empty road [km/h].
        lane_capacity_veh_per_h: Capacity of a lane [veh/h].
        peak_load: Demand of a usual weekday's peak, as a share of the capacity.
        morning_weight: Height of the morning's peak over the evening's; above 1 on the way into town.
    """

    name: str
    latitude: float
    longitude: float
    lanes: int
    neighbours: tuple[str, ...]
    free_speed_km_per_h: float = 50.0
    lane_capacity_veh_per_h: float = 900.0
    peak_load: float = 0.8
    morning_weight: float = 1.0

    @property
    def capacity_veh_per_h(self) -> float:
        """Capacity of all lanes [veh/h]."""
        return self.lanes * self.lane_capacity_veh_per_h


# Arterials around the centre of Ahmedabad (23.0225, 72.5714); places, lanes and speeds are made up, but plausible.
AHMEDABAD_ROADS: tuple[Road, ...] = (
    Road(name="R001", latitude=23.0225, longitude=72.5714, lanes=3, neighbours=("R002", "R003", "R006")),
    Road(name="R002", latitude=23.0312, longitude=72.5651, lanes=2, neighbours=("R001", "R003"), morning_weight=1.2),
    Road(name="R003", latitude=23.0395, longitude=72.5560, lanes=3, neighbours=("R002", "R004", "R001"), peak_load=0.9),
    Road(
        name="R004",
        latitude=23.0508,
        longitude=72.5441,
        lanes=4,
        neighbours=("R003", "R005"),
        free_speed_km_per_h=65.0,
        lane_capacity_veh_per_h=1200.0,
        morning_weight=0.8,
    ),
    Road(name="R005", latitude=23.0120, longitude=72.5500, lanes=2, neighbours=("R006", "R004"), peak_load=0.7),
    Road(
        name="R006",
        latitude=23.0165,
        longitude=72.5622,
        lanes=2,
        neighbours=("R001", "R005"),
        peak_load=0.95,
        morning_weight=1.1,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadsScenario:
    """A run of the roads generator.

    Attributes:
        name: Enters the readings' source.
        roads: The network.
        timezone: IANA name of the town's clock.
        country: ISO 3166 code for the holidays.
        subdivision: Holiday subdivision.
        start: First moment, ISO 8601, a whole hour UTC.
        weeks: Length of the run [weeks].
        incidents_per_week: Mean number of incidents on a road in a week.
        outages_per_week: Mean number of outages of a road's counter in a week.
        late_share: Share of hours whose readings come 1 to 3 h late.
        wetness: How easily it rains, 1 for a usual year.
        seasonal_swing: Half of the relative swing of demand over the year.
        rain_loss: Share of demand that stays at home in heavy rain.
        noise: Standard deviation of the logarithm of demand around its shape.
    """

    name: str = "usual"
    roads: tuple[Road, ...] = AHMEDABAD_ROADS
    timezone: str = "Asia/Kolkata"
    country: str = "IN"
    subdivision: str = "GJ"
    start: str = "2025-01-06T00:00:00Z"
    weeks: int = 40
    incidents_per_week: float = 0.3
    outages_per_week: float = 0.15
    late_share: float = 0.02
    wetness: float = 1.0
    seasonal_swing: float = 0.08
    rain_loss: float = 0.15
    noise: float = 0.08

    def __post_init__(self) -> None:
        names = {road.name for road in self.roads}
        strangers = {name for road in self.roads for name in road.neighbours} - names
        require_in_scenario(not strangers, "roads", sorted(strangers), "neighbours that are roads of the scenario")
        require_in_scenario(
            len(names) == len(self.roads) > 0, "roads", len(self.roads), "one road or more, each name once"
        )
        open_roads = all(road.lanes >= 1 and road.lane_capacity_veh_per_h > 0 for road in self.roads)
        require_in_scenario(open_roads, "roads", "a road", "at least one lane and a capacity above 0")
        require_in_scenario(self.weeks >= 1, "weeks", self.weeks, "1 or more")
        for name in ("incidents_per_week", "outages_per_week", "wetness", "noise"):
            value = getattr(self, name)
            require_in_scenario(math.isfinite(value) and value >= 0, name, value, "0 or more")
        for name in ("late_share", "seasonal_swing", "rain_loss"):
            require_in_scenario(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        scenario_start(self.start)

    @property
    def start_at(self) -> pd.Timestamp:
        """`start` as a moment in UTC."""
        return scenario_start(self.start)
