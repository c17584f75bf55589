"""Rollouts of water: supply zones that draw from towers, and the pumps that fill these.

A zone's draw follows the day, the week, the heat, and chance; a burst pipe adds to it until it is mended. Its tower is
the water tank of `sim_env.process.water_tank`, without an outlet of its own: what the zone gets is what the tank can
give. A pump runs while the level is between two marks, as pumps of towers do.

Array names carry their axes: Z zones, I intervals of five minutes, T hours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.domains.water import WATER
from features.vocabulary import Domain, Site
from sim_env.process.native import roll
from sim_env.process.system import ProcessModel
from sim_env.process.water_tank import LARGEST_INFLOW_L_PER_S, LITRES_PER_M3, WATER_TANK
from sim_env.run_part import RunPart
from sim_env.sensors import hourly_readings, outages
from sim_env.simulator import require_in_scenario, scenario_source
from sim_env.traffic.shapes import Array, episodes, fade, hump, local_calendar

INTERVAL_S = 300
_PER_HOUR = 3600 // INTERVAL_S
# A day before the first hour lets towers find their rhythm; nothing of it is read.
_LEAD_HOURS = 24
_PUMP_ON, _PUMP_OFF = 0.45, 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A supply zone and its tower.

    Attributes:
        name: Unique in its scenario.
        mean_draw_l_per_s: What it draws in a usual hour, leaks among it [L/s].
        leak_share: Share of that which flows at any hour.
        morning_weight: Height of the morning's peak over the evening's.
        tank_area_m2: Surface of the tower [m2].
        tank_height_m: Height of its brim [m].
        latitude: [degrees north].
        longitude: [degrees east].
    """

    name: str
    mean_draw_l_per_s: float
    leak_share: float
    morning_weight: float
    tank_area_m2: float
    tank_height_m: float
    latitude: float
    longitude: float


def _zone(name: str, draw: float, leak: float, morning: float, area: float, latitude: float, longitude: float) -> Zone:
    return Zone(
        name=name,
        mean_draw_l_per_s=draw,
        leak_share=leak,
        morning_weight=morning,
        tank_area_m2=area,
        tank_height_m=5.0,
        latitude=latitude,
        longitude=longitude,
    )


