"""The claim: the API can run for long: its memory does not grow, and nothing fails.

`python -m benchmarks.soak [--minutes 10] [--quick]` starts `towncast serve` with one worker on one core, measures the
top rate of a mix of requests (sites named, windows in the body, explanations, batches), and then, for ten minutes at
70 % of that rate, beside it: readings that arrive each second, a WebSocket that follows every road, requests that must
be refused, and looks at data, health and metrics. Memory is that of all its processes, every five seconds: the median
of the last minute may be at most 5 % above that of the minute after the second. Every answer must have its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import websockets
from rich.console import Console
from rich.table import Table

from benchmarks.load import Call, Load, drive, keep_calls
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.server_process import ServerProcess, ask
from benchmarks.serving_domain import substitute
from benchmarks.serving_gateway import Installation, batch_call, infer_call, install, site_call, start_gateway
from benchmarks.serving_rates import true_forecasts
from benchmarks.serving_releases import LoadBeside
from benchmarks.serving_servers import choose_cores
from benchmarks.serving_subject import TRAFFIC, temporary_folder

GROWTH_BAR = 0.05
LOAD_SHARE = 0.7
_CLIENTS = 64
_ROADS = 50
_SAMPLE_S = 5.0


@dataclass(slots=True)
class Diary:
    """What happened beside the load.

    Attributes:
        memory: Moments since the beginning [s] and memory [MB].
        done: What was done, and how often.
        faults: What should not have happened.
    """

    memory: list[tuple[float, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, what: str, *, good: bool, found: str) -> None:
        """Note one thing that was done."""
        self.done[what] += 1
        if not good:
            self.faults.append(f"{what}: {found}"[:160])


def mixed_calls(installation: Installation) -> list[Call]:
    """A hundred calls: 80 sites, 12 windows in the body, 4 explanations, 4 batches of 20."""
    truth, roads = true_forecasts(installation), installation.roads
    sites = [site_call(installation, roads[index % len(roads)]) for index in range(80)]
    windows = [infer_call(installation, truth.windows[index % len(truth.windows)]) for index in range(12)]
    explained = []
    for call in sites[:4]:
        body = {**json.loads(call.body), "include_explanation": True}
        explained.append(replace(call, body=json.dumps(body).encode()))
    batches = [batch_call(installation, roads[:20])] * 4
    calls = [*sites, *windows, *explained, *batches]
    return [calls[index] for index in np.random.default_rng(0).permutation(len(calls))]


def refusals(installation: Installation) -> list[tuple[Call, int]]:
    """Calls that must be refused, and how."""
    good = site_call(installation, installation.roads[0])
    body = json.loads(good.body)
    return [
        (replace(good, headers={"X-API-Key": "tc_none"}), 401),
        (replace(good, body=b'{"location": '), 400),
        (replace(good, body=json.dumps({**body, "forecast_horizon": "48h"}).encode()), 400),
        (replace(good, body=json.dumps({**body, "location": {"road_id": "R999"}}).encode()), 404),
        (replace(good, path="/predict/nothing"), 404),
        (replace(good, path="/v2/models/nothing/infer", body=b'{"inputs": []}'), 404),
    ]


async def every(seconds: float, until: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do something again and again until a moment [s, perf_counter]."""
    due = time.perf_counter()
    while time.perf_counter() < until:
        await work()
        due = max(due + seconds, time.perf_counter())
        await asyncio.sleep(due - time.perf_counter())


