"""The schedule on a clock of its own: what is due, missed, asked for, failed; and as a process that is told to stop."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from features.errors import InvalidParameterError, StorageError, UnknownNameError
from pipelines.retraining_state import RetrainingStore, new_state
from pipelines.schedule import Schedule, ScheduleRunningError, is_running
from pipelines.schedule_requests import ask_for_retraining
from pipelines.schedule_rules import in_cooldown, joined, next_time
from pipelines.schedule_settings import ScheduleSettings
from serving.monitoring.report import MonitoringReport, Trigger
from serving.monitoring.report_store import new_report_id

HOUR_S, DAY_S = 3600.0, 86400.0
MONDAY_S = 1_767_571_200.0  # 2026-01-05 00:00 UTC
HARM = Trigger(kind="performance", sites=("A",), reason="errors have doubled")


class Town:
    """Jobs that write down that they were run, on a clock that the test moves."""

    def __init__(self, folder: Path, **facts: object) -> None:
        self.settings = ScheduleSettings(data_dir=folder, **facts)  # type: ignore[arg-type]
        self.now_s = MONDAY_S
        self.ran: list[str] = []
        self.reasons: list[str] = []
        self.triggers: tuple[Trigger, ...] = ()
        self.error: Exception | None = None
        self.domains = ("traffic",)

    def schedule(self) -> Schedule:
        """A schedule that has just been started."""
        return Schedule(
            self.settings,
            lambda: self.domains,
            monitor=self.monitor,
            retrain=self.retrain,
            console=Console(quiet=True),
            clock=lambda: self.now_s,
        )

    def monitor(self, domain: str, page: bool) -> tuple[MonitoringReport, ...]:
        self.ran.append(f"monitor {domain}" + (" with a page" if page else ""))
        report = MonitoringReport(
            id=new_report_id(self.now_s),
            domain=domain,
            target="volume",
            unit="veh/h",
            model_version="traffic-lstm-v1",
            at_s=self.now_s,
            since_s=0,
            until_s=0,
            triggers=self.triggers,
        )
        return (report,)

    def retrain(self, domain: str, trigger: Trigger) -> None:
        self.ran.append(f"retrain {domain}: {trigger.kind}")
        self.reasons.append(trigger.reason)
        if self.error is not None:
            raise self.error
        state = new_state(domain, (), trigger, now_s=self.now_s, data="", recipe="", trials=0)
        RetrainingStore(self.settings.retraining_dir).save(replace(state, step="done"))

    def after(self, seconds: float) -> list[str]:
        """What a schedule that is started so much later runs."""
        self.now_s += seconds
        self.ran.clear()
        self.schedule().once()
        return list(self.ran)


def test_looks_are_hourly_and_retrainings_weekly(tmp_path: Path) -> None:
    town = Town(tmp_path)
    assert town.after(0) == ["monitor traffic with a page"]
    assert town.after(60) == []
    assert town.after(HOUR_S) == ["monitor traffic"]
    assert town.after(2 * HOUR_S) == ["retrain traffic: schedule", "monitor traffic"]
    assert town.after(60) == []
    # Six days in which nothing ran: what was missed is caught up once.
    assert town.after(6 * DAY_S) == ["monitor traffic with a page"]
    assert town.after(3 * 7 * DAY_S) == ["retrain traffic: schedule", "monitor traffic with a page"]
    assert town.after(60) == []


def test_a_domain_may_have_its_own_times_or_none(tmp_path: Path) -> None:
    town = Town(tmp_path, retrain_cron_of={"water": "0 4 * * 0", "traffic": ""}, schedule_domains="traffic,water")
    assert town.settings.schedule_domains == ("traffic", "water")
    town.domains = town.settings.schedule_domains
    town.after(0)
    assert [job for job in town.after(6 * DAY_S + 4 * HOUR_S) if "retrain" in job] == ["retrain water: schedule"]


def test_a_trigger_retrains_and_then_cools_down(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.triggers = (HARM, Trigger(kind="data", sites=(), reason="4 weeks are new"))
    assert town.after(0) == ["monitor traffic with a page", "retrain traffic: performance"]
    assert town.after(HOUR_S) == ["monitor traffic"]
    assert in_cooldown("traffic", town.now_s, settings=town.settings) == pytest.approx(3 * DAY_S - HOUR_S)
    assert in_cooldown("water", town.now_s, settings=town.settings) == 0
    assert town.after(3 * DAY_S) == [
        "retrain traffic: schedule",
        "monitor traffic with a page",
    ]
    assert town.after(3 * DAY_S) == ["monitor traffic with a page", "retrain traffic: performance"]


def test_a_person_asks_with_a_file_and_is_heard_in_the_cooldown_too(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.after(0)
    path = ask_for_retraining("traffic", "the bridge is open", by="asha", settings=town.settings)
    (path.parent / "00.json").write_text("{", encoding="utf-8")
    assert town.after(60) == ["retrain traffic: manual"]
    assert not path.exists()
    assert (path.parent / "00.unreadable").exists()
    assert town.after(60) == []
    # Two who ask get one.
    for who in ("asha", "ravi"):
        ask_for_retraining("traffic", "", by=who, settings=town.settings)
    assert town.after(60) == ["retrain traffic: manual"]
    assert town.reasons[-1] == "asked for, asha; asked for, ravi"
    assert town.after(60) == []
    with pytest.raises(UnknownNameError, match="traffic"):
        ask_for_retraining("trafic", "", by="", settings=town.settings)


def test_what_failed_is_tried_again_ever_more_seldom(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.after(0)
    town.error = StorageError("MLflow does not answer", remedy="Bring it back.")
    assert town.after(3 * HOUR_S) == ["retrain traffic: schedule", "monitor traffic"]
    assert town.after(60) == []
    assert town.after(240) == ["retrain traffic: schedule"]
    assert town.after(300) == ["monitor traffic"]
    assert town.after(300) == ["retrain traffic: schedule"]
    town.error = None
    assert "retrain traffic: schedule" in town.after(DAY_S)
    assert town.after(60) == []
    # An error that nobody thought of ends no schedule either.
    town.error = ZeroDivisionError()
    assert "retrain traffic: schedule" in town.after(7 * DAY_S)


def test_a_retraining_that_ended_with_the_schedule_is_taken_up_when_it_starts(tmp_path: Path) -> None:
    town = Town(tmp_path, retrain_cron="")
    town.after(0)
    state = new_state("traffic", (), HARM, now_s=town.now_s, data="", recipe="", trials=0)
    store = RetrainingStore(town.settings.retraining_dir)
    store.save(state)
    assert town.after(60) == ["retrain traffic: performance"]
    store.save(replace(state, given_up="it failed 3 times", id=f"{state.id}9"))
    assert town.after(60) == []


def test_a_clock_that_goes_back_runs_nothing_twice(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.after(4 * HOUR_S)
    assert town.after(-0.5 * HOUR_S) == []
    assert town.after(HOUR_S) == ["monitor traffic"]


def test_a_registry_that_is_gone_does_not_end_the_looks_that_say_so(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.after(0)
    town.domains = ()
    assert town.after(HOUR_S) == ["monitor traffic"]


def test_a_damaged_state_begins_anew(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.after(0)
    (town.settings.schedule_dir / "state.json").write_text("{", encoding="utf-8")
    assert town.after(60) == ["monitor traffic with a page"]


def test_only_one_schedule_looks_after_a_folder(tmp_path: Path) -> None:
    town = Town(tmp_path, schedule_poll_s=0.01)
    stop, running = threading.Event(), threading.Event()
    town.monitor = lambda domain, page: running.set() or ()  # type: ignore[method-assign, assignment, func-returns-value]
    thread = threading.Thread(target=town.schedule().run, args=(stop,))
    thread.start()
    assert running.wait(10)
    assert is_running(town.settings)
    with pytest.raises(ScheduleRunningError, match="running already"):
        town.schedule().once()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert not is_running(town.settings)


def test_cron_follows_the_clock_of_the_town() -> None:
    # 2026-03-29: in Berlin the clock jumps from 2 to 3; 02:30 is run at 03:00.
    spring_s = 1_774_738_800.0  # 2026-03-28 23:00 UTC
    assert next_time("30 2 * * *", spring_s, timezone="Europe/Berlin") == spring_s + 2 * HOUR_S
    assert next_time("0 3 * * 1", MONDAY_S, timezone="UTC") == MONDAY_S + 3 * HOUR_S
    for cron, zone in (("61 * * * *", "UTC"), ("0 3 * * 1", "Europe/Nowhere"), ("0 0 30 2 *", "UTC"), ("daily", "UTC")):
        with pytest.raises(InvalidParameterError, match="schedule cannot be read"):
            next_time(cron, MONDAY_S, timezone=zone)


def test_a_schedule_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="TOWNCAST_RETRAIN_CRON_OF"):
        Town(tmp_path, retrain_cron_of={"water": "never"}).schedule()


def test_several_triggers_become_one() -> None:
    both = joined([Trigger(kind="data", sites=("N",), reason="N is new"), HARM])
    assert (both.kind, both.sites) == ("performance", ("A",))
    assert both.reason == "errors have doubled; N is new"


def test_as_a_process_it_ends_cleanly_when_it_is_told_to(tmp_path: Path) -> None:
    environment = {**os.environ, "TOWNCAST_DATA_DIR": str(tmp_path / "var"), "PYTHONUNBUFFERED": "1"}
    environment |= {"TOWNCAST_TRACKING_URI": f"sqlite:///{tmp_path / 'none.db'}", "TOWNCAST_SCHEDULE_POLL_S": "0.05"}
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "schedule"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    while "Looks after" not in "".join(lines):
        line = process.stdout.readline()
        assert line, "it ended by itself"
        lines.append(line)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopped." in rest
    assert "none has a champion yet" in "".join(lines)
    assert not (tmp_path / "none.db").exists()
