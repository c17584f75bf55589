"""The claim: the reactor's twin answers each message soon, and loses none.

`python -m benchmarks.reactor [--quick]` starts a real `nats-server` with a store, and `towncast reactor` as a process
of its own that solves with GEKKO, and sends it a noisy plant's temperatures ten times a second for ten minutes, with
flow and coolant once a second. It measures

- from just before a temperature is published to when its prediction arrives, by one clock (bar: p99 below 150 ms);
- what the solver takes in the twin (the document's line: 100 ms);
- how many temperatures have no prediction in the stream in the end, or several (bar: none);
- the same counts over a minute in which the broker is killed twice, and how long the longest silence was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import numpy as np
from nats.aio.msg import Msg
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from benchmarks.serving_subject import temporary_folder
from serving.messages.sensor_data_pb2 import SensorData
from serving.reactor_twin.broker import Broker
from serving.reactor_twin.local_broker import LocalBroker
from serving.reactor_twin.plant import Plant, plant_units, send
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.subjects import Subjects
from sim_env.process import PROCESSES

ANSWER_BAR_MS = 150.0
SOLVE_BAR_MS = 100.0
RATE_HZ = 10
_PATIENCE_S = 60.0


@dataclass
class Watcher:
    """When temperatures were sent and their predictions arrived [s], by their sequence."""

    sent_s: dict[int, float] = field(default_factory=dict)
    arrived_s: dict[int, float] = field(default_factory=dict)

    async def note(self, message: Msg) -> None:
        """Note the arrival of a prediction."""
        self.arrived_s.setdefault(SensorData.FromString(message.data).sequence, time.perf_counter())

    def delays_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """From sending to arrival, in the order of sending [ms]."""
        both = sorted(self.sent_s.keys() & self.arrived_s.keys())
        return 1e3 * np.array([self.arrived_s[sequence] - self.sent_s[sequence] for sequence in both])

    def longest_silence_s(self) -> float:
        """Longest time between two arrivals [s]."""
        return float(np.diff(sorted(self.arrived_s.values())).max(initial=0.0))


@contextlib.contextmanager
def twin_process(url: str, status_file: Path, log: Path) -> Iterator[None]:
    """`towncast reactor` as users run it, stopped as Ctrl-C would."""
    environment = {**os.environ, "TOWNCAST_REACTOR_STATUS_FILE": str(status_file)}
    with log.open("wb") as out:
        twin = subprocess.Popen(
            [Path(sys.executable).parent / "towncast", "reactor", "--nats", url],
            stdout=out,
            stderr=out,
            env=environment,
        )
        try:
            yield
        finally:
            twin.terminate()
            twin.wait(30)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Broker]:
    """A broker's client for the plant."""
    broker = Broker(url, shown_url=url, name="benchmark")
    await broker.connect()
    try:
        yield broker
    finally:
        await broker.close()


async def drive(
    watcher: Watcher,
    plant: Plant,
    url: str,
    subjects: Subjects,
    *,
    seconds: float,
    kills: list[float],
    local: LocalBroker,
) -> None:
    """Send a plant's messages for a time, killing the broker at some moments [s], and wait for the last answer."""
    units = plant_units(PROCESSES["reactor"])
    watching = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    await watching.subscribe(subjects.predicted_temp, cb=watcher.note)
    killing = [asyncio.ensure_future(_kill_after(moment, local)) for moment in kills]
    with Progress(console=wide_console(), transient=True) as progress:
        task = progress.add_task("sending", total=seconds)
        async with connected(url) as broker:
            began_s, began_ns = time.perf_counter(), time.time_ns()
            for count in range(round(seconds * RATE_HZ)):
                due_s = count / RATE_HZ
                await asyncio.sleep(max(0.0, began_s + due_s - time.perf_counter()))
                progress.update(task, completed=due_s)
                for measurement in plant.step(1.0 / RATE_HZ, at_ns=began_ns + round(1e9 * due_s)):
                    if measurement.kind == "temp":
                        watcher.sent_s[measurement.sequence] = time.perf_counter()
                    if measurement.kind == "temp" or count % RATE_HZ == 0:
                        await send(broker, subjects, measurement, unit=units[measurement.kind])
    await asyncio.gather(*killing)
    patient_until_s = time.perf_counter() + _PATIENCE_S
    while len(watcher.arrived_s) < len(watcher.sent_s) and not kills and time.perf_counter() < patient_until_s:
        await asyncio.sleep(0.05)
    await watching.close()


async def _kill_after(seconds: float, local: LocalBroker) -> None:
    await asyncio.sleep(seconds)
    local.kill()
    await asyncio.sleep(1.0)
    await asyncio.to_thread(local.start)


