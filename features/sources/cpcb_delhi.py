"""Reader of the daily means of air quality in Delhi, 2015 to 2020: not hourly, so no training data of `pollution`.

Central Pollution Control Board (CPCB) of India, means over the city's stations in the compilation "Air Quality Data in
India" on Kaggle, CC0 as quoted there: `series_daily_Delhi.csv.gz`.

Facts of the file that the reader lives with:

- A row is one local day. Its means are read as true at the end of that day.
- A mean over a day says nothing of its hours, and cannot fill a window of hourly steps. The set is therefore not among
  the published sets that train `pollution`; its readings belong to a domain of daily steps, `DELHI_DAILY`, which is
  not registered either. It serves to judge the index of `features.air_quality`, by its column `AQI`.
- That column is not CPCB's bulletin: it is above 500 on 48 days, where the official index ends at 500. It agrees best
  with the index of the mean of two days, as a mean over a day's hours of the index of trailing 24 h means would.
- CO is in mg/m3, the others in ug/m3. NO and NOx have no part in the index and are not read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from features.domains.pollution import CO, NO2, O3, PM2_5, PM10, POLLUTION, SO2
from features.sources.mapping import ColumnMap, TabularMapping
from features.sources.parsed import Parsed
from features.sources.published import PublishedFiles
from features.sources.tabular import read_tabular
from features.vocabulary import Quantity

FILE_PATTERN = "series_daily_Delhi.csv*"

NH3 = Quantity(name="nh3", unit="ug/m3", aggregation="mean", lower=0.0, upper=5_000.0, description="ammonia in the air")
INDEX = Quantity(
    name="air_quality_index",
    unit="dimensionless",
    aggregation="mean",
    lower=0.0,
    upper=2_000.0,
    description="the compiler's index",
)
DELHI_DAILY = dataclasses.replace(
    POLLUTION,
    name="pollution_daily",
    targets=(PM2_5, PM10),
    covariates=(SO2, NO2, CO, O3, NH3),
    known_ahead=(),
    auxiliaries=(INDEX,),
    step_s=86_400,
    history_steps=365,
    horizon_steps=2,
    horizons={"24h": 1, "48h": 2},
    season_steps=7,
    neighbour_count=0,
    families=(),
    api_path="",
)
_FILES = PublishedFiles(
    title="CPCB Delhi", pattern=FILE_PATTERN, origin='the Kaggle data set "Air Quality Data in India"'
)
_MAPPING = TabularMapping(
    timestamp="timestamp",
    stamp_begins="1D",
    tz="Asia/Kolkata",
    site="Delhi",
    quantities=(
        ColumnMap(quantity="pm2_5", column="PM2.5", unit="ug/m3"),
        ColumnMap(quantity="pm10", column="PM10", unit="ug/m3"),
        ColumnMap(quantity="so2", column="SO2", unit="ug/m3"),
        ColumnMap(quantity="no2", column="NO2", unit="ug/m3"),
        ColumnMap(quantity="co", column="CO", unit="mg/m3"),
        ColumnMap(quantity="o3", column="O3", unit="ug/m3"),
        ColumnMap(quantity="nh3", column="NH3", unit="ug/m3"),
        ColumnMap(quantity="air_quality_index", column="AQI", unit="dimensionless"),
    ),
    source="sensor:cpcb-delhi-daily",
    # The middle of the city: the means are of all stations together.
    latitude=28.61,
    longitude=77.21,
    country="IN",
    subdivision="DL",
)


def read_cpcb_delhi(path: Path) -> Parsed:
    """All rows of the published file, as daily readings of the site Delhi in the domain `DELHI_DAILY`.

    Args:
        path: The file (plain or gzip), its folder, or a folder above it.

    Returns:
        Seven concentrations [ug/m3] and the compiler's index, true at the end of each local day.

    Raises:
        DataError: The file is not there, empty, cut off, damaged, or lacks a column.
    """
    return read_tabular(_FILES.find(path)[:1], _MAPPING, DELHI_DAILY)
