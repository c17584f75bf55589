"""Reader of the Beijing Multi-Site Air-Quality data set: 12 stations, hourly, March 2013 to February 2017.

UCI Machine Learning Repository 501, doi:10.24432/C5RK5G, CC BY 4.0 (concentrations of the Beijing Municipal
Environmental Monitoring Center, weather of the nearest station of the China Meteorological Administration).

Facts of the files that the reader lives with:

- A file per station; year, month, day and hour stand in columns of their own, on China Standard Time (no change of
  clocks in these years).
- The files do not say which end of its hour a stamp marks. China's network publishes a concentration at the end of its
  hour and under that hour, and weather is observed on the hour: stamps are taken as the end of the hour, and rows as
  known then.
- `NA` cells are counted as missing (PM2.5: 1.1 to 2.7 % by station). Wind direction is one of 16 points
  of the compass, read as degrees with north as 0. Rain is the depth of one hour.
- Coordinates are not in the files, see `_STATIONS`. A station's neighbours are the nearest of those that are read
  together, so give the folder rather than single files.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from features.domains.pollution import POLLUTION
from features.sources.mapping import ColumnMap, TabularMapping
from features.sources.parsed import Parsed
from features.sources.published import PublishedFiles
from features.sources.tabular import read_tabular
from features.vocabulary import Site

FILE_PATTERN = "PRSA_Data_*.csv*"

# Latitude and longitude to three decimals, as the station list of the KDD Cup of Fresh Air 2018 gives them (its
# `aotizhongxin_aq` and so on; Changping is its `pingchang_aq`).
_STATIONS = {
    "Aotizhongxin": (39.982, 116.397),
    "Changping": (40.217, 116.230),
    "Dingling": (40.292, 116.220),
    "Dongsi": (39.929, 116.417),
    "Guanyuan": (39.929, 116.339),
    "Gucheng": (39.914, 116.184),
    "Huairou": (40.328, 116.628),
    "Nongzhanguan": (39.937, 116.461),
    "Shunyi": (40.127, 116.655),
    "Tiantan": (39.886, 116.407),
    "Wanliu": (39.987, 116.287),
    "Wanshouxigong": (39.878, 116.352),
}
_FILES = PublishedFiles(
    title="Beijing Multi-Site", pattern=FILE_PATTERN, origin="UCI data set 501, doi:10.24432/C5RK5G"
)
_MAPPING = TabularMapping(
    timestamp=("year", "month", "day", "hour"),
    timestamp_format="%Y %m %d %H",
    tz="Asia/Shanghai",
    site_column="station",
    quantities=(
        ColumnMap(quantity="pm2_5", column="PM2.5", unit="ug/m3"),
        ColumnMap(quantity="pm10", column="PM10", unit="ug/m3"),
        ColumnMap(quantity="so2", column="SO2", unit="ug/m3"),
        ColumnMap(quantity="no2", column="NO2", unit="ug/m3"),
        ColumnMap(quantity="co", column="CO", unit="ug/m3"),
        ColumnMap(quantity="o3", column="O3", unit="ug/m3"),
        ColumnMap(quantity="temperature", column="TEMP", unit="C"),
        ColumnMap(quantity="pressure", column="PRES", unit="hPa"),
        ColumnMap(quantity="dew_point", column="DEWP", unit="C"),
        ColumnMap(quantity="rainfall", column="RAIN", unit="mm/h"),
        ColumnMap(quantity="wind_direction", column="wd", unit="compass"),
        ColumnMap(quantity="wind_speed", column="WSPM", unit="m/s"),
    ),
    source="sensor:beijing-memc",
    country="CN",
    sites={name: {"latitude": place[0], "longitude": place[1]} for name, place in _STATIONS.items()},
)


def read_beijing_multisite(path: Path) -> Parsed:
    """All rows of the published files, a site for each station.

    Args:
        path: One station's file (plain or gzip), the folder of the files, or a folder above it.

    Returns:
        Six concentrations [ug/m3] and six quantities of the weather; bad values included.

    Raises:
        DataError: A file is not there, empty, cut off, damaged, or lacks a column.
    """
    parsed = read_tabular(_FILES.find(path), _MAPPING, POLLUTION)
    return dataclasses.replace(parsed, sites=_with_neighbours(parsed.sites))


def _with_neighbours(sites: list[Site]) -> list[Site]:
    """The sites, each with the others that have coordinates as its neighbours, nearest first."""
    latitude, longitude = np.radians([(site.latitude, site.longitude) for site in sites]).reshape(-1, 2).T
    # Haversine of the central angle: it orders as the distance on the sphere does.
    across = np.cos(latitude)[:, None] * np.cos(latitude) * np.sin((longitude[:, None] - longitude) / 2) ** 2
    distance = np.sin((latitude[:, None] - latitude) / 2) ** 2 + across
    result = []
    for place, site in enumerate(sites):
        order = [int(other) for other in np.argsort(distance[place], kind="stable") if other != place]
        near = tuple(sites[other].name for other in order if np.isfinite(distance[place, other]))
        result.append(dataclasses.replace(site, neighbours=near))
    return result
