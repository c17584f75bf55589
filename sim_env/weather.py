"""A town's weather for years on end: any hour of it is the same, whichever part is asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.vocabulary import Site
from sim_env.traffic.shapes import WEEK_HOURS, Array, fade, hump, local_calendar, town_weather

# Drawn from the first hour on, so that a longer run begins with the weather of a shorter one.
LONGEST_RUN_WEEKS = 156
# Magnus' formula over water; Alduchov and Eskridge (1996), J. Appl. Meteorol. 35, 601-609.
_MAGNUS_FACTOR, _MAGNUS_DEGC = 17.625, 243.04


def years_of_weather(site: Site, start: pd.Timestamp, *, wetness: float, seed: int) -> dict[str, Array]:
    """Hourly weather of a town from `start` on, for `LONGEST_RUN_WEEKS` weeks.

    Args:
        site: Whose clock the day follows.
        start: First moment, a whole hour UTC; the first value is that of the hour that begins then.
        wetness: How easily it rains, 1 for a usual year.
        seed: Of everything random.

    Returns:
        `temperature`, `dew_point` [degC], `rainfall` [mm/h], `cloud_cover`, `humidity` [percent], `wind_speed` [m/s],
        `wind_direction` [degree], `pressure` [hPa], each (T).
    """
    hours = LONGEST_RUN_WEEKS * WEEK_HOURS
    rng = np.random.default_rng([seed, 1])
    calendar = local_calendar(start + pd.to_timedelta(np.arange(1, hours + 1), unit="h"), site)
    sky = town_weather(calendar, wetness=wetness, rng=rng)
    slow, quick, turning = fade(rng.normal(size=(3, hours)), 0.985)
    # A sea breeze by day, calm nights: what is given off at night stays near the ground.
    wind_speed = np.clip(1.4 + 1.8 * hump(calendar["middle"], 15.0, 4.0) + 0.9 * slow + 0.4 * quick, 0.3, 20.0)
    humidity = np.clip(78.0 - 2.2 * (sky["temperature"] - 22.0) + 8.0 * slow + 3.0 * sky["rainfall"], 12.0, 99.0)
    pressure = 1008.0 + 5.0 * np.cos(2 * np.pi * calendar["day_of_year"] / 365.25) + 3.0 * slow
    return sky | {
        "wind_speed": wind_speed,
        "wind_direction": (240.0 + 70.0 * turning) % 360.0,
        "humidity": humidity,
        "pressure": pressure,
        "dew_point": dew_point(sky["temperature"], humidity),
    }


def dew_point(temperature_degc: Array, humidity_percent: Array) -> Array:
    """Dew point by Magnus' formula [degC] (Alduchov and Eskridge 1996)."""
    logarithm = np.log(humidity_percent / 100.0)
    gamma = logarithm + _MAGNUS_FACTOR * temperature_degc / (_MAGNUS_DEGC + temperature_degc)
    point: Array = _MAGNUS_DEGC * gamma / (_MAGNUS_FACTOR - gamma)
    return point