class Beside:
    """All that goes on beside the load.

    Args:
        port: The server's.
        installation: What it serves.
        server: Its processes.
        missing: Paths that this server does not have.
    """

    def __init__(self, port: int, installation: Installation, server: ServerProcess, missing: Sequence[str]) -> None:
        self.port = port
        self.installation = installation
        self.server = server
        self.missing = missing
        self.diary = Diary()
        self._client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False)
        self._turn = 0

    async def run(self, duration_s: float) -> None:
        """Do it all for a while [s]."""
        began = time.perf_counter()
        until = began + duration_s
        tasks = [
            every(_SAMPLE_S, until, lambda: self._sample(began)),
            every(0.5, until, self._refused),
            every(5.0, until, self._looks),
        ]
        if "/readings" not in self.missing:
            tasks.append(every(1.0, until, self._readings))
        if "/ws" not in self.missing:
            tasks.append(self._follow(until))
        async with self._client:
            await asyncio.gather(*tasks)

    async def _sample(self, began: float) -> None:
        memory_mb = await asyncio.to_thread(self.server.memory_mb)
        self.diary.memory.append((time.perf_counter() - began, memory_mb))

    async def _send(self, call: Call) -> httpx.Response | None:
        headers = {"Content-Type": "application/json", **(call.headers or {})}
        method = "POST" if call.body else "GET"
        try:
            return await self._client.request(method, call.path, content=call.body, headers=headers)
        except httpx.HTTPError as error:
            self.diary.note(call.path, good=False, found=repr(error))
            return None

    async def _refused(self) -> None:
        cases = refusals(self.installation)
        call, status = cases[self._turn % len(cases)]
        self._turn += 1
        answer = await self._send(call)
        if answer is not None:
            good = answer.status_code == status
            self.diary.note("refused", good=good, found=f"{call.path} {status}: {answer.status_code} {answer.text}")

    async def _looks(self) -> None:
        for path in ("/health/ready", "/metrics", "/data/traffic"):
            if path not in self.missing:
                question = f"?location={self.installation.roads[0]}" if path == "/data/traffic" else ""
                answer = await self._send(Call(path=f"{path}{question}", headers=self.installation.headers))
                if answer is not None:
                    self.diary.note(path, good=answer.is_success, found=f"{answer.status_code} {answer.text}")

    async def _readings(self) -> None:
        moment = datetime.now(UTC).replace(microsecond=0).isoformat()
        roads = [self.installation.roads[(self._turn + step) % len(self.installation.roads)] for step in range(5)]
        items = [
            {
                "domain": TRAFFIC.name,
                "site": road,
                "quantity": TRAFFIC.target.name,
                "timestamp": moment,
                "value": 500.0 + self._turn % 1000,
            }
            for road in roads
        ]
        body = json.dumps({"readings": items}).encode()
        answer = await self._send(Call(path="/readings", body=body, headers=self.installation.headers))
        if answer is not None:
            good = answer.is_success and answer.json()["quarantined"] == 0
            self.diary.note("readings", good=good, found=f"{answer.status_code} {answer.text}")

    async def _follow(self, until: float) -> None:
        """Follow every road; the server may not end the connection."""
        try:
            async with self._connected() as socket:
                await socket.send(json.dumps({"action": "subscribe", "channel": "traffic"}))
                while time.perf_counter() < until:
                    with contextlib.suppress(TimeoutError):
                        message = json.loads(await asyncio.wait_for(socket.recv(), timeout=1.0))
                        self.diary.note("followed", good="error" not in message, found=str(message))
        except websockets.WebSocketException as error:
            self.diary.note("/ws", good=False, found=repr(error))

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        address = f"ws://127.0.0.1:{self.port}/ws"
        async with websockets.connect(address, additional_headers=self.installation.headers) as socket:
            yield socket


def missing_paths(port: int, installation: Installation) -> list[str]:
    """Paths of the mix that this server does not have."""
    document = ask(port, Call(path="/openapi.json", headers=installation.headers)).json()
    known = set(document["paths"])
    paths = ["/readings", "/data/traffic", "/metrics", "/v2/models/{model}/infer"]
    absent = [path for path in paths if not any(_alike(path, one) for one in known)]
    # The document knows no WebSockets; their list stands for them.
    return [*absent, *([] if "/data/live" in known else ["/ws"])]


def _alike(path: str, known: str) -> bool:
    parts, others = path.split("/"), known.split("/")
    return len(parts) == len(others) and all(
        one == other or (one.startswith("{") and other.startswith("{"))
        for one, other in zip(parts, others, strict=True)
    )


def growth(memory: Sequence[tuple[float, float]], *, duration_s: float) -> dict[str, float]:
    """Memory after the second minute and in the last, and how much more that is.

    In a run of less than four minutes, the second and the last quarter stand for them.
    """
    first_s, length_s = (120.0, 60.0) if duration_s >= 240 else (duration_s / 4, duration_s / 4)
    early = [value for moment, value in memory if first_s <= moment < first_s + length_s]
    late = [value for moment, value in memory if moment >= duration_s - length_s]
    before, after = float(np.median(early)), float(np.median(late))
    return {"early_mb": round(before, 1), "late_mb": round(after, 1), "growth": round(after / before - 1.0, 4)}


def find_pause(port: int, calls: Path, *, wanted_per_s: float, core: int | None) -> int:
    """The pause of each client with which all together ask at a rate [ms]; tried, and mended by what came."""
    pause_ms = 1e3 * _CLIENTS / wanted_per_s
    for _ in range(3):
        found = drive(port, calls, clients=_CLIENTS, duration_s=2, core=core, pause_ms=max(1, round(pause_ms)))
        pause_ms += 1e3 * _CLIENTS * (1 / wanted_per_s - 1 / found.requests_per_s)
    return max(1, round(pause_ms))


