"""Prefect: what is deployed, what is tried again, and a cron that really fires against a server of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.store import ReadingStore
from pipelines.prefect_server import PrefectError, prefect_server, prepare_environment

# Seconds come last: every two of them.
OFTEN = "* * * * * */2"
SERVE = f"""
import sys
from pathlib import Path
from pipelines.prefect_server import prepare_environment
prepare_environment(Path(sys.argv[1]))
from prefect import serve
from pipelines.flows import deployment, ingest_flow
serve(deployment(ingest_flow, "often", cron="{OFTEN}", parameters={{"domain": "traffic", "data": sys.argv[2]}}))
"""
DESCRIBE = """
import json, sys
from pathlib import Path
from pipelines.prefect_server import prepare_environment
prepare_environment(Path(sys.argv[1]))
from pipelines.flows import StorageError, deployments, may_pass
from features.errors import DataError
from pipelines.schedule_settings import ScheduleSettings
from prefect.states import Failed
found = [
    [one.flow_name, one.name, [each.schedule.cron for each in one.schedules or []], one.concurrency_limit]
    + [one.entrypoint] for one in deployments(ScheduleSettings())
]
tried_again = [
    may_pass(None, None, Failed(data=error)) for error in (StorageError("x", remedy="y"), DataError("x", remedy="y"))
]
print(json.dumps({"deployments": found, "tried again": tried_again}))
"""
# What a retraining does has tests of its own; here it is which ones are begun, and what is left of the requests.
ASK = """
import json, sys
from pathlib import Path
from pipelines.prefect_server import prepare_environment
prepare_environment(Path(sys.argv[1]))
from pipelines import flows
from pipelines.schedule_requests import ask_for_retraining, asked_for
settings, begun = flows.ScheduleSettings(), []
for domain, reason in (("traffic", "a new bridge"), ("water", "a burst main"), ("traffic", "and a new road")):
    ask_for_retraining(domain, reason, by="A. Patel", settings=settings)
def begin(domain, kind, reason):
    begun.append([domain, kind, reason])
    if domain == "water":
        raise RuntimeError("no disk")
flows.retrain_flow = begin
try:
    flows.requests_flow.fn()
except RuntimeError as error:
    failed = str(error)
print(json.dumps({"begun": begun, "failed": failed, "left": len(asked_for(settings))}))
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of Prefect and of the jobs, in a folder of its own; as it was before afterwards."""
    before = dict(os.environ)
    os.environ |= {
        "TOWNCAST_DATA_DIR": str(tmp_path / "var"),
        "TOWNCAST_TRACKING_URI": f"sqlite:///{tmp_path / 'none.db'}",
        "TOWNCAST_SCHEDULE_DOMAINS": "traffic,water",
        "TOWNCAST_RETRAIN_CRON_OF": '{"water": ""}',
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PYTHONWARNINGS": "ignore",
    }
    yield dict(os.environ)
    os.environ.clear()
    os.environ.update(before)


def _write_readings(folder: Path) -> None:
    """Two days in the format of the published file."""
    moments = pd.date_range("2016-01-04", periods=48, freq="h")
    frame = pd.DataFrame(
        {
            "holiday": "None",
            "temp": 285.0,
            "rain_1h": 0.0,
            "snow_1h": 0.0,
            "clouds_all": 40,
            "weather_main": "Clouds",
            "weather_description": "scattered clouds",
            "date_time": moments.strftime("%Y-%m-%d %H:%M:%S"),
            "traffic_volume": np.arange(48) * 50,
        }
    )
    folder.mkdir()
    frame.to_csv(folder / "Metro_Interstate_Traffic_Volume.csv", index=False)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_looks_and_retrainings_go_by_cron_and_the_others_by_hand(tmp_path: Path, environment: dict[str, str]) -> None:
    words = [sys.executable, "-c", DESCRIBE, str(tmp_path / "prefect")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["tried again"] == [True, False]
    by_name = {(flow, name): rest for flow, name, *rest in told["deployments"]}
    assert by_name["monitor", "traffic"] == [["7 * * * *"], 1, "pipelines.flows.monitor_flow"]
    assert by_name["retrain", "traffic"] == [["0 3 * * 1"], 1, "pipelines.flows.retrain_flow"]
    assert by_name["requests", "every-minute"] == [["* * * * *"], 1, "pipelines.flows.requests_flow"]
    assert by_name["retrain", "water"] == [[], 1, "pipelines.flows.retrain_flow"]
    by_hand = {flow for flow, name in by_name if name == "by-hand"}
    assert by_hand == {"ingest", "simulate", "materialise", "train", "tune", "promote"}


def test_what_people_ask_for_is_retrained_once_for_each_domain(tmp_path: Path, environment: dict[str, str]) -> None:
    words = [sys.executable, "-c", ASK, str(tmp_path / "prefect")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["begun"] == [
        ["traffic", "manual", "a new bridge, A. Patel; and a new road, A. Patel"],
        ["water", "manual", "a burst main, A. Patel"],
    ]
    assert (told["failed"], told["left"]) == ("no disk", 0)


def test_a_cron_really_fires(tmp_path: Path, environment: dict[str, str]) -> None:
    _write_readings(tmp_path / "data")
    store = ReadingStore(tmp_path / "var" / "readings", DOMAINS["traffic"])
    log = tmp_path / "server.log"
    with prefect_server(port=_free_port(), log=log) as url:
        words = [sys.executable, "-c", SERVE, str(tmp_path / "prefect"), str(tmp_path / "data")]
        with (tmp_path / "served.log").open("wb") as output:
            served = subprocess.Popen(
                words,
                env={**environment, "PREFECT_API_URL": url},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            until = time.monotonic() + 150
            while not store.sites():
                assert served.poll() is None, (tmp_path / "served.log").read_text()
                assert time.monotonic() < until, (tmp_path / "served.log").read_text() + log.read_text()
                time.sleep(0.2)
        finally:
            os.killpg(served.pid, signal.SIGTERM)
            try:
                served.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(served.pid, signal.SIGKILL)
                served.wait()
    assert "PREFECT_API_URL" not in os.environ


def test_a_server_that_does_not_start_says_where_to_look(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    false = shutil.which("false")
    assert false is not None
    monkeypatch.setattr(sys, "executable", false)
    with pytest.raises(PrefectError, match=r"server\.log"), prefect_server(log=tmp_path / "server.log"):
        raise AssertionError("there is no server")


def test_a_server_that_is_named_is_used(tmp_path: Path, environment: dict[str, str]) -> None:
    os.environ["PREFECT_API_URL"] = "http://prefect.town:4200/api"
    with prefect_server(log=tmp_path / "server.log") as url:
        assert url == "http://prefect.town:4200/api"
    assert not (tmp_path / "server.log").exists()


def test_prefect_is_told_where_its_files_are_and_to_tell_nobody(tmp_path: Path, environment: dict[str, str]) -> None:
    del os.environ["PREFECT_HOME"]
    prepare_environment(tmp_path / "home")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "home")
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
