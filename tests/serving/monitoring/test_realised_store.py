"""Realised forecasts: what is read does not hang on how rows came, and figures are what they say."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.errors import DataError, InvalidParameterError
from features.store import ReadingStore
from features.vocabulary import Site
from serving.monitoring.realised import REALISED_COLUMNS, REALISED_KEY
from serving.monitoring.realised_store import NOMINAL, RealisedStore

TRAFFIC = DOMAINS["traffic"]
START_S = int(pd.Timestamp("2026-01-31T20:00Z").timestamp())
HOUR_S = 3600


def realised(
    site: str = "R1",
    *,
    hours: int = 1,
    steps: int = 1,
    actual: float = 110.0,
    median: float = 100.0,
    joined_s: float = 1.0,
    role: str = "champion",
    model_version: str = "traffic-lstm-v1",
    start_s: int = START_S,
) -> pd.DataFrame:
    origins = start_s + np.arange(hours) * HOUR_S
    return pd.DataFrame(
        {
            "site": site,
            "model_version": model_version,
            "role": role,
            "origin_s": origins,
            "steps": steps,
            "valid_s": origins + steps * HOUR_S,
            "actual": actual,
            "median": median,
            "lower": median - 20.0,
            "upper": median + 20.0,
            "made_s": origins + 5.0,
            "joined_s": joined_s,
        }
    )


def test_rows_are_read_as_they_were_added(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    assert tuple(store.read().columns) == REALISED_COLUMNS
    assert store.read().empty
    assert store.summary().empty
    added = pd.concat([realised(hours=10), realised("R2", hours=2, steps=24)], ignore_index=True)
    assert store.add(added) == 12
    assert store.months() == ["2026-01", "2026-02"]
    found = store.read()
    assert tuple(found.columns) == REALISED_COLUMNS
    expected = added.sort_values(["valid_s", "site", "steps"], kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected[list(REALISED_COLUMNS)], check_dtype=False)
    assert found["actual"].dtype == np.float64


def test_what_is_read_can_be_chosen(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(pd.concat([realised(hours=10), realised("R2", hours=2, steps=24, role="shadow", model_version="other")]))
    assert len(store.read(since_s=START_S + 3 * HOUR_S, until_s=START_S + 5 * HOUR_S)) == 2
    assert store.read(sites=["R2"])["site"].unique().tolist() == ["R2"]
    assert len(store.read(steps=[24])) == 2
    assert len(store.read(roles=["champion"])) == 10
    assert len(store.read(model_version="other")) == 2
    assert store.read(sites=[]).empty


def test_the_row_that_was_joined_last_counts_in_whatever_order_they_come(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(realised(actual=130.0, joined_s=3.0))
    store.add(realised(actual=np.nan, joined_s=1.0))
    store.add(realised(actual=120.0, joined_s=2.0))
    assert store.read()["actual"].tolist() == [130.0]
    assert store.waiting().empty
    assert store.summary(by=())["count"].tolist() == [1]
    assert store.compact() == 3
    assert store.compact() == 0
    assert store.read()["actual"].tolist() == [130.0]


def test_a_town_is_read_some_sites_after_the_other(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    assert list(store.tables()) == []
    store.add(pd.concat([realised(f"R{number}", hours=10) for number in range(7)], ignore_index=True))
    store.add(realised("R3", hours=10, role="shadow"))
    tables = list(store.tables(roles=("champion",), most_rows=25))
    assert [sorted(table["site"].unique()) for table in tables] == [["R0", "R1", "R2"], ["R3", "R4"], ["R5", "R6"]]
    whole = store.read(roles=("champion",))
    together = pd.concat(tables).sort_values(["valid_s", "site"], kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(together, whole)


def test_what_is_old_goes_and_files_are_merged_no_more_often_than_asked(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.tidy(START_S, every_s=0.0, keep_days=1.0)
    assert not store.folder.exists()
    for site in ("R1", "R2"):
        store.add(realised(site, hours=40 * 24))
    assert store.months() == ["2026-01", "2026-02", "2026-03"]
    now_s = START_S + 60 * 86_400
    store.tidy(now_s, every_s=3600.0, keep_days=30.0)
    assert store.months() == ["2026-03"]
    merged = list((store.folder / "2026-03").glob("merged-*.parquet"))
    assert len(merged) == 1
    store.add(realised("R3", hours=40 * 24))
    store.tidy(now_s, every_s=3600.0, keep_days=0.0)
    assert list((store.folder / "2026-03").glob("merged-*.parquet")) == merged


def test_a_row_without_an_actual_waits(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(realised(actual=np.nan, hours=3))
    assert store.read().empty
    assert len(store.waiting()) == 3
    assert store.summary(by=("site",)).empty
    store.add(realised(hours=2, joined_s=2.0))
    assert len(store.read()) == 2
    assert store.waiting()["origin_s"].tolist() == [START_S + 2 * HOUR_S]


@settings(max_examples=5, deadline=None)
@given(
    order=st.permutations(range(6)),
    again=st.lists(st.integers(0, 5), max_size=3),
    compact=st.sets(st.integers(0, 8), max_size=3),
    seed=st.integers(0, 5),
)
def test_order_and_multiplicity_change_nothing(
    order: list[int], again: list[int], compact: set[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parts = [
        realised(
            hours=int(rng.integers(1, 6)),
            actual=float(rng.choice([np.nan, 90.0, 100.0, 110.0])),
            median=float(rng.choice([100.0, 105.0])),
            # Moments that are equal, too.
            joined_s=float(rng.integers(0, 3)),
        )
        for _ in range(6)
    ]
    folder = Path(tempfile.mkdtemp())
    try:
        expected = RealisedStore(folder / "in order", TRAFFIC, "volume")
        for part in parts:
            expected.add(part)
        store = RealisedStore(folder / "otherwise", TRAFFIC, "volume")
        for place, number in enumerate([*order, *again]):
            store.add(parts[number])
            if place in compact:
                store.compact()
        pd.testing.assert_frame_equal(store.read(), expected.read())
        pd.testing.assert_frame_equal(store.waiting(), expected.waiting())
        pd.testing.assert_frame_equal(store.summary(), expected.summary())
        keys = pd.concat([store.read(), store.waiting()])
        assert not keys.duplicated(list(REALISED_KEY)).any()
    finally:
        shutil.rmtree(folder)


def test_a_summary_says_what_numpy_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = pd.concat([realised(hours=40), realised("R2", hours=30, steps=24)], ignore_index=True)
    frame["actual"] = rng.normal(100.0, 20.0, len(frame)).astype(np.float32)
    frame.loc[::7, "actual"] = 0.0
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(frame.assign(**{NOMINAL: 0.8}))
    found = store.summary(by=("site", "horizon"))
    assert found[["site", "horizon", "count"]].to_numpy().tolist() == [["R1", "2h", 40], ["R2", "24h", 30]]
    for line, (_, rows) in zip(found.to_dict("records"), frame.groupby("site"), strict=True):
        error = (rows["median"] - rows["actual"]).to_numpy()
        actual, lower, upper = (rows[name].to_numpy() for name in ("actual", "lower", "upper"))
        some = actual != 0
        assert line["mae"] == pytest.approx(np.abs(error).mean())
        assert line["bias"] == pytest.approx(error.mean())
        assert line["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
        assert line["mape_percent"] == pytest.approx(100 * np.abs(error[some] / actual[some]).mean())
        assert line["coverage"] == pytest.approx(((lower <= actual) & (actual <= upper)).mean())
        assert line["nominal_coverage"] == pytest.approx(0.8)
        outside = np.maximum(lower - actual, 0) + np.maximum(actual - upper, 0)
        assert line["interval_score"] == pytest.approx((upper - lower + 2 / 0.2 * outside).mean())


def test_the_hour_of_the_week_is_the_sites_own(tmp_path: Path) -> None:
    readings = ReadingStore(tmp_path / "readings", TRAFFIC)
    readings.add_sites([Site(name="R1", timezone="Asia/Kolkata"), Site(name="R2", timezone="America/Chicago")])
    store = RealisedStore(tmp_path, TRAFFIC, "volume", readings=readings)
    # 2026-03-08 is the day on which clocks in Chicago go from two to three.
    sunday_s = int(pd.Timestamp("2026-03-08T05:00Z").timestamp())
    for site in ("R1", "R2", "R3"):
        store.add(realised(site, hours=6, start_s=sunday_s))
    found = store.summary(by=("site", "hour_of_week"))
    hours = found.groupby("site")["hour_of_week"].agg(list).to_dict()
    assert hours["R1"] == [155, 156, 157, 158, 159, 160]
    assert hours["R2"] == [144, 145, 147, 148, 149, 150]
    assert hours["R3"] == [150, 151, 152, 153, 154, 155]
    weeks = store.summary(by=("week_s",))["week_s"].tolist()
    assert [pd.Timestamp(week_s, unit="s") for week_s in weeks] == [pd.Timestamp("2026-03-02")]


def test_a_summary_by_something_else_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="hour_of_week"):
        RealisedStore(tmp_path, TRAFFIC, "volume").summary(by=("hour_of_wek",))


def test_only_forecasts_that_are_new_replace_what_is_held(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    rows = realised(hours=4)
    assert len(store.replacing(rows)) == 4
    store.add(rows.iloc[:2])
    assert store.replacing(rows)["origin_s"].tolist() == rows["origin_s"].tolist()[2:]
    assert store.replacing(rows)["held_s"].isna().all()
    later = rows.assign(made_s=rows["made_s"] + [1.0, -1.0, 0.0, 0.0])
    assert store.replacing(later)["origin_s"].tolist() == [rows["origin_s"].tolist()[place] for place in (0, 2, 3)]
    assert store.replacing(later)["held_s"].tolist()[0] == 1.0


def test_months_that_expired_take_no_more_rows(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(realised(hours=10))
    assert store.expire(START_S) == 0
    assert store.expire(START_S + 8 * HOUR_S) == 1
    assert store.months() == ["2026-02"]
    assert store.add(realised(hours=10)) == 7
    assert len(store.read()) == 7


def test_sites_that_are_left_out_are_not_read(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(pd.concat([realised(), realised("R2")]))
    store.leave_out(["R2"])
    assert store.read()["site"].tolist() == ["R1"]
    assert store.summary(by=("site",))["site"].tolist() == ["R1"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = RealisedStore(tmp_path, TRAFFIC, "volume")
    store.add(realised())
    (file,) = (store.folder / "2026-01").glob("*.parquet")
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"damaged.*2026|damaged.*traffic-volume"):
        store.read()
