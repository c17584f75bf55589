"""Quality checks: each bad row is in quarantine with its reason, each good one is accepted."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.domains.traffic import TRAFFIC
from features.quality import check_readings, flag_outliers
from features.readings import READING_COLUMNS, join_readings


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    moment = pd.Timestamp("2024-01-01T00:00Z").as_unit("us")
    usual = {
        "site": "R1",
        "quantity": "volume",
        "valid_at": moment,
        "available_at": moment,
        "value": 100.0,
        "source": "sensor:test",
    }
    return pd.DataFrame([{**usual, **change} for change in changes], columns=list(READING_COLUMNS))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantity": "colour"}, "unknown quantity"),
        ({"value": np.inf}, "not a number"),
        ({"value": -1.0}, "outside 0 to 20000 veh/h (volume)"),
        ({"value": 1e6}, "outside 0 to 20000 veh/h (volume)"),
        ({"quantity": "temperature", "value": -273.15}, "outside -90 to 60 degC (temperature)"),
        ({"available_at": pd.Timestamp("2023-12-31T00:00Z").as_unit("us")}, "available before it was true"),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_its_reason(change: dict[str, Any], reason: str) -> None:
    checked = check_readings(rows({"site": "R2"}, change), TRAFFIC)
    assert checked.reasons() == {reason: 1}
    assert checked.accepted["site"].tolist() == ["R2"]


def test_bounds_themselves_are_accepted() -> None:
    checked = check_readings(rows({"value": 0.0}, {"value": 20_000.0, "site": "R2"}), TRAFFIC)
    assert len(checked.accepted) == 2


def test_the_first_of_repeated_and_contradicting_rows_counts() -> None:
    checked = check_readings(rows({}, {}, {"value": 7.0}), TRAFFIC)
    assert checked.accepted["value"].tolist() == [100.0]
    assert checked.reasons() == {"repeated row": 1, "second value for the same moment": 1}


def test_a_bad_value_does_not_take_the_place_of_a_good_one() -> None:
    assert check_readings(rows({"value": -5.0}, {"value": 7.0}), TRAFFIC).accepted["value"].tolist() == [7.0]


def test_a_later_availability_is_a_revision() -> None:
    later = pd.Timestamp("2024-01-01T02:00Z").as_unit("us")
    assert len(check_readings(rows({}, {"value": 7.0, "available_at": later}), TRAFFIC).accepted) == 2


def test_outliers_are_flagged_and_kept() -> None:
    weeks = pd.date_range("2024-01-01", periods=20, freq="7D", tz="UTC").as_unit("us")
    noise = np.random.default_rng(0).normal(0.0, 5.0, 20)
    frame = rows(*({"valid_at": m, "available_at": m, "value": 100 + n} for m, n in zip(weeks, noise, strict=True)))
    frame.loc[7, "value"] = 5_000.0
    checked = check_readings(frame, TRAFFIC)
    assert checked.accepted.index[checked.accepted["outlier"]].tolist() == [7]


def test_no_readings_are_no_problem() -> None:
    checked = check_readings(join_readings([]), TRAFFIC)
    assert (len(checked.accepted), len(checked.quarantined), checked.reasons()) == (0, 0, {})
    assert flag_outliers(join_readings([])).empty


changes = st.fixed_dictionaries(
    {
        "site": st.sampled_from(["R1", "R2"]),
        "quantity": st.sampled_from(["volume", "temperature", "nothing"]),
        "value": st.sampled_from([-300.0, 0.0, 1.0, 1e9, np.inf, np.nan]),
        "available_at": st.sampled_from(
            [pd.Timestamp(f"2024-01-0{day}T00:00Z").as_unit("us") - pd.Timedelta("1D") for day in (1, 2, 3)]
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=15))
def test_each_row_is_in_one_part_once(entries: list[dict[str, Any]]) -> None:
    frame = rows(*entries) if entries else join_readings([])
    checked = check_readings(frame, TRAFFIC)
    assert len(checked.accepted) + len(checked.quarantined) == len(frame)
    assert not checked.accepted.duplicated(["site", "quantity", "valid_at", "available_at"]).any()
    again = check_readings(checked.accepted, TRAFFIC)
    assert again.quarantined.empty
