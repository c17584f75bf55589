"""The claim: what the twin's engine knows, every client knows within 100 ms.

`python -m benchmarks.twin_latency [--quick] [--data DIR]` runs a whole twin in processes of its own, as fast as it can,
and 50 WebSocket clients in another. A message's latency is the time from the end of the engine's step, stamped in the
engine's own process, to its receipt by a client; both by the clock that all processes of the machine share. One client
more never reads: it has to be dropped, and nobody else may miss a message by it.

The engine is SUMO on Bologna's `acosta` below DIR, 10 s after 10 s without a pause; and the mock engine's small town,
20 messages a second. With --quick it is the latter alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import multiprocessing
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from sim_env.traffic.engine import TrafficEngine

P99_BAR_MS = 100.0
CLIENTS = 50
_SCENARIO = Path("sumo/bologna/acosta/run.sumocfg")
_START_S = 120.0
_SIM_TIME = re.compile(rb'"sim_time_s":([0-9.]+)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine at one pace.

    Attributes:
        name: In the table and the figures.
        build: Makes the engine.
        steps: How many control intervals.
        interval_s: Length of one [s].
        pause_s: Clock time between two intervals [s]; 0 for none.
    """

    name: str
    build: Callable[[], TrafficEngine]
    steps: int
    interval_s: float
    pause_s: float


def cases(data: Path, *, quick: bool) -> list[Case]:
    """What is measured; SUMO's network and its control points are read here, before any clock runs."""
    from sim_env.traffic.mock_engine import MockEngine

    paced = Case(
        name="mock, 20 messages a second", build=MockEngine, steps=40 if quick else 400, interval_s=60.0, pause_s=0.05
    )
    if quick:
        return [paced]
    from sim_env.traffic.sumo import SumoEngine, propose_controls

    configuration = data / _SCENARIO
    controls = propose_controls(configuration)
    sumo = Case(
        name="sumo, acosta",
        build=functools.partial(SumoEngine, configuration, controls),
        steps=300,
        interval_s=10.0,
        pause_s=0.0,
    )
    return [sumo, paced]


def measure(case: Case) -> dict[str, float]:
    """Latencies of one case over all clients and messages."""
    context = multiprocessing.get_context("spawn")
    told, stop = context.Queue(), context.Event()
    server = context.Process(target=_serve, args=(case, told, stop))
    server.start()
    clients: Any = None
    try:
        port: int = told.get(timeout=_START_S)
        receipts = context.Queue()
        clients = context.Process(target=_watch, args=(port, case.steps, receipts))
        clients.start()
        received: list[dict[float, int]] = receipts.get(timeout=_START_S + 5.0 * case.steps)
        stop.set()
        ended, dropped = told.get(timeout=_START_S)
    finally:
        for process in filter(None, (clients, server)):
            process.join(timeout=20)
            process.kill()
    return _figures(case, ended, received, dropped)


def _figures(case: Case, ended: dict[float, int], received: list[dict[float, int]], dropped: int) -> dict[str, float]:
    latency_ms = 1e-6 * np.array(
        [moment_ns - ended[time_s] for one in received for time_s, moment_ns in one.items() if time_s in ended]
    )
    gaps = [round((max(one) - min(one)) / case.interval_s) + 1 - len(one) for one in received]
    return {
        "p50_ms": float(np.percentile(latency_ms, 50)),
        "p99_ms": float(np.percentile(latency_ms, 99)),
        "max_ms": float(latency_ms.max()),
        "clients": float(len(received)),
        "messages": float(min(map(len, received))),
        "missed": float(sum(gaps)),
        "slow_clients_dropped": float(dropped),
    }


def _serve(case: Case, told: Any, stop: Any) -> None:
    """The twin's process: tells its port, and at the end when each step was done and who was dropped."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    from serving.traffic_twin.engine_process import Stepped
    from serving.traffic_twin.live import TwinPlan, run_twin
    from serving.traffic_twin.settings import TwinSettings

    speed = case.interval_s / case.pause_s if case.pause_s else 0.0
    settings = TwinSettings(twin_port=0, twin_interval_s=case.interval_s, twin_speed=speed)
    plan = TwinPlan(engine=case.name, build=case.build, artifact=None, began_s=0, seed=1)
    ended: dict[float, int] = {}
    drops = _Drops()
    logging.getLogger("serving.traffic_twin.broadcast").addHandler(drops)

    def note(stepped: Stepped) -> None:
        ended[stepped.state.sim_time_s] = stepped.ended_ns

    def ready(address: str) -> None:
        told.put(int(address.rpartition(":")[2]))

    async def until_stopped() -> None:
        running = asyncio.create_task(run_twin(plan, settings, ready=ready, on_step=note))
        stopped = asyncio.get_running_loop().run_in_executor(None, stop.wait)
        await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(until_stopped())
    told.put((ended, drops.number))


class _Drops(logging.Handler):
    """Counts the clients that were dropped for reading too slowly."""

    number = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.number += "reads too slowly" in record.getMessage()


def _watch(port: int, messages: int, receipts: Any) -> None:
    """The clients' process: when each client had each message, by simulated time [ns]."""
    receipts.put(asyncio.run(_watch_all(port, messages)))


async def _watch_all(port: int, messages: int) -> list[dict[float, int]]:
    with _silent_client(port):
        return list(await asyncio.gather(*(_watch_one(port, messages) for _ in range(CLIENTS))))


async def _watch_one(port: int, messages: int) -> dict[float, int]:
    from websockets.asyncio.client import connect

    seen: dict[float, int] = {}
    async with connect(f"ws://127.0.0.1:{port}", proxy=None, compression=None, max_size=None) as client:
        # The first is the latest state, of which nobody knows how long it had been there.
        await client.recv()
        while len(seen) < messages:
            message = await client.recv(decode=False)
            moment_ns = time.monotonic_ns()
            found = _SIM_TIME.search(message, 0, 200)
            assert found is not None, message[:200]
            seen[float(found[1])] = moment_ns
    return seen


def _silent_client(port: int) -> socket.socket:
    """A client that opens a WebSocket and never reads, with little room for what it does not read."""
    silent = socket.socket()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.connect(("127.0.0.1", port))
    silent.sendall(
        b"GET / HTTP/1.1\r\nHost: town\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return silent


def render(figures: dict[str, dict[str, float]]) -> Table:
    """The figures as a table."""
    table = Table(title=f"From the end of a step to receipt, {CLIENTS} clients and one that never reads")
    for heading in ("engine", "p50", "p99", "max", "bar (p99)", "messages each", "missed", "slow dropped"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for name, found in figures.items():
        colour = "green" if found["p99_ms"] < P99_BAR_MS else "red"
        times = [
            f"{found['p50_ms']:.1f} ms",
            f"[{colour}]{found['p99_ms']:.1f} ms[/{colour}]",
            f"{found['max_ms']:.1f} ms",
        ]
        counts = [f"{found[key]:.0f}" for key in ("messages", "missed", "slow_clients_dropped")]
        table.add_row(name, *times, f"{P99_BAR_MS:.0f} ms", *counts)
    return table


def main() -> None:
    """Run the benchmark and print its report."""
    options = arguments(__doc__ or "", data=True).parse_args()
    console: Console = wide_console()
    figures: dict[str, dict[str, float]] = {}
    for case in cases(options.data, quick=options.quick):
        console.print(f"[dim]{case.name}: {case.steps} steps[/dim]")
        figures[case.name] = {name: round(value, 3) for name, value in measure(case).items()}
    console.print(render(figures))
    print_result("twin_latency", figures)


if __name__ == "__main__":
    main()
