"""The prediction log: every answer that was given is in it, once, however the process ended."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.app import create_app
from serving.environment import read_environment
from serving.kept import Run
from serving.places import Place
from serving.prediction_log.journal import Journal
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.records import AnswerRecord, ForecastRecord, from_lines, to_lines
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore
from serving.service import ForecastService, Question


def forecast(name: str = "f1") -> ForecastRecord:
    return ForecastRecord(
        name=name,
        made_s=1.5,
        domain="traffic",
        target="volume",
        unit="veh/h",
        site="R001",
        origin_s=3600,
        step_s=3600,
        window="abc@3600",
        model_version="traffic-lstm-v1",
        role="champion",
        runtime="in_process",
        levels=(0.025, 0.5, 0.975),
        values=np.arange(6, dtype="<f4").tobytes(),
    )


def given(request_id: str, name: str = "f1") -> AnswerRecord:
    return AnswerRecord(
        request_id=request_id,
        answered_s=2.5,
        caller="loopback",
        forecast=name,
        steps=2,
        latency_ms=0.25,
        came="kept",
        lowered_by=("stale",),
    )


@pytest.fixture
def settings(tmp_path: Path) -> PredictionLogSettings:
    # The records are of 1970, and stay all the same.
    return PredictionLogSettings(data_dir=tmp_path, prediction_log_flush_s=0.05, prediction_log_days=0)


def test_records_survive_the_way_through_journal_and_store(settings: PredictionLogSettings) -> None:
    log = PredictionLog(settings)
    log.start()
    log.write([forecast(), given('a "quoted" id ✓')])
    log.close()
    store = PredictionStore(settings.log_url)
    ((answer, made),) = store.answers('a "quoted" id ✓')
    assert (answer, made) == (given('a "quoted" id ✓'), forecast())
    assert made.value_HQ().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert list(settings.journal_dir.iterdir()) == []
    store.close()


def test_a_line_that_was_cut_off_is_left_out() -> None:
    lines = to_lines([given("a"), given("b")])
    assert [record.request_id for _, record in from_lines(lines[:-20]) if isinstance(record, AnswerRecord)] == ["a"]


def test_each_line_has_its_number_also_where_one_is_lost() -> None:
    lines = to_lines([given(f"r{number}") for number in range(1000)])
    found = list(from_lines(lines))
    assert [number for number, _ in found] == list(range(1000))
    assert [record.request_id for _, record in found if isinstance(record, AnswerRecord)][::333] == [
        "r0",
        "r333",
        "r666",
        "r999",
    ]
    damaged = list(from_lines(lines.replace(b'"r500"', b'"r500')))
    assert len(damaged) == 999
    assert len({number for number, _ in damaged}) == 999


def test_a_full_segment_makes_way_for_another(tmp_path: Path) -> None:
    journal = Journal(tmp_path, room_bytes=4096)
    journal.open()
    lines = [to_lines([given(f"r{number}")]) for number in range(100)]
    for line in [*lines, b"x" * 10_000 + b"\n"]:
        journal.write(line)
    journal.close()
    found = [content for _, content in journal.finished()]
    assert b"".join(found) == b"".join(lines) + b"x" * 10_000 + b"\n"
    assert len(found) >= 5


def test_a_segment_has_as_much_room_as_was_needed_before_and_a_burst_gets_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    written = []
    for size in (100, 200_000, 100, 3_000_000):
        line = b"x" * size + b"\n"
        journal.write(line)
        written.append(line)
        journal.rotate()
        following = max(tmp_path.iterdir())
        assert following.stat().st_size == min(max(4 * len(line), 65_536), 4_194_304)
    journal.close()
    assert b"".join(content for _, content in journal.finished()) == b"".join(written)


def test_a_segment_that_is_entered_twice_counts_once(settings: PredictionLogSettings) -> None:
    store = PredictionStore(settings.log_url)
    for _ in range(2):
        store.add("segment", enumerate([forecast(), given("a"), given("b")]))
    assert store.count() == {"forecasts": 1, "answers": 2}
    store.close()


def _write_for_ever(settings: PredictionLogSettings, ready: Any) -> None:
    log = PredictionLog(settings)
    log.start()
    number = 0
    while True:
        log.write([forecast(f"f{number // 10}"), given(f"r{number}", f"f{number // 10}")])
        ready.send(f"r{number}")  # what was acknowledged
        number += 1


def _acknowledged_by_a_killed_process(settings: PredictionLogSettings, *, after: int) -> set[str]:
    """What a process acknowledged that was killed after so many answers."""
    context = multiprocessing.get_context("spawn")
    reading, writing = context.Pipe(duplex=False)
    writer = context.Process(target=_write_for_ever, args=(settings, writing), daemon=True)
    writer.start()
    acknowledged = {reading.recv() for _ in range(after)}
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    while reading.poll():
        try:
            acknowledged.add(reading.recv())
        except EOFError:
            break
    reading.close()
    writing.close()
    return acknowledged


def test_a_killed_process_loses_nothing_that_it_acknowledged(settings: PredictionLogSettings) -> None:
    acknowledged = _acknowledged_by_a_killed_process(settings, after=5000)
    after = PredictionLog(settings)  # the next process finds the segment that was left
    after.start()
    after.close()
    store = PredictionStore(settings.log_url)
    logged = store.request_ids()
    assert acknowledged <= logged
    assert store.count()["answers"] == len(logged)
    store.close()


def test_a_busy_log_is_moved_by_a_process_that_outlives_the_kill_of_its_own(settings: PredictionLogSettings) -> None:
    acknowledged = _acknowledged_by_a_killed_process(settings, after=20_000)
    until = time.monotonic() + 30
    with closing(PredictionStore(settings.log_url)) as store:
        while not acknowledged <= store.request_ids() or any(settings.journal_dir.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.1)


def test_without_its_process_a_busy_log_is_moved_by_its_thread(
    settings: PredictionLogSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(settings.data_dir / "no python"))
    log = PredictionLog(settings)
    log.start()
    for number in range(5_000):
        log.write([given(f"r{number}")])
    until = time.monotonic() + 30
    with closing(PredictionStore(settings.log_url)) as store:
        while store.count()["answers"] < 5_000:
            assert time.monotonic() < until
            time.sleep(0.05)
    log.close()


def test_while_the_store_is_locked_the_journal_keeps_all(settings: PredictionLogSettings) -> None:
    log = PredictionLog(settings)
    log.start()
    log.write([forecast(), given("before")])
    log.close()
    path = settings.data_dir / "predictions" / "log.db"
    hidden = path.rename(path.with_suffix(".hidden"))
    path.mkdir()  # no database can be opened here
    log = PredictionLog(settings)
    log.start()
    log.write([given("meanwhile")])
    log.close()
    path.rmdir()
    hidden.rename(path)
    log = PredictionLog(settings)
    log.start()
    log.close()
    with sqlite3.connect(path) as connection:
        assert {row[0] for row in connection.execute("SELECT request_id FROM answers")} == {"before", "meanwhile"}
    connection.close()


def test_each_answer_of_the_api_is_logged_with_its_forecast_once(
    make_service: Callable[..., ForecastService],
    make_pollution: Callable[..., list[ForecastService]],
    open_api: Any,
    settings: PredictionLogSettings,
) -> None:
    body = {"location": {"road_id": "R001"}, "forecast_horizon": "6h"}
    given_alone = settings.model_copy(update={"prediction_log_ahead": False})
    environment = replace(read_environment(), prediction_log=given_alone)
    app = create_app(environment=environment, services=[make_service(keep_s=300.0), *make_pollution()])
    with open_api(app) as api:
        reply = api.request("POST", "/predict/traffic", json={**body, "request_id": "one"}).json()
        api.request("POST", "/predict/traffic", json={**body, "request_id": "two"})
        batch = {"requests": [{**body, "request_id": f"b{number}"} for number in range(300)]}
        assert len(api.request("POST", "/predict/traffic/batch", json=batch).json()["results"]) == 300
        air = {"station_id": "P001", "forecast_horizon": "6h", "request_id": "air"}
        api.request("POST", "/predict/pollution", json=air)
        api.request("POST", "/predict/traffic", json={**body, "location": {"road_id": "nowhere"}})
    store = PredictionStore(settings.log_url)
    assert store.count() == {"forecasts": 3, "answers": 304}
    ((answer, made),) = store.answers("one")
    assert (answer.steps, answer.forecast) == (6, made.name)
    volumes = [entry["traffic_volume"] for entry in reply["predictions"]]
    assert np.rint(made.value_HQ()[:6, 1]).astype(int).tolist() == volumes
    assert made.model_version == reply["model_version"]
    assert {made.target for _, made in store.answers("air")} == {"pm2_5", "pm10"}
    store.close()


def test_forecasts_that_nobody_asks_for_are_logged(
    make_service: Callable[..., ForecastService], open_api: Any, settings: PredictionLogSettings
) -> None:
    service = make_service(keep_s=300.0)
    environment = replace(read_environment(), prediction_log=settings)
    with open_api(create_app(environment=environment, services=[service])) as api:
        api.run(_until(lambda: service.kept(Question(place=Place(name="R002"), horizon="6h")) is not None))
    store = PredictionStore(settings.log_url)
    assert store.count() == {"forecasts": 2, "answers": 0}
    ((site, role),) = [row for row in _sites_and_roles(settings) if row[0] == "R002"]
    assert (site, role) == ("R002", "champion")
    store.close()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def _sites_and_roles(settings: PredictionLogSettings) -> list[tuple[str, str]]:
    with closing(PredictionStore(settings.log_url)) as store:
        batches = list(store.batches("traffic", "volume"))
    return [pair for batch in batches for pair in zip(batch.site_N, batch.role_N, strict=True)]


def test_of_what_is_made_ahead_the_first_of_an_origin_is_logged(
    make_service: Callable[..., ForecastService], settings: PredictionLogSettings
) -> None:
    service = make_service(keep_s=300.0)

    async def runs() -> dict[str, Run]:
        await service.start()
        made = await service.make_ahead(["R001", "R002"])
        await service.close()
        return made

    first = asyncio.run(runs())["R001"]
    within = replace(first, name="a reading later")
    later = replace(
        first, name="an hour later", forecast=replace(first.forecast, origins=first.forecast.origins + 3600)
    )
    log = PredictionLog(settings)
    log.start()
    for run in (first, within, later, first):
        log.made_ahead([run], domain="traffic", role="champion")
    log.close()
    with closing(PredictionStore(settings.log_url)) as store:
        assert store.count() == {"forecasts": 2, "answers": 0}


def test_logging_can_be_off(
    make_service: Callable[..., ForecastService], open_api: Any, settings: PredictionLogSettings
) -> None:
    off = settings.model_copy(update={"prediction_log": False})
    environment = replace(read_environment(), prediction_log=off)
    with open_api(create_app(environment=environment, services=[make_service()])) as api:
        body = {"location": {"road_id": "R001"}, "forecast_horizon": "6h"}
        assert api.request("POST", "/predict/traffic", json=body).status_code == 200
    assert not settings.journal_dir.exists()