def measure(folder: Path, *, minutes: float, console: Console) -> dict[str, Any]:
    """All figures, in a folder that is filled."""
    cores = choose_cores()
    console.print("[dim]making a town and a registry, starting the server[/dim]")
    installation = install(folder / "town", roads=_ROADS)
    server, port = start_gateway(installation, folder / "log", cores=cores.servers)
    try:
        missing = missing_paths(port, installation)
        mixed = [
            call
            for call in mixed_calls(installation)
            if "/v2/models/{model}/infer" not in missing or "/v2/" not in call.path
        ]
        calls = keep_calls(mixed, folder / "mix.calls")
        drive(port, calls, clients=_CLIENTS, duration_s=2, core=cores.client)
        top = drive(port, calls, clients=_CLIENTS, duration_s=5 if minutes < 2 else 15, core=cores.client)
        wanted = LOAD_SHARE * top.requests_per_s
        pause_ms = find_pause(port, calls, wanted_per_s=wanted, core=cores.client)
        console.print(
            f"[dim]top rate {top.requests_per_s:.0f} a second; now {wanted:.0f} for {minutes:g} minutes[/dim]"
        )
        beside = Beside(port, installation, server, missing)
        load = LoadBeside(port, calls, _CLIENTS, 60 * minutes, cores.client, pause_ms=pause_ms)
        with load:
            asyncio.run(beside.run(60 * minutes))
    finally:
        server.stop()
    figures = _figures(top, load.loads[0], beside.diary, minutes=minutes) | {"missing": missing}
    show(console, figures)
    return figures


def _figures(top: Load, load: Load, diary: Diary, *, minutes: float) -> dict[str, Any]:
    grown = growth(diary.memory, duration_s=60 * minutes)
    return {
        "minutes": minutes,
        "top_requests_per_s": round(top.requests_per_s, 1),
        "requests_per_s": round(load.requests_per_s, 1),
        "share_of_top": round(load.requests_per_s / top.requests_per_s, 3),
        "answers": load.answers,
        "errors": load.errors,
        "p50_ms": round(load.p50_ms, 2),
        "p99_ms": round(load.p99_ms, 2),
        "longest_ms": round(load.longest_ms, 1),
        "beside": dict(diary.done),
        "faults": len(diary.faults),
        "first_faults": diary.faults[:5],
        "memory": grown,
        "memory_by_minute_mb": _by_minute(diary.memory),
    }


def _by_minute(memory: Sequence[tuple[float, float]]) -> list[float]:
    minutes = sorted({int(moment // 60) for moment, _ in memory})
    return [round(float(np.median([mb for moment, mb in memory if moment // 60 == one])), 1) for one in minutes]


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print all figures."""
    grown = figures["memory"]
    table = Table(
        "", "found", "bar", title=f"{figures['minutes']:g} minutes at {figures['share_of_top']:.0%} of the top rate"
    )
    errors = figures["errors"] + figures["faults"]
    rows = [
        ("requests/s, top requests/s", f"{figures['requests_per_s']:.0f}, {figures['top_requests_per_s']:.0f}", ""),
        ("p50 / p99 / longest", f"{figures['p50_ms']:g} / {figures['p99_ms']:g} / {figures['longest_ms']:g} ms", ""),
        ("beside", ", ".join(f"{name} {count}" for name, count in figures["beside"].items()), ""),
        ("memory by minute", " ".join(f"{value:.0f}" for value in figures["memory_by_minute_mb"]) + " MB", ""),
        (
            "memory growth",
            _coloured(f"{grown['growth']:+.1%}", good=grown["growth"] <= GROWTH_BAR),
            f"{GROWTH_BAR:.0%}",
        ),
        ("errors", _coloured(str(errors), good=errors == 0), "0"),
        ("not there", _coloured(", ".join(figures["missing"]) or "nothing", good=not figures["missing"]), "nothing"),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for fault in figures["first_faults"]:
        console.print(f"[red]{fault}[/red]", markup=True)


def _coloured(text: str, *, good: bool) -> str:
    colour = "green" if good else "red"
    return f"[{colour}]{text}[/{colour}]"


def main() -> None:
    """Run the benchmark and print its report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    substitute()
    with temporary_folder() as folder:
        figures = measure(folder, minutes=0.5 if options.quick else options.minutes, console=wide_console())
    print_result("soak", figures)


if __name__ == "__main__":
    main()
