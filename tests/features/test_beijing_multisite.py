"""The reader of the Beijing Multi-Site files, on small files with each of their traps."""

import os
from pathlib import Path

import numpy as np
import pytest

from features.domains.pollution import POLLUTION
from features.errors import DataError
from features.quality import check_readings
from features.sources import find_published
from features.sources.beijing_multisite import read_beijing_multisite
from features.sources.parsed import Parsed

HEADER = (
    '"No","year","month","day","hour","PM2.5","PM10","SO2","NO2","CO","O3",'
    '"TEMP","PRES","DEWP","RAIN","wd","WSPM","station"'
)


def line(
    day: int,
    hour: int,
    *,
    pm: str = "10",
    co: str = "300",
    wind: str = '"N"',
    station: str = "Dongsi",
    year: int = 2016,
) -> str:
    return f'1,{year},3,{day},{hour},{pm},20,5,40,{co},60,-1.5,1020.5,-10,0.5,{wind},2.5,"{station}"'


def write(folder: Path, *lines: str, station: str = "Dongsi") -> Path:
    path = folder / f"PRSA_Data_{station}_20130301-20170228.csv"
    path.write_bytes("".join(f"{text}\r\n" for text in [HEADER, *lines]).encode())
    return path


def values(parsed: Parsed, quantity: str) -> list[float]:
    chosen = parsed.readings[parsed.readings["quantity"] == quantity]
    return [round(value, 6) for value in chosen["value"]]


def test_stamps_in_four_columns_become_utc(tmp_path: Path) -> None:
    parsed = read_beijing_multisite(write(tmp_path, line(1, 0), line(10, 23)))
    moments = parsed.readings.loc[parsed.readings["quantity"] == "pm2_5", "valid_at"]
    assert [str(moment) for moment in moments] == ["2016-02-29 16:00:00+00:00", "2016-03-10 15:00:00+00:00"]
    assert len(parsed.readings) == 2 * 12
    assert parsed.readings["valid_at"].equals(parsed.readings["available_at"])
    assert values(parsed, "temperature") == [-1.5, -1.5]
    assert values(parsed, "rainfall") == [0.5, 0.5]


def test_points_of_the_compass_become_degrees(tmp_path: Path) -> None:
    winds = ['"N"', '"NNE"', '"E"', '"WSW"', '"NNW"', "NA", '"calm"']
    parsed = read_beijing_multisite(write(tmp_path, *(line(1, hour, wind=wind) for hour, wind in enumerate(winds))))
    assert values(parsed, "wind_direction") == [0.0, 22.5, 90.0, 247.5, 337.5]
    assert parsed.missing["wind_direction"] == 1
    assert parsed.rejected[["reason", "raw"]].to_numpy().tolist() == [["not a number", "calm"]]


def test_missing_cells_are_counted_and_bad_ones_quarantined(tmp_path: Path) -> None:
    parsed = read_beijing_multisite(write(tmp_path, line(1, 0, pm="NA"), line(1, 1, pm="-3"), line(1, 2, co="99999")))
    assert parsed.missing["pm2_5"] == 1
    reasons = check_readings(parsed.readings, POLLUTION).reasons()
    assert reasons == {"outside 0 to 2000 ug/m3 (pm2_5)": 1, "outside 0 to 50000 ug/m3 (co)": 1}


def test_a_station_is_a_site_with_its_nearest_neighbours(tmp_path: Path) -> None:
    for station in ("Dongsi", "Huairou", "Guanyuan", "Changping", "Newtown"):
        write(tmp_path, line(1, 0, station=station), station=station)
    sites = {site.name: site for site in find_published(POLLUTION, tmp_path).read(tmp_path).sites}
    assert sites["Dongsi"].neighbours == ("Guanyuan", "Changping", "Huairou")
    assert sites["Huairou"].neighbours == ("Changping", "Dongsi", "Guanyuan")
    assert (sites["Dongsi"].timezone, sites["Dongsi"].country) == ("Asia/Shanghai", "CN")
    assert np.isnan(sites["Newtown"].latitude)
    assert sites["Newtown"].neighbours == ()


def test_one_file_stands_for_itself(tmp_path: Path) -> None:
    write(tmp_path, line(1, 0, station="Huairou"), station="Huairou")
    parsed = read_beijing_multisite(write(tmp_path, line(1, 0)))
    assert [site.name for site in parsed.sites] == ["Dongsi"]


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "empty"),
        (f"{HEADER}\r\n".encode(), "no rows"),
        (f"{HEADER}\r\n{line(1, 0)}\r\n{line(1, 1)[:30]}\r\n".encode(), "cut off"),
        (f"{HEADER}\r\n{line(1, 0)}".encode(), "cut off in its last line"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\n", "damaged"),
        (HEADER.replace("PM2.5", "PM25").encode() + b"\r\n" + line(1, 0).encode() + b"\r\n", "no column 'PM2.5'"),
    ],
)
def test_a_file_that_is_none_of_them_says_so(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "PRSA_Data_Dongsi_20130301-20170228.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=fact) as raised:
        read_beijing_multisite(path)
    assert raised.value.remedy


def test_a_folder_without_them_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="PRSA_Data"):
        read_beijing_multisite(tmp_path)


@pytest.mark.skipif("TOWNCAST_DATA" not in os.environ, reason="TOWNCAST_DATA does not name the folder of real data")
def test_the_published_files_are_read_as_their_page_describes() -> None:
    parsed = read_beijing_multisite(Path(os.environ["TOWNCAST_DATA"]))
    stations = len(parsed.sites)
    assert parsed.rows == stations * 35_064
    cells = len(parsed.readings) + len(parsed.rejected) + sum(parsed.missing.values())
    assert cells == 12 * parsed.rows
    pm = parsed.readings[parsed.readings["quantity"] == "pm2_5"].groupby("site").size()
    assert (1 - pm / 35_064).between(0.010, 0.028).all()
    assert check_readings(parsed.readings, POLLUTION).reasons() == {}
    assert all(len(site.neighbours) == stations - 1 for site in parsed.sites)
