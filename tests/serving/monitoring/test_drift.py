"""Drift is measured against the same hours of the week, and only explains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import VALUE_COLUMNS, conditioned, drift_lines, hour_of_week, psi, wasserstein

HOUR_S, WEEK_S = 3600, 7 * 86400
MONDAY_S = int(pd.Timestamp("2026-01-05T00:00:00Z").timestamp())


def volumes(*, begin_s: int, weeks: int, seed: int, weekend: float = 1.0, level: float = 1.0) -> pd.DataFrame:
    """Hourly volumes of a road with a strong day, and weekends of their own."""
    rng = np.random.default_rng(seed)
    valid_s = begin_s + HOUR_S * (1 + np.arange(weeks * 168))
    hour = hour_of_week(valid_s)
    usual = 100 * (1 + 0.8 * np.sin((hour % 24 - 8) / 24 * 2 * np.pi)) * np.where(hour >= 120, weekend, 1.0)
    value = level * usual * np.exp(rng.normal(0, 0.1, len(hour)))
    return pd.DataFrame({"site": "A", "name": "volume", "valid_s": valid_s, "value": value})[list(VALUE_COLUMNS)]


def measured(reference: pd.DataFrame, recent: pd.DataFrame) -> dict[str, float]:
    return {line.measure: line.value for line in drift_lines(reference, recent, of="feature")}


def test_hours_of_the_week_begin_on_monday_and_a_step_belongs_to_where_it_began() -> None:
    ends = np.array([MONDAY_S, MONDAY_S + 1, MONDAY_S + HOUR_S, MONDAY_S + HOUR_S + 1, MONDAY_S + WEEK_S])
    assert hour_of_week(ends).tolist() == [167, 0, 0, 1, 167]


def test_part_of_a_week_does_not_drift_because_other_hours_are_missing() -> None:
    reference = volumes(begin_s=MONDAY_S - 40 * WEEK_S, weeks=40, seed=0, weekend=0.3)
    weekend = volumes(begin_s=MONDAY_S, weeks=4, seed=1, weekend=0.3)
    weekend = weekend[hour_of_week(weekend["valid_s"].to_numpy()) >= 120]
    conditional = measured(reference, weekend)
    plain = psi(reference["value"].to_numpy(), weekend["value"].to_numpy())
    assert plain > 1.0
    assert conditional["psi"] < 0.2 * plain


@pytest.mark.parametrize("change", [{"level": 1.3}, {"weekend": 2.0}])
def test_a_level_and_a_change_of_weekends_are_drift(change: dict[str, float]) -> None:
    reference = volumes(begin_s=MONDAY_S - 40 * WEEK_S, weeks=40, seed=0)
    usual = measured(reference, volumes(begin_s=MONDAY_S, weeks=2, seed=1))
    moved = measured(reference, volumes(begin_s=MONDAY_S, weeks=2, seed=1, **change))
    assert all(moved[name] > 2 * usual[name] for name in ("psi", "ks", "wasserstein"))
    assert all(value > 0.1 for value in moved.values())


def test_thresholds_are_the_documents_and_settings_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, recent = (volumes(begin_s=MONDAY_S + shift, weeks=3, seed=0) for shift in (-3 * WEEK_S, 0))
    assert {line.threshold for line in drift_lines(reference, recent, of="feature")} == {0.1}
    assert {line.threshold for line in drift_lines(reference, recent, of="prediction")} == {0.15}
    monkeypatch.setenv("TOWNCAST_FEATURE_DRIFT_THRESHOLD", "9")
    assert not any(line.drifted for line in drift_lines(reference, recent, of="feature", settings=DetectionSettings()))


def test_what_cannot_be_measured_is_not_a_number_and_no_drift() -> None:
    reference = volumes(begin_s=MONDAY_S - 8 * WEEK_S, weeks=8, seed=0)
    for recent in (reference.iloc[:0], reference.assign(site="B"), reference.assign(value=np.nan)):
        lines = drift_lines(reference, recent, of="feature")
        assert [line.measure for line in lines] == ["psi", "ks", "wasserstein"]
        assert np.isnan([line.value for line in lines]).all()
        assert not any(line.drifted for line in lines)
    assert drift_lines(reference.iloc[:0], reference, of="feature") == ()


def test_a_constant_input_and_one_that_is_mostly_zero_can_be_measured() -> None:
    constant = volumes(begin_s=MONDAY_S - 8 * WEEK_S, weeks=8, seed=0).assign(value=3.0)
    assert measured(constant, constant.tail(168))["psi"] == 0.0
    rain = volumes(begin_s=MONDAY_S - 8 * WEEK_S, weeks=8, seed=0)
    rain["value"] = np.where(np.arange(len(rain)) % 29 == 0, rain["value"], 0.0)
    assert np.isfinite(list(measured(rain, rain.tail(336)).values())).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=60), st.floats(0.1, 100), st.floats(-1e3, 1e3))
def test_distances_of_a_sample_to_itself_are_zero_and_units_do_not_matter(
    values: list[float], factor: float, offset: float
) -> None:
    sample = np.round(np.array(values), 3)
    assert psi(sample, sample) == 0.0
    if np.std(sample) > 1:
        moved = sample + np.std(sample)
        there, elsewhere = wasserstein(sample, moved), wasserstein(factor * sample + offset, factor * moved + offset)
        assert there == pytest.approx(1.0, rel=1e-6)
        assert elsewhere == pytest.approx(there, rel=1e-4)


def test_distances_from_the_usual_are_in_units_of_the_hours_spread() -> None:
    reference = volumes(begin_s=MONDAY_S - 30 * WEEK_S, weeks=30, seed=0)
    before, after = conditioned(reference, reference.tail(168).assign(value=lambda rows: rows["value"] * 1.1))
    assert abs(np.median(before)) < 0.1
    assert 0.7 < np.median(after) < 1.4
