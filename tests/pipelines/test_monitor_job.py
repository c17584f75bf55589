"""The monitoring job over a real log, real readings and a real registry: half a year of a road that changes."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from features.domains import DOMAINS
from features.errors import StorageError, UnknownNameError
from features.quality import check_readings
from features.store import ReadingStore
from features.vocabulary import Site
from pipelines.commands.monitor import render_report
from pipelines.monitor import alerts_of, monitor_domain
from pipelines.schedule_settings import ScheduleSettings
from pipelines.settings import Settings
from serving.monitoring.report import MonitoringReport
from serving.monitoring.report_store import ReportStore
from serving.prediction_log.records import ForecastRecord
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore
from training.forecaster import LEVELS
from training.registry import ModelRegistry

TRAFFIC = DOMAINS["traffic"]
SITES = [Site(name="R1"), Site(name="R2")]
HOUR_S, WEEK_H = 3600, 168
HOURS = 26 * WEEK_H
HARMED_FROM = 25 * WEEK_H
START = pd.Timestamp("2025-01-01", tz="UTC")
NOW_S = START.timestamp() + (HOURS - 1) * HOUR_S
QUIET = Console(quiet=True)
Readings = Callable[[int, list[Site]], pd.DataFrame]


def forecasts() -> list[ForecastRecord]:
    """What the wave's model said, from the tenth week on, four times a day at each road."""
    spread = np.array([-130.0, -105.0, -80.0, -43.0, 0.0, 43.0, 80.0, 105.0, 130.0])
    assert len(spread) == len(LEVELS)
    found = []
    for hour in range(10 * WEEK_H, HOURS, 6):
        ahead = hour + np.arange(1, 25)
        values = (1000 + 500 * np.sin(ahead % 24 / 24 * 2 * np.pi))[:, None] + spread
        origin_s = int(START.timestamp()) + hour * HOUR_S
        for site in SITES:
            found.append(
                ForecastRecord(
                    name=hashlib.sha256(f"{site.name} {hour}".encode()).hexdigest()[:16],
                    made_s=origin_s + 1.0,
                    domain="traffic",
                    target="volume",
                    unit="veh/h",
                    site=site.name,
                    origin_s=origin_s,
                    step_s=HOUR_S,
                    window="w",
                    model_version="traffic-wave-v1",
                    role="champion",
                    runtime="in_process",
                    levels=LEVELS,
                    values=values.astype("<f4").tobytes(),
                )
            )
    return found


@pytest.fixture
def watched(settings: Settings) -> ScheduleSettings:
    return ScheduleSettings(data_dir=settings.data_dir, tracking_uri=settings.tracking_uri)


@pytest.fixture
def fill(watched: ScheduleSettings, wave_readings: Readings) -> Callable[[], None]:
    """Fills the log and the store; in the last week the first road carries twice as much as ever."""

    def put() -> None:
        readings = wave_readings(HOURS, SITES)
        late = (readings["site"] == "R1") & (readings["valid_at"] >= START + pd.Timedelta(hours=HARMED_FROM))
        readings.loc[late, "value"] *= 2
        ReadingStore(watched.readings_dir, TRAFFIC).append(check_readings(readings, TRAFFIC), SITES)
        store = PredictionStore(PredictionLogSettings(data_dir=watched.data_dir).log_url)
        store.add("segment", enumerate(forecasts()))
        store.close()

    return put


def shown(report: MonitoringReport) -> str:
    console = Console(file=io.StringIO(), width=200, record=True)
    for part in render_report(report):
        console.print(part)
    return console.export_text()


def test_a_harmed_road_is_found_kept_told_and_asks_for_a_retraining(
    watched: ScheduleSettings, registry: ModelRegistry, enter: Callable[..., object], fill: Callable[[], None]
) -> None:
    enter()
    fill()
    (report,) = monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S)
    states = {line.site: line.state for line in report.assessments}
    assert states == {"R1": "harmed", "R2": "healthy"}
    assert report.model_version == "traffic-wave-v1"
    performance, *_ = report.triggers
    assert (performance.kind, performance.sites) == ("performance", ("R1",))
    kept = ReportStore(watched.reports_dir).latest("traffic", "volume")
    assert kept is not None
    assert (kept.id, kept.triggers) == (report.id, report.triggers)
    client = registry.tracking.connect()
    experiment = client.get_experiment_by_name("towncast-monitoring")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["model_version"] == "traffic-wave-v1"
    assert "harmed: R1" in (watched.data_dir / "alerts.json").read_text()
    text = shown(report)
    assert "harmed" in text
    assert "towncast retrain traffic --now" in text
    # A second look finds the same, and tells nobody twice.
    (again,) = monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S, tracked=False)
    assert [line.state for line in again.assessments] == [line.state for line in report.assessments]
    assert again.id > report.id
    assert alerts_of(again)[0].state == alerts_of(report)[0].state


def test_what_comes_to_a_look_without_forecasts_or_readings_is_a_report_that_says_so(
    watched: ScheduleSettings, enter: Callable[..., object]
) -> None:
    enter()
    (report,) = monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S, tracked=False)
    assert {line.state for line in report.assessments} <= {"no data"}
    assert not [trigger for trigger in report.triggers if trigger.kind == "performance"]
    assert "nothing can be said of its errors" in " ".join(report.remarks)
    assert alerts_of(report)[0].level == "ok"
    assert "POST /predict/traffic" in shown(report)


def test_a_domain_without_a_champion_has_no_report(watched: ScheduleSettings, empty_store: Path) -> None:
    assert monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S) == ()
    with pytest.raises(UnknownNameError, match="traffic"):
        monitor_domain("trafic", settings=watched, console=QUIET)


def test_a_registry_that_is_away_is_told_once_and_its_return_too(
    watched: ScheduleSettings, enter: Callable[..., object], tmp_path: Path
) -> None:
    enter()
    database, aside = tmp_path / "mlflow.db", tmp_path / "aside.db"
    database.rename(aside)
    for look in range(2):
        with pytest.raises(StorageError, match="registry of models"):
            monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S + look)
        assert '"state":"failed: The registry' in (watched.data_dir / "alerts.json").read_text()
    assert not database.exists()
    aside.rename(database)
    monitor_domain("traffic", settings=watched, console=QUIET, now_s=NOW_S + 2, tracked=False)
    assert '"state":"works"' in (watched.data_dir / "alerts.json").read_text()


def test_reports_are_kept_as_long_as_the_settings_say(watched: ScheduleSettings, enter: Callable[..., object]) -> None:
    enter()
    brief = watched.model_copy(update={"report_keep_days": 7.0})
    for day in (0, 1, 9):
        monitor_domain("traffic", settings=brief, console=QUIET, now_s=NOW_S + day * 86400, tracked=False)
    kept = ReportStore(watched.reports_dir).list("traffic", "volume")
    assert [(report.at_s - NOW_S) / 86400 for report in kept] == [9]
