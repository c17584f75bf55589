"""Files that are merged: what is read stays the same, for every reader and after a crash at any point."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock

from features import stored_files
from features.domains.traffic import TRAFFIC
from features.quality import Checked, check_readings
from features.readings import make_readings
from features.store import KNOWN, STORED, ReadingStore
from features.stored_files import StoredFiles

START = pd.Timestamp("2024-01-01T00:00Z")


def one(number: int, *, site: str = "R1", value: float | None = None, known_h: int = 0) -> Checked:
    moment = pd.DatetimeIndex([START + pd.Timedelta(minutes=number)])
    readings = make_readings(
        site=site,
        quantity="volume",
        valid_at=moment,
        available_at=moment + pd.Timedelta(hours=known_h),
        value=[float(number) if value is None else value],
        source="sensor:test",
    )
    return check_readings(readings, TRAFFIC)


def filled(root: Path, number: int) -> ReadingStore:
    store = ReadingStore(root, TRAFFIC)
    for place in range(number):
        store.append(one(place), [])
        store.append(one(place, value=-1.0), [])
    return store


def test_merging_changes_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_files, "_MANY", 8)
    store = filled(tmp_path, 8)
    before, quarantine, named = store.readings(), store.quarantine(), store.data_hash()
    assert store.merge() == 16
    assert store.merge() == 0
    pd.testing.assert_frame_equal(store.readings(), before)
    assert store.data_hash() == named
    assert len(StoredFiles(tmp_path / "traffic" / "readings").live()) == 1
    merged = store.quarantine()
    assert sorted(merged["value"]) == sorted(quarantine["value"])
    assert merged["reason"].tolist() == quarantine["reason"].tolist()
    assert store.append(one(7), []).known == 1
    assert store.append(one(99), []).stored == 1
    assert store.data_hash() != named


def test_merged_files_are_merged_again_and_the_replaced_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "_MANY", 3)
    monkeypatch.setattr(stored_files, "_GRACE_S", 0.0)
    store = ReadingStore(tmp_path, TRAFFIC)
    for number in range(14):
        store.append(one(number), [])
        store.merge()
        assert store.readings()["value"].tolist() == [float(place) for place in range(number + 1)]
    store.merge()
    assert len(list((tmp_path / "traffic" / "readings").glob("*.parquet"))) <= 5


def test_a_crash_before_the_replaced_are_removed_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was merged is merged again meanwhile, and its list with it."""
    monkeypatch.setattr(stored_files, "_MANY", 3)
    store = ReadingStore(tmp_path, TRAFFIC)
    for number in range(12):
        store.append(one(number), [])
        store.merge()
    folder = tmp_path / "traffic" / "readings"
    merged = sorted(folder.glob("merged-*"), key=os.path.getmtime)
    assert len(merged) >= 3
    # All but the newest go, as if they alone had been removed before the process died.
    live = StoredFiles(folder).live()
    for path in merged:
        if path not in live:
            path.unlink()
    assert ReadingStore(tmp_path, TRAFFIC).readings()["value"].tolist() == [float(place) for place in range(12)]


def test_readers_see_neither_gap_nor_double_while_files_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "_MANY", 2)
    # Without the time of grace a reader must find out that files went.
    monkeypatch.setattr(stored_files, "_GRACE_S", 0.0)
    store = filled(tmp_path, 2)
    written, failures, done = [2], [], threading.Event()

    def read() -> None:
        reader = ReadingStore(tmp_path, TRAFFIC)
        while not done.is_set():
            least = written[0]
            values = reader.readings(columns=("value",))["value"].tolist()
            if len(values) != len(set(values)) or len(values) < least:
                failures.append((least, values))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(2, 16):
        store.append(one(number), [])
        written[0] = number + 1
        store.merge()
    done.set()
    thread.join()
    assert failures == []


def _append_many(root: Path, first: int, begin: float) -> None:
    store = ReadingStore(root, TRAFFIC)
    time.sleep(max(0.0, begin - time.time()))
    for number in range(first, first + 8):
        store.append(one(number), [])
        if number % 4 == 0:
            store.merge()


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """Their numbers overlap: each is stored once, by one of them."""
    context = multiprocessing.get_context("spawn")
    begin = time.time() + 3
    writers = [context.Process(target=_append_many, args=(tmp_path, first, begin)) for first in (0, 4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert ReadingStore(tmp_path, TRAFFIC).readings()["value"].tolist() == [float(number) for number in range(12)]


def test_what_arrived_is_known_by_its_content(tmp_path: Path) -> None:
    store = ReadingStore(tmp_path, TRAFFIC)
    outcomes = [
        store.append(one(1, value=value, known_h=hours), [], arrived=pd.Series([arrived]).to_numpy()).outcomes
        for value, hours, arrived in ((5.0, 1, True), (5.0, 2, True), (6.0, 3, True), (5.0, 4, True), (5.0, 5, False))
    ]
    assert outcomes == [(STORED,), (KNOWN,), (STORED,), (KNOWN,), (STORED,)]


def test_a_merge_that_another_process_does_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_files, "_MANY", 3)
    store = filled(tmp_path, 3)
    with FileLock(tmp_path / "traffic" / "readings" / ".merge.lock"):
        assert StoredFiles(tmp_path / "traffic" / "readings").merge() == 0
    assert store.merge() == 6
