"""Users' files of other shapes: a column per site, a stamp in parts, scaled numbers, workbooks."""

import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from features.domains.pollution import POLLUTION
from features.domains.water import WATER
from features.errors import DataError, InvalidParameterError
from features.sources.parsed import join_parsed
from features.sources.tabular import ColumnMap, TabularMapping, make_mapping, parse_map, read_tabular


def write(folder: Path, text: str, name: str = "areas.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def wide_mapping(*maps: str) -> TabularMapping:
    texts = maps or ("inflow@North=north:m3/h", "inflow@South=south:L/s", "temperature=t2m:C")
    return make_mapping(
        WATER, timestamp="t", tz="Europe/Rome", quantities=tuple(parse_map(text, WATER) for text in texts)
    )


def told(frame: pd.DataFrame) -> list[tuple[str, str, float]]:
    return list(zip(frame["site"], frame["quantity"], frame["value"].round(6), strict=True))


def test_a_column_per_site_and_columns_for_all(tmp_path: Path) -> None:
    path = write(tmp_path, "t,north,south,t2m\n2021-01-01 00:00,36,2,7\n2021-01-01 01:00,,x,\n")
    parsed = read_tabular([path], wide_mapping(), WATER)
    assert told(parsed.readings) == [
        ("North", "inflow", 10.0),
        ("South", "inflow", 2.0),
        ("North", "temperature", 7.0),
        ("South", "temperature", 7.0),
    ]
    assert told(parsed.rejected.fillna(0.0)) == [("South", "inflow", 0.0)]
    assert parsed.missing == {"inflow": 1, "temperature": 2}
    assert [site.name for site in parsed.sites] == ["North", "South"]


def test_a_mapping_file_maps_columns_by_site(tmp_path: Path) -> None:
    toml = 'timestamp = ["day", "hour"]\ntz = "Europe/Rome"\n[quantities]\ntemperature = "t2m:C"\n'
    toml += '[quantities.inflow]\nNorth = "north:m3/h"\n"South side" = "south"\n'
    mapping = make_mapping(WATER, file=write(tmp_path, toml, "areas.toml"))
    assert mapping.column_sites == ("North", "South side")
    path = write(tmp_path, "day,hour,north,south,t2m\n2021-01-01,13:00,36,2,7\n")
    parsed = read_tabular([path], mapping, WATER)
    assert len(parsed.readings) == 4
    assert {str(moment) for moment in parsed.readings["valid_at"]} == {"2021-01-01 12:00:00+00:00"}


@pytest.mark.parametrize(
    ("maps", "changes", "fact"),
    [
        (("inflow@A=a", "inflow=b"), {}, "both a column for every site"),
        (("inflow@A=a", "inflow@A=b"), {}, "mapped twice"),
        (("inflow@A=a",), {"site": "A"}, "two ways"),
        (("inflow=a",), {"site": "A", "stamp_begins": "long"}, "no duration"),
        (("inflow=a",), {"site": "A", "repeated_hour": "last"}, "none of its choices"),
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(
    maps: tuple[str, ...], changes: dict[str, Any], fact: str
) -> None:
    quantities = tuple(parse_map(text, WATER) for text in maps)
    with pytest.raises(InvalidParameterError, match=fact):
        make_mapping(WATER, timestamp="t", quantities=quantities, **changes)


def test_a_stamp_that_begins_its_hour_is_true_an_hour_later(tmp_path: Path) -> None:
    mapping = make_mapping(
        WATER,
        timestamp="t",
        tz="Europe/Rome",
        site="A",
        stamp_begins="1h",
        available_after="10min",
        quantities=(parse_map("inflow=q", WATER),),
    )
    parsed = read_tabular([write(tmp_path, "t,q\n2021-03-28 01:00,5\n")], mapping, WATER)
    row = parsed.readings.iloc[0]
    assert (str(row["valid_at"]), row["available_at"] - row["valid_at"]) == (
        "2021-03-28 01:00:00+00:00",
        pd.Timedelta("10min"),
    )


def test_the_hour_that_comes_twice_can_be_refused(tmp_path: Path) -> None:
    mapping = make_mapping(
        WATER,
        timestamp="t",
        tz="Europe/Rome",
        site="A",
        repeated_hour="reject",
        quantities=(parse_map("inflow=q", WATER),),
    )
    text = "t,q\n2021-10-31 01:00,1\n2021-10-31 02:30,2\n2021-10-31 03:00,3\n2021-03-28 02:30,4\n"
    parsed = read_tabular([write(tmp_path, text)], mapping, WATER)
    assert parsed.readings["value"].tolist() == [1.0, 3.0]
    assert parsed.rejected["reason"].tolist() == ["local time that comes twice", "local time that the clocks skip"]
    assert "none of them was read" in parsed.notes[0]


def test_scaled_numbers_and_points_of_the_compass(tmp_path: Path) -> None:
    mapping = TabularMapping(
        timestamp="t",
        site="A",
        quantities=(
            ColumnMap(quantity="temperature", column="c", unit="K", scale=0.1, offset=200.0),
            ColumnMap(quantity="wind_direction", column="w", unit="compass"),
        ),
    )
    path = write(tmp_path, "t,c,w\n2021-01-01T00:00Z,731.5,nnw\n2021-01-01T01:00Z,,90\n2021-01-01T02:00Z,x,NNNW\n")
    parsed = read_tabular([path], mapping, POLLUTION)
    assert told(parsed.readings) == [
        ("A", "temperature", 0.0),
        ("A", "wind_direction", 337.5),
        ("A", "wind_direction", 90.0),
    ]
    assert parsed.rejected["raw"].tolist() == ["x", "NNNW"]


def test_a_workbook_reads_like_a_csv(tmp_path: Path) -> None:
    workbook = openpyxl.Workbook()
    sheet = workbook.worksheets[0]
    sheet.append(["t", "north ", "south", "t2m", "notes"])
    sheet.append([datetime.datetime(2021, 1, 1), 36, "NaN", 7.5, "first"])
    sheet.append(["2021-01-01 01:00", "18", 2, None, None])
    sheet.append([None, None, None, None, None])
    sheet.append([None, None, None, None, "signed"])
    workbook.save(tmp_path / "areas.xlsx")
    workbook.close()
    parsed = read_tabular([tmp_path / "areas.xlsx"], wide_mapping(), WATER)
    assert parsed.rows == 2
    assert told(parsed.readings)[:3] == [("North", "inflow", 10.0), ("North", "inflow", 5.0), ("South", "inflow", 2.0)]
    assert {f"{moment:%d %H}" for moment in parsed.readings["valid_at"]} == {"31 23", "01 00"}
    with pytest.raises(DataError, match="no column 'east'"):
        read_tabular([tmp_path / "areas.xlsx"], wide_mapping("inflow@East=east"), WATER)


def test_several_files_join(tmp_path: Path) -> None:
    path = write(tmp_path, "t,north,south,t2m\n2021-01-01 00:00,36,,7\n")
    parsed = [read_tabular([path], wide_mapping(*maps), WATER) for maps in (("inflow@North=north",), ())]
    joined = join_parsed(parsed)
    assert joined.rows == 2
    assert len(joined.readings) == 1 + 3
    assert joined.missing == {"inflow": 1, "temperature": 0}
    assert [site.name for site in joined.sites] == ["North", "South"]
    assert len(joined.notes) == 1
