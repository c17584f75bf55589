"""Reader of the Bike Sharing data set: all trips of Capital Bikeshare in Washington DC, hourly, 2011 and 2012.

UCI Machine Learning Repository 275, doi:10.24432/C5W894, CC BY 4.0 (Fanaee-T and Gama 2014,
doi:10.1007/s13748-013-0040-3; weather of freemeteo.com): `hour.csv`.

Facts of the file that the reader lives with:

- A row counts the trips begun in the hour 0 to 23 of a day on the local clock: it is true at the end of that hour.
- Hours without a trip have no row. Such an hour between the first row and the last becomes a reading of 0 trips; its
  weather stays unknown. Days on which the system stood still (29 October 2012, a hurricane) are such hours too.
- The hour that is skipped in spring has no row. The hour that comes twice in autumn has one row with the trips of both
  passes (2.2 and 2.4 times its neighbours' mean; other Sundays 0.6 to 1.3), which are two hours in one number: it is
  rejected, and the two hours stay unknown.
- Copies end with or without a line break, so a file that is cut in its last number is told by its sums: `cnt` is
  `casual` + `registered` in each row.
- Dates are ISO 8601 in the original; copies saved by a spreadsheet have 31/12/12 or 12/31/12. The column `mnth` tells.
- Weather is normalised; UCI's page gives the way back: t = 47 temp - 8 [degC], 100 hum [percent], 67 windspeed, whose
  unit it does not name. Its steps are those of whole miles per hour written in km/h.
- A humidity of 0 % on 10 March 2011 (22 rows) is no measurement: those cells are rejected.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from features.domains.demand import DEMAND
from features.errors import DataError
from features.readings import join_readings, make_readings
from features.sources.mapping import ColumnMap, TabularMapping
from features.sources.parsed import Parsed, join_rejected
from features.sources.published import PublishedFiles
from features.sources.stamps import SKIPPED, TWICE
from features.sources.table_files import read_table
from features.sources.tabular import NOT_A_NUMBER, read_tabular

FILE_PATTERN = "hour.csv*"
NO_HUMIDITY = "humidity of 0 percent, no measurement"

_DATE_FORMATS = ("%Y-%m-%d", "%d/%m/%y", "%m/%d/%y")
_FILES = PublishedFiles(
    title="Bike Sharing", pattern=FILE_PATTERN, origin="UCI data set 275, doi:10.24432/C5W894", ends_line=False
)
_MAPPING = TabularMapping(
    timestamp=("dteday", "hr"),
    stamp_begins="1h",
    tz="US/Eastern",
    repeated_hour="reject",
    site="capital-bikeshare",
    quantities=(
        ColumnMap(quantity="trips", column="cnt", unit="trip/h"),
        ColumnMap(quantity="temperature", column="temp", unit="C", scale=47.0, offset=-8.0),
        ColumnMap(quantity="humidity", column="hum", unit="percent", scale=100.0),
        ColumnMap(quantity="wind_speed", column="windspeed", unit="km/h", scale=67.0),
        ColumnMap(quantity="weather_severity", column="weathersit", unit="dimensionless"),
    ),
    source="sensor:capital-bikeshare",
    # The middle of the city: the counts are of all stations together.
    latitude=38.9,
    longitude=-77.04,
    country="US",
    subdivision="DC",
)


def read_bikeshare_dc(path: Path) -> Parsed:
    """All rows of the published file, and the hours without a trip, as readings of the site capital-bikeshare.

    Args:
        path: The file (plain or gzip), its folder, or a folder above it.

    Returns:
        Trips [trip/h], temperature [degC], humidity [percent], wind speed [m/s], weather severity [1 to 4]; bad values
        included.

    Raises:
        DataError: The file is not there, empty, cut off, damaged, or lacks a column.
    """
    file = _FILES.find(path)[0]
    table = read_table(file, ["dteday", "mnth", "casual", "registered", "cnt"])
    _check_sums(file, table)
    mapping = dataclasses.replace(_MAPPING, timestamp_format=f"{_date_format(file, table)} %H")
    return _with_empty_hours(_without_no_humidity(read_tabular([file], mapping, DEMAND)))


def _check_sums(file: Path, table: pd.DataFrame) -> None:
    numbers = table[["casual", "registered", "cnt"]].apply(pd.to_numeric, errors="coerce")
    wrong = (numbers["casual"] + numbers["registered"] - numbers["cnt"]).abs() > 0
    if wrong.any():
        row = table[wrong].iloc[0]
        raise DataError(
            "The Bike Sharing file is damaged or cut off: trips are not those of casual and registered users",
            found=f"{file}: {row['casual']} + {row['registered']} against {row['cnt']} on {row['dteday']}",
            remedy="Fetch it again from UCI (data set 275).",
        )


def _date_format(file: Path, table: pd.DataFrame) -> str:
    """The way in which the dates are written: the one that agrees with the column of months."""
    months = pd.to_numeric(table["mnth"], errors="coerce")
    agreeing = {
        form: int((pd.to_datetime(table["dteday"], format=form, errors="coerce").dt.month == months).sum())
        for form in _DATE_FORMATS
    }
    best = max(agreeing, key=lambda form: agreeing[form])
    if not agreeing[best]:
        raise DataError(
            "The dates of the Bike Sharing file do not agree with its months",
            found=f"{file}: {table['dteday'].iloc[0]!r} in month {table['mnth'].iloc[0]!r}",
            remedy="Fetch it again from UCI (data set 275), where dates are written 2011-01-01.",
        )
    return best


def _without_no_humidity(parsed: Parsed) -> Parsed:
    readings = parsed.readings
    bad = (readings["quantity"] == "humidity") & (readings["value"] == 0.0)
    rejected = readings[bad].assign(reason=NO_HUMIDITY, raw="0")
    return dataclasses.replace(
        parsed,
        readings=readings[~bad].reset_index(drop=True),
        rejected=join_rejected([parsed.rejected, rejected]),
    )


def _with_empty_hours(parsed: Parsed) -> Parsed:
    """`parsed`, with 0 trips for each hour between its first and last row that has no row."""
    if parsed.readings.empty:
        return parsed
    lost = ~parsed.rejected["reason"].isin([SKIPPED, TWICE, NOT_A_NUMBER, NO_HUMIDITY])
    if lost.any():
        note = "Some stamps cannot be read, so hours without a row stay missing: they may be those hours."
        return dataclasses.replace(parsed, notes=(*parsed.notes, note))
    known = pd.concat([parsed.readings["valid_at"], parsed.rejected["valid_at"]]).dropna()
    hours = pd.date_range(known.min(), known.max(), freq="h")
    clock = (hours - _MAPPING.interval).tz_convert(_MAPPING.tz).tz_localize(None)
    empty = hours[~clock.duplicated(keep=False)].difference(pd.DatetimeIndex(known.unique()))
    zeros = make_readings(
        site=_MAPPING.site, quantity="trips", valid_at=empty, value=[0.0] * len(empty), source=_MAPPING.source
    )
    note = f"{len(empty)} hours have no row: they were read as hours without a trip."
    readings = join_readings([parsed.readings, zeros])
    return dataclasses.replace(parsed, readings=readings, notes=(*parsed.notes, note))
