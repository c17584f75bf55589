from __future__ import annotations

from pathlib import Path

import pytest

from features.errors import StorageError
from serving.monitoring.report import Assessment, MonitoringReport, Trigger
from serving.monitoring.report_store import ReportStore, new_report_id

DAY_S = 86_400.0


def _report(at_s: float, *, target: str = "volume", **facts: object) -> MonitoringReport:
    return MonitoringReport(
        id=new_report_id(at_s),
        domain="traffic",
        target=target,
        unit="veh/h",
        model_version="traffic-lstm-v1",
        at_s=at_s,
        since_s=0,
        until_s=int(at_s),
        **facts,  # type: ignore[arg-type]
    )


def test_a_report_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports")
    line = Assessment(site="A", state="harmed", since_s=0, until_s=10, steps=3, error=2.0, reason="worse")
    kept = _report(DAY_S, assessments=(line,), triggers=(Trigger(kind="performance", sites=("A",), reason="why"),))
    path = store.add(kept)
    assert path == tmp_path / "reports" / "traffic-volume" / f"{kept.id}.json"
    found = store.latest("traffic", "volume")
    assert found is not None
    assert (found.id, found.triggers, found.assessments[0].error) == (kept.id, kept.triggers, 2.0)


def test_reports_are_listed_newest_first_and_by_target(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    for day in (3, 1, 2):
        store.add(_report(day * DAY_S))
    again = _report(3 * DAY_S)
    store.add(again)
    store.add(_report(9 * DAY_S, target="speed"))
    assert [report.at_s / DAY_S for report in store.list("traffic", "volume")] == [3, 3, 2, 1]
    latest = store.latest("traffic", "volume")
    assert latest is not None
    assert latest.id == again.id
    assert len(store.list("traffic", "volume", limit=2)) == 2


def test_where_no_report_is_there_is_none(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "none")
    assert store.latest("traffic", "volume") is None
    assert store.list("traffic", "volume", 5) == ()
    assert store.expire(DAY_S) == 0


def test_a_damaged_report_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReportStore(tmp_path)
    store.add(_report(DAY_S))
    store.add(newest := _report(2 * DAY_S))
    store.path(newest).write_text("{", encoding="utf-8")
    latest = store.latest("traffic", "volume")
    assert latest is not None
    assert latest.at_s == DAY_S
    assert newest.id in caplog.text


def test_the_newest_report_never_expires(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    for day in range(1, 5):
        store.add(_report(day * DAY_S))
    assert store.expire(3 * DAY_S) == 2
    assert [report.at_s / DAY_S for report in store.list("traffic", "volume")] == [4, 3]
    assert store.expire(100 * DAY_S) == 1
    assert store.latest("traffic", "volume") is not None


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="file stands where a folder"):
        ReportStore(tmp_path / "reports").add(_report(DAY_S))
