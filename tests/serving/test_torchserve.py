"""A real TorchServe with a real graph: the same numbers as in process, and the API goes on when it is killed."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from features.errors import RuntimeUnavailableError
from features.feast_repository import FeatureRepository
from features.vocabulary import Window
from serving.app import create_app
from serving.artifacts import Artifact
from serving.places import Place
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastResult, ForecastService, Question
from serving.settings import ServingSettings
from serving.torchserve import server as server_module
from serving.torchserve.keys import KEY_FILE, KeyFile
from serving.torchserve.runtime import TorchServeRuntime
from serving.torchserve.server import JOB_QUEUE_SIZE, MODEL_SETTINGS, TorchServeServer, free_ports


def group_members(group: int) -> list[str]:
    """Command lines of the processes of a group that are not mere zombies."""
    lines = subprocess.run(["ps", "-wweo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()]
    return [row[2] for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


@pytest.fixture(scope="module")
def fine_dust(make_artifact: Callable[..., Artifact]) -> Artifact:
    return make_artifact("pollution", "pm10", family="xgb", sites=[])


@pytest.fixture(scope="module")
def server(
    artifact: Artifact, fine_dust: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorchServeServer]:
    """One with two models."""
    with TorchServeServer([artifact, fine_dust], tmp_path_factory.mktemp("torchserve"), ports=free_ports()) as started:
        started.wait_ready()
        yield started


@pytest.fixture(scope="module")
def windows(repository: FeatureRepository) -> Window:
    """Two windows, one of them with a day of missing volumes."""
    origin_s = 1770368400
    parts = [repository.online_window(site, origin_s=origin_s) for site in ("R001", "R002")]
    history = np.concatenate([part.history_BLK for part in parts])
    history[1, -24:, 0] = np.nan
    return Window(
        history_BLK=history,
        future_BHK=np.concatenate([part.future_BHK for part in parts]),
        static_BS=np.concatenate([part.static_BS for part in parts]),
        sites=("R001", "R002"),
        origins=np.array([origin_s, origin_s]),
    )


def test_it_took_the_settings_and_listens_on_loopback(server: TorchServeServer) -> None:
    description = server.describe("towncast-traffic")
    assert {key: description[key] for key in MODEL_SETTINGS} == MODEL_SETTINGS
    assert description["jobQueueStatus"]["remainingCapacity"] == JOB_QUEUE_SIZE
    listening = subprocess.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listening.stdout.splitlines()]
    ports = {f"{port:04X}" for port in (getattr(server.ports, name) for name in server.ports.__dataclass_fields__)}
    ours = [row[1].split(":")[0] for row in rows if len(row) > 3 and row[3] == "0A" and row[1].split(":")[1] in ports]
    assert ours
    # 127.0.0.1, and the same as an IPv6 address, in the kernel's notation.
    assert set(ours) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_models_cannot_be_registered_from_outside(server: TorchServeServer) -> None:
    address = f"http://127.0.0.1:{server.ports.management}/models"
    for headers in ({}, KeyFile(server.key_file).header("management")):
        reply = httpx.post(address, params={"url": "https://example.org/o.mar"}, headers=headers, trust_env=False)
        assert reply.status_code in {400, 403, 405}
        assert ("InvalidKeyException" in reply.text) is (not headers)


def test_its_numbers_are_those_of_the_in_process_runtime(
    server: TorchServeServer, artifact: Artifact, windows: Window
) -> None:
    async def both() -> list[Any]:
        runtimes = [
            TorchServeRuntime(artifact, url=server.url, timeout_s=30.0, keys=server.key_file),
            InProcessRuntime(artifact),
        ]
        forecasts = [await runtime.predict(windows, levels=(0.025, 0.5, 0.975)) for runtime in runtimes]
        for runtime in runtimes:
            await runtime.close()
        return forecasts

    remote, local = asyncio.run(both())
    np.testing.assert_allclose(remote.value_BHQ, local.value_BHQ, rtol=1e-6)
    assert (remote.sites, remote.levels, remote.model) == (local.sites, local.levels, "traffic-lstm-v3")
    assert remote.value_BHQ.shape == (2, 24, 3)


def test_it_hosts_the_models_of_several_domains(server: TorchServeServer, fine_dust: Artifact) -> None:
    assert fine_dust.name == "towncast-pollution-pm10"
    card, rng = fine_dust.card, np.random.default_rng(0)
    window = Window(
        history_BLK=rng.random((70, card.history_steps, len(card.history_channels)), dtype=np.float32),
        future_BHK=rng.random((70, card.horizon_steps, len(card.future_channels)), dtype=np.float32),
        static_BS=np.zeros((70, len(card.static_channels)), dtype=np.float32),
        sites=("P001",) * 70,
        origins=np.zeros(70, dtype=np.int64),
    )

    async def both() -> list[Any]:
        runtimes = [
            TorchServeRuntime(fine_dust, url=server.url, timeout_s=30.0, keys=server.key_file),
            InProcessRuntime(fine_dust),
        ]
        forecasts = [await runtime.predict(window) for runtime in runtimes]
        for runtime in runtimes:
            await runtime.close()
        return forecasts

    remote, local = asyncio.run(both())
    np.testing.assert_allclose(remote.value_BHQ, local.value_BHQ, rtol=1e-6)


def test_intervals_adapt_alike_whichever_runtime_answers(
    make_service: Callable[..., ForecastService], server: TorchServeServer, artifact: Artifact, adaptive: Artifact
) -> None:
    async def forecast_of(runtime: Any, chosen: Artifact) -> ForecastResult:
        service = make_service(artifact=chosen, runtime=FailoverRuntime([runtime]))
        await service.start()
        found = await service.forecast(Question(place=Place(name="R001"), horizon="24h"))
        await service.close()
        return found

    remote = asyncio.run(
        forecast_of(TorchServeRuntime(adaptive, url=server.url, timeout_s=30.0, keys=server.key_file), adaptive)
    )
    local = asyncio.run(forecast_of(InProcessRuntime(adaptive), adaptive))
    fixed = asyncio.run(forecast_of(InProcessRuntime(artifact), artifact))
    assert (remote.quality.runtime, local.quality.runtime) == ("torchserve", "in_process")
    np.testing.assert_allclose(remote.forecast.value_BHQ, local.forecast.value_BHQ, rtol=1e-6)
    np.testing.assert_array_equal(local.forecast.at_level(0.5), fixed.forecast.at_level(0.5))
    assert (local.forecast.at_level(0.975) > fixed.forecast.at_level(0.975) + 50).all()


def test_a_bad_request_does_not_harm_the_others_of_its_batch(
    server: TorchServeServer, artifact: Artifact, windows: Window
) -> None:
    async def together() -> list[Any]:
        runtime = TorchServeRuntime(artifact, url=server.url, timeout_s=30.0, keys=server.key_file)
        headers = KeyFile(server.key_file).header("inference")
        async with httpx.AsyncClient(trust_env=False, timeout=30.0, headers=headers) as client:
            bad = [client.post(f"{server.url}{runtime.path}", content=b"abc") for _ in range(4)]
            results = await asyncio.gather(*(runtime.predict(windows) for _ in range(8)), *bad)
        await runtime.close()
        return results

    results = asyncio.run(together())
    assert all(np.isfinite(forecast.value_BHQ).all() for forecast in results[:8])
    assert {reply.status_code for reply in results[8:]} == {400}
    assert "not a multiple of" in results[8].text or "octet-stream" in results[8].text


def test_when_it_is_killed_the_api_answers_in_process_and_says_so_and_it_comes_back(
    make_service: Callable[..., ForecastService], artifact: Artifact, tmp_path: Path, open_api: Any
) -> None:
    ports = free_ports()
    address, keys = f"http://127.0.0.1:{ports.inference}", tmp_path / KEY_FILE
    torchserve = TorchServeRuntime(artifact, url=address, timeout_s=10.0, keys=keys)
    runtime = FailoverRuntime([torchserve, InProcessRuntime(artifact)], retry_s=0.1, retry_most_s=0.5)
    body = {"location": {"road_id": "R001"}, "forecast_horizon": "24h", "include_explanation": True}

    with open_api(create_app(ServingSettings(), services=[make_service(runtime=runtime)])) as api:

        def asked() -> tuple[str, Any]:
            reply = api.request("POST", "/predict/traffic", json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()["quality"]["runtime"], reply.json()["predictions"]

        def asked_until(name: str) -> Any:
            for _ in range(300):
                runtime_name, predictions = asked()
                if runtime_name == name:
                    return predictions
                time.sleep(0.05)
                api.run(asyncio.sleep(0.05))
            raise AssertionError(f"{name} never answered")

        before = asked()
        assert before[0] == "in_process"
        with TorchServeServer([artifact], tmp_path, ports=ports) as server:
            server.wait_ready()
            assert asked_until("torchserve") == before[1]
            assert server.process_id is not None
            os.killpg(server.process_id, signal.SIGKILL)
            name, predictions = asked()
            assert (name, predictions) == ("in_process", before[1])
            models = api.request("GET", "/health/ready").json()["domains"]["traffic"]["models"]
            assert models["volume"]["runtimes"] == {"torchserve": False, "in_process": True}


def test_no_process_is_left_after_a_stop(artifact: Artifact, tmp_path: Path) -> None:
    with TorchServeServer([artifact], tmp_path, ports=free_ports()) as server:
        group = server.process_id
        assert group is not None
        end = time.monotonic() + 60
        while not any("model_service_worker" in line for line in group_members(group)) and time.monotonic() < end:
            time.sleep(0.1)
        assert any("model_service_worker" in line for line in group_members(group))
    assert group_members(group) == []
    assert server.process_id is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000,
        None,
    ],
)
def test_whatever_another_server_says_is_told_as_unavailable(
    artifact: Artifact, windows: Window, answer: bytes | None
) -> None:
    async def ask() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                if answer is None:
                    await reader.read()  # says nothing until the other hangs up
                else:
                    writer.write(answer)
                    await writer.drain()
            writer.transport.abort()

        other = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        runtime = TorchServeRuntime(artifact, url=f"http://127.0.0.1:{port}", timeout_s=0.3)
        with pytest.raises(RuntimeUnavailableError):
            await runtime.predict(windows)
        assert not await runtime.ready()
        await runtime.close()
        other.close()
        await other.wait_closed()
        await asyncio.sleep(0.05)

    asyncio.run(ask())


def test_the_guard_ends_the_child_when_its_parent_is_gone() -> None:
    child = subprocess.Popen(
        ["/bin/sh", "-c", server_module._GUARD, "test", "sleep", "60"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert child.stdin is not None
        child.stdin.close()  # what the kernel does when the parent dies
        assert child.wait(timeout=5) != 0
        assert group_members(child.pid) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_without_java_it_says_what_to_install(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    server = TorchServeServer([artifact], tmp_path, ports=free_ports())
    with pytest.raises(RuntimeUnavailableError, match="Install a Java 17 runtime"):
        server.start()


def test_a_child_that_ends_is_reported_with_its_log_folder(artifact: Artifact, tmp_path: Path) -> None:
    ports = free_ports()
    with TorchServeServer([artifact], tmp_path, ports=ports) as server:
        assert server.process_id is not None
        os.killpg(server.process_id, signal.SIGKILL)
        with pytest.raises(RuntimeUnavailableError, match="logs"):
            server.wait_ready(timeout_s=30)
