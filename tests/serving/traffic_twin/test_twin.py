"""The whole twin: engine in its process, model, clock and clients."""

import asyncio
import contextlib
import datetime
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from features.errors import InvalidParameterError
from features.feast_repository import FeatureRepository
from serving.artifacts import Artifact
from serving.traffic_twin.engine_process import Stepped
from serving.traffic_twin.live import TwinPlan, begin_of, run_twin
from serving.traffic_twin.loop import TwinLoop
from serving.traffic_twin.multipliers import ConstantMultipliers
from serving.traffic_twin.settings import TwinSettings
from sim_env.traffic.engine import EngineError
from sim_env.traffic.mock_engine import MockEngine


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, timeout=60))


async def drained(client: Any) -> None:
    """Read until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.recv()


def engines() -> list[Any]:
    return [child for child in multiprocessing.active_children() if child.name == "traffic-engine"]


def test_the_payload_is_the_documents_and_a_real_model_drives_it(
    running_twin: Callable[..., Any],
    next_message: Any,
    make_artifact: Callable[..., Artifact],
    demand_repository: FeatureRepository,
    tmp_path: Path,
) -> None:
    shutil.copytree(demand_repository.folder.parent, tmp_path / "feast")
    shutil.copytree(demand_repository.readings.folder.parent, tmp_path / "readings")
    artifact = make_artifact("demand", "trips", family="gru", sites=[])

    async def work() -> list[Any]:
        async with running_twin(artifact=artifact, data_dir=tmp_path, speed=600) as twin:
            async with connect(twin.address, proxy=None) as client:
                return [await next_message(client) for _ in range(4)]

    messages = run(work())
    for message in messages:
        assert list(message) == ["ts", "sim_time_s", "controls", "edges"]
        assert [list(control) for control in message["controls"]] == [
            ["control_id", "edge_id", "baseline_veh_per_hour", "multiplier"]
        ] * 4
        assert [list(edge) for edge in message["edges"]] == [["edge_id", "veh_count", "mean_speed_mps"]] * 32
    first = messages[0]
    assert (first["controls"][0]["control_id"], first["controls"][0]["edge_id"]) == ("ramp_1", "E1")
    # Last week's 500 to 730 trips, the hour and a tenth of the last trips over a baseline of 600.
    assert all(0.9 < message["controls"][0]["multiplier"] < 1.5 for message in messages)
    assert all(message["controls"][0]["multiplier"] != 1.0 for message in messages)
    times = [message["sim_time_s"] for message in messages]
    assert np.diff(times).tolist() == [60.0] * 3
    began = datetime.datetime.fromisoformat(first["ts"]) - datetime.timedelta(seconds=times[0])
    assert began.isoformat() == "2026-02-06T09:00:00"
    assert sum(edge["veh_count"] for edge in messages[-1]["edges"]) > 0


def test_the_same_seed_gives_the_same_messages(running_twin: Callable[..., Any]) -> None:
    async def work(seed: int) -> dict[float, str]:
        async with running_twin(speed=600, seed=seed) as twin, connect(twin.address, proxy=None) as client:
            received = [await client.recv() for _ in range(8)]
            return {json.loads(message)["sim_time_s"]: message for message in received}

    async def all_three() -> list[dict[float, str]]:
        return list(await asyncio.gather(work(1), work(1), work(2)))

    first, again, other = run(all_three())
    shared = sorted(first.keys() & again.keys() & other.keys())
    assert len(shared) > 3
    assert all(first[time] == again[time] for time in shared)
    assert any(first[time] != other[time] for time in shared)


def test_an_engine_that_dies_is_told_to_clients_and_to_the_caller(running_twin: Callable[..., Any]) -> None:
    async def work() -> None:
        async with running_twin(speed=600) as twin, connect(twin.address, proxy=None) as client:
            await client.recv()
            [engine] = engines()
            os.kill(engine.pid, signal.SIGKILL)
            await drained(client)
            assert (client.close_code, client.close_reason) == (1011, "The engine's process is gone")
            with pytest.raises(EngineError, match="process is gone"):
                await twin.task

    run(work())
    assert not engines()


def test_an_engine_that_refuses_in_mid_run_ends_the_twin(running_twin: Callable[..., Any]) -> None:
    async def work() -> None:
        # The small town's step is 5 s.
        async with running_twin(speed=7, interval_s=7) as twin, connect(twin.address, proxy=None) as client:
            await drained(client)
            assert client.close_code == 1011
            with pytest.raises(EngineError, match="control interval cannot be"):
                await twin.task

    run(work())
    assert not engines()


def test_a_twin_that_is_stopped_says_goodbye_and_leaves_nothing(running_twin: Callable[..., Any]) -> None:
    async def work() -> None:
        async with running_twin(speed=1) as twin, connect(twin.address, proxy=None) as client:
            await client.recv()
            assert len(engines()) == 1
            twin.task.cancel()
            with pytest.raises(ConnectionClosed):
                await client.recv()
            assert (client.close_code, client.close_reason) == (1001, "the twin was stopped")

    run(work())
    assert not engines()


def test_a_port_that_is_taken_is_told_before_anything_starts(running_twin: Callable[..., Any]) -> None:
    async def work() -> None:
        async with running_twin(speed=1) as twin:
            plan = TwinPlan(engine="mock", build=MockEngine, artifact=None, began_s=0)
            with pytest.raises(InvalidParameterError, match=r"cannot listen.*--port"):
                await run_twin(plan, TwinSettings(twin_port=twin.port))
            assert len(engines()) == 1

    run(work())


class Time:
    """Passes where somebody sleeps."""

    now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class EngineHere:
    """The small town in this process, with the face of an engine in another; a step takes some time."""

    def __init__(self, passing: Time, *, step_takes_s: float) -> None:
        self._engine = MockEngine()
        self._time, self._takes_s = passing, step_takes_s
        self.edges, self.controls = self._engine.edges, self._engine.controls
        self.first = self._engine.reset(seed=0)

    async def step(self, multiplier_P: Any, *, duration_s: float) -> Stepped:
        await self._time.sleep(self._takes_s)
        return Stepped(state=self._engine.step(multiplier_P, duration_s=duration_s), ended_ns=0)


def told_at(*, speed: float, step_takes_s: float, steps: int = 4) -> list[tuple[float, float]]:
    """Clock time and simulated time of each message."""
    passing = Time()
    told: list[tuple[float, float]] = []
    engine = EngineHere(passing, step_takes_s=step_takes_s)
    loop = TwinLoop(
        engine,  # type: ignore[arg-type]
        ConstantMultipliers(4),
        lambda message: told.append((passing.now_s, json.loads(message)["sim_time_s"])),
        began_s=0,
        speed=speed,
        clock=passing.clock,
        sleep=passing.sleep,
    )
    run(loop.run(engine.first, steps=steps))
    return told


def test_states_are_told_when_their_time_has_come() -> None:
    assert told_at(speed=1, step_takes_s=0.5) == [(0, 0), (60.5, 60), (120.5, 120), (180.5, 180), (240.5, 240)]
    assert told_at(speed=60, step_takes_s=0.25, steps=2) == [(0, 0), (1.25, 60), (2.25, 120)]


def test_at_speed_zero_nobody_waits_for_the_clock() -> None:
    assert told_at(speed=0, step_takes_s=0.5, steps=2) == [(0, 0), (0.5, 60), (1.0, 120)]


def test_who_cannot_keep_pace_falls_behind_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    told = told_at(speed=60, step_takes_s=10.0, steps=5)
    assert [simulated for _, simulated in told] == [0, 60, 120, 180, 240, 300]
    assert told[-1][0] == pytest.approx(51.0)
    assert caplog.text.count("take longer than 60 times real time") == 1


def test_runs_begin_with_an_interval_of_the_hour() -> None:
    assert begin_of(7199.9, interval_s=60) == 7140
    assert begin_of(7200.0, interval_s=60) == 7200
    assert begin_of(7200.0 + 899, interval_s=450) == 7650
