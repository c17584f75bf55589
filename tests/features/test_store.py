"""The reading store: it only grows, and the same batch twice changes nothing."""

from pathlib import Path

import pandas as pd
import pytest

from features.domains.traffic import TRAFFIC
from features.errors import DataError, StorageError, UnknownNameError
from features.quality import Checked, check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site

START = pd.Timestamp("2024-01-01T00:00Z")


def batch(values: list[float], *, site: str = "R1", delay_h: int = 0, quantity: str = "volume") -> Checked:
    moments = pd.date_range(START, periods=len(values), freq="h")
    readings = make_readings(
        site=site,
        quantity=quantity,
        valid_at=moments,
        available_at=moments + pd.Timedelta(hours=delay_h),
        value=values,
        source="sensor:test",
    )
    return check_readings(readings, TRAFFIC)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    assert store.readings().empty
    appended = store.append(batch([3.0, 1.0, -1.0]), [Site(name="R1")])
    assert (appended.stored, appended.known, appended.quarantined) == (2, 0, 1)
    stored = store.readings()
    assert stored["value"].tolist() == [3.0, 1.0]
    assert str(stored["valid_at"].dtype) == "datetime64[us, UTC]"
    assert stored["valid_at"].iloc[1] == START + pd.Timedelta("1h")
    assert store.quarantine()["value"].tolist() == [-1.0]


def test_the_same_batch_twice_changes_nothing(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    store.append(batch([3.0, 1.0, -1.0]), [])
    before = (store.data_hash(), sorted(path.name for path in tmp_path.rglob("*")))
    again = store.append(batch([3.0, 1.0, -1.0]), [])
    assert (again.stored, again.known) == (0, 2)
    assert (store.data_hash(), sorted(path.name for path in tmp_path.rglob("*"))) == before


def test_a_longer_file_adds_only_what_is_new(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    store.append(batch([3.0, 1.0]), [])
    appended = store.append(batch([3.0, 1.0, 2.0]), [])
    assert (appended.stored, appended.known) == (1, 2)
    assert store.readings()["value"].tolist() == [3.0, 1.0, 2.0]


def test_a_contradiction_is_quarantined_and_a_revision_kept(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    store.append(batch([3.0]), [])
    contradicted = store.append(batch([4.0]), [])
    assert contradicted.reasons == {"contradicts a stored reading": 1}
    revised = store.append(batch([5.0], delay_h=2), [])
    assert revised.stored == 1
    assert store.readings()["value"].tolist() == [3.0, 5.0]
    assert store.quarantine()["value"].tolist() == [4.0]


def test_readings_are_chosen_by_site_quantity_and_both_clocks(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    store.append(batch([1.0, 2.0, 3.0]), [])
    store.append(batch([4.0, 5.0], site="R2", delay_h=3), [])
    store.append(batch([6.0], quantity="speed"), [])
    hour = pd.Timedelta("1h")
    assert store.readings(sites=["R2"])["value"].tolist() == [4.0, 5.0]
    assert store.readings(quantities=["speed"])["value"].tolist() == [6.0]
    assert store.readings(sites=["R1"], quantities=["volume"], start=START + hour)["value"].tolist() == [2.0, 3.0]
    assert store.readings(quantities=["volume"], end=START)["value"].tolist() == [1.0, 4.0]
    assert store.readings(sites=["R2"], available_by=START + 3 * hour)["value"].tolist() == [4.0]
    assert list(store.readings(columns=("value",)).columns) == ["site", "quantity", "valid_at", "available_at", "value"]


def test_sites_are_kept_and_replaced(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    empty = Checked(accepted=batch([]).accepted, quarantined=batch([]).quarantined)
    store.append(empty, [Site(name="R1", neighbours=("R2",), latitude=1.0, longitude=2.0), Site(name="R2")])
    store.add_sites([Site(name="R2", country="IN", attributes={"lanes": 2.0})])
    assert store.site("R1").neighbours == ("R2",)
    assert store.site("R2").attributes == {"lanes": 2.0}
    with pytest.raises(UnknownNameError, match="R1"):
        store.site("R11")


def test_no_folder_is_made_before_the_first_write(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path / "readings", TRAFFIC)
    assert store.readings().empty
    assert store.quarantine().empty
    assert store.sites() == {}
    assert not (tmp_path / "readings").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    store.append(batch([1.0]), [])
    next((tmp_path / "traffic" / "readings").glob("*.parquet")).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="damaged"):
        store.readings()


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "traffic").write_text("in the way")
    with pytest.raises(StorageError, match="A file stands"):
        ReadingStore(tmp_path, TRAFFIC).append(batch([1.0]), [])


def test_an_empty_batch_is_no_problem(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    assert store.append(check_readings(join_readings([]), TRAFFIC), []).stored == 0
    assert not list(tmp_path.rglob("*.parquet"))
