"""`/monitoring/...`: reports as they are kept, their history, a site's weeks, and what is wrong with a question."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from features.alias_history import AliasChange
from features.card import registered_name
from features.domains import DOMAINS
from serving.app import create_app
from serving.metrics import SITE_STATES, Metrics
from serving.monitoring.answers import MonitoringAnswers
from serving.monitoring.figures import keep_report_figures, last_retraining
from serving.monitoring.report import MonitoringReport, report_from_json
from serving.monitoring.report_store import ReportStore
from serving.monitoring.schemas import ReportReply, SiteQuery
from serving.monitoring.site_weeks import score_of, versions_of, weeks_of
from serving.releases.plans import Standing, standing_of
from serving.settings import ServingSettings


@pytest.fixture(scope="module")
def town(watched: Any, open_api: Any) -> Iterator[Any]:
    with open_api(create_app(ServingSettings(data_dir=watched.data_dir), services=[])) as opened:
        yield opened


def ask(town: Any, path: str, status: int = 200, **query: Any) -> Any:
    reply = town.request("GET", path, params=query)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_the_newest_report_is_answered_as_it_is_kept(town: Any, watched: Any) -> None:
    told = ask(town, "/monitoring/water")
    assert ask(town, "/v1/monitoring/water") == told
    (report,) = told["reports"]
    kept: MonitoringReport = watched.reports[-1]
    assert [line.pop("drifted") for line in report["drift"]] == [True, False]
    assert report == json.loads(kept.as_json())
    assert report_from_json(json.dumps(report)) == report_from_json(kept.as_json())
    assert report["drift"][1]["value"] is None
    assert (told["entity"], told["missing"], told["models"]) == ("zone", [], [])


def test_without_a_report_it_says_what_to_do(town: Any) -> None:
    told = ask(town, "/monitoring/pollution")
    assert told["reports"] == []
    assert [one["target"] for one in told["missing"]] == [target.name for target in DOMAINS["pollution"].targets]
    assert "`towncast monitor pollution`" in told["missing"][0]["reason"]


def test_earlier_reports_are_a_line_each(town: Any, watched: Any) -> None:
    lines = ask(town, "/monitoring/water/history")["reports"]
    assert [line["id"] for line in lines] == [report.id for report in reversed(watched.reports)]
    assert lines[0]["states"] == {"healthy": 1, "harmed": 1, "no data": 1}
    assert lines[2]["states"] == {"healthy": 2, "no data": 1}
    assert [line["drifted"] for line in lines[:3]] == [1, 1, 0]
    assert [trigger["kind"] for trigger in lines[0]["triggers"]] == ["performance"]
    assert ask(town, "/monitoring/water/history", limit=2, target="inflow")["reports"] == lines[:2]
    assert ask(town, "/monitoring/traffic/history")["reports"] == []


def test_a_site_is_told_week_by_week_and_version_by_version(town: Any) -> None:
    told = ask(town, f"/monitoring/water/sites/{quote('Zone north/east', safe='')}", weeks=4)
    assert (told["site"], told["timezone"], told["unit"]) == ("Zone north/east", "Asia/Kolkata", "L/s")
    weeks = told["weeks"]
    assert [week["begin"] for week in weeks] == ["2026-01-05", "2026-01-12", "2026-01-19", "2026-01-26"]
    assert [week["steps"] for week in weeks] == [168] * 4
    assert [round(week["error"], 3) for week in weeks] == [2.0, 2.0, 8.0, 8.0]
    assert [round(week["bias"], 3) for week in weeks] == [2.0, 2.0, 8.0, 8.0]
    assert [week["coverage"] for week in weeks] == [1.0, 1.0, 0.0, 0.0]
    assert [week["model_versions"] for week in weeks] == [["water-prophet-v1"]] * 3 + [["water-prophet-v2"]]
    assert [look["assessment"]["state"] for look in told["looks"]] == ["healthy", "healthy", "harmed", "harmed"]
    assert [line["drifted"] for look in told["looks"] for line in look["drift"]] == [False, False, True, True]
    assert [(span["model_version"], span["steps"]) for span in told["versions"]][1] == ("water-prophet-v2", 168)
    # Without actuals there are looks, and no weeks.
    silent = ask(town, "/monitoring/water/sites/Z003")
    assert (silent["weeks"], silent["versions"], len(silent["looks"])) == ([], [], 12)
    # Without a report or a forecast there is nothing, and no error.
    assert len(ask(town, "/monitoring/water/sites/Z001", weeks=156)["weeks"]) == 12


@pytest.mark.parametrize(
    ("path", "status", "named", "told"),
    [
        ("/monitoring/watre", 404, "water", "There is no domain of this name"),
        ("/monitoring/watre/history", 404, "water", "There is no domain of this name"),
        ("/monitoring/water/history?target=inflo", 404, "inflow", "There is no target of water of this name"),
        ("/monitoring/water/sites/Z01", 404, "Z001", "There is no zone of this name"),
        ("/monitoring/water/sites/Z001?weeks=0", 400, "weeks", "greater than or equal to 1"),
        ("/monitoring/water/sites/Z001?weeks=157", 400, "weeks", "less than or equal to 156"),
        ("/monitoring/water/sites/Z001?weeks=many", 400, "weeks", "valid integer"),
        ("/monitoring/water/history?limit=1000", 400, "limit", "less than or equal to 200"),
        ("/monitoring/water?target=inflow", 400, "target", "no such field"),
        ("/monitoring/water/history?weeks=3", 400, "weeks", "there are target, limit"),
        ("/monitoring/water/sites/", 404, "Z001", "There is no zone of this name"),
        ("/monitoring/water/zones/Z001", 404, "", "Not Found"),
    ],
)
def test_what_is_wrong_with_a_question_is_said(town: Any, path: str, status: int, named: str, told: str) -> None:
    reply = town.request("GET", path)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert told in error["message"]
    assert named in json.dumps(error)


def test_a_damaged_report_is_passed_over_and_a_damaged_store_is_said(tmp_path: Path, watched: Any) -> None:
    store = ReportStore(tmp_path / "monitoring" / "reports")
    for report in watched.reports[-2:]:
        store.add(report)
    store.path(watched.reports[-1]).write_text("{")
    answers = MonitoringAnswers(tmp_path, standings=lambda: ({}, True))
    assert answers.latest("water").reports[0].id == watched.reports[-2].id
    store.path(watched.reports[-1]).with_name("20260203T-odd.json").write_text("no report")
    assert len(answers.site("water", "Z001", SiteQuery(weeks=3)).looks) == 1


def test_the_registrys_history_is_told_newest_first(watched: Any) -> None:
    changes = tuple(
        AliasChange(
            number=number,
            at=f"2026-01-0{number}T00:00:00+00:00",
            alias="champion",
            action="promote",
            by="ann",
            from_version=number - 1 or None,
            to_version=number,
            reason="the gate",
        )
        for number in (1, 2)
    )
    name = registered_name("water")
    standing = Standing(name=name, made_ms=0, versions={"champion": 2}, history=changes)
    answers = MonitoringAnswers(watched.data_dir, standings=lambda: ({name: standing}, False))
    told = answers.latest("water")
    assert told.registry == "away"
    assert [change.to_version for change in told.models[0].changes] == [2, 1]
    assert told.models[0].versions == {"champion": 2}


def test_a_standing_has_the_changes_of_its_aliases() -> None:
    change = AliasChange(
        number=1, at="2026", alias="champion", action="promote", by="ann", from_version=None, to_version=1, reason=""
    )
    model = SimpleNamespace(name="m", creation_timestamp=1, tags=dict([change.as_tag()]), aliases={"champion": "1"})
    assert standing_of(model).history == (change,)
    model.tags["alias_change.00002.x"] = "{"
    assert standing_of(model).history == ()
    assert standing_of(model).faults == ("the history of its aliases cannot be read",)


def test_weeks_follow_the_sites_own_calendar_through_a_change_of_its_clock() -> None:
    # Clocks in Berlin go back on Sunday 25 October 2026: that week has 169 hours.
    begin = pd.Timestamp("2026-10-19", tz="Europe/Berlin")
    moments = pd.date_range(begin, begin + pd.DateOffset(weeks=2), freq="h", inclusive="left")
    rows = pd.DataFrame(
        {
            "model_version": "m-v1",
            "origin_s": (moments.as_unit("s").asi8 - 3600),
            "valid_s": moments.as_unit("s").asi8,
            "actual": [0.0, *[10.0] * (len(moments) - 1)],
            "median": 11.0,
            "lower": float("nan"),
            "upper": 12.0,
        }
    )
    weeks = weeks_of(rows, timezone="Europe/Berlin")
    assert [week.score.steps for week in weeks] == [169, 168]
    assert [str(week.begin.date()) for week in weeks] == ["2026-10-19", "2026-10-26"]
    assert weeks[1].score.mape_percent == pytest.approx(10.0)
    # An interval that is not there covers nothing and misses nothing.
    assert pd.isna(weeks[0].score.coverage)
    assert pd.isna(score_of(rows[:1]).mape_percent)
    assert weeks_of(rows[:0], timezone="UTC") == versions_of(rows[:0]) == ()


def test_the_latest_reports_are_told_to_prometheus(watched: Any, run: Callable[[Any], Any]) -> None:
    metrics = Metrics()

    async def work() -> None:
        told = asyncio.create_task(keep_report_figures(watched.data_dir, (DOMAINS["water"],), metrics, every_s=60))
        while b"monitoring_report_timestamp_seconds{" not in metrics.text():
            await asyncio.sleep(0.01)
        told.cancel()

    run(work())
    text = metrics.text().decode()
    for state, number in zip(SITE_STATES, (1.0, 0.0, 1.0, 1.0), strict=True):
        assert f'towncast_monitoring_sites{{domain="water",state="{state}",target="inflow"}} {number}' in text
    assert 'towncast_monitoring_drifted{domain="water",of="feature",target="inflow"} 1.0' in text
    assert 'towncast_monitoring_asks_retraining{domain="water",kind="performance",target="inflow"} 1.0' in text
    assert 'towncast_monitoring_asks_retraining{domain="water",kind="schedule",target="inflow"} 0.0' in text


def test_the_last_retraining_is_told_by_its_state(tmp_path: Path) -> None:
    def keep(stamp: str, updated_s: float, **values: Any) -> None:
        kept = {"step": "done", "given_up": "", "error": "", "updated_s": updated_s} | values
        (tmp_path / f"water-{stamp}.json").write_text(json.dumps(kept))

    assert last_retraining(tmp_path, "water") == ("", None)
    keep("20260201T000000-1", 5.0, step="train")
    assert last_retraining(tmp_path, "water") == ("under way", None)
    keep("20260202T000000-1", 10.0)
    assert last_retraining(tmp_path, "water") == ("done", 10.0)
    keep("20260203T000000-1", 20.0, step="train", error="The disk is full")
    assert last_retraining(tmp_path, "water") == ("failed", 10.0)
    keep("20260204T000000-1", 30.0, step="train", error="The disk is full", given_up="three attempts")
    (tmp_path / "water-20260205T000000-1.json").write_text("{")
    assert last_retraining(tmp_path, "water") == ("given up", 10.0)
    assert last_retraining(tmp_path, "wat") == ("", None)


def test_a_reply_has_every_field_of_a_report() -> None:
    assert set(ReportReply.model_fields) == set(MonitoringReport.__dataclass_fields__)
