"""Reader of the Metro Interstate Traffic Volume data set: westbound I-94, hourly, 2012 to 2018.

UCI Machine Learning Repository 492, doi:10.24432/C5X60B (MnDOT station ATR 301; weather of OpenWeatherMap), CC BY 4.0.

Facts of the file that the reader lives with:

- An hour has a row for each weather text, up to six. Each row is read, so the repeats of the volume are quarantined as
  repeated rows; of differing weather in one hour the first row counts.
- Stamps are on the local clock. The hour that comes twice in autumn is there once, and is taken as the first pass
  (daylight time). A stamp in the hour that is skipped in spring would be rejected; the file has none.
- The file does not say which end of its hour a stamp marks, nor when a row became known: stamps are taken as the end of
  the hour, and rows as known then.
- Temperatures of 0 K (ten) and a rain of 9,831 mm/h (one) are errors, which the bounds send to quarantine.
- 307 days are missing from August 2014 to June 2015, see `RELIABLE_FROM`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from features.domains.traffic import TRAFFIC
from features.sources.mapping import ColumnMap, TabularMapping
from features.sources.parsed import Parsed
from features.sources.published import PublishedFiles
from features.sources.tabular import read_tabular

FILE_PATTERN = "Metro_Interstate_Traffic_Volume.csv*"
# Before this moment hours are missing by the month: training starts here.
RELIABLE_FROM = pd.Timestamp("2015-07-01", tz="US/Central")

_FILES = PublishedFiles(title="Metro Interstate", pattern=FILE_PATTERN, origin="UCI data set 492, doi:10.24432/C5X60B")
_MAPPING = TabularMapping(
    timestamp="date_time",
    tz="US/Central",
    repeated_hour="first",
    site="I-94-ATR-301",
    quantities=(
        ColumnMap(quantity="volume", column="traffic_volume", unit="veh/h"),
        ColumnMap(quantity="temperature", column="temp", unit="K"),
        ColumnMap(quantity="rainfall", column="rain_1h", unit="mm/h"),
        ColumnMap(quantity="snowfall", column="snow_1h", unit="mm/h"),
        ColumnMap(quantity="cloud_cover", column="clouds_all", unit="percent"),
    ),
    source="sensor:mndot-atr-301",
    # The publisher says no more than "roughly midway between Minneapolis and St Paul": approximate, and no lanes.
    latitude=44.96,
    longitude=-93.19,
    country="US",
    subdivision="MN",
)


def read_metro_interstate(path: Path) -> Parsed:
    """All rows of the published file, as readings of the site I-94-ATR-301.

    Args:
        path: The file (plain or gzip), its folder, or a folder above it.

    Returns:
        Volume [veh/h], temperature [degC], rainfall and snowfall [mm/h], cloud cover [percent]; bad values included.

    Raises:
        DataError: The file is not there, empty, cut off, damaged, or lacks a column.
    """
    return read_tabular(_FILES.find(path)[:1], _MAPPING, TRAFFIC)
