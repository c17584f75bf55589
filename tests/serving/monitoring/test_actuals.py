"""The join of forecasts and actuals: whatever comes late, twice, never, changed, or with a wrong clock."""

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import stored_files
from features.domains import DOMAINS
from features.errors import StorageError
from features.final_values import final_values
from features.quality import Checked, check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from features.windows import build_panel
from serving.monitoring import actuals, join_state
from serving.monitoring.actuals import JoinReport, join_actuals
from serving.monitoring.realised_store import NOMINAL, RealisedStore
from serving.monitoring.settings import MonitoringSettings
from serving.prediction_log.records import ForecastRecord
from serving.prediction_log.store import PredictionStore

TRAFFIC = DOMAINS["traffic"]
HOUR_S, DAY_S = 3600, 86_400
START = pd.Timestamp("2026-01-30T00:00Z")
START_S = int(START.timestamp())


def forecast(
    site: str = "R1",
    hour: int = 0,
    *,
    value: float = 100.0,
    made_s: float | None = None,
    model_version: str = "traffic-lstm-v1",
    role: str = "champion",
    steps: int = 24,
    window: str = "w",
    minutes: int = 0,
) -> ForecastRecord:
    origin_s = START_S + hour * HOUR_S + minutes * 60
    levels = (0.05, 0.5, 0.95)
    values = value + np.arange(1, steps + 1)[:, None] + np.array([-10.0, 0.0, 10.0])
    return ForecastRecord(
        name=hashlib.sha256(f"{site} {hour} {minutes} {model_version} {role} {window}".encode()).hexdigest()[:16],
        made_s=origin_s + 5.0 if made_s is None else made_s,
        domain="traffic",
        target="volume",
        unit="veh/h",
        site=site,
        origin_s=origin_s,
        step_s=HOUR_S,
        window=window,
        model_version=model_version,
        role=role,
        runtime="in_process",
        levels=levels,
        values=values.astype("<f4").tobytes(),
    )


def came(
    values: Sequence[float],
    *,
    site: str = "R1",
    hour: int = 1,
    late_h: float = 0.0,
    source: str = "sensor:test",
    every_minutes: int = 60,
) -> Checked:
    moments = pd.DatetimeIndex(
        [START + pd.Timedelta(hours=hour, minutes=place * every_minutes) for place in range(len(values))]
    )
    readings = make_readings(
        site=site,
        quantity="volume",
        valid_at=moments,
        available_at=moments + pd.Timedelta(hours=late_h),
        value=list(values),
        source=source,
    )
    return check_readings(readings, TRAFFIC)


