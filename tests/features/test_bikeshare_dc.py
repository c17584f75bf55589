"""The reader of the Bike Sharing file, on small files with each of its traps."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains.demand import DEMAND
from features.errors import DataError
from features.quality import check_readings
from features.sources import find_published
from features.sources.bikeshare_dc import read_bikeshare_dc
from features.sources.parsed import Parsed

HEADER = (
    "instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,"
    "temp,atemp,hum,windspeed,casual,registered,cnt"
)


def line(day: str, hour: int, trips: int, *, hum: str = "0.5", form: str = "%Y-%m-%d") -> str:
    date = pd.Timestamp(day)
    return f"1,{date:{form}},1,0,{date.month},{hour},0,6,0,1,0.5,0.5,{hum},0.2985,3,{trips - 3},{trips}"


def write(folder: Path, *lines: str, end: str = "\n") -> Path:
    path = folder / "hour.csv"
    path.write_text("\n".join([HEADER, *lines]) + end)
    return path


def trips(parsed: Parsed) -> list[tuple[str, float]]:
    chosen = parsed.readings[parsed.readings["quantity"] == "trips"].sort_values("valid_at")
    return list(zip(chosen["valid_at"].dt.strftime("%m-%d %H:%M"), chosen["value"], strict=True))


def test_a_row_is_true_at_the_end_of_its_local_hour(tmp_path: Path) -> None:
    assert trips(read_bikeshare_dc(write(tmp_path, line("2011-01-01", 0, 16)))) == [("01-01 06:00", 16.0)]
    assert trips(read_bikeshare_dc(write(tmp_path, line("2011-07-01", 23, 16)))) == [("07-02 04:00", 16.0)]


def test_weather_is_brought_back_to_its_units(tmp_path: Path) -> None:
    parsed = read_bikeshare_dc(write(tmp_path, line("2011-01-01", 0, 16)))
    values = parsed.readings.set_index("quantity")["value"]
    assert values["temperature"] == pytest.approx(15.5)
    assert values["humidity"] == pytest.approx(50.0)
    assert values["wind_speed"] == pytest.approx(20.0 / 3.6, abs=1e-3)
    assert check_readings(parsed.readings, DEMAND).reasons() == {}


def test_hours_without_a_row_have_no_trips(tmp_path: Path) -> None:
    parsed = read_bikeshare_dc(write(tmp_path, line("2011-01-01", 1, 16), line("2011-01-01", 4, 7)))
    expected = [("01-01 07:00", 16.0), ("01-01 08:00", 0.0), ("01-01 09:00", 0.0), ("01-01 10:00", 7.0)]
    assert trips(parsed) == expected
    assert len(parsed.readings) == 2 * 5 + 2
    assert any("2 hours have no row" in note for note in parsed.notes)
    assert set(parsed.readings["source"]) == {"sensor:capital-bikeshare"}
    assert parsed.rows == 2


def test_the_hour_that_is_skipped_is_not_an_hour_without_trips(tmp_path: Path) -> None:
    parsed = read_bikeshare_dc(write(tmp_path, line("2011-03-13", 1, 33), line("2011-03-13", 3, 23)))
    assert trips(parsed) == [("03-13 07:00", 33.0), ("03-13 08:00", 23.0)]


def test_two_hours_in_one_number_stay_unknown(tmp_path: Path) -> None:
    rows = [line("2011-11-06", hour, count) for hour, count in ((0, 75), (1, 115), (2, 29))]
    parsed = read_bikeshare_dc(write(tmp_path, *rows))
    assert trips(parsed) == [("11-06 05:00", 75.0), ("11-06 08:00", 29.0)]
    assert set(parsed.rejected["reason"]) == {"local time that comes twice"}
    assert len(parsed.rejected) == 5


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d/%m/%y", "%m/%d/%y"])
def test_dates_are_read_as_the_months_say(tmp_path: Path, form: str) -> None:
    rows = [line(day, 0, 16, form=form) for day in ("2012-03-04", "2012-03-05")]
    parsed = read_bikeshare_dc(write(tmp_path, *rows))
    assert trips(parsed)[0] == ("03-04 06:00", 16.0)
    assert trips(parsed)[-1] == ("03-05 06:00", 16.0)


def test_a_humidity_of_nothing_is_rejected(tmp_path: Path) -> None:
    parsed = read_bikeshare_dc(write(tmp_path, line("2011-03-10", 0, 16, hum="0"), line("2011-03-10", 1, 16)))
    assert parsed.rejected["reason"].tolist() == ["humidity of 0 percent, no measurement"]
    assert parsed.readings["quantity"].value_counts().to_dict() == {
        "trips": 2,
        "temperature": 2,
        "wind_speed": 2,
        "weather_severity": 2,
        "humidity": 1,
    }


def test_an_unreadable_stamp_is_rejected_and_no_hour_is_made_up(tmp_path: Path) -> None:
    broken = line("2011-01-01", 2, 16).replace("2011-01-01", "someday")
    parsed = read_bikeshare_dc(write(tmp_path, line("2011-01-01", 1, 16), broken, line("2011-01-01", 3, 7)))
    assert trips(parsed) == [("01-01 07:00", 16.0), ("01-01 09:00", 7.0)]
    assert set(parsed.rejected["reason"]) == {"unreadable time stamp"}
    assert any("stay missing" in note for note in parsed.notes)


@pytest.mark.parametrize("depth", ["file", "folder", "gzip"])
def test_the_file_is_found(tmp_path: Path, depth: str) -> None:
    path = write(tmp_path, line("2011-01-01", 0, 16), end="" if depth == "file" else "\n")
    if depth == "gzip":
        (tmp_path / "hour.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    where = path if depth == "file" else tmp_path
    parsed = find_published(DEMAND, where).read(where)
    assert parsed.rows == 1
    (site,) = parsed.sites
    assert (site.name, site.timezone, site.country, site.subdivision) == (
        "capital-bikeshare",
        "US/Eastern",
        "US",
        "DC",
    )


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "empty"),
        (f"{HEADER}\n".encode(), "no rows"),
        (f"{HEADER}\n{line('2011-01-01', 0, 16)}\n{line('2011-01-01', 1, 40)[:30]}".encode(), "cut off"),
        (f"{HEADER}\n{line('2011-01-01', 0, 16)[:-1]}".encode(), "cut off"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\n", "damaged"),
        (f"{HEADER}\n{line('2011-01-01', 0, 16)}\n".replace("windspeed", "wind").encode(), "no column 'windspeed'"),
        (
            f"{HEADER}\n{line('2011-01-01', 0, 16)}\n".replace(",1,0,1,0,", ",1,0,9,0,").encode(),
            "agree with its months",
        ),
    ],
)
def test_a_file_that_is_no_bike_sharing_file_says_so(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "hour.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=fact) as raised:
        read_bikeshare_dc(path)
    assert raised.value.remedy


def test_a_folder_without_it_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hour\.csv"):
        read_bikeshare_dc(tmp_path)


@pytest.mark.skipif("TOWNCAST_DATA" not in os.environ, reason="TOWNCAST_DATA does not name the folder of real data")
def test_the_published_file_is_read_as_its_page_describes() -> None:
    parsed = read_bikeshare_dc(Path(os.environ["TOWNCAST_DATA"]))
    assert parsed.rows == 17_379
    found = parsed.readings[parsed.readings["quantity"] == "trips"].sort_values("valid_at")
    # 17,379 rows, without the 2 of the hour that comes twice, and with 163 hours that have no row.
    assert len(found) == 17_379 - 2 + 163
    assert (found["value"] == 0).sum() == 163
    gaps = np.diff(found["valid_at"].to_numpy()) / np.timedelta64(1, "h")
    assert sorted(set(gaps)) == [1.0, 3.0]
    assert (gaps == 3.0).sum() == 2
    assert parsed.rejected["reason"].value_counts().to_dict() == {
        "humidity of 0 percent, no measurement": 22,
        # Two rows of five quantities.
        "local time that comes twice": 10,
    }
    assert check_readings(parsed.readings, DEMAND).reasons() == {}
