"""Reader of the Battle of Water Demand Forecasting data: ten areas of a city in north-east Italy, hourly, 2021 to 2023.

Alvisi et al. 2025, doi:10.1061/JWRMD5.WRENG-6887, CC BY 4.0: `InflowData.xlsx` and `WeatherData.xlsx`.

Facts of the files that the reader lives with:

- Stamps are on the local clock (CET and CEST). The hour that comes twice in autumn is there twice: the first row is
  the pass in daylight time, the second that in winter time. The hour that is skipped in spring is not there.
- The files do not say which end of its hour a stamp marks. They, and the competition's weeks, run from 00:00 of a day
  to 23:00 of a day, so stamps are taken as the beginning of the hour: the row of 23:00 is what is known at midnight,
  where the competition's forecasts begin.
- Empty cells are the text `NaN` (inflow: 0.5 to 9.7 % by area).
- There is one weather for all areas; each area gets its readings. Rain is the depth of one hour.
- Where the areas lie is not published.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from features.domains.water import WATER
from features.sources.mapping import ColumnMap, TabularMapping
from features.sources.parsed import Parsed, join_parsed
from features.sources.published import PublishedFiles
from features.sources.tabular import read_tabular

FILE_PATTERN = "InflowData.xlsx"

_WEATHER_NAME = "WeatherData.xlsx"
_AREAS = tuple(f"DMA {number}" for number in range(1, 11))
_FILES = PublishedFiles(
    title="Battle of Water Demand Forecasting inflow", pattern=FILE_PATTERN, origin="doi:10.1061/JWRMD5.WRENG-6887"
)
_INFLOW = TabularMapping(
    timestamp="Date-time CET-CEST (DD/MM/YYYY HH:mm)",
    timestamp_format="%d/%m/%Y %H:%M",
    stamp_begins="1h",
    tz="Europe/Rome",
    repeated_hour="in_order",
    quantities=tuple(ColumnMap(quantity="inflow", column=f"{area} (L/s)", unit="L/s", site=area) for area in _AREAS),
    source="sensor:bwdf",
    country="IT",
)
_WEATHER = dataclasses.replace(
    _INFLOW,
    site=_AREAS[0],
    quantities=(
        ColumnMap(quantity="rainfall", column="Rainfall depth (mm)", unit="mm/h"),
        ColumnMap(quantity="temperature", column="Air temperature (°C)", unit="C"),
        ColumnMap(quantity="humidity", column="Air humidity (%)", unit="percent"),
        ColumnMap(quantity="wind_speed", column="Windspeed (km/h)", unit="km/h"),
    ),
)


def read_bwdf(path: Path) -> Parsed:
    """All rows of both workbooks, a site for each area ("DMA 1" to "DMA 10").

    Args:
        path: The inflow workbook with the weather workbook beside it, their folder, or a folder above it.

    Returns:
        Inflow [L/s], rainfall [mm/h], temperature [degC], humidity [percent], wind speed [m/s]; bad values included.

    Raises:
        DataError: A workbook is not there, cut off, damaged, or lacks a column.
    """
    inflow = _FILES.find(path)[0]
    weather = read_tabular([inflow.with_name(_WEATHER_NAME)], _WEATHER, WATER)
    return join_parsed([read_tabular([inflow], _INFLOW, WATER), _for_every_area(weather)])


def _for_every_area(weather: Parsed) -> Parsed:
    def repeat(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame.assign(site=area) for area in _AREAS], ignore_index=True)

    return dataclasses.replace(
        weather,
        readings=repeat(weather.readings),
        rejected=repeat(weather.rejected),
        sites=[dataclasses.replace(weather.sites[0], name=area) for area in _AREAS],
        missing={quantity: count * len(_AREAS) for quantity, count in weather.missing.items()},
    )
