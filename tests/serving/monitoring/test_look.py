"""A look puts errors, drift, estimates and triggers together; only some of them ask for a retraining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import VALUE_COLUMNS
from serving.monitoring.estimate import WAITING_COLUMNS
from serving.monitoring.look import data_trigger, look_at
from serving.monitoring.realised import REALISED_COLUMNS
from serving.monitoring.report import MonitoringReport, report_from_json

HOUR_S, DAY_S, WEEK_S = 3600, 86400, 7 * 86400
END_S = int(pd.Timestamp("2026-02-02T00:00:00Z").timestamp())


def realised(site: str, *, weeks: int = 24, late: float = 0.0) -> pd.DataFrame:
    """Hourly forecasts of a day's curve; `late` is how far off the last two days are."""
    rng = np.random.default_rng(len(site))
    valid_s = END_S - HOUR_S * np.arange(weeks * 168)[::-1]
    median = 100 + 30 * np.sin(valid_s / DAY_S * 2 * np.pi) + rng.normal(0, 2, len(valid_s))
    off = rng.normal(0, 5, len(valid_s)) + np.where(valid_s > END_S - 2 * DAY_S, late, 0.0)
    return pd.DataFrame(
        {
            "site": site,
            "model_version": "v1",
            "role": "champion",
            "origin_s": valid_s - HOUR_S,
            "steps": 1,
            "valid_s": valid_s,
            "actual": median + off,
            "median": median,
            "lower": median - 9.8,
            "upper": median + 9.8,
            "made_s": valid_s - HOUR_S,
            "joined_s": valid_s,
        }
    )[list(REALISED_COLUMNS)]


def inputs(site: str, *, weeks: int, level: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    valid_s = END_S - HOUR_S * np.arange(weeks * 168)[::-1]
    value = level * (15 + 5 * np.sin(valid_s / DAY_S * 2 * np.pi)) + rng.normal(0, 1, len(valid_s))
    frame = pd.DataFrame({"site": site, "name": "temperature", "valid_s": valid_s, "value": value})
    return frame[list(VALUE_COLUMNS)]


def waiting(site: str) -> pd.DataFrame:
    valid_s = END_S + HOUR_S * (1 + np.arange(24))
    median = 100 + 30 * np.sin(valid_s / DAY_S * 2 * np.pi)
    frame = pd.DataFrame({"site": site, "role": "champion", "origin_s": END_S, "valid_s": valid_s})
    frame = frame.assign(steps=np.arange(1, 25), median=median, lower=median - 9.8, upper=median + 9.8)
    return frame[list(WAITING_COLUMNS)]


def look(table: pd.DataFrame | Iterator[pd.DataFrame], **others: Any) -> MonitoringReport:
    given: dict[str, Any] = {
        "id": "0001",
        "domain": "water",
        "target": "inflow",
        "unit": "L/s",
        "model_version": "water-blend-v3",
        "now_s": END_S,
        "waiting": waiting("A"),
        "reference_inputs": inputs("A", weeks=20),
        "recent_inputs": inputs("A", weeks=1),
    }
    return look_at(realised=table, **{**given, **others})


def test_a_report_holds_all_and_can_be_kept() -> None:
    report = look(pd.concat([realised("A"), realised("BB", late=40.0)]))
    assert {line.site: line.state for line in report.assessments} == {"A": "healthy", "BB": "harmed"}
    assert [(trigger.kind, trigger.sites) for trigger in report.triggers] == [("performance", ("BB",))]
    assert {(line.of, line.site, line.name) for line in report.drift} == {
        ("feature", "A", "temperature"),
        ("prediction", "A", "inflow"),
        ("prediction", "BB", "inflow"),
    }
    assert [line.site for line in report.estimates] == ["A"]
    assert report.estimates[0].error == pytest.approx(4.0, rel=0.2)
    assert (report.until_s, report.since_s) == (END_S, END_S - WEEK_S + HOUR_S)
    assert report.remarks == ()
    assert report_from_json(report.as_json()).triggers == report.triggers


def test_a_large_town_may_come_site_by_site() -> None:
    tables = [realised("A"), realised("BB", late=40.0)]
    waits = pd.concat([waiting("A"), waiting("new")])
    whole, parts = look(pd.concat(tables), waiting=waits), look(iter(tables), waiting=waits)
    assert parts.as_json() == whole.as_json()
    assert [line.site for line in parts.estimates] == ["A", "new"]


def test_drift_of_inputs_explains_and_triggers_nothing() -> None:
    report = look(realised("A"), recent_inputs=inputs("A", weeks=1, level=4.0))
    assert all(line.drifted for line in report.drift if line.of == "feature")
    assert report.triggers == ()


def test_a_window_without_data_is_a_report_that_says_so() -> None:
    nothing = realised("A").iloc[:0]
    report = look(
        nothing,
        waiting=waiting("A").iloc[:0],
        reference_inputs=inputs("A", weeks=1).iloc[:0],
        recent_inputs=inputs("A", weeks=1).iloc[:0],
        trained_sites=["A"],
        present_sites=["A"],
    )
    assert [(line.site, line.state) for line in report.assessments] == [("A", "no data")]
    assert (report.drift, report.estimates, report.triggers) == ((), (), ())
    assert any("no forecast" in remark for remark in report.remarks)
    assert report_from_json(report.as_json()).assessments[0].site == "A"


def test_clocks_that_are_wrong_and_sites_that_are_gone_are_remarked() -> None:
    ahead = realised("A").tail(3).assign(valid_s=END_S + WEEK_S)
    report = look(pd.concat([realised("A"), ahead]), trained_sites=["A", "B"], present_sites=["A"])
    assert any("3 actuals lie in the future" in remark for remark in report.remarks)
    assert any("B" in remark and "no readings" in remark for remark in report.remarks)
    assert [line.site for line in report.assessments] == ["A"]


def test_new_sites_and_enough_new_weeks_ask_for_a_retraining() -> None:
    settings = DetectionSettings(data_trigger_weeks=3)
    known = {"trained_sites": ["A", "B"], "settings": settings}

    def asked(present: list[str], until_s: float | None) -> str | None:
        found = data_trigger(present_sites=present, trained_until_s=0.0, readings_until_s=until_s, **known)  # type: ignore[arg-type]
        return found and found.reason

    assert asked(["A", "B"], 2.9 * WEEK_S) is None
    assert asked(["A", "B"], None) is None
    assert asked(["A"], -WEEK_S) is None
    assert "3.5 weeks" in str(asked(["A", "B"], 3.5 * WEEK_S))
    assert "C" in str(asked(["A", "B", "C"], WEEK_S))
    never = DetectionSettings(data_trigger_weeks=0)
    assert (
        data_trigger(trained_sites=["A"], present_sites=["C"], trained_until_s=0, readings_until_s=1e9, settings=never)
        is None
    )
