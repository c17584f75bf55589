"""Shapes and random parts that generators of a town's readings share: clock, weather, noise, episodes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.calendar import calendar_features
from features.readings import epoch_s
from features.vocabulary import CALENDAR_CHANNELS, Site

Array = npt.NDArray[np.float64]
WEEK_HOURS = 168
DAYS_OF_YEAR = 365.25


def local_calendar(moments: pd.DatetimeIndex, site: Site) -> dict[str, Array]:
    """Calendar channels by name at the beginning of each hour; `middle` is the local time of its middle [h]."""
    begins = epoch_s(pd.Series(moments)) - 3600
    channels = calendar_features(begins, site).astype(np.float64)
    named = dict(zip(CALENDAR_CHANNELS, channels.T, strict=True))
    return {**named, "middle": (named["hour_of_day"] + 0.5) % 24}


def fade(innovations: Array, persistence: float) -> Array:
    """AR(1) noise of unit standard deviation along the last axis."""
    series = np.empty_like(innovations)
    state = innovations[..., 0]
    scale = np.sqrt(1.0 - persistence**2)
    for step in range(innovations.shape[-1]):
        state = state if step == 0 else persistence * state + scale * innovations[..., step]
        series[..., step] = state
    return series


def hump(hour: Array, centre: float, width_h: float) -> Array:
    """A bell over the clock's circle."""
    distance = (hour - centre + 12.0) % 24.0 - 12.0
    bell: Array = np.exp(-0.5 * (distance / width_h) ** 2)
    return bell


def daily_shape(calendar: dict[str, Array], morning_R: Array) -> Array:
    """Demand over that of the usual working day's peak, (R, T), for roads of some weights of the morning (R)."""
    hour = calendar["middle"]
    evening = 0.95 * hump(hour, 18.75, 1.9) + 0.4 * hump(hour, 13.5, 2.6)
    working_RT = 0.05 + evening[None, :] + 0.85 * morning_R[:, None] * hump(hour, 9.75, 1.4)[None, :]
    free_T = 0.06 + 0.6 * hump(hour, 17.5, 4.2)
    at_home = (calendar["day_of_week"] >= 6) | (calendar["holiday"] > 0)
    # Saturday is half a working day.
    share_T = np.where(at_home, 0.0, np.where(calendar["day_of_week"] == 5, 0.5, 1.0))
    shape_RT: Array = share_T * working_RT + (1.0 - share_T) * free_T
    return shape_RT


def town_weather(calendar: dict[str, Array], *, wetness: float, rng: np.random.Generator) -> dict[str, Array]:
    """The town's weather: hot before the monsoon of late June to September, dry for the rest of the year."""
    hours = len(calendar["middle"])
    year = 2 * np.pi * calendar["day_of_year"] / DAYS_OF_YEAR
    monsoon = np.exp(-0.5 * ((calendar["day_of_year"] - 215.0) / 32.0) ** 2)
    front = fade(rng.normal(size=hours), 0.97)
    shower = fade(rng.normal(size=hours), 0.6)
    cloud = 100.0 / (1.0 + np.exp(-(1.6 * front + 3.5 * monsoon - 1.5)))
    # It rains where a latent wetness exceeds a threshold that the monsoon lowers.
    latent = 0.8 * front + 0.6 * shower + 1.6 * monsoon + 0.5 * np.log(max(wetness, 1e-6))
    rainfall = np.minimum(3.0 * np.maximum(latent - 2.2, 0.0) ** 1.5, 120.0)
    seasonal = 27.5 - 6.5 * np.cos(year - 0.35) - 2.5 * monsoon
    daily = 6.0 * np.cos(2 * np.pi * (calendar["middle"] - 15.0) / 24.0) * (1.0 - 0.5 * monsoon)
    temperature = seasonal + daily + 1.5 * fade(rng.normal(size=hours), 0.98) - 0.03 * cloud * (rainfall > 0)
    return {"temperature": temperature, "rainfall": rainfall, "cloud_cover": cloud}


def episodes(
    rng: np.random.Generator, roads: int, hours: int, *, per_week: float, hours_low: int, hours_high: int
) -> npt.NDArray[np.bool_]:
    """Hours (R, T) inside episodes that begin at a given rate and last `hours_low` to `hours_high` hours."""
    begins_RT = rng.random((roads, hours)) < 1.0 - np.exp(-per_week / WEEK_HOURS)
    length_RT = np.where(begins_RT, rng.integers(hours_low, hours_high + 1, (roads, hours)), 0)
    until_RT = np.maximum.accumulate(np.where(begins_RT, np.arange(hours) + length_RT, 0), axis=1)
    inside: npt.NDArray[np.bool_] = np.arange(hours) < until_RT
    return inside