async def answered(url: str, subjects: Subjects, expected: int) -> Counter[int]:
    """How many predictions the stream holds for each sequence, once it holds enough or does not grow any more."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        reader = await jetstream.pull_subscribe(subjects.predicted_temp, stream="reactor")
        counts: Counter[int] = Counter()
        while counts.total() < expected:
            try:
                messages = await reader.fetch(500, timeout=10)
            except TimeoutError:
                break
            for message in messages:
                counts[SensorData.FromString(message.data).sequence] += 1
                await message.ack()
        return counts
    finally:
        await client.close()


async def measure(folder: Path, *, quick: bool, console: Console) -> dict[str, Any]:
    """All figures, in a folder that may be filled."""
    settings = ReactorSettings()
    subjects = Subjects(prefix=settings.reactor_prefix)
    plant = Plant(PROCESSES["reactor"], rng=np.random.default_rng(0))
    # The plant's own code is compiled before anything is timed.
    plant.step(1e-3, at_ns=0)
    status_file = folder / "status.json"
    steady, shaken = Watcher(), Watcher()
    with LocalBroker(folder / "nats") as local, twin_process(local.url, status_file, folder / "twin.log"):
        await _await_twin(status_file)
        console.print(f"[dim]{RATE_HZ} temperatures a second[/dim]")
        await drive(steady, plant, local.url, subjects, seconds=10 if quick else 600, kills=[], local=local)
        await asyncio.sleep(1.5)
        twin = json.loads(status_file.read_text(encoding="utf-8"))
        console.print("[dim]the same, and the broker is killed twice[/dim]")
        kills = [2.0, 6.0] if quick else [15.0, 35.0]
        await drive(shaken, plant, local.url, subjects, seconds=10 if quick else 60, kills=kills, local=local)
        sent = steady.sent_s.keys() | shaken.sent_s.keys()
        counts = await answered(local.url, subjects, len(sent))
    delays_ms = steady.delays_ms()
    figures = {
        "messages": len(steady.sent_s),
        "seconds": 10 if quick else 600,
        **{f"answer_p{level}_ms": float(np.percentile(delays_ms, level)) for level in (50, 99)},
        "answer_max_ms": float(delays_ms.max()),
        "solve_p50_ms": twin["solve_p50_ms"],
        "solve_p99_ms": twin["solve_p99_ms"],
        "lost": len(steady.sent_s.keys() - counts.keys()),
        "answered_twice": sum(counts[sequence] > 1 for sequence in steady.sent_s),
        "kills": len(kills),
        "messages_with_kills": len(shaken.sent_s),
        "lost_with_kills": len(shaken.sent_s.keys() - counts.keys()),
        "answered_twice_with_kills": sum(counts[sequence] > 1 for sequence in shaken.sent_s),
        "longest_silence_s": shaken.longest_silence_s(),
    }
    return {name: round(value, 3) for name, value in figures.items()}


async def _await_twin(status_file: Path) -> None:
    """Wait until the twin is connected; it compiles and solves once before."""
    async with asyncio.timeout(_PATIENCE_S):
        while not (status_file.exists() and json.loads(status_file.read_text(encoding="utf-8"))["connected"]):
            await asyncio.sleep(0.1)
    # It makes the stream right after.
    await asyncio.sleep(1.0)


def render(figures: dict[str, Any]) -> Table:
    """The figures beside their bars."""
    table = Table("figure", "value", "bar", title=f"{figures['messages']} temperatures, {RATE_HZ} a second")
    for name, unit, bar in (
        ("answer_p50_ms", "ms", None),
        ("answer_p99_ms", "ms", ANSWER_BAR_MS),
        ("answer_max_ms", "ms", None),
        ("solve_p50_ms", "ms", None),
        ("solve_p99_ms", "ms", SOLVE_BAR_MS),
        ("lost", "", 0),
        ("answered_twice", "", 0),
        ("lost_with_kills", "", 0),
        ("answered_twice_with_kills", "", 0),
        ("longest_silence_s", "s", None),
    ):
        value = figures[name]
        colour = "default" if bar is None else "green" if value <= bar else "red"
        table.add_row(name, f"[{colour}]{value:g} {unit}[/]", "" if bar is None else f"{bar:g} {unit}")
    return table


def main() -> None:
    """Run the benchmark and print its report."""
    options = arguments(__doc__ or "").parse_args()
    # The client's own account of each connection that fails while the broker is killed.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    console = wide_console()
    with temporary_folder() as folder:
        figures = asyncio.run(measure(folder, quick=options.quick, console=console))
    console.print(render(figures))
    print_result("reactor", figures)


if __name__ == "__main__":
    main()
