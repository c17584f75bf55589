"""The simulate job: workers do not change readings, what is stopped goes on, what fails takes nothing along."""

import dataclasses
import errno
import io
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from rich.console import Console
from typer.testing import CliRunner

from features.domains import DOMAINS
from features.errors import DataError, InvalidParameterError, StorageError
from features.feast_repository import FeatureRepository
from features.readings import content_hash, make_readings
from features.sources.parsed import Parsed, join_rejected
from features.store import ReadingStore
from features.vocabulary import Site
from pipelines import simulate as job
from pipelines.cli import app
from pipelines.ingest import ingest_parsed
from pipelines.settings import Settings
from pipelines.simulate import RolloutError, plan_run, raise_failed, simulate
from sim_env.process.zone_tanks import ZonesScenario
from sim_env.traffic.town_network import build_town
from sim_env.traffic.town_scenario import make_scenario

WATER = DOMAINS["water"]
TWO_DAYS = ZonesScenario(hours=48)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder / "var", tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def readings_in(settings: Settings) -> pd.DataFrame:
    return ReadingStore(settings.readings_dir, WATER).readings()


def test_readings_are_the_same_for_any_number_of_workers_and_reach_store_and_feast(
    tmp_path: Path, console: Console
) -> None:
    one, two = settings_in(tmp_path / "one"), settings_in(tmp_path / "two")
    for settings, workers in ((one, 1), (two, 2)):
        run = plan_run("process", weeks=3, settings=settings, usual=TWO_DAYS)
        simulated = simulate(run, workers=workers, settings=settings, console=console)
        assert not simulated.failed
        assert simulated.readings > 3 * 48 * 4 * 5
    assert content_hash(readings_in(one)) == content_hash(readings_in(two))
    stored = readings_in(one)
    assert stored["source"].str.match(r"sim:tank_native:usual@[0-9a-f]{8}").all()
    assert stored["source"].nunique() == 3
    online = FeatureRepository(one.feast_dir, ReadingStore(one.readings_dir, WATER)).online(["zone_1"])
    assert set(online) == {"zone_1"}


def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path: Path, console: Console) -> None:
    settings = settings_in(tmp_path)
    shorter = plan_run("process", weeks=1, settings=settings, usual=TWO_DAYS)
    simulate(shorter, workers=1, settings=settings, console=console)
    first = shorter.path(0).stat().st_mtime_ns
    longer = plan_run("process", weeks=2, settings=settings, usual=TWO_DAYS)
    assert longer.missing == [1]
    simulated = simulate(longer, workers=1, settings=settings, console=console)
    assert (simulated.found, shorter.path(0).stat().st_mtime_ns) == (1, first)
    assert longer.missing == []
    other = plan_run("process", weeks=2, settings=settings, usual=TWO_DAYS, seed=1)
    assert other.missing == [0, 1]


def test_a_killed_process_costs_nothing_but_time(tmp_path: Path, console: Console) -> None:
    settings = settings_in(tmp_path)
    run = plan_run("process", weeks=3, settings=settings, usual=TWO_DAYS)
    killed: list[int] = []

    def kill_the_first_worker() -> None:
        here = psutil.Process()
        while not killed:
            workers = [child for child in here.children() if "spawn_main" in " ".join(child.cmdline())]
            for worker in workers[:1]:
                worker.kill()
                killed.append(worker.pid)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_the_first_worker, daemon=True)
    killer.start()
    simulated = simulate(run, workers=2, settings=settings, console=console)
    killer.join(timeout=10)
    assert killed
    assert not simulated.failed
    assert run.missing == []


def test_a_network_that_vanishes_is_told_and_what_is_finished_is_stored(tmp_path: Path, console: Console) -> None:
    settings = settings_in(tmp_path)
    configuration = build_town(tmp_path / "elsewhere")
    usual = dataclasses.replace(make_scenario(configuration), hours=1)
    run = plan_run("traffic", weeks=1, settings=settings, usual=usual)
    assert not simulate(run, workers=1, settings=settings, console=console).failed
    longer = plan_run("traffic", weeks=3, settings=settings, usual=usual)
    net = tmp_path / "elsewhere" / "town.net.xml"
    whole = net.read_text()
    net.write_text(whole[:2000])
    sites_known = ReadingStore(settings.readings_dir, DOMAINS["traffic"]).sites()
    failed = dict(job._finished(longer, longer.missing, workers=2))
    assert set(failed) == {1, 2}
    assert all("town.net.xml" in str(error) for error in failed.values())
    net.write_text(whole)
    simulated = simulate(longer, workers=1, settings=settings, console=console)
    raise_failed(simulated)
    assert ReadingStore(settings.readings_dir, DOMAINS["traffic"]).sites() == sites_known
    with pytest.raises(RolloutError, match=r"1 of 3 rollouts failed.*week 2: boom.*run the same command again"):
        raise_failed(dataclasses.replace(simulated, failed={2: "boom"}))


def test_a_full_disk_leaves_no_half_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = plan_run("process", weeks=1, settings=settings_in(tmp_path), usual=ZonesScenario(hours=1))
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(StorageError, match="disk is full"):
        job._roll_out(run, 0)
    assert run.missing == [0]
    assert list(run.folder.iterdir()) == []


def test_no_site_has_measured_and_simulated_readings(tmp_path: Path, console: Console) -> None:
    settings = settings_in(tmp_path)
    run = plan_run("process", weeks=1, settings=settings, usual=ZonesScenario(hours=2))
    simulate(run, workers=1, settings=settings, console=console)
    before = readings_in(settings)
    moments = pd.date_range("2026-01-05", periods=3, freq="h", tz="UTC")
    measured = make_readings(site="zone_1", quantity="inflow", valid_at=moments, value=[1, 2, 3], source="sensor:meter")
    parsed = Parsed(readings=measured, rejected=join_rejected([]), sites=[Site(name="zone_1")], rows=3)
    with pytest.raises(DataError, match=r"same zone.*zone_1.*another name"):
        ingest_parsed(parsed, WATER, root=settings.readings_dir)
    assert content_hash(readings_in(settings)) == content_hash(before)


def test_impossible_runs_are_refused_before_any_work(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(InvalidParameterError, match="nothing to simulate"):
        plan_run("process", weeks=0, settings=settings)
    with pytest.raises(InvalidParameterError, match="week"):
        plan_run("traffic", weeks=4000, settings=settings)
    assert not (tmp_path / "var").exists()


def test_the_command_names_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))
    missing = CliRunner().invoke(app, ["simulate", "traffic", "--sumo-cfg", str(tmp_path / "no.sumocfg")])
    assert missing.exit_code != 0
    assert "no.sumocfg" in str(missing.exception)
    assert "weeks" in CliRunner().invoke(app, ["simulate", "traffic", "--help"]).output.lower()
    assert not (tmp_path / "var").exists()
