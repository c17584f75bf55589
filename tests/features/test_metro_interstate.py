"""The reader of the Metro Interstate file, on small files with each of its traps."""

import gzip
from pathlib import Path

import pandas as pd
import pytest

from features.domains.traffic import TRAFFIC
from features.errors import DataError
from features.quality import check_readings
from features.sources import find_published
from features.sources.metro_interstate import RELIABLE_FROM, read_metro_interstate
from features.sources.parsed import Parsed

NAME = "Metro_Interstate_Traffic_Volume.csv"
HEADER = "holiday,temp,rain_1h,snow_1h,clouds_all,weather_main,weather_description,date_time,traffic_volume"
REAL = Path(__file__).parents[3] / "shared" / "data" / "traffic" / "metro_interstate" / NAME


def line(stamp: str, *, volume: str = "100", temp: str = "280.15", rain: str = "0.0") -> str:
    return f"None,{temp},{rain},0.0,40,Clouds,scattered clouds,{stamp},{volume}"


def write(folder: Path, *lines: str) -> Path:
    path = folder / NAME
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def values(parsed: Parsed, quantity: str) -> list[float]:
    chosen = parsed.readings[parsed.readings["quantity"] == quantity]
    return [round(value, 6) for value in chosen["value"]]


def test_stamps_become_utc_and_kelvin_becomes_celsius(tmp_path: Path) -> None:
    parsed = read_metro_interstate(write(tmp_path, line("2016-01-04 08:00:00"), line("2016-07-04 08:00:00")))
    volume = parsed.readings[parsed.readings["quantity"] == "volume"]
    assert [str(moment) for moment in volume["valid_at"]] == ["2016-01-04 14:00:00+00:00", "2016-07-04 13:00:00+00:00"]
    assert (volume["valid_at"] == volume["available_at"]).all()
    assert values(parsed, "temperature") == [7.0, 7.0]
    assert set(parsed.readings["source"]) == {"sensor:mndot-atr-301"}
    assert [site.name for site in parsed.sites] == ["I-94-ATR-301"]


def test_repeated_hours_are_read_whole_and_quarantined(tmp_path: Path) -> None:
    hour = "2016-01-04 08:00:00"
    parsed = read_metro_interstate(write(tmp_path, line(hour), line(hour), line(hour, temp="281.15")))
    checked = check_readings(parsed.readings, TRAFFIC)
    assert len(parsed.readings) == 15
    assert len(checked.accepted) == 5
    assert checked.reasons() == {"repeated row": 9, "second value for the same moment": 1}
    assert values(parsed, "temperature")[0] == 7.0


def test_impossible_weather_is_quarantined_by_its_bounds(tmp_path: Path) -> None:
    path = write(tmp_path, line("2016-01-04 08:00:00", temp="0.0"), line("2016-01-04 09:00:00", rain="9831.3"))
    checked = check_readings(read_metro_interstate(path).readings, TRAFFIC)
    assert sorted(checked.quarantined["quantity"]) == ["rainfall", "temperature"]


def test_the_hour_that_comes_twice_is_taken_as_the_first_pass(tmp_path: Path) -> None:
    parsed = read_metro_interstate(write(tmp_path, line("2016-11-06 01:00:00"), line("2016-11-06 01:00:00")))
    moments = parsed.readings.loc[parsed.readings["quantity"] == "volume", "valid_at"]
    assert [str(moment) for moment in moments] == ["2016-11-06 06:00:00+00:00"] * 2
    assert any("twice" in note for note in parsed.notes)


def test_an_hour_that_the_clocks_skip_is_rejected_with_its_text(tmp_path: Path) -> None:
    parsed = read_metro_interstate(write(tmp_path, line("2016-03-13 02:00:00"), line("2016-03-13 03:00:00")))
    assert len(parsed.rejected) == 5
    assert set(parsed.rejected["reason"]) == {"local time that the clocks skip"}
    assert set(parsed.rejected["raw"]) == {"2016-03-13 02:00:00"}


def test_empty_cells_are_counted(tmp_path: Path) -> None:
    parsed = read_metro_interstate(write(tmp_path, line("2016-01-04 08:00:00", volume=""), line("2016-01-04 09:00:00")))
    assert parsed.missing["volume"] == 1
    assert len(parsed.readings) == 9


@pytest.mark.parametrize("depth", ["file", "folder", "above"])
def test_the_file_is_found(tmp_path: Path, depth: str) -> None:
    folder = tmp_path / "traffic" / "metro"
    folder.mkdir(parents=True)
    path = write(folder, line("2016-01-04 08:00:00"))
    where = {"file": path, "folder": folder, "above": tmp_path}[depth]
    assert find_published(TRAFFIC, where).read(where).rows == 1


def test_gzip_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, line("2016-01-04 08:00:00"))
    (tmp_path / f"{NAME}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read_metro_interstate(tmp_path).rows == 1


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "empty"),
        (f"{HEADER}\n".encode(), "no rows"),
        (f"{HEADER}\n{line('2016-01-04 08:00:00')}\n{line('2016-01-04 09:00:00')[:40]}".encode(), "cut off"),
        (f"{HEADER}\n{line('2016-01-04 08:00:00', volume='9')}".encode(), "cut off in its last line"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\n", "damaged"),
        (b"PK\x03\x04....\n", "ZIP archive"),
        (b"<html><body>Not found</body></html>\n", "no column"),
        (b"date_time,temp,rain_1h,snow_1h,clouds_all,volume\n2016-01-04 08:00:00,1,0,0,0,5\n", "'traffic_volume'"),
    ],
)
def test_a_file_that_is_no_metro_file_says_so(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(DataError, match=fact) as raised:
        read_metro_interstate(path)
    assert raised.value.remedy


def test_truncated_gzip_says_so(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *[line(f"2016-01-04 08:00:{i % 60:02}") for i in range(5000)]]).encode())
    path = tmp_path / f"{NAME}.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut off"):
        read_metro_interstate(path)


def test_a_folder_without_it_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=NAME):
        read_metro_interstate(tmp_path)
    with pytest.raises(DataError, match=r"Metro_Interstate.*towncast ingest"):
        find_published(TRAFFIC, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_published(TRAFFIC, tmp_path / "nowhere")


def test_reliable_readings_begin_after_the_gap() -> None:
    assert pd.Timestamp("2015-07-01T05:00:00Z") == RELIABLE_FROM


@pytest.mark.skipif(not REAL.exists(), reason="the published file is not here")
def test_the_published_file_is_read_as_its_page_describes() -> None:
    parsed = read_metro_interstate(REAL)
    checked = check_readings(parsed.readings, TRAFFIC)
    assert parsed.rows == 48_204
    assert len(checked.accepted) + len(checked.quarantined) == 5 * 48_204
    assert (checked.accepted["quantity"] == "volume").sum() == 40_575
    volume = checked.quarantined[checked.quarantined["quantity"] == "volume"]
    assert volume["reason"].value_counts().to_dict() == {"repeated row": 7_629}
    reasons = checked.reasons()
    assert reasons["outside -90 to 60 degC (temperature)"] == 10
    assert reasons["outside 0 to 410 mm/h (rainfall)"] == 1
