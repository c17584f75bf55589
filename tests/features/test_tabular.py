"""A user's own files."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.domains.pollution import POLLUTION
from features.domains.traffic import TRAFFIC
from features.errors import DataError, InvalidParameterError, TowncastError, UnitError, UnknownNameError
from features.sources.parsed import REJECTED_COLUMNS
from features.sources.tabular import ColumnMap, TabularMapping, make_mapping, mapping_beside, parse_map, read_tabular


def road_mapping(*maps: str, **changes: Any) -> TabularMapping:
    quantities = tuple(parse_map(text, TRAFFIC) for text in maps or ("volume=v:veh/h",))
    return make_mapping(
        TRAFFIC, quantities=quantities, **{"timestamp": "t", "site": "R7", "tz": "US/Central", **changes}
    )


def write(folder: Path, text: str, name: str = "counts.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def moments(frame: pd.DataFrame) -> list[str]:
    return [f"{moment:%m-%d %H:%M}" for moment in frame["valid_at"]]


def test_units_become_canonical_and_clocks_utc(tmp_path: Path) -> None:
    path = write(tmp_path, "t,v,f\n2020-01-01 00:00,2,41\n")
    parsed = read_tabular([path], road_mapping("volume=v:veh/min", "temperature=f:F"), TRAFFIC)
    assert parsed.readings["value"].tolist() == pytest.approx([120.0, 5.0])
    assert moments(parsed.readings) == ["01-01 06:00"] * 2
    assert set(parsed.readings["source"]) == {"sensor:counts"}
    assert parsed.units == {"volume": "veh/min", "temperature": "F"}


def test_an_offset_in_a_stamp_is_honoured_beside_stamps_without(tmp_path: Path) -> None:
    path = write(tmp_path, "t,v\n2020-01-01 00:00,1\n2020-01-01T00:00Z,2\n2020-01-01T00:00:00+05:30,3\n2020-01-02,4\n")
    parsed = read_tabular([path], road_mapping(), TRAFFIC)
    assert moments(parsed.readings) == ["01-01 06:00", "01-01 00:00", "12-31 18:30", "01-02 06:00"]


def test_what_cannot_be_read_is_rejected_with_reason_and_text(tmp_path: Path) -> None:
    text = "t,v\n2020-01-01 00:00,many\nyesterday,5\n2020-03-08 02:30,6\n,7\n2020-01-01 01:00,\n2020-01-01 02:00, 8 \n"
    parsed = read_tabular([write(tmp_path, text)], road_mapping(), TRAFFIC)
    assert tuple(parsed.rejected.columns) == REJECTED_COLUMNS
    assert list(zip(parsed.rejected["reason"], parsed.rejected["raw"], strict=True)) == [
        ("not a number", "many"),
        ("unreadable time stamp", "yesterday"),
        ("local time that the clocks skip", "2020-03-08 02:30"),
        ("empty time stamp", ""),
    ]
    assert parsed.missing == {"volume": 1}
    assert parsed.readings["value"].tolist() == [8.0]


def test_two_rows_in_the_hour_that_comes_twice_are_both_passes(tmp_path: Path) -> None:
    text = "t,v\n2020-11-01 01:00,1\n2020-11-01 01:30,2\n2020-11-01 01:00,3\n2020-11-01 02:00,4\n"
    parsed = read_tabular([write(tmp_path, text)], road_mapping(), TRAFFIC)
    assert moments(parsed.readings) == ["11-01 06:00", "11-01 06:30", "11-01 07:00", "11-01 08:00"]
    assert parsed.notes[0].startswith("3 stamps lie in an hour that the clocks run through twice")


def test_several_sites_keep_their_facts(tmp_path: Path) -> None:
    text = "t,v,road\n2020-11-01 01:00,1,A\n2020-11-01 01:00,2,B\n2020-11-01 01:00,3,\n"
    mapping = road_mapping(
        site=None,
        site_column="road",
        country="US",
        attributes={"lanes": 2.0},
        sites={"B": {"neighbours": ["A"], "latitude": 45.0}},
    )
    parsed = read_tabular([write(tmp_path, text)], mapping, TRAFFIC)
    first, second = parsed.sites
    assert (first.name, first.country, first.attributes, first.neighbours) == ("A", "US", {"lanes": 2.0}, ())
    assert (second.name, second.latitude, second.neighbours) == ("B", 45.0, ("A",))
    assert moments(parsed.readings) == ["11-01 06:00"] * 2
    assert parsed.rejected["reason"].tolist() == ["no site"]


def test_availability_comes_from_a_delay_or_a_column(tmp_path: Path) -> None:
    path = write(tmp_path, "t,v,known\n2020-01-01 00:00,1,2020-01-01 00:20\n2020-01-01 01:00,2,\n")
    late = read_tabular([path], road_mapping(available_after="15min"), TRAFFIC).readings
    assert (late["available_at"] - late["valid_at"]).unique().tolist() == [pd.Timedelta("15min")]
    parsed = read_tabular([path], road_mapping(available_column="known"), TRAFFIC)
    assert (parsed.readings["available_at"] - parsed.readings["valid_at"]).tolist() == [pd.Timedelta("20min")]
    assert parsed.rejected["reason"].tolist() == ["empty time stamp of availability"]


@pytest.mark.parametrize("kind", ["csv", "gzip", "parquet", "parquet with times", "semicolons"])
def test_the_same_table_reads_the_same_from_any_file(tmp_path: Path, kind: str) -> None:
    table = pd.DataFrame({"t": ["2020-01-01 00:00:00", "2020-01-01 01:00:00"], "v": [1.5, None], "other": ["x", "y"]})
    path = tmp_path / "counts"
    if kind == "semicolons":
        table.to_csv(path, index=False, sep=";", decimal=",", encoding="utf-8-sig")
    elif kind.startswith("parquet"):
        stamps = pd.to_datetime(table["t"]) if kind == "parquet with times" else table["t"]
        table.assign(t=stamps).to_parquet(path)
    else:
        content = table.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(content) if kind == "gzip" else content)
    parsed = read_tabular([path], road_mapping(decimal="," if kind == "semicolons" else None), TRAFFIC)
    assert parsed.readings["value"].tolist() == [1.5]
    assert moments(parsed.readings) == ["01-01 06:00"]
    assert parsed.missing == {"volume": 1}


@pytest.mark.parametrize(
    ("stamp", "form"),
    [("13/01/2020 00:00", "%d/%m/%Y %H:%M"), ("1578895200", "epoch_s"), ("1578895200000", "epoch_ms")],
)
def test_other_stamp_formats_are_named_not_guessed(tmp_path: Path, stamp: str, form: str) -> None:
    path = write(tmp_path, f"t,v\n{stamp},1\n")
    with pytest.raises(DataError, match="--timestamp-format"):
        read_tabular([path], road_mapping(), TRAFFIC)
    assert moments(read_tabular([path], road_mapping(timestamp_format=form), TRAFFIC).readings) == ["01-13 06:00"]


@pytest.mark.parametrize(
    ("text", "changes", "fact"),
    [
        ("", {}, "is empty"),
        ("t,v\n", {}, "no rows"),
        ("t,volume_a\n2020-01-01,1\n", {}, "has no column 'v'"),
        ("t,v\n2020-01-01,1\n", {"site": None, "site_column": "w"}, "has no column 'w'"),
        ("date_time,v\n2020-01-01,1\n", {"timestamp": "datetime"}, "Did you mean 'date_time'"),
        ("t,v,v\n2020-01-01,1,2\n", {}, "Several columns"),
        ("t,v\n2020-01-01,1\n2020-01-02\n", {}, "cut off"),
        ("t,v\n2020-01-01,many\n", {}, "No cell of the column 'v' is a number"),
        ("t,v\nsoon,1\n", {}, "No time stamp can be read"),
        ("t,v\n2020-01-01 00:00,1\n", {"tz": None}, "no time zone is given"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, text: str, changes: dict[str, Any], fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        read_tabular([write(tmp_path, text)], road_mapping(**changes), TRAFFIC)


def test_files_that_are_no_tables_say_so(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and no more")
    for path in (damaged, tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(DataError):
            read_tabular([path], road_mapping(), TRAFFIC)


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("volum=v:veh/h", UnknownNameError, "Did you mean: volume"),
        ("volume=v:kg", UnitError, "converts to veh/h"),
        ("volume=v:zork", UnitError, "zork"),
        ("volume", InvalidParameterError, "QUANTITY=COLUMN:UNIT"),
        ("volume=:veh/h", InvalidParameterError, "QUANTITY=COLUMN:UNIT"),
    ],
)
def test_a_bad_map_names_the_remedy(text: str, kind: type[TowncastError], answer: str) -> None:
    with pytest.raises(kind, match=answer):
        parse_map(text, TRAFFIC)


def test_a_map_without_a_unit_is_canonical_and_a_column_may_hold_colons() -> None:
    assert parse_map("volume=v", TRAFFIC) == ColumnMap(quantity="volume", column="v", unit="veh/h")
    assert parse_map("speed=a:b:mph", TRAFFIC) == ColumnMap(quantity="speed", column="a:b", unit="mph")


@pytest.mark.parametrize("name", list(DOMAINS))
def test_every_domain_reads_its_quantities_in_their_own_units(tmp_path: Path, name: str) -> None:
    domain = DOMAINS[name]
    columns = [quantity.name for quantity in domain.quantities]
    values = [min(max(quantity.lower, 1.0), quantity.upper) for quantity in domain.quantities]
    path = write(tmp_path, f"t,{','.join(columns)}\n2020-01-01T00:00Z,{','.join(map(str, values))}\n")
    maps = tuple(parse_map(f"{column}={column}", domain) for column in columns)
    parsed = read_tabular([path], make_mapping(domain, timestamp="t", site="S", quantities=maps), domain)
    assert parsed.readings["quantity"].tolist() == columns
    assert parsed.readings["value"].tolist() == pytest.approx(values)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"timestamp": None}, "--timestamp"),
        ({"site": None}, "No site"),
        ({"site_column": "road"}, "Both a site"),
        ({"tz": "US/Centrall"}, "US/Central"),
        ({"available_after": "soon"}, "no duration"),
        ({"available_after": "-5min"}, "no duration"),
        ({"available_after": "5min", "available_column": "k"}, "given twice"),
        ({"decimal": ";"}, "decimal"),
    ],
)
def test_a_mapping_that_lacks_something_says_what_to_give(changes: dict[str, Any], fact: str) -> None:
    with pytest.raises(InvalidParameterError, match=fact):
        road_mapping(**changes)


def test_a_mapping_needs_a_quantity_and_each_once() -> None:
    with pytest.raises(InvalidParameterError, match="--map"):
        make_mapping(TRAFFIC, timestamp="t", site="R7")
    with pytest.raises(InvalidParameterError, match="mapped twice"):
        road_mapping("volume=a", "volume=b")


def test_options_override_the_file_beside_the_data(tmp_path: Path) -> None:
    data = write(tmp_path, "", "counts.csv.gz")
    assert mapping_beside(data) is None
    file = write(
        tmp_path,
        'timestamp = "t"\nsite_column = "road"\ntz = "Asia/Kolkata"\nlatitude = 23\navailable_column = "k"\n'
        '[quantities]\nvolume = "v:veh/h"\nspeed = "s:mph"\n[attributes]\nlanes = 3\n[sites.A]\nneighbours = ["B"]\n',
        "counts.toml",
    )
    assert mapping_beside(data) == file
    mapping = make_mapping(
        TRAFFIC, file=file, quantities=(parse_map("volume=w", TRAFFIC),), site="R7", tz="UTC", available_after="1h"
    )
    assert (mapping.site, mapping.site_column, mapping.tz) == ("R7", "", "UTC")
    assert (mapping.available_column, mapping.available_after) == ("", "1h")
    assert [entry.column for entry in mapping.quantities] == ["w", "s"]
    assert mapping.make_site("A").neighbours == ("B",)
    assert mapping.make_site("A").attributes == {"lanes": 3}


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("timestamp = ", "cannot be read"),
        ('timestanp = "t"', "timestamp"),
        ("timestamp = 3", "not text"),
        ("[quantities]\nvolume = 3", "not given as text"),
        ('[sites.A]\nlat = 3\nname = "x"', "unknown key"),
        ("[sites]\nA = 3", "not a table"),
        ("latitude = true", "not a number"),
    ],
)
def test_a_bad_mapping_file_says_what_is_wrong(tmp_path: Path, text: str, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        make_mapping(TRAFFIC, file=write(tmp_path, text, "m.toml"), timestamp="t", site="R7")


cells = st.one_of(
    st.floats(-1e6, 1e6).map(str), st.sampled_from(["", "NA", "x", "1e3", " 4 ", "inf", "--"]), st.integers().map(str)
)
stamps = st.one_of(
    st.datetimes(pd.Timestamp("2019-01-01"), pd.Timestamp("2022-01-01")).map(lambda moment: f"{moment:%Y-%m-%d %H:%M}"),
    st.sampled_from(["", "2020-03-08 02:15", "2020-11-01 01:15", "2020-13-01", "2020-06-01T00:00Z", "nothing"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(stamps, cells, cells), min_size=1, max_size=12))
def test_no_cell_is_lost(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    good = ("2020-06-01 00:00", "1", "2")
    path = write(tmp_path, "t,v,w\n" + "".join(f"{','.join(row)}\n" for row in [good, *rows]))
    parsed = read_tabular([path], road_mapping("volume=v", "speed=w"), TRAFFIC)
    assert parsed.rows == len(rows) + 1
    assert len(parsed.readings) + len(parsed.rejected) + sum(parsed.missing.values()) == 2 * parsed.rows
    assert parsed.readings[["valid_at", "available_at", "value"]].notna().all().all()
    assert (parsed.rejected["reason"] != "").all()


def test_a_concentration_in_milligrams_becomes_micrograms(tmp_path: Path) -> None:
    mapping = make_mapping(POLLUTION, timestamp="t", site="S", quantities=(parse_map("co=co:mg/m3", POLLUTION),))
    parsed = read_tabular([write(tmp_path, "t,co\n2020-01-01T00:00Z,1.5\n")], mapping, POLLUTION)
    assert parsed.readings["value"].tolist() == pytest.approx([1500.0])
