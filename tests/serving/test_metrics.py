"""Figures for Prometheus, of one process and of several that share them."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import Metrics
from serving.metrics_folder import share_figures, shared_folder
from serving.news import VersionChanged
from serving.places import Place
from serving.releases.decision import Hold, RollBack
from serving.releases.plans import CheckLine
from serving.releases.split import Share, Split
from serving.service import ForecastService, Question
from serving.settings import ServingSettings
from serving.town import Town
from serving.town_figures import keep_figures, tell_ages, tell_decision, tell_releases

_ROOT = Path(__file__).parents[2]

# A worker: counts what it is told on its standard input, and tells the figures of all.
_WORKER = """
import sys
from prometheus_client import CollectorRegistry, Counter
from serving.metrics import Metrics
from serving.metrics_folder import shared_folder

metrics = Metrics(shared_folder())
# As Feast does in the same process.
Counter("feast_requests", "Not ours", registry=CollectorRegistry()).inc()
metrics.set_websocket_clients(3)
metrics.set_version("traffic", "volume", "champion", "traffic-lstm-v3")
metrics.set_runtime("traffic", "volume", "in_process", up=True)
for line in sys.stdin:
    word, number = line.split()
    if word == "count":
        for _ in range(int(number)):
            metrics.count_request("/predict/traffic", 200)
            metrics.observe("/predict/traffic", {"inference": 0.003, "total": 0.3})
        metrics.text()
        print("counted", flush=True)
    elif word == "version":
        metrics.set_version("traffic", "volume", "champion", f"traffic-lstm-v{number}")
        print("changed", flush=True)
    elif word == "down":
        metrics.set_runtime("traffic", "volume", "in_process", up=False)
        print("down", flush=True)
    else:
        text = metrics.text()
        print(len(text), flush=True)
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
"""


def figures(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every figure by its name and its labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def figure(text: bytes, name: str, **labels: str) -> float | None:
    return figures(text).get((name, tuple(sorted(labels.items()))))


class Worker:
    """A process that shares its figures."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def text(self) -> bytes:
        length = int(self.tell("text 0"))
        assert self.process.stdout is not None
        return self.process.stdout.read(length)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shared folder, and this process as it was."""
    for name in ("TOWNCAST_METRICS_DIR", "PROMETHEUS_MULTIPROC_DIR"):
        monkeypatch.setenv(name, "before")
    share_figures(tmp_path / "figures")
    return tmp_path / "figures"


@pytest.fixture
def workers(folder: Path) -> Iterator[list[Worker]]:
    started = [Worker(), Worker()]
    yield started
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()


def test_any_worker_tells_the_figures_of_all_also_of_those_that_ended(workers: list[Worker]) -> None:
    first, second = workers
    assert first.tell("count 5") == "counted"
    assert second.tell("count 7") == "counted"
    for worker in workers:
        text = worker.text()
        assert figure(text, "towncast_requests_total", method="POST", route="/predict/traffic", status="200") == 12
        of_stage = {"route": "/predict/traffic", "stage": "inference"}
        assert figure(text, "towncast_latency_seconds_count", **of_stage) == 12
        assert figure(text, "towncast_latency_seconds_sum", **of_stage) == pytest.approx(0.036)
        assert figure(text, "towncast_latency_seconds_bucket", le="0.002", **of_stage) == 0
        assert figure(text, "towncast_latency_seconds_bucket", le="0.005", **of_stage) == 12
        assert figure(text, "towncast_websocket_clients") == 6
        assert figure(text, "towncast_workers") == 2
        assert (figure(text, "towncast_resident_memory_bytes") or 0) > 40e6
    second.kill()
    text = first.text()
    assert figure(text, "towncast_requests_total", method="POST", route="/predict/traffic", status="200") == 12
    assert figure(text, "towncast_websocket_clients") == 3
    assert figure(text, "towncast_workers") == 1


def test_workers_agree_on_versions_and_the_worst_tells_for_runtimes(workers: list[Worker]) -> None:
    first, second = workers
    labels = {"domain": "traffic", "target": "volume"}
    of_version = {**labels, "role": "champion"}
    second.text()
    assert first.tell("version 4") == "changed"
    text = first.text()
    # While the workers change over, both answer.
    assert figure(text, "towncast_model_info", version="traffic-lstm-v3", **of_version) == 1
    assert figure(text, "towncast_model_info", version="traffic-lstm-v4", **of_version) == 1
    assert figure(text, "towncast_runtime_up", runtime="in_process", **labels) == 1
    assert second.tell("version 4") == "changed"
    assert second.tell("down 0") == "down"
    text = first.text()
    assert figure(text, "towncast_model_info", version="traffic-lstm-v3", **of_version) is None
    assert figure(text, "towncast_model_info", version="traffic-lstm-v4", **of_version) == 1
    assert figure(text, "towncast_runtime_up", runtime="in_process", **labels) == 0


def test_sharing_begins_with_an_empty_folder(folder: Path) -> None:
    (folder / "counter_12.db").write_bytes(b"old")
    share_figures(folder)
    assert list(folder.iterdir()) == []
    assert shared_folder() == folder
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)


def test_figures_of_others_in_the_folder_are_not_told(workers: list[Worker], folder: Path) -> None:
    text = workers[0].text()
    assert b"feast_requests" in b"".join(file.read_bytes() for file in folder.glob("counter_*.db"))
    assert b"feast_requests" not in text


def test_the_librarys_variable_alone_does_not_make_an_app_share(tmp_path: Path) -> None:
    # Feast sets it where it is imported, to a folder of its own.
    program = "from serving.metrics import Metrics; from serving.metrics_folder import shared_folder; "
    program += "metrics = Metrics(shared_folder()); metrics.count_refusal('rate'); print(metrics.text().decode())"
    environment = {name: value for name, value in os.environ.items() if name != "TOWNCAST_METRICS_DIR"}
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)
    (tmp_path / "counter_1.db").write_bytes(b"not a file of figures")
    done = subprocess.run([sys.executable, "-c", program], cwd=_ROOT, env=environment, capture_output=True, check=True)
    assert figure(done.stdout, "towncast_refusals_total", reason="rate") == 1


def test_two_apps_of_a_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.count_request("/predict/traffic", 200)
    first.count_request("/simulate/models", 200, "GET")
    labels = {"route": "/predict/traffic", "status": "200", "method": "POST"}
    assert figure(first.text(), "towncast_requests_total", **labels) == 1
    assert figure(second.text(), "towncast_requests_total", **labels) is None
    labels = {"route": "/simulate/models", "status": "200", "method": "GET"}
    assert figure(first.text(), "towncast_requests_total", **labels) == 1


def test_every_figure_is_told_once_however_often_it_is_asked_for() -> None:
    metrics = Metrics()
    metrics.observe("/predict/water", {"total": 0.02})
    metrics.observe_reading_delay("mqtt", "water", -5.0)
    metrics.observe_arrival("http", 0.2)
    metrics.observe_run("torchserve", 32)
    metrics.count_kept("water", "inflow", "kept", 4)
    metrics.count_readings("nats", "water", "quarantined", 2)
    metrics.count_logged(10, lost=1)
    metrics.count_update("water", 3)
    metrics.count_dropped_client("slow")
    metrics.count_rollback("water", "inflow", "latency")
    metrics.count_refusal("rate")
    metrics.set_share("water", "inflow", "canary", 0.25)
    metrics.set_log_waiting(7)
    metrics.text()
    text = metrics.text()
    assert (figure(text, "towncast_cpu_seconds_total") or 0) > 0.1
    water = {"domain": "water", "target": "inflow"}
    assert figure(text, "towncast_latency_seconds_bucket", route="/predict/water", stage="total", le="0.02") == 1
    assert figure(text, "towncast_latency_seconds_bucket", route="/predict/water", stage="total", le="0.01") == 0
    assert figure(text, "towncast_reading_delay_seconds_sum", transport="mqtt", domain="water") == 0
    assert figure(text, "towncast_reading_arrival_seconds_count", transport="http") == 1
    assert figure(text, "towncast_run_windows_bucket", runtime="torchserve", le="16.0") == 0
    assert figure(text, "towncast_run_windows_bucket", runtime="torchserve", le="32.0") == 1
    assert figure(text, "towncast_kept_forecasts_total", outcome="kept", **water) == 4
    assert figure(text, "towncast_readings_total", transport="nats", domain="water", outcome="quarantined") == 2
    assert figure(text, "towncast_prediction_log_written_total") == 10
    assert figure(text, "towncast_prediction_log_lost_total") == 1
    assert figure(text, "towncast_websocket_updates_total", channel="water") == 3
    assert figure(text, "towncast_websocket_dropped_total", reason="slow") == 1
    assert figure(text, "towncast_rollbacks_total", reason="latency", **water) == 1
    assert figure(text, "towncast_refusals_total", reason="rate") == 1
    assert figure(text, "towncast_release_share_ratio", role="canary", **water) == 0.25
    assert figure(text, "towncast_prediction_log_waiting") == 7


def test_a_breaker_is_in_one_state() -> None:
    metrics = Metrics()
    for state in ("closed", "open", "half_open"):
        metrics.set_breaker("traffic", "volume", "torchserve", state)
    labels = {"domain": "traffic", "target": "volume", "runtime": "torchserve"}
    states = ("closed", "open", "half_open")
    found = {state: figure(metrics.text(), "towncast_breaker_state", state=state, **labels) for state in states}
    assert found == {"closed": 0, "open": 0, "half_open": 1}


def test_a_forecast_counts_for_its_version_role_and_quality(make_service: Callable[..., ForecastService]) -> None:
    async def forecast() -> Any:
        service = make_service()
        await service.start()
        try:
            result = await service.forecast(Question(place=Place(name="R002"), horizon="2h"))
            metrics = Metrics()
            metrics.hear(
                VersionChanged(domain="traffic", target="volume", role="champion", model_version=result.forecast.model)
            )
            metrics.hear(
                VersionChanged(domain="traffic", target="volume", role="shadow", model_version=result.forecast.model)
            )
            metrics.count_forecast(result)
            await tell_ages(service.windows, metrics)
            return result, metrics.text()
        finally:
            await service.close()
            await service.windows.close()

    result, text = asyncio.run(forecast())
    labels = {"domain": "traffic", "target": "volume"}
    version, runtime = result.forecast.model, result.quality.runtime
    told = figure(text, "towncast_forecasts_total", role="champion", version=version, runtime=runtime, **labels)
    assert told == 1
    assert figure(text, "towncast_model_info", role="shadow", version=version, **labels) == 1
    assert "unseen_site" in result.quality.lowered_by
    for flag in result.quality.lowered_by:
        assert figure(text, "towncast_quality_flags_total", flag=flag, **labels) == 1
    # The last reading is of 9:00, and it is 9:20.
    assert figure(text, "towncast_reading_age_seconds", domain="traffic", statistic="newest") == 1200


def test_what_has_a_version_no_more_is_not_told() -> None:
    metrics = Metrics()
    labels = {"domain": "traffic", "target": "volume", "role": "canary"}
    metrics.set_version("traffic", "volume", "canary", "traffic-lstm-v4")
    assert figure(metrics.text(), "towncast_model_info", version="traffic-lstm-v4", **labels) == 1
    metrics.set_version("traffic", "volume", "canary", "")
    assert figure(metrics.text(), "towncast_model_info", version="traffic-lstm-v4", **labels) is None


def test_a_town_is_told_again_and_again(make_service: Callable[..., ForecastService]) -> None:
    async def watch() -> bytes:
        town, metrics = Town(ServingSettings(), [make_service()]), Metrics()
        telling = asyncio.create_task(keep_figures(town, metrics, every_s=0.01, ages_every_s=0.01))
        await town.start()
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                await asyncio.sleep(0.02)
                assert not telling.done()
                if figure(metrics.text(), "towncast_reading_age_seconds", domain="traffic", statistic="oldest"):
                    break
            return metrics.text()
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            await town.close()

    text = asyncio.run(watch())
    labels = {"domain": "traffic", "target": "volume"}
    assert figure(text, "towncast_runtime_up", runtime="in_process", **labels) == 1
    assert figure(text, "towncast_breaker_state", runtime="in_process", state="closed", **labels) == 1
    assert figure(text, "towncast_release_share_ratio", role="champion", **labels) == 1
    assert figure(text, "towncast_release_share_ratio", role="canary", **labels) == 0
    assert figure(text, "towncast_reading_age_seconds", domain="traffic", statistic="median") == 1200
    assert any(name == "towncast_model_info" and dict(found)["role"] == "champion" for name, found in figures(text))


def test_shares_are_what_those_of_precedence_leave(make_service: Callable[..., ForecastService]) -> None:
    async def tell() -> bytes:
        town, metrics = Town(ServingSettings(), [make_service()]), Metrics()
        await town.start()
        try:
            (release,) = town.releases()
            shares = (Share(role="canary", salt="a", below=0.25), Share(role="challenger", salt="b", below=0.4))
            release.take(release.roles(), Split(shares=shares))
            tell_releases(town, metrics)
            return metrics.text()
        finally:
            await town.close()

    text = asyncio.run(tell())
    labels = {"domain": "traffic", "target": "volume"}
    told = {
        role: figure(text, "towncast_release_share_ratio", role=role, **labels) for role in ("canary", "challenger")
    }
    assert told == {"canary": 0.25, "challenger": pytest.approx(0.3)}
    assert figure(text, "towncast_release_share_ratio", role="champion", **labels) == pytest.approx(0.45)


def test_a_rollback_counts_for_the_check_that_failed() -> None:
    metrics = Metrics()
    line = {"canary": "90 ms", "champion": "20 ms", "allowed": "30 ms"}
    table = (
        CheckLine(name="failed answers", state="holds", **line),
        CheckLine(name="latency, 95th percentile", state="fails", **line),
    )
    tell_decision("towncast-traffic", RollBack(reason="slow", table=table), metrics)
    tell_decision("towncast-pollution-pm10", RollBack(reason="another champion", table=()), metrics)
    tell_decision("towncast-traffic", Hold(reason="not over", table=table), metrics)
    told = {key: value for key, value in figures(metrics.text()).items() if key[0] == "towncast_rollbacks_total"}
    assert {(dict(labels)["target"], dict(labels)["reason"], value) for (_, labels), value in told.items()} == {
        ("volume", "latency_95th_percentile", 1),
        ("pm10", "champion_changed", 1),
    }


def test_one_fault_does_not_end_all_figures(caplog: pytest.LogCaptureFixture) -> None:
    async def watch() -> None:
        metrics, looks = Metrics(), []

        def fail() -> None:
            looks.append(1)
            raise ValueError("broken")

        metrics.look_first(fail)
        telling = asyncio.create_task(metrics.keep_told(every_s=0.005))
        while len(looks) < 3:
            await asyncio.sleep(0.005)
            assert not telling.done()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    asyncio.run(asyncio.wait_for(watch(), 20))
    assert "A figure cannot be told" in caplog.text


def test_names_follow_the_conventions() -> None:
    metrics = Metrics()
    names = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    assert len(names) > 20
    for name in names:
        assert name.startswith("towncast_")
        assert not name.endswith(("_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_percent"))