# Made up, but plausible: a hospital's quarter, suburbs, an old town that leaks, and works, around the built-in town.
TOWN_ZONES: tuple[Zone, ...] = (
    _zone("zone_1", 9.0, 0.45, 1.0, 90.0, 23.0280, 72.5660),
    _zone("zone_2", 15.0, 0.25, 1.3, 160.0, 23.0150, 72.5790),
    _zone("zone_3", 24.0, 0.35, 1.1, 260.0, 23.0350, 72.5810),
    _zone("zone_4", 6.0, 0.20, 0.8, 70.0, 23.0090, 72.5620),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonesScenario(RunPart):
    """Some hours of a long run of supply zones.

    Attributes:
        name: Enters the readings' source.
        zones: Who draws.
        noise: Standard deviation of the logarithm of the draw around its shape.
        heat_share: By how much the draw grows with each degree above 25 degC.
        bursts_per_week: Mean number of burst pipes of a zone in a week.
        outages_per_week: Mean number of outages of a zone's meter in a week.
        integrator: `native`, or `gekko` for the reference.
    """

    name: str = "usual"
    zones: tuple[Zone, ...] = TOWN_ZONES
    noise: float = 0.1
    heat_share: float = 0.015
    bursts_per_week: float = 0.03
    outages_per_week: float = 0.1
    integrator: Literal["native", "gekko"] = "native"

    def __post_init__(self) -> None:
        RunPart.__post_init__(self)
        names = {zone.name for zone in self.zones}
        unique = len(names) == len(self.zones) > 0
        require_in_scenario(unique, "zones", len(self.zones), "one zone or more, each name once")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonesRun:
    """What happened, without any meter between.

    Attributes:
        drawn_ZT: What each zone got [L/s].
        level_ZT: Level of its tower at the end of the hour [m].
        weather: Channels of `sim_env.weather.years_of_weather` (T).
        pumped_m3_Z: What the pumps lifted, the hours before the first among it [m3].
        left_m3_Z: What left the towers [m3].
        stored_m3_Z: What the towers hold more than at the beginning [m3].
    """

    drawn_ZT: Array
    level_ZT: Array
    weather: dict[str, Array]
    pumped_m3_Z: Array
    left_m3_Z: Array
    stored_m3_Z: Array


class ZoneTanksSimulator:
    """The zones as a simulator of the water domain."""

    @property
    def domain(self) -> Domain:
        """Water."""
        return WATER

    def scenarios(self) -> Mapping[str, ZonesScenario]:
        """Two usual days, and two of heat and burst pipes."""
        return {
            "usual": ZonesScenario(hours=48),
            "bursts": ZonesScenario(name="bursts", hours=48, week=18, bursts_per_week=3.0),
        }

    def sites(self, scenario: ZonesScenario) -> list[Site]:
        """The zones."""
        return [scenario.site(zone.name, latitude=zone.latitude, longitude=zone.longitude) for zone in scenario.zones]

    def rollout(self, scenario: ZonesScenario, *, rng: np.random.Generator) -> pd.DataFrame:
        """Hourly inflow of every zone [L/s], level of its tower [m], and weather.

        Raises:
            ConvergenceError: GEKKO did not solve a step.
        """
        run = run_zones(scenario, rng=rng)
        shape = run.drawn_ZT.shape
        absent = outages(rng, *shape, per_week=scenario.outages_per_week)
        metered = run.drawn_ZT * np.exp(rng.normal(0.0, 0.01, shape))
        table = {
            "inflow": np.where(absent, np.nan, np.round(metered, 3)),
            "tank_level": np.round(run.level_ZT + rng.normal(0.0, 0.002, shape), 3),
        }
        table |= {
            name: np.round(run.weather[name], 1) for name in ("rainfall", "temperature", "humidity", "wind_speed")
        }
        return hourly_readings(
            [zone.name for zone in scenario.zones],
            scenario.moments,
            {name: np.maximum(values, 0.0) if name == "tank_level" else values for name, values in table.items()},
            delay_h=np.zeros(shape, dtype=np.int64),
            source=scenario_source(f"tank_{scenario.integrator}", scenario.name, scenario),
        )

    def imbalance(self, scenario: ZonesScenario, *, rng: np.random.Generator) -> float:
        """Water that came from nowhere or is lost, over what was pumped."""
        run = run_zones(scenario, rng=rng)
        lost_m3_Z = run.pumped_m3_Z - run.left_m3_Z - run.stored_m3_Z
        return float(np.abs(lost_m3_Z / np.maximum(run.pumped_m3_Z, 1.0)).max())


def run_zones(scenario: ZonesScenario, *, rng: np.random.Generator) -> ZonesRun:
    """Simulate a scenario, a day before its first hour among it.

    Raises:
        ConvergenceError: GEKKO did not solve a step.
    """
    weather = scenario.weather()
    wanted_ZT = _wanted(scenario, weather, rng)
    wanted_ZI = np.repeat(_with_lead(wanted_ZT), _PER_HOUR, axis=1)
    wanted_ZI = wanted_ZI * np.exp(rng.normal(0.0, 0.06, wanted_ZI.shape))
    area_Z = np.array([zone.tank_area_m2 for zone in scenario.zones])
    height_Z = np.array([zone.tank_height_m for zone in scenario.zones])
    pump_Z = np.array([2.2 * zone.mean_draw_l_per_s for zone in scenario.zones])
    first_Z = height_Z * rng.uniform(_PUMP_ON, _PUMP_OFF, len(height_Z))
    running_Z = rng.random(len(height_Z)) < 0.5
    pumped_Z = np.zeros(len(height_Z))
    states = []
    tanks = _gekko_tanks if scenario.integrator == "gekko" else _native_tanks
    with tanks(area_Z, height_Z, first_Z) as step:
        level_Z = first_Z
        for wanted_Z in wanted_ZI.T:
            running_Z = np.where(level_Z < _PUMP_ON * height_Z, True, running_Z & (level_Z < _PUMP_OFF * height_Z))
            inflow_Z = np.where(running_Z, np.minimum(pump_Z, LARGEST_INFLOW_L_PER_S), 0.0)
            state_ZS = step(inflow_Z, wanted_Z)
            pumped_Z += inflow_Z * INTERVAL_S / LITRES_PER_M3
            level_Z = state_ZS[:, 0]
            states.append(state_ZS)
    return _summed(scenario, np.stack(states, axis=1), weather, first_Z, area_Z, pumped_Z)


Step = Callable[[Array, Array], Array]


@contextlib.contextmanager
def _native_tanks(area_Z: Array, height_Z: Array, level_Z: Array) -> Iterator[Step]:
    state_ZS = np.zeros((len(level_Z), len(WATER_TANK.states)))
    state_ZS[:, 0] = level_Z
    fixed: dict[str, npt.ArrayLike] = {"area": area_Z, "height": height_Z, "outlet_coefficient": 0.0}

    def step(inflow_Z: Array, draw_Z: Array) -> Array:
        nonlocal state_ZS
        parameters = fixed | {"draw": draw_Z}
        state_ZS = roll(WATER_TANK, state_ZS, inflow_Z[:, None], INTERVAL_S, parameters)[:, 0]
        return state_ZS

    yield step


@contextlib.contextmanager
def _gekko_tanks(area_Z: Array, height_Z: Array, level_Z: Array) -> Iterator[Step]:
    with contextlib.ExitStack() as stack:
        tanks: list[ProcessModel] = []
        for area, height, level in zip(area_Z.tolist(), height_Z.tolist(), level_Z.tolist(), strict=True):
            parameters = {"area": area, "height": height, "outlet_coefficient": 0.0}
            tanks.append(WATER_TANK.gekko(parameters=parameters, state={"level": level}))
            stack.callback(tanks[-1].close)

        def step(inflow_Z: Array, draw_Z: Array) -> Array:
            states = []
            for tank, inflow, draw in zip(tanks, inflow_Z.tolist(), draw_Z.tolist(), strict=True):
                tank.update_parameters({"draw": draw})
                states.append(list(tank.step(inflow, delta_time_s=INTERVAL_S).values()))
            return np.array(states)

        yield step


def _wanted(scenario: ZonesScenario, weather: dict[str, Array], rng: np.random.Generator) -> Array:
    """What each zone asks for in the mean of an hour, (Z, T) [L/s]."""
    zones, hours = scenario.zones, scenario.hours
    slow_T = scenario.slow_swing(4, persistence=0.99)
    calendar = local_calendar(scenario.moments, scenario.clock)
    hour, at_home = calendar["middle"], (calendar["day_of_week"] >= 5) | (calendar["holiday"] > 0)
    morning_Z1 = np.array([zone.morning_weight for zone in zones])[:, None]
    # People who stay at home rise later, and draw more over the day.
    working_ZT = 0.35 + 1.2 * morning_Z1 * hump(hour, 7.3, 1.4) + 0.45 * hump(hour, 13.0, 3.0) + hump(hour, 19.5, 2.0)
    free_ZT = 0.35 + 1.0 * morning_Z1 * hump(hour, 9.2, 2.0) + 0.6 * hump(hour, 13.5, 3.0) + hump(hour, 19.5, 2.2)
    shape_ZT = np.where(at_home, free_ZT, working_ZT)
    heat_T = 1.0 + scenario.heat_share * np.maximum(weather["temperature"] - 25.0, 0.0)
    own_ZT = fade(rng.normal(size=(len(zones), hours)), 0.98)
    chance_ZT = np.exp(scenario.noise * (0.4 * slow_T + 0.9 * own_ZT))
    mean_Z1 = np.array([zone.mean_draw_l_per_s for zone in zones])[:, None]
    leak_Z1 = np.array([zone.leak_share for zone in zones])[:, None]
    burst_ZT = episodes(rng, len(zones), hours, per_week=scenario.bursts_per_week, hours_low=6, hours_high=60)
    extra_ZT = np.where(burst_ZT, rng.uniform(0.15, 0.5, (len(zones), 1)), 0.0)
    wanted: Array = mean_Z1 * (leak_Z1 + (1.0 - leak_Z1) * shape_ZT * heat_T * chance_ZT + extra_ZT)
    return wanted


def _with_lead(wanted_ZT: Array) -> Array:
    """The hours with a day like their first before them."""
    first_day = wanted_ZT[:, :_LEAD_HOURS]
    return np.concatenate([np.resize(first_day.T, (_LEAD_HOURS, len(wanted_ZT))).T, wanted_ZT], axis=1)


def _summed(
    scenario: ZonesScenario,
    state_ZIS: Array,
    weather: dict[str, Array],
    first_Z: Array,
    area_Z: Array,
    pumped_Z: Array,
) -> ZonesRun:
    names = [state.name for state in WATER_TANK.states]
    ends = slice(_PER_HOUR - 1, None, _PER_HOUR)
    drawn_m3_ZT = state_ZIS[:, ends, names.index("draw_volume")]
    level_ZT = state_ZIS[:, ends, names.index("level")]
    last_ZS = state_ZIS[:, -1]
    left = sum(last_ZS[:, names.index(f"{way}_volume")] for way in ("outflow", "draw", "overflow"))
    return ZonesRun(
        drawn_ZT=np.diff(drawn_m3_ZT, axis=1)[:, -scenario.hours :] * LITRES_PER_M3 / 3600.0,
        level_ZT=level_ZT[:, -scenario.hours :],
        weather=weather,
        pumped_m3_Z=pumped_Z,
        left_m3_Z=np.asarray(left),
        stored_m3_Z=area_Z * (last_ZS[:, 0] - first_Z),
    )
