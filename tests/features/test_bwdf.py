"""The reader of the Battle of Water Demand Forecasting, on small workbooks with each of their traps."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest

from features.domains.water import WATER
from features.errors import DataError
from features.quality import check_readings
from features.sources import find_published
from features.sources.bwdf import read_bwdf

STAMP = "Date-time CET-CEST (DD/MM/YYYY HH:mm)"
AREAS = [f"DMA {number} (L/s)" for number in range(1, 11)]
WEATHER = ["Rainfall depth (mm)", "Air temperature (°C)", "Air humidity (%)", "Windspeed (km/h)"]


def save(path: Path, *rows: list[Any], sheets: int = 1) -> Path:
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.worksheets[0].append(row)
    for _ in range(sheets - 1):
        workbook.create_sheet()
    workbook.save(path)
    workbook.close()
    return path


def write(folder: Path, *stamps: str, first: tuple[Any, ...] = (), humidity: Any = 79) -> Path:
    """Both workbooks; area 1 has the values of `first`, area n has n."""
    inflows = [[stamp, *range(1, 11)] for stamp in stamps]
    for row, value in zip(inflows, first, strict=False):
        row[1] = value
    save(folder / "WeatherData.xlsx", [STAMP, *WEATHER], *([stamp, 0.2, 7.5, humidity, 36] for stamp in stamps))
    return save(folder / "InflowData.xlsx", [STAMP, *AREAS], *inflows)


def of(readings: pd.DataFrame, site: str, quantity: str) -> list[tuple[str, float]]:
    chosen = readings[(readings["site"] == site) & (readings["quantity"] == quantity)].sort_values("valid_at")
    return list(zip(chosen["valid_at"].dt.strftime("%m-%d %H:%M"), chosen["value"].round(6), strict=True))


def test_a_stamp_begins_its_hour_on_the_local_clock(tmp_path: Path) -> None:
    parsed = read_bwdf(write(tmp_path, "01/02/2021 23:00", "24/07/2022 23:00"))
    assert of(parsed.readings, "DMA 1", "inflow") == [("02-01 23:00", 1.0), ("07-24 22:00", 1.0)]
    assert of(parsed.readings, "DMA 10", "inflow") == [("02-01 23:00", 10.0), ("07-24 22:00", 10.0)]
    local = parsed.readings["valid_at"].dt.tz_convert("Europe/Rome")
    assert set(local.dt.strftime("%d/%m/%Y %H:%M")) == {"02/02/2021 00:00", "25/07/2022 00:00"}


def test_every_area_gets_the_common_weather_in_canonical_units(tmp_path: Path) -> None:
    parsed = read_bwdf(write(tmp_path, "01/02/2021 00:00"))
    assert [site.name for site in parsed.sites] == [f"DMA {number}" for number in range(1, 11)]
    assert {(site.timezone, site.country) for site in parsed.sites} == {("Europe/Rome", "IT")}
    assert len(parsed.readings) == 10 * 5
    for site in ("DMA 1", "DMA 7"):
        assert of(parsed.readings, site, "rainfall") == [("02-01 00:00", 0.2)]
        assert of(parsed.readings, site, "temperature") == [("02-01 00:00", 7.5)]
        assert of(parsed.readings, site, "humidity") == [("02-01 00:00", 79.0)]
        assert of(parsed.readings, site, "wind_speed") == [("02-01 00:00", 10.0)]
    assert check_readings(parsed.readings, WATER).reasons() == {}


def test_the_hour_that_comes_twice_is_told_by_position(tmp_path: Path) -> None:
    stamps = ["31/10/2021 01:00", "31/10/2021 02:00", "31/10/2021 02:00", "31/10/2021 03:00"]
    parsed = read_bwdf(write(tmp_path, *stamps, first=(5, 6, 7, 8)))
    expected = [("10-31 00:00", 5.0), ("10-31 01:00", 6.0), ("10-31 02:00", 7.0), ("10-31 03:00", 8.0)]
    assert of(parsed.readings, "DMA 1", "inflow") == expected
    assert [moment for moment, _ in of(parsed.readings, "DMA 3", "temperature")] == [moment for moment, _ in expected]
    assert any("first and second pass" in note for note in parsed.notes)


def test_the_hour_that_is_skipped_leaves_no_gap(tmp_path: Path) -> None:
    parsed = read_bwdf(write(tmp_path, "28/03/2021 01:00", "28/03/2021 03:00"))
    assert of(parsed.readings, "DMA 1", "inflow") == [("03-28 01:00", 1.0), ("03-28 02:00", 1.0)]
    assert len(parsed.rejected) == 0


def test_empty_cells_are_counted_and_bad_ones_kept_apart(tmp_path: Path) -> None:
    stamps = ["01/02/2021 00:00", "01/02/2021 01:00", "01/02/2021 02:00", "01/02/2021 03:00"]
    parsed = read_bwdf(write(tmp_path, *stamps, first=("NaN", None, "much", -5), humidity="NaN"))
    assert parsed.missing["inflow"] == 2
    assert parsed.missing["humidity"] == 4 * 10
    assert parsed.rejected[["site", "reason", "raw"]].to_numpy().tolist() == [["DMA 1", "not a number", "much"]]
    assert check_readings(parsed.readings, WATER).reasons() == {"outside 0 to 100000 L/s (inflow)": 1}


@pytest.mark.parametrize("depth", ["file", "folder", "above"])
def test_the_workbooks_are_found(tmp_path: Path, depth: str) -> None:
    folder = tmp_path / "water" / "bwdf"
    folder.mkdir(parents=True)
    path = write(folder, "01/02/2021 00:00")
    save(folder / "BWDFCompetitorsSolutions.xlsx", ["Evaluation week"], sheets=2)
    where = {"file": path, "folder": folder, "above": tmp_path}[depth]
    assert find_published(WATER, where).read(where).rows == 2


def test_what_lacks_or_is_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"InflowData\.xlsx"):
        read_bwdf(tmp_path)
    path = write(tmp_path, "01/02/2021 00:00")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_bwdf(path)
    save(path, [STAMP, *AREAS[:9]], ["01/02/2021 00:00", *range(9)])
    with pytest.raises(DataError, match=r"no column 'DMA 10 \(L/s\)'"):
        read_bwdf(path)
    save(path, [STAMP, *AREAS])
    with pytest.raises(DataError, match="no rows"):
        read_bwdf(path)
    save(path, [STAMP, *AREAS], ["01/02/2021 00:00", *range(10)], sheets=2)
    with pytest.raises(DataError, match="several sheets"):
        read_bwdf(path)
    path.write_bytes(whole)
    (tmp_path / "WeatherData.xlsx").unlink()
    with pytest.raises(DataError, match=r"WeatherData\.xlsx"):
        read_bwdf(path)


def test_a_workbook_with_a_broken_sheet_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, "01/02/2021 00:00")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content[:-60] if name.endswith("sheet1.xml") else content)
    with pytest.raises(DataError, match="damaged"):
        read_bwdf(path)


@pytest.mark.skipif("TOWNCAST_DATA" not in os.environ, reason="TOWNCAST_DATA does not name the folder of real data")
def test_the_published_workbooks_are_read_as_their_page_describes() -> None:
    parsed = read_bwdf(Path(os.environ["TOWNCAST_DATA"]))
    assert parsed.rows == 2 * 19_679
    assert len(parsed.readings) + sum(parsed.missing.values()) == 10 * 5 * 19_679
    inflow = parsed.readings[parsed.readings["quantity"] == "inflow"]
    missing = 1 - inflow.groupby("site").size() / 19_679
    assert (round(missing.min(), 3), round(missing.max(), 3)) == (0.005, 0.097)
    checked = check_readings(parsed.readings, WATER)
    assert checked.reasons() == {}
    # Not an hour twice and none left out: the clocks' changes are resolved.
    hours = parsed.readings.loc[parsed.readings["quantity"] == "rainfall"].query("site == 'DMA 1'")["valid_at"]
    assert (np.diff(hours.sort_values().to_numpy()) == np.timedelta64(1, "h")).all()
