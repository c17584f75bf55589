"""The claim: TorchServe, Redis or a worker can be killed under load: answers go on, and nothing logged is lost.

`python -m benchmarks.kill [--quick]` starts a Redis, and `towncast serve` with two workers that host the model in
TorchServe and share limits and forecasts through that Redis, and has clients ask on, each request with an identifier
of its own. In turns it kills (SIGKILL)

- TorchServe with its worker: no request may fail; answers say that another runtime made them;
- Redis: no request may fail; it is started again later;
- one worker: no request may fail but those that were on its connections; the worker must come back.

In the end the server is stopped, and every answered forecast must be in the prediction log, by its identifier. A
forecast is kept for a second alone, so that TorchServe has something to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.clients import Clients, Outcome
from benchmarks.load import Call
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.server_process import ServerFailedError, ServerProcess, free_port
from benchmarks.serving_domain import substitute
from benchmarks.serving_gateway import Installation, install, start_gateway
from benchmarks.serving_subject import temporary_folder

_WORKERS = 2
_CLIENTS = 16
_QUESTIONS_EACH = 50
_ROADS = 20
_TORCHSERVE_S = 120.0
_BACK_S = 120.0
_REQUEST_ID = re.compile(r"kill-[0-9]{8}")


class LocalRedis:
    """A Redis on a port of loopback, without files."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it."""
        found = shutil.which("redis-server")
        if found is None:
            raise ServerFailedError("redis-server is not on PATH")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([found, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it at once; twice does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """What was killed.

    Attributes:
        name: In the table.
        at_s: When [s, time.time].
        connections: How many connections it may break.
        back_s: Time until it was there again [s]; None where nobody brings it back or it did not come.
    """

    name: str
    at_s: float
    connections: int = 0
    back_s: float | None = None


def questions(installation: Installation) -> Callable[[], Iterator[tuple[str, Call]]]:
    """Questions about the roads in turns, each with an identifier."""

    def ask_on() -> Iterator[tuple[str, Call]]:
        for number, road in zip(itertools.count(1), itertools.cycle(installation.roads), strict=False):
            request_id = f"kill-{number:08d}"
            body = (
                f'{{"request_id": "{request_id}", "location": {{"road_id": "{road}"}}, "forecast_horizon": "24h"}}'
            ).encode()
            yield request_id, Call(path="/predict/traffic", body=body, headers=installation.headers)

    return ask_on


def torchserve_processes(server: ServerProcess) -> list[psutil.Process]:
    """TorchServe's front and its workers."""
    fronts = [one for one in server.processes() if "org.pytorch.serve.ModelServer" in _command(one)]
    return [
        process for front in fronts for process in (front, *front.children(recursive=True)) if front.name() == "java"
    ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def answering_workers(server: ServerProcess, port: int) -> dict[psutil.Process, int]:
    """The processes that hold connections of clients, and how many each."""
    found: dict[psutil.Process, int] = {}
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            held = [
                one
                for one in process.net_connections(kind="tcp")
                if one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED
            ]
            if held:
                found[process] = len(held)
    return found


async def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> float | None:
    """Time until a condition holds [s], None where it does not in time."""
    began = time.perf_counter()
    while time.perf_counter() - began < timeout_s:
        if await asyncio.to_thread(condition):
            return time.perf_counter() - began
        await asyncio.sleep(0.2)
    return None


async def strike(
    server: ServerProcess, port: int, redis: LocalRedis, clients: Clients, *, quiet_s: float, console: Console
) -> list[Blow]:
    """Kill TorchServe, Redis and a worker in turns, with time between."""
    began = asyncio.create_task(clients.run())
    blows = [Blow(name="nothing", at_s=time.time())]
    ready = await wait_for(lambda: _last_runtime(clients) == "torchserve", timeout_s=_TORCHSERVE_S)
    console.print(
        "[dim]TorchServe answers[/dim]" if ready is not None else "[yellow]TorchServe never answered[/yellow]"
    )
    await asyncio.sleep(quiet_s)

    console.print("[dim]killing TorchServe[/dim]")
    at_s = time.time()
    for process in torchserve_processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    back_s = await wait_for(
        lambda: _runtime_since(clients, at_s + 1.0, "torchserve") and _last_runtime(clients) == "torchserve",
        timeout_s=quiet_s,
    )
    blows.append(Blow(name="TorchServe", at_s=at_s, back_s=back_s))
    await asyncio.sleep(max(0.0, quiet_s - (time.time() - at_s)))

    console.print("[dim]killing Redis[/dim]")
    blows.append(Blow(name="Redis", at_s=time.time()))
    redis.kill()
    await asyncio.sleep(quiet_s)
    redis.start()
    await asyncio.sleep(min(quiet_s, 6.0))

    console.print("[dim]killing a worker[/dim]")
    workers = await asyncio.to_thread(answering_workers, server, port)
    victim = max(workers, key=lambda process: workers[process])
    # Both at once, without giving the clients a turn: they make new connections all the time.
    held = answering_workers(server, port).get(victim, 0)
    at_s = time.time()
    victim.kill()
    back = await wait_for(lambda: bool(answering_workers(server, port).keys() - workers.keys()), timeout_s=_BACK_S)
    blows.append(Blow(name="a worker", at_s=at_s, connections=held, back_s=back))
    await asyncio.sleep(quiet_s)
    clients.stop()
    await began
    return blows


def _last_runtime(clients: Clients) -> str:
    return next((one.runtime for one in reversed(clients.outcomes[-200:]) if one.runtime), "")


def _runtime_since(clients: Clients, moment_s: float, runtime: str) -> bool:
    return any(one.runtime == runtime and one.asked_s > moment_s for one in clients.outcomes[-2000:])


def judge(blows: Sequence[Blow], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each blow, what its clients saw until the next one."""
    rows = []
    ends = [*(blow.at_s for blow in blows[1:]), float("inf")]
    for blow, end_s in zip(blows, ends, strict=True):
        seen = [one for one in outcomes if blow.at_s <= one.asked_s + one.took_s < end_s]
        broken = [one for one in seen if one.status == 0]
        refused = [one for one in seen if one.status >= 400]
        failures = [one.asked_s + one.took_s - blow.at_s for one in (*broken, *refused)]
        rows.append(
            {
                "killed": blow.name,
                "answers": sum(one.status == 200 for one in seen),
                "refused": len(refused),
                "broken": len(broken),
                "broken_allowed": blow.connections,
                "last_failure_s": round(max(failures, default=0.0), 2),
                "longest_ms": round(1e3 * max((one.took_s for one in seen), default=0.0), 1),
                "p99_ms": round(1e3 * float(np.percentile([one.took_s for one in seen], 99)), 2) if seen else None,
                "runtimes": dict(Counter(one.runtime for one in seen if one.status == 200)),
                "lowered_by": sorted({name for one in seen for name in one.lowered_by}),
                "back_s": None if blow.back_s is None else round(blow.back_s, 1),
                "faults": [one.fault[:200] for one in (*refused, *broken)[:3]],
            }
        )
    return rows


def lost_answers(installation: Installation, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """How many forecasts were answered, and which the prediction log does not have, be it in its journal."""
    from serving.prediction_log.settings import PredictionLogSettings
    from serving.prediction_log.store import PredictionStore

    answered = {one.request_id for one in outcomes if one.status == 200}
    settings = PredictionLogSettings(data_dir=installation.folder)
    store = PredictionStore(settings.log_url)
    try:
        missing = answered - store.request_ids()
    finally:
        store.close()
    journal = "".join(path.read_text(encoding="utf-8") for path in settings.journal_dir.glob("*"))
    lost = missing - set(_REQUEST_ID.findall(journal))
    return {
        "answered": len(answered),
        "in_journal_alone": len(missing) - len(lost),
        "lost": len(lost),
        "first_lost": sorted(lost)[:5],
    }


def show(console: Console, rows: Sequence[dict[str, Any]], log: dict[str, Any]) -> None:
    """Print what the clients saw."""
    columns = ("killed", "answers", "refused", "broken", "last failure s", "p99 ms", "longest ms", "runtimes", "back s")
    table = Table(*columns, title="What clients saw from each kill to the next")
    for row in rows:
        good = row["refused"] == 0 and row["broken"] <= row["broken_allowed"]
        colour = "green" if good else "red"
        runtimes = ", ".join(f"{name} {count}" for name, count in row["runtimes"].items())
        table.add_row(
            row["killed"],
            str(row["answers"]),
            f"[{colour}]{row['refused']}[/{colour}]",
            f"[{colour}]{row['broken']} of {row['broken_allowed']}[/{colour}]",
            f"{row['last_failure_s']:g}",
            f"{row['p99_ms'] or 0:g}",
            f"{row['longest_ms']:g}",
            runtimes,
            "" if row["back_s"] is None else f"{row['back_s']:g}",
        )
    console.print(table)
    colour = "red" if log["lost"] else "green"
    console.print(
        f"[{colour}]{log['answered']} forecasts answered: {log['lost']} of them are not in the prediction log, "
        f"{log['in_journal_alone']} in its journal alone[/{colour}]"
    )


def measure(folder: Path, *, quick: bool, console: Console) -> dict[str, Any]:
    """All figures, in a folder that is filled."""
    console.print("[dim]making a town and a registry[/dim]")
    installation = install(folder / "town", roads=_ROADS)
    redis = LocalRedis()
    redis.start()
    shared = {f"{name}_redis_url": redis.url for name in ("limits", "forecasts", "sessions")}
    try:
        console.print("[dim]starting the server[/dim]")
        server, port = start_gateway(
            installation,
            folder / "log",
            workers=_WORKERS,
            torchserve=True,
            changes={"keep_forecasts_s": 1, "forecast_ahead": False, **shared},
        )
        clients = Clients(
            port=port, count=_CLIENTS, calls=questions(installation), pause_s=0.02, questions_each=_QUESTIONS_EACH
        )
        try:
            quiet_s = 4.0 if quick else 20.0
            blows = asyncio.run(strike(server, port, redis, clients, quiet_s=quiet_s, console=console))
        finally:
            server.stop()
    finally:
        redis.kill()
    rows = judge(blows, clients.outcomes)
    log = lost_answers(installation, clients.outcomes)
    show(console, rows, log)
    if any(row["faults"] for row in rows):
        console.print(f"[dim]{[fault for row in rows for fault in row['faults']]}[/dim]")
    fell_back = rows[1]["runtimes"].get("in_process", 0) > 0
    bars = {
        "no_request_refused": sum(row["refused"] for row in rows) == 0,
        "broken_only_on_the_killed_worker": all(row["broken"] <= row["broken_allowed"] for row in rows),
        "said_which_runtime_answered": fell_back,
        "worker_came_back": rows[-1]["back_s"] is not None,
        "nothing_logged_is_lost": log["lost"] == 0,
    }
    for name, met in bars.items():
        console.print(f"{name.replace('_', ' ')}: {'[green]met[/green]' if met else '[red]missed[/red]'}")
    return {"kills": rows, "prediction_log": log, "bars": bars}


def main() -> None:
    """Run the benchmark and print its report."""
    options = arguments(__doc__ or "").parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    substitute()
    with temporary_folder() as folder:
        figures = measure(folder, quick=options.quick, console=wide_console())
    print_result("kill", figures)


if __name__ == "__main__":
    main()
