"""The join inside a running API: beside the requests, by one worker at a time, and again after a failure."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from features.domains import DOMAINS
from features.quality import check_readings
from features.readings import make_readings
from features.store import ReadingStore
from serving.app import create_app
from serving.environment import read_environment
from serving.metrics import Metrics
from serving.monitoring.actuals import STATE_FILE
from serving.monitoring.keeper import ActualsKeeper
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.settings import MonitoringSettings
from serving.news import News, WindowsChanged
from serving.prediction_log.records import ForecastRecord
from serving.prediction_log.store import PredictionStore
from serving.service import ForecastService
from serving.settings import ServingSettings

TRAFFIC = DOMAINS["traffic"]
KEY = ("traffic", "volume")
NOW_S = float(pd.Timestamp("2026-02-06T09:20Z").timestamp())
ORIGIN_S = int(pd.Timestamp("2026-02-06T07:00Z").timestamp())
MOST_S = 20.0


def forecast(site: str = "R1") -> ForecastRecord:
    values = 100.0 + np.zeros((24, 1)) + np.array([-10.0, 0.0, 10.0])
    return ForecastRecord(
        name=f"f-{site}",
        made_s=ORIGIN_S + 5.0,
        domain="traffic",
        target="volume",
        unit="veh/h",
        site=site,
        origin_s=ORIGIN_S,
        step_s=3600,
        window="w",
        model_version="traffic-lstm-v1",
        role="champion",
        runtime="in_process",
        levels=(0.05, 0.5, 0.95),
        values=values.astype("<f4").tobytes(),
    )


def read(folder: Path, value: float = 104.0, site: str = "R1") -> None:
    readings = make_readings(
        site=site,
        quantity="volume",
        valid_at=pd.DatetimeIndex([pd.Timestamp(ORIGIN_S + 3600, unit="s", tz="UTC")]),
        value=[value],
        source="sensor:test",
    )
    ReadingStore(folder / "readings", TRAFFIC).append(check_readings(readings, TRAFFIC), [])


def keeper_of(folder: Path, *, every_s: float = 0.02, monitoring: bool = True) -> ActualsKeeper:
    return ActualsKeeper(
        [TRAFFIC],
        PredictionStore(f"sqlite:///{folder / 'log.db'}"),
        Metrics(),
        MonitoringSettings(data_dir=folder, join_every_s=every_s, monitoring=monitoring),
        now=lambda: NOW_S,
    )


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(MOST_S):
        while not true():
            await asyncio.sleep(0.01)


def test_readings_that_arrive_are_joined_and_told(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path)
    keeper.store.add("s", [(0, forecast())])
    news = News()

    def told(*lines: str) -> bool:
        text = keeper._metrics.text().decode()
        return all(line in text for line in lines)

    async def run() -> None:
        keeper.start(news)
        # What came while nothing was running is joined without any news.
        await until(lambda: told('towncast_realised_waiting_steps{domain="traffic",target="volume"} 5.0'))
        read(tmp_path)
        news.tell(WindowsChanged(domain="traffic", sites=frozenset({"R1"})))
        await until(
            lambda: told(
                'towncast_realised_steps_total{domain="traffic",outcome="joined",target="volume"} 1.0',
                'towncast_realised_error{domain="traffic",horizon="2h",statistic="mae",target="volume"} 4.0',
                'towncast_realised_error{domain="traffic",horizon="2h",statistic="bias",target="volume"} -4.0',
                'towncast_realised_coverage_ratio{domain="traffic",horizon="2h",target="volume"} 1.0',
                'towncast_realised_waiting_steps{domain="traffic",target="volume"} 4.0',
            )
        )
        await keeper.close()
        news.tell(WindowsChanged(domain="traffic", sites=frozenset({"R1"})))

    asyncio.run(run())


def test_a_join_that_fails_is_logged_counted_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = keeper_of(tmp_path)
    keeper.store.add("s", [(0, forecast())])
    keeper.store.close()
    (tmp_path / "log.db").rename(tmp_path / "whole.db")
    (tmp_path / "log.db").write_text("This is no database, but longer than the header of one would be." * 20)
    read(tmp_path)

    async def run() -> None:
        keeper.start(News())
        await until(lambda: "towncast_realised_join_failures_total{" in keeper._metrics.text().decode())
        (tmp_path / "whole.db").replace(tmp_path / "log.db")
        joined = 'towncast_realised_steps_total{domain="traffic",outcome="joined",target="volume"} 1.0'
        await until(lambda: joined in keeper._metrics.text().decode())
        await keeper.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert "cannot be joined" in caplog.text


def test_of_several_workers_one_joins(tmp_path: Path) -> None:
    first, second = keeper_of(tmp_path, every_s=600.0), keeper_of(tmp_path, every_s=600.0)
    folder = tmp_path / "monitoring" / "realised" / "traffic-volume"
    folder.mkdir(parents=True)
    with FileLock(folder / ".keeper.lock"):
        assert first.join(KEY) is None
    kept = first.join(KEY)
    assert kept is not None
    assert kept.report is not None
    # The other one has done so a moment ago.
    assert second.join(KEY) is None
    assert (folder / STATE_FILE).exists()


def test_files_are_merged_and_expire_now_and_then(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path, every_s=1e-6)
    folder = tmp_path / "monitoring" / "realised" / "traffic-volume"
    keeper.store.add("a", [(0, forecast())])
    assert keeper.join(KEY) is not None
    read(tmp_path)
    keeper.store.add("b", [(0, forecast("R2"))])
    keeper.join(KEY)
    assert not list(folder.rglob("merged-*"))
    (folder / ".compacted").unlink()
    keeper.join(KEY)
    assert len(list(folder.rglob("merged-*"))) == 1
    assert len(keeper._realised[KEY].read()) == 1


def test_monitoring_can_be_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWNCAST_MONITORING", "off")
    assert not read_environment().monitoring.monitoring

    async def run() -> None:
        keeper = keeper_of(tmp_path, monitoring=False)
        keeper.start(News())
        assert keeper._thread is None
        await keeper.close()

    asyncio.run(run())


def test_an_api_joins_what_it_answered(
    make_service: Callable[..., ForecastService], open_api: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWNCAST_JOIN_EVERY_S", "0.05")
    data_dir = tmp_path / "var"

    def api() -> Any:
        return open_api(create_app(ServingSettings(data_dir=data_dir), services=[make_service()]))

    with api() as first:
        asked = {"location": {"road_id": "R001"}, "forecast_horizon": "24h"}
        assert first.request("POST", "/predict/traffic", json=asked).status_code == 200
    # It is in the log now, and whatever came while nothing was running is joined at first.
    with api() as second:
        began, told = time.monotonic(), ""
        while 'realised_waiting_steps{domain="traffic"' not in told and time.monotonic() - began < MOST_S:
            told = second.request("GET", "/metrics").text
    assert 'towncast_realised_waiting_steps{domain="traffic",target="volume"}' in told
    store = RealisedStore(data_dir / "monitoring" / "realised", TRAFFIC, "volume")
    assert store.waiting()["steps"].tolist() == [1, 2, 6, 12, 24]