class Town:
    """A log, readings and what is realised, in a folder."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.log = PredictionStore(f"sqlite:///{folder / 'log.db'}")
        self.readings = ReadingStore(folder / "readings", TRAFFIC)
        self.realised = RealisedStore(folder / "realised", TRAFFIC, "volume", readings=self.readings)
        self.settings = MonitoringSettings(data_dir=folder, **settings)  # type: ignore[arg-type]
        self.segment = 0

    def forecast(self, *records: ForecastRecord) -> None:
        self.segment += 1
        self.log.add(f"s{self.segment}", enumerate(records))

    def read(self, checked: Checked) -> None:
        self.readings.append(checked, [])

    def join(self, hour: float = 24.0) -> JoinReport:
        return join_actuals(
            self.log, self.readings, self.realised, now_s=START_S + hour * HOUR_S, settings=self.settings
        )

    def actual(self) -> dict[tuple[str, int, int], float]:
        """By site, hour of the origin, and steps."""
        rows = self.realised.read()
        keys = zip(rows["site"], (rows["origin_s"] - START_S) // HOUR_S, rows["steps"], strict=True)
        return dict(zip(keys, rows["actual"], strict=True))

    def content(self) -> pd.DataFrame:
        columns = [name for name in (*self.realised.read().columns, NOMINAL) if name != "joined_s"]
        parts = [self.realised.read(columns=columns), self.realised.waiting(columns=columns)]
        return pd.concat(parts, ignore_index=True)


def test_forecasts_stand_beside_what_came(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast(hour=0), forecast("R2", hour=0))
    town.read(came([101.0, 102.0, 103.0]))
    report = town.join(hour=3)
    assert (report.joined, report.revised, report.waiting, report.never, report.late) == (2, 0, 8, 0, 0)
    assert report.remarks == ()
    assert town.actual() == {("R1", 0, 1): 101.0, ("R1", 0, 2): 102.0}
    row = town.realised.read(steps=[2], columns=("median", "lower", "upper", NOMINAL, "valid_s", "joined_s")).iloc[0]
    assert row.tolist()[:5] == [102.0, 92.0, 112.0, pytest.approx(0.9), START_S + 2 * HOUR_S]
    assert row["joined_s"] == pytest.approx(START_S + 3 * HOUR_S)
    town.read(came([float(number) for number in range(104, 126)], hour=4))
    report = town.join(hour=25)
    assert (report.joined, report.waiting) == (3, 5)
    assert town.actual()["R1", 0, 24] == 124.0


def test_a_join_without_news_writes_nothing(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0, 102.0]))
    town.join(hour=5)
    files = sorted(town.realised.folder.rglob("*.parquet"))
    report = town.join(hour=6)
    assert (report.joined, report.revised) == (0, 0)
    assert sorted(town.realised.folder.rglob("*.parquet")) == files


def test_steps_are_kept_as_settings_say(tmp_path: Path) -> None:
    for keep, steps in (("named", [1, 2, 6, 12, 24]), ("all", list(range(1, 25))), ((3, 30), [3])):
        town = Town(tmp_path / str(keep), keep_steps=keep)
        town.forecast(forecast())
        town.join()
        assert sorted(town.realised.waiting()["steps"]) == steps


def test_steps_that_are_kept_from_now_on_are_taken_from_the_log(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0, 102.0, 103.0]))
    assert town.join(hour=4).joined == 2
    town.settings = MonitoringSettings(data_dir=tmp_path, keep_steps="all")
    assert town.join(hour=4).joined == 1
    assert town.actual() == {("R1", 0, 1): 101.0, ("R1", 0, 2): 102.0, ("R1", 0, 3): 103.0}


def test_an_actual_that_comes_twice_counts_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0]))
    town.join()
    before = town.content()
    town.read(came([101.0]))
    town.read(came([101.0], late_h=5.0))
    report = town.join(hour=25)
    assert (report.joined, report.revised) == (0, 0)
    pd.testing.assert_frame_equal(town.content(), before)


def test_a_revised_actual_replaces_the_one_before(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0]))
    town.join(hour=2)
    town.read(came([131.0], late_h=48.0))
    report = town.join(hour=50)
    assert (report.joined, report.revised) == (0, 1)
    assert town.actual() == {("R1", 0, 1): 131.0}
    # An older state of it that comes only now is no news.
    town.read(came([111.0], late_h=24.0))
    assert town.join(hour=51).revised == 0
    assert town.actual() == {("R1", 0, 1): 131.0}


def test_actuals_that_never_come_are_given_up_and_told_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    assert town.join(hour=24).waiting == 5
    report = town.join(hour=24 * 15)
    assert (report.joined, report.never, report.waiting) == (0, 5, 0)
    assert any("given up" in remark for remark in report.remarks)
    assert town.join(hour=24 * 15 + 1).never == 0
    assert town.realised.read().empty
    assert len(town.realised.waiting()) == 5


def test_actuals_that_come_years_late_count_and_are_said_to_be_late(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.join(hour=24 * 15)
    town.read(came([105.0, 106.0], late_h=24 * 365 * 3))
    report = town.join(hour=24 * 365 * 3 + 24)
    assert (report.joined, report.late) == (2, 2)
    assert any("had been given up" in remark for remark in report.remarks)
    assert town.actual() == {("R1", 0, 1): 105.0, ("R1", 0, 2): 106.0}


def test_readings_of_the_future_wait_for_their_time(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0], hour=1))
    town.read(came([112.0], hour=12))
    report = town.join(hour=2)
    assert town.actual() == {("R1", 0, 1): 101.0}
    assert any("of the future (R1)" in remark for remark in report.remarks)
    report = town.join(hour=12)
    assert report.joined == 1
    assert report.remarks == ()
    assert town.actual()["R1", 0, 12] == 112.0


def test_a_step_that_has_not_ended_has_no_actual(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([90.0, 100.0], hour=0, every_minutes=20))
    assert town.join(hour=0.5).joined == 0
    # Nothing new came; the step has ended.
    assert town.join(hour=1).joined == 1
    # Of the two, one is at the end of the step before.
    assert town.actual() == {("R1", 0, 1): 100.0}


def test_forecasts_with_odd_clocks_count_and_are_told(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(
        forecast(hour=1, made_s=START_S + 7200.0),
        forecast(hour=2, made_s=START_S - 10 * DAY_S),
        forecast(hour=40),
    )
    town.read(came([101.0, 102.0, 103.0, 104.0]))
    remarks = " ".join(town.join(hour=5).remarks)
    assert "1 forecasts start in the future" in remarks
    assert "1 forecasts were made before their origin" in remarks
    assert "1 forecasts were made before that of an earlier origin" in remarks
    assert town.actual() == {("R1", 1, 1): 102.0, ("R1", 1, 2): 103.0, ("R1", 2, 1): 103.0, ("R1", 2, 2): 104.0}


def test_where_the_present_runs_back_revisions_still_win(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast(), forecast("R2"))
    town.read(came([101.0]))
    assert town.join(hour=24 * 1000).never == 9
    town.read(came([121.0], late_h=2.0))
    town.read(came([99.0], site="R2"))
    report = town.join(hour=5)
    assert (report.joined, report.revised, report.late, report.never, report.waiting) == (1, 1, 0, 0, 8)
    assert any("clock ran back" in remark for remark in report.remarks)
    assert town.actual() == {("R1", 0, 1): 121.0, ("R2", 0, 1): 99.0}


def test_a_forecast_that_comes_late_into_the_log_is_found(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast(hour=10), forecast(hour=11))
    town.read(came([100.0] * 30))
    town.join(hour=30)
    town.forecast(forecast(hour=3), forecast(hour=-24 * 400), forecast("R2", hour=11))
    assert town.join(hour=31).joined == 5
    assert ("R1", 3, 12) in town.actual()


def test_a_large_log_is_counted_whole_once_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actuals, "_LARGE_LOG", 1)
    town = Town(tmp_path)
    town.read(came([100.0] * 200))
    town.forecast(forecast(hour=100))
    town.join(hour=150)
    town.forecast(forecast(hour=90), forecast(hour=1))
    assert town.join(hour=150.1).joined == 5
    assert ("R1", 90, 1) in town.actual()
    assert town.join(hour=151.2).joined == 5
    assert ("R1", 1, 1) in town.actual()


def test_of_two_forecasts_of_one_origin_the_later_counts(tmp_path: Path) -> None:
    first = forecast(value=100.0, made_s=START_S + 10.0)
    later = forecast(value=200.0, made_s=START_S + 20.0, window="w2")
    for place, order in enumerate(([first, later], [later, first])):
        town = Town(tmp_path / str(place))
        town.read(came([101.0]))
        for record in order:
            town.forecast(record)
            town.join(hour=2)
        assert town.realised.read()["median"].tolist() == [201.0]
        assert len(town.content()) == 5
    town = Town(tmp_path / "together")
    town.read(came([101.0]))
    town.forecast(later, first)
    assert town.join(hour=2).joined == 1
    assert town.realised.read()["median"].tolist() == [201.0]


def test_a_site_that_vanished_is_named(tmp_path: Path) -> None:
    town = Town(tmp_path)
    for site in ("R1", "R2"):
        town.forecast(*(forecast(site, hour=24 * day) for day in range(20)))
    town.read(came([100.0] * 24 * 21))
    town.read(came([100.0] * 24 * 2, site="R2"))
    report = town.join(hour=24 * 20)
    assert report.vanished == ("R2",)
    assert any("No readings for more than 14 days while others have some: R2" in remark for remark in report.remarks)
    town.read(came([100.0], site="R2", hour=24 * 19 + 1))
    assert town.join(hour=24 * 20).vanished == ()


def test_a_window_without_any_data_is_empty(tmp_path: Path) -> None:
    town = Town(tmp_path)
    report = town.join()
    assert (report.joined, report.waiting, report.never, report.remarks) == (0, 0, 0, ())
    assert town.realised.read(since_s=START_S, until_s=START_S + DAY_S).empty
    assert town.realised.summary(since_s=START_S, until_s=START_S + DAY_S).empty
    town.read(came([1.0]))
    assert town.join(hour=30).joined == 0


def test_simulated_sites_are_joined_until_there_is_a_measured_one(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast("S1"), forecast("R1"))
    town.read(came([101.0], site="S1", source="sim:sumo:x@1"))
    report = town.join(hour=2)
    assert report.joined == 1
    assert report.remarks == ()
    town.read(came([101.0], site="R1"))
    report = town.join(hour=3)
    assert any("Simulated sites are left out" in remark and "S1" in remark for remark in report.remarks)
    assert town.actual() == {("R1", 0, 1): 101.0}
    town.forecast(forecast("S1", hour=1))
    assert town.join(hour=4).joined == 0
    assert town.realised.summary(by=("site",))["site"].tolist() == ["R1"]


def test_a_crash_between_two_writes_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    town, whole = Town(tmp_path / "crashed"), Town(tmp_path / "whole")
    for one in (town, whole):
        one.forecast(forecast(), forecast("R2", hour=1))
        one.read(came([101.0, 102.0]))
    with monkeypatch.context() as patch:

        def die(path: Path, state: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(actuals, "write_state", die)
        with pytest.raises(KeyboardInterrupt):
            town.join(hour=2)
        # What was written by then is there.
        assert len(town.actual()) == 2
    for one in (town, whole):
        one.read(came([141.0], late_h=1.0))
        one.join(hour=3)
    pd.testing.assert_frame_equal(town.content(), whole.content())
    assert town.actual()["R1", 0, 1] == 141.0


def test_files_that_are_merged_bring_nothing_new_but_what_is_new_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_files, "_MANY", 4)
    town = Town(tmp_path)
    town.forecast(*(forecast(hour=hour) for hour in range(8)))
    for hour in range(1, 5):
        town.read(came([100.0 + hour], hour=hour))
    town.join(hour=8)
    seen = join_state.read_state(town.realised.folder / actuals.STATE_FILE).seen
    assert town.readings.merge() == 4
    assert town.readings.came_since(seen, "volume")[1].empty
    for hour in range(5, 9):
        town.read(came([100.0 + hour], hour=hour))
    assert town.readings.merge() == 5
    assert town.join(hour=8).joined == 11
    assert town.actual()["R1", 0, 6] == 106.0


def test_two_joins_at_once_do_what_one_does(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(*(forecast(hour=hour) for hour in range(30)))
    town.read(came([101.0, 102.0]))
    with ThreadPoolExecutor() as threads:
        reports = list(threads.map(lambda _: town.join(hour=3), range(3)))
    assert sorted(report.joined for report in reports) == [0, 0, 3]
    assert len(town.content()) == 150


def test_where_patience_grows_what_was_given_up_waits_again(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    assert town.join(hour=24 * 15).never == 5
    town.settings = MonitoringSettings(data_dir=tmp_path, actuals_patience_days=60)
    report = town.join(hour=24 * 15 + 1)
    assert (report.never, report.waiting, report.remarks) == (0, 5, ())


def test_a_disk_that_is_full_stops_a_join_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0]))
    with monkeypatch.context() as patch:

        def full(*arguments: object, **options: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(StorageError, match="disk is full"):
            town.join(hour=2)
    assert town.realised.read().empty
    assert town.join(hour=2).joined == 1


def test_without_its_state_a_join_finds_all_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    town = Town(tmp_path)
    town.forecast(forecast())
    town.read(came([101.0, 102.0]))
    town.join(hour=3)
    before = town.content()
    (town.realised.folder / actuals.STATE_FILE).write_text("{", encoding="utf-8")
    town.read(came([111.0], late_h=1.0))
    report = town.join(hour=4)
    assert (report.joined, report.revised) == (0, 1)
    assert len(town.content()) == len(before)
    assert "all is joined again" in caplog.text


def test_the_state_is_kept_as_it_is(tmp_path: Path) -> None:
    state = join_state.JoinState(at_s=1.0, made_by_hour={3: 4}, seen=frozenset("a"), early={"R1": (1, 2)})
    join_state.write_state(tmp_path / "state.json", state)
    assert join_state.read_state(tmp_path / "state.json") == state


def test_origins_between_the_steps_have_their_own_grid(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.forecast(forecast(minutes=30))
    # From 0:40 to 3:00.
    town.read(came([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], hour=0, every_minutes=20))
    town.join(hour=3)
    # The mean of 0:40, 1:00 and 1:20; that of 1:40, 2:00 and 2:20.
    assert town.actual() == {("R1", 0, 1): 4.0, ("R1", 0, 2): 7.0}


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    every=st.sampled_from([7, 20, 60]),
    quantity=st.sampled_from(["volume", "temperature", "rainfall"]),
)
def test_an_actual_is_what_a_window_holds(seed: int, every: int, quantity: str) -> None:
    rng = np.random.default_rng(seed)
    number = 40
    moments = START + pd.to_timedelta(rng.integers(0, 600, number) // every * every, unit="min")
    readings = join_readings(
        [
            make_readings(
                site=pd.Series(rng.choice(["R1", "R2"], number)),
                quantity=quantity,
                valid_at=pd.DatetimeIndex(moments),
                available_at=pd.DatetimeIndex(moments + pd.to_timedelta(rng.integers(0, 10_000, number), unit="s")),
                value=rng.normal(10.0, 3.0, number),
                source="sensor:test",
            )
        ]
    ).sort_values(["site", "quantity", "valid_at", "available_at"], kind="stable")
    readings = readings.drop_duplicates(["site", "valid_at", "available_at"])
    sites = [Site(name="R1"), Site(name="R2")]
    panel = build_panel(TRAFFIC, sites, readings, first_origin_s=START_S, last_origin_s=START_S + HOUR_S)
    channel = [one.name for one in TRAFFIC.inputs].index(quantity)
    expected_ST = panel.final_ST(channel)
    found = final_values(TRAFFIC.quantity(quantity), readings, step_s=HOUR_S)
    cell = (found["moment_s"].to_numpy() - panel.start_s) // HOUR_S
    site = found["site"].map({"R1": 0, "R2": 1}).to_numpy()
    np.testing.assert_allclose(found["value"].to_numpy(), expected_ST[site, cell], rtol=1e-6)
    assert len(found) == np.isfinite(expected_ST).sum()


@settings(max_examples=5, deadline=None)
@given(
    order=st.permutations(range(9)),
    again=st.lists(st.integers(0, 8), max_size=3),
    joins=st.sets(st.integers(0, 11), max_size=5),
)
def test_order_and_multiplicity_of_arrival_change_nothing(order: list[int], again: list[int], joins: set[int]) -> None:
    parts: list[ForecastRecord | Checked] = [
        forecast(hour=0),
        forecast(hour=1),
        forecast(hour=1, value=150.0, made_s=START_S + 9000.0, window="w2"),
        forecast("R2", hour=0),
        came([101.0, 102.0, 103.0]),
        came([120.0], hour=2, late_h=3.0),
        came([121.0], hour=2, late_h=2.0),
        came([80.0, 81.0], site="R2", hour=1),
        came([95.0] * 24, hour=4),
    ]
    folder = Path(tempfile.mkdtemp())
    try:
        expected, town = Town(folder / "in order"), Town(folder / "otherwise")
        for part in parts:
            expected.forecast(part) if isinstance(part, ForecastRecord) else expected.read(part)
        expected.join(hour=30)
        for place, number in enumerate([*order, *again]):
            part = parts[number]
            town.forecast(part) if isinstance(part, ForecastRecord) else town.read(part)
            if place in joins:
                town.join(hour=30 + place / 10)
        report = town.join(hour=32)
        pd.testing.assert_frame_equal(town.content(), expected.content())
        assert report.waiting == len(town.realised.waiting())
    finally:
        shutil.rmtree(folder)
