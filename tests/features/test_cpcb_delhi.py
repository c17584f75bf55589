"""The reader of Delhi's daily means, on small files with each of its traps."""

import gzip
import os
from pathlib import Path

import pytest

from features.domains import DOMAINS
from features.domains.pollution import POLLUTION
from features.errors import DataError
from features.quality import check_readings
from features.sources import PUBLISHED
from features.sources.cpcb_delhi import DELHI_DAILY, read_cpcb_delhi

HEADER = "timestamp,PM2.5,PM10,NO,NO2,NOx,NH3,CO,SO2,O3,AQI"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "series_daily_Delhi.csv.gz"
    path.write_bytes(gzip.compress("".join(f"{text}\n" for text in [HEADER, *lines]).encode(), mtime=0))
    return path


def test_a_mean_is_true_at_the_end_of_its_local_day(tmp_path: Path) -> None:
    parsed = read_cpcb_delhi(write(tmp_path, "2015-01-01,313.2,607.9,69.1,36.3,110.5,33.8,15.2,9.2,41.6,472.0"))
    assert {str(moment) for moment in parsed.readings["valid_at"]} == {"2015-01-01 18:30:00+00:00"}
    values = parsed.readings.set_index("quantity")["value"].to_dict()
    assert values["co"] == pytest.approx(15_200.0)
    assert values["pm2_5"] == pytest.approx(313.2)
    assert values["air_quality_index"] == 472.0
    assert set(values) == {quantity.name for quantity in DELHI_DAILY.quantities}
    assert [(site.name, site.timezone, site.country) for site in parsed.sites] == [("Delhi", "Asia/Kolkata", "IN")]


def test_missing_cells_are_counted_and_bad_ones_quarantined(tmp_path: Path) -> None:
    rows = ["2015-01-01,,-1,1,1,1,1,1,1,1,10", "2015-01-02,1,1,1,1,1,many,1,1,1,", "2015-01-01,1,1,1,1,1,1,1,1,1,1"]
    parsed = read_cpcb_delhi(write(tmp_path, *rows))
    assert {name: count for name, count in parsed.missing.items() if count} == {"pm2_5": 1, "air_quality_index": 1}
    assert parsed.rejected["raw"].tolist() == ["many"]
    reasons = check_readings(parsed.readings, DELHI_DAILY).reasons()
    assert reasons["outside 0 to 5000 ug/m3 (pm10)"] == 1
    assert reasons["repeated row"] == 5


def test_daily_means_do_not_train_hourly_forecasts() -> None:
    assert DELHI_DAILY.step_s != POLLUTION.step_s
    assert DELHI_DAILY.name not in DOMAINS
    assert not any("Delhi" in entry.pattern for entry in PUBLISHED.values())


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "empty"),
        (gzip.compress(f"{HEADER}\n".encode(), mtime=0), "no rows"),
        (gzip.compress(f"{HEADER}\n2015-01-01,1,2\n".encode(), mtime=0), "cut off"),
        (gzip.compress(b"timestamp,PM2.5\n2015-01-01,1\n", mtime=0), "no column 'PM10'"),
        (gzip.compress(f"{HEADER}\n".encode() + b"2015-01-01,1,1,1,1,1,1,1,1,1,1\n" * 5_000, mtime=0)[:60], "cut off"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, content: bytes, fact: str) -> None:
    path = tmp_path / "series_daily_Delhi.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=fact) as raised:
        read_cpcb_delhi(path)
    assert raised.value.remedy


def test_a_folder_without_it_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="series_daily_Delhi"):
        read_cpcb_delhi(tmp_path)


@pytest.mark.skipif("TOWNCAST_DATA" not in os.environ, reason="TOWNCAST_DATA does not name the folder of real data")
def test_the_file_is_read_as_described() -> None:
    parsed = read_cpcb_delhi(Path(os.environ["TOWNCAST_DATA"]))
    assert parsed.rows == 2_009
    assert len(parsed.readings) + sum(parsed.missing.values()) == 8 * 2_009
    assert check_readings(parsed.readings, DELHI_DAILY).reasons() == {}
    index = parsed.readings.loc[parsed.readings["quantity"] == "air_quality_index", "value"]
    assert (index > 500).sum() == 48
