"""The desk: each reading is stored, known or quarantined, and what is stored is seen by the windows at once."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.errors import StorageError
from features.readings import make_readings
from features.store import ReadingStore
from serving.inflow.desk import UNKNOWN, Outcome, ReadingDesk, ReadingsBusyError
from serving.memory import WindowMemory
from serving.window_source import WindowSource
from tests.serving.inflow.conftest import NOW, TRAFFIC, reading, repository_of

MakeDesk = Callable[..., ReadingDesk]


def taken(desk: ReadingDesk, *batches: list[Any]) -> list[list[Outcome]]:
    """What becomes of batches, one after the other."""

    async def take() -> list[list[Outcome]]:
        try:
            return [await desk.take(batch, transport="http") for batch in batches]
        finally:
            await desk.close()

    return asyncio.run(take())


def told(outcomes: list[Outcome]) -> list[str]:
    return [one.reason or one.outcome for one in outcomes]


def volumes(data_dir: Path, *, site: str = "R001", since: str = "2026-02-06T08:30Z") -> list[float]:
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    found = store.readings(sites=[site], quantities=["volume"], start=pd.Timestamp(since))
    return found["value"].tolist()


def test_the_same_reading_twice_is_known_and_another_value_revises_it(make_desk: MakeDesk, data_dir: Path) -> None:
    first = reading(minutes_ago=5)
    batches = [[first], [first], [{**first, "value": 500.0}], [first]]
    assert [told(one) for one in taken(make_desk(), *batches)] == [["stored"], ["known"], ["stored"], ["known"]]
    assert volumes(data_dir, since="2026-02-06T09:01Z") == [431.0, 500.0]
    assert told(taken(make_desk(), [first])[0]) == ["known"]


def test_explicit_availability_is_kept_and_contradictions_are_refused(make_desk: MakeDesk, data_dir: Path) -> None:
    first = reading(minutes_ago=10, available_at="2026-02-06T14:45:00+05:30")
    later = reading(minutes_ago=10, value=7.0, available_at="2026-02-06T09:18:00Z")
    outcomes = taken(make_desk(), [first], [first, later], [{**first, "value": 3.0}])
    assert told(outcomes[1] + outcomes[2]) == ["known", "stored", "contradicts a stored reading"]
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    stored = store.readings(sites=["R001"], start=NOW - pd.Timedelta("11min"))
    assert stored["available_at"].dt.strftime("%H:%M").tolist() == ["09:15", "09:18"]


REFUSALS = [
    ({"value": float("nan")}, "not a number"),
    ({"value": float("inf")}, "not a number"),
    ({"value": 10**400}, "not a number"),
    ({"value": "431"}, "not a number"),
    ({"value": True}, "not a number"),
    ({"value": None}, "value is missing"),
    ({"value": 1e300}, "outside 0 to 20000 veh/h (volume)"),
    ({"site": "R9"}, "unknown road"),
    ({"site": ""}, "site is no name"),
    ({"site": "R\n1"}, "site is no name"),
    ({"site": "\ud800"}, "site is no name"),
    ({"site": "R" * 201}, "site is longer than 200 characters"),
    ({"quantity": "pm2_5"}, "unknown quantity"),
    ({"domain": "weather"}, "unknown domain"),
    ({"timestamp": "2026-02-06T09:00:00"}, "timestamp has no time zone"),
    ({"timestamp": 1770368400}, "timestamp is no ISO 8601 time stamp"),
    ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp is no ISO 8601 time stamp"),
    ({"timestamp": "2026-02-06T09:22:00Z"}, "of the future"),
    ({"available_at": "2026-02-06T09:22:00Z"}, "available only in the future"),
    ({"available_at": "2026-02-06T08:00:00Z"}, "available before it was true"),
    ({"valid_at": "2026-02-06T09:00:00Z"}, "timestamp and valid_at are both given"),
    ({"unit": "degC"}, "unit does not convert to veh/h"),
    ({"unit": "9**9**9"}, "unknown unit"),
    ({"source": "a feed"}, "source is no name of a feed"),
    ({"colour": 1}, "unknown field 'colour'"),
    ({"source": "sim:sumo:rush@0a1b"}, "measured and simulated readings of one road"),
]


def test_what_cannot_be_a_reading_is_quarantined_with_its_reason(make_desk: MakeDesk, data_dir: Path) -> None:
    items = [{**reading(minutes_ago=5 + place / 10), **change} for place, (change, _) in enumerate(REFUSALS)]
    (outcomes,) = taken(make_desk(), [*items, "text", [], None, reading(minutes_ago=1)])
    assert told(outcomes) == [*(reason for _, reason in REFUSALS), *["not an object"] * 3, "stored"]
    kept = ReadingStore(data_dir / "readings", TRAFFIC).quarantine()
    nowhere = ReadingStore(data_dir / "readings", UNKNOWN).quarantine()
    assert len(kept) + len(nowhere) == len(REFUSALS) + 3
    assert json.loads(kept.set_index("reason").loc["unknown field 'colour'", "raw"])["colour"] == 1
    assert sorted(nowhere["reason"]) == ["not an object"] * 3 + ["unknown domain"]
    assert volumes(data_dir, since="2026-02-06T09:01Z") == [431.0]


def test_units_feeds_and_names_in_any_script_are_read(make_desk: MakeDesk, data_dir: Path) -> None:
    items = [
        reading(minutes_ago=2, quantity="temperature", value=59.0, unit="degF", source="weather-station"),
        reading(minutes_ago=3, site="राजमार्ग ८", value=12),
    ]
    (outcomes,) = taken(make_desk(inflow_new_sites=True), items)
    assert told(outcomes) == ["stored", "stored"]
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    stored = store.readings(start=NOW - pd.Timedelta("4min")).set_index("site")
    assert stored.loc["R001", "value"] == pytest.approx(15.0)
    assert stored.loc["R001", "source"] == "sensor:weather-station"
    assert stored.loc["राजमार्ग ८", "source"] == "sensor:http"
    assert "राजमार्ग ८" in store.sites()


def test_the_windows_see_a_reading_before_its_sender_is_told(make_desk: MakeDesk, data_dir: Path) -> None:
    async def take() -> tuple[list[float], list[frozenset[str]]]:
        desk = make_desk(windows=lambda domain: windows)
        memory = WindowMemory(repository_of(desk.settings))
        windows = WindowSource(memory, refresh_s=3600, now=NOW.timestamp)
        await windows.start()
        heard: list[frozenset[str]] = []
        windows.listen(heard.append)
        seen = []
        try:
            for value in (431.0, 432.0):
                await desk.take([reading(value=value)], transport="http")
                seen.append(float((await windows.prepared("R001")).window.history_BLK[0, -1, 0]))
        finally:
            await desk.close()
            await windows.close()
        return seen, heard

    seen, heard = asyncio.run(take())
    assert seen == [431.0, 432.0]
    assert heard == [frozenset({"R001"})] * 2


def test_a_step_is_pushed_when_it_is_over(make_desk: MakeDesk, data_dir: Path) -> None:
    """A reading of 9:55 counts from 10:00 on, though nothing else comes in then."""
    clock = [pd.Timestamp("2026-02-06T09:56:00Z").timestamp()]

    async def take() -> tuple[int, int]:
        desk = make_desk(now=lambda: clock[0])
        repository = repository_of(desk.settings)
        try:
            await desk.take([reading(minutes_ago=-35, value=77.0)], transport="http")
            before = repository.online(["R001"])["R001"].valid_until_s
            clock[0] = pd.Timestamp("2026-02-06T10:00:00.999Z").timestamp()
            for _ in range(300):
                after = repository.online(["R001"])["R001"]
                if after.valid_until_s != before:
                    break
                await asyncio.sleep(0.02)
            assert after.value_TK[TRAFFIC.history_steps - 1, 0] == 77.0
            return before, after.valid_until_s
        finally:
            await desk.close()

    assert asyncio.run(take()) == (1770368400, 1770372000)


def test_callers_at_one_time_are_written_together(make_desk: MakeDesk, data_dir: Path) -> None:
    async def take() -> list[list[Outcome]]:
        desk = make_desk()
        try:
            batches = [[reading(minutes_ago=1 + place / 60, value=float(place))] for place in range(60)]
            return await asyncio.gather(*(desk.take(batch, transport="mqtt") for batch in batches))
        finally:
            await desk.close()

    assert {told(one)[0] for one in asyncio.run(take())} == {"stored"}
    assert len(volumes(data_dir, since="2026-02-06T09:01Z")) == 60
    assert len(list((data_dir / "readings/traffic/readings").glob("*.parquet"))) < 10


def test_more_than_can_wait_is_refused_and_nothing_of_it_is_half_done(make_desk: MakeDesk, data_dir: Path) -> None:
    async def take() -> list[Any]:
        desk = make_desk(readings_waiting_limit=3)
        try:
            batches = [[reading(minutes_ago=1 + n), reading(minutes_ago=1.5 + n)] for n in range(3)]
            work = (desk.take(batch, transport="http") for batch in batches)
            return await asyncio.gather(*work, return_exceptions=True)
        finally:
            await desk.close()

    kept, *refused = asyncio.run(take())
    assert told(kept) == ["stored", "stored"]
    assert [type(one) for one in refused] == [ReadingsBusyError] * 2
    assert len(volumes(data_dir, since="2026-02-06T09:15Z")) == 2


def test_a_disk_that_refuses_is_told_and_the_next_try_succeeds(make_desk: MakeDesk, data_dir: Path) -> None:
    folder = data_dir / "readings" / "traffic" / "quarantine"
    folder.write_text("in the way")
    bad = [reading(), reading(value=-1.0)]
    with pytest.raises(StorageError, match="A file stands"):
        taken(make_desk(), bad)
    folder.unlink()
    assert told(taken(make_desk(), bad)[0])[1] == "outside 0 to 20000 veh/h (volume)"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=8,
)
FIELD = st.sampled_from(["domain", "site", "quantity", "timestamp", "available_at", "value", "unit", "source", "x"])


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(items=st.lists(JSON | st.dictionaries(FIELD, JSON, max_size=4).map(lambda part: reading() | part), min_size=1))
def test_anything_gets_an_outcome(items: list[Any], town_folder: Path, make_desk: MakeDesk, data_dir: Path) -> None:
    (outcomes,) = taken(make_desk(), items)
    assert len(outcomes) == len(items)
    assert all(one.outcome in ("stored", "known", "quarantined") for one in outcomes)
    assert all(bool(one.reason) == (one.outcome == "quarantined") for one in outcomes)


def test_simulated_sites_take_no_measured_readings(make_desk: MakeDesk, data_dir: Path) -> None:
    from features.quality import check_readings
    from features.vocabulary import Site

    simulated = make_readings(
        site="S1",
        quantity="volume",
        valid_at=pd.DatetimeIndex([NOW.floor("h")]),
        value=[1.0],
        source="sim:sumo:rush@0a1b",
    )
    store = ReadingStore(data_dir / "readings", TRAFFIC)
    store.append(check_readings(simulated, TRAFFIC), [Site(name="S1")])
    items = [reading(minutes_ago=1, site="S1"), reading(minutes_ago=1, site="S1", source="sim:sumo:rush@0a1b")]
    outcomes = taken(make_desk(), items[:1], items[1:])
    assert [told(one)[0] for one in outcomes] == ["measured and simulated readings of one road", "stored"]
