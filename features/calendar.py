"""Calendar transforms: the only place where local time is used.

A channel is a plain number (hour 0 to 23.99, weekday 0 = Monday, day of year); the graph of each model turns them into
cycles, so that a window stays readable.
"""

from __future__ import annotations

import datetime
import functools
import re
import zlib

import holidays
import numpy as np
import pandas as pd

from features.errors import InvalidParameterError
from features.vocabulary import CALENDAR_CHANNELS, Float32Array, Int64Array, Site

# Holidays are told apart by a hash of their names into this many kinds: a model learns each without a list of them.
HOLIDAY_KINDS = 127
_HOUR_S = 3600
# Every time zone's offset is a multiple of a quarter of an hour.
_SLOT_S = 900
_FIRST_DAY = np.datetime64("2000-01-01", "D")


def calendar_features(moments_s: Int64Array, site: Site) -> Float32Array:
    """Calendar channels of a site at given moments.

    Args:
        moments_s: Moments, shape (T,) [s since 1970, UTC].
        site: Gives time zone, country and subdivision.

    Returns:
        Shape (T, C), C in the order of `CALENDAR_CHANNELS`: `hour_of_day` [h], `day_of_week` [Monday = 0],
        `day_of_year` [1 to 366], three holiday flags [0 or 1], `holiday_kind` [0 none, else 1 to
        `HOLIDAY_KINDS`, the same for the same holiday in every year], `utc_offset_h` [h], `day_number` [local
        days since 2000-01-01].

    Raises:
        InvalidParameterError: The time zone or the country is unknown.
    """
    if len(moments_s) == 0:
        return np.empty((0, len(CALENDAR_CHANNELS)), dtype=np.float32)
    tables = []
    years = moments_s.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    slot_s = moments_s // _SLOT_S * _SLOT_S
    for year in np.unique(years):
        chosen = years == year
        start_s = int(np.datetime64(f"{year}-01-01", "s").astype(np.int64))
        table = _year_table(int(year), site.timezone, site.country, site.subdivision)
        rows = table[(slot_s[chosen] - start_s) // _SLOT_S]
        rows[:, 0] += (moments_s[chosen] - slot_s[chosen]) / _HOUR_S
        tables.append(rows)
    # Years of a grid are ascending blocks; any other order is put back.
    order = np.argsort(np.concatenate([np.flatnonzero(years == year) for year in np.unique(years)]), kind="stable")
    result: Float32Array = np.concatenate(tables)[order]
    return result


@functools.lru_cache(maxsize=512)
def _year_table(year: int, timezone: str, country: str, subdivision: str) -> Float32Array:
    """Calendar rows of every quarter of an hour of a UTC year, shape (35040 or 35136, C)."""
    start = pd.Timestamp(year=year, month=1, day=1, tz="UTC")
    utc = pd.date_range(start, start + pd.DateOffset(years=1), freq="15min", inclusive="left")
    try:
        local = utc.tz_convert(timezone)
    except Exception as error:  # zoneinfo raises several unrelated types for a bad name
        raise InvalidParameterError(
            parameter="timezone",
            provided=timezone,
            allowed="IANA time zone names",
            fact="The time zone is unknown",
            remedy="Use an IANA name such as 'US/Central' or 'Asia/Kolkata'.",
        ) from error
    days = np.asarray(local.tz_localize(None).normalize(), dtype="datetime64[D]")
    kinds = _holidays(year, country, subdivision)
    kind_of_day = pd.Series(list(kinds.values()), index=pd.DatetimeIndex(list(kinds)), dtype=np.float32)
    holiday_days = np.array(sorted(kinds), dtype="datetime64[D]")
    offset_h = (local.tz_localize(None) - utc.tz_localize(None)) / pd.Timedelta(hours=1)
    columns = [
        local.hour + local.minute / 60,
        local.dayofweek,
        local.dayofyear,
        np.isin(days, holiday_days),
        np.isin(days + 1, holiday_days),
        np.isin(days - 1, holiday_days),
        kind_of_day.reindex(pd.DatetimeIndex(days), fill_value=0),
        offset_h,
        (days - _FIRST_DAY).astype(np.int64),
    ]
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def _holidays(year: int, country: str, subdivision: str) -> dict[datetime.date, int]:
    """Kind of each holiday in a year and its neighbours."""
    if not country:
        return {}
    try:
        days = holidays.country_holidays(country, subdiv=subdivision or None, years=[year - 1, year, year + 1])
    except NotImplementedError as error:
        raise InvalidParameterError(
            parameter="country",
            provided=f"{country} {subdivision}".strip(),
            allowed="ISO 3166 codes that the holidays library knows",
            fact="There is no holiday calendar for this country and subdivision",
            remedy="Use an ISO code such as 'US' with subdivision 'MN', or leave the country empty.",
        ) from error
    return {day: 1 + zlib.crc32(_plain_name(name).encode()) % HOLIDAY_KINDS for day, name in days.items()}


def _plain_name(name: str) -> str:
    """The holiday's name without notes such as '(observed)' or '(estimated)'."""
    return re.sub(r"\s*\([^)]*\)", "", name).strip().casefold()
