"""The claim: the API answers faster than any server of the same model, with all that protects and watches on.

`python -m benchmarks.serving [--quick]` starts, on one processor core each in turn used by one of them,

- minimal FastAPI with ONNX Runtime (pydantic, and orjson), BentoML, MLServer, `mlflow models serve`, LitServe and
  TorchServe alone, each in an environment of its own below the user's cache, made on the first run;
- `towncast serve`, with validation, key check, rate limit, intervals, metrics and prediction log on, which keeps
  forecasts, and another one which keeps none;

all with the design document's LSTM on a window of 24 x 50, checks that they answer what the graph answers, and loads
them in turns with 1, 8, 32 and 128 clients of `wrk` on the other core: requests per second, p50, p99, errors, memory.
Ratios are medians over the rounds, against the minimal FastAPI of the same round. Then

- two workers, on all cores;
- a forecast on one connection against the bare graph and its answer as JSON; a batch of 1,000 against single calls;
- the champion moved to and fro under load, and a canary that walks to champion: failed requests.

It needs `wrk` and, for TorchServe, Java.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from benchmarks.server_process import ServerFailedError
from benchmarks.serving_bars import INFER, KEPT, MADE, Bar, rate_bars, show_bars
from benchmarks.serving_connection import measure_batch, measure_latency
from benchmarks.serving_domain import substitute
from benchmarks.serving_gateway import Installation, inference_times_ms, install, site_call
from benchmarks.serving_peers.environments import PeerUnavailableError
from benchmarks.serving_peers.peers import BASELINE, PEERS, Peer, peer_versions
from benchmarks.serving_rates import (
    Subject,
    Truth,
    WrongAnswerError,
    bare_session,
    measure_rounds,
    rate_figures,
    run_bare,
    show_rates,
    true_forecasts,
)
from benchmarks.serving_releases import LoadBeside, measure_canary, measure_reloads
from benchmarks.serving_servers import Cores, Servers, check_gateway, choose_cores, infer_subject, what_is_on
from benchmarks.serving_subject import temporary_folder

INFERENCE_BAR_MS = 5.0
BATCH_BAR = 20.0
BARE = "bare ONNX Runtime, in process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        clients: Numbers of clients.
        rounds: How often each server has its turn.
        duration_s: How long a turn is [s].
        peers: Which other servers.
        roads: How many roads the town has.
        moves: How often the champion's alias is moved.
        canary_s: How long a canary is watched [s].
        batch_rounds: How many batches.
        pairs: How many forecasts on one connection.
    """

    clients: tuple[int, ...] = (1, 8, 32, 128)
    rounds: int = 5
    duration_s: float = 3.0
    peers: tuple[Peer, ...] = PEERS
    roads: int = 100
    moves: int = 6
    canary_s: float = 45.0
    batch_rounds: int = 10
    pairs: int = 2000


QUICK = Plan(
    clients=(1, 32),
    rounds=1,
    duration_s=1.0,
    peers=PEERS[:2],
    roads=20,
    moves=1,
    canary_s=0.0,
    batch_rounds=1,
    pairs=100,
)


def start_peers(
    servers: Servers, plan: Plan, installation: Installation, truth: Truth, cores: Cores, console: Console
) -> tuple[list[Subject], dict[str, Any]]:
    """The peers that start, and of all what is installed, or why they are missing."""
    subjects, known = [], {}
    for peer in plan.peers:
        try:
            subjects.append(servers.peer(peer, installation.artifact.graph, truth, cores.servers))
            known[peer.name] = {"versions": peer_versions(peer), **({"note": peer.note} if peer.note else {})}
        except (PeerUnavailableError, ServerFailedError, WrongAnswerError) as error:
            console.print(f"[yellow]{peer.name} is not measured: {error}[/yellow]")
            known[peer.name] = {"unavailable": str(error)[:300]}
    return subjects, known


def measure_bare(installation: Installation, truth: Truth, *, runs: int, core: int) -> dict[str, Any]:
    """The graph in this process, one window after the other, on the servers' core."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    session, times_ms = bare_session(installation.artifact.graph), []
    for index in range(runs):
        began = time.perf_counter()
        run_bare(session, truth.windows[index % len(truth.windows)])
        times_ms.append(1e3 * (time.perf_counter() - began))
    os.sched_setaffinity(0, usable)
    p50, p99 = np.percentile(times_ms, [50, 99])
    rate = 1e3 * runs / sum(times_ms)
    return {"requests_per_s": round(rate, 1), "p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def measure_side_by_side(
    servers: Servers, plan: Plan, installation: Installation, truth: Truth, cores: Cores, console: Console
) -> tuple[dict[str, Any], Subject, Subject]:
    """All servers in turns; also the two of ours, which still run."""
    subjects, peers = start_peers(servers, plan, installation, truth, cores, console)
    if not any(subject.name == BASELINE for subject in subjects):
        raise ServerFailedError(f"without {BASELINE} there is nothing to compare with: {peers[BASELINE]}")
    kept = servers.gateway(KEPT, installation, cores.servers)
    made = servers.gateway(MADE, installation, cores.servers, keep_forecasts_s=0)
    for gateway in (kept, made):
        check_gateway(gateway, installation, truth)
    ours, missing = [kept, made], {}
    try:
        ours.append(infer_subject(kept, installation, truth, servers.folder))
    except WrongAnswerError as error:
        console.print(f"[yellow]{INFER} is not measured: {error}[/yellow]")
        missing[INFER] = {"unavailable": str(error)[:300]}
    subjects += ours
    measure_rounds(
        subjects,
        clients=plan.clients,
        rounds=plan.rounds,
        duration_s=plan.duration_s,
        core=cores.client,
        console=console,
    )
    baseline = next(subject for subject in subjects if subject.name == BASELINE)
    rates = {subject.name: rate_figures(subject, baseline) for subject in subjects}
    absent = {name: found for name, found in peers.items() if "unavailable" in found} | missing
    show_rates(console, "One core for the server, one worker each", {**rates, **absent}, plan.clients)
    figures = {
        "servers": {**rates, **absent},
        "peers": peers,
        "on": what_is_on(kept, installation),
        BARE: measure_bare(installation, truth, runs=200 * plan.rounds, core=cores.servers[0]),
    }
    bare = figures[BARE]
    console.print(f"{BARE}: {bare['requests_per_s']:.0f} a second, {bare['p50_ms']} / {bare['p99_ms']} ms")
    return figures, kept, made


def measure_single(
    plan: Plan, installation: Installation, truth: Truth, kept: Subject, made: Subject
) -> dict[str, Any]:
    """What one connection sees, and what replies say of their inference, idle and under a load."""
    session, call = bare_session(installation.artifact.graph), site_call(installation, installation.roads[0])
    found: dict[str, Any] = {"latency_ms": {}, "batch": {}, "inference_time_ms": {}}
    for name, gateway in (("kept", kept), ("made", made)):
        found["latency_ms"][name] = measure_latency(
            gateway.port, call, lambda: run_bare(session, truth.windows[0]), pairs=plan.pairs
        )
        found["batch"][name] = measure_batch(gateway.port, installation, requests=1000, rounds=plan.batch_rounds)
        found["inference_time_ms"][name] = inference_by_clients(gateway, installation, requests=plan.pairs // 10)
    return found


def inference_by_clients(gateway: Subject, installation: Installation, *, requests: int) -> dict[str, float]:
    """Median of what replies say of their inference, while nobody else, 7 and 31 others ask without a pause [ms]."""
    found = {"1": statistics.median(inference_times_ms(gateway.port, installation, requests=requests))}
    for clients in (8, 32):
        with LoadBeside(gateway.port, gateway.calls, clients=clients - 1, duration_s=3.0, core=None):
            times_ms = inference_times_ms(gateway.port, installation, requests=requests // 2)
        found[str(clients)] = statistics.median(times_ms)
    return {clients: round(value, 3) for clients, value in found.items()}


def measure_workers(
    plan: Plan, installation: Installation, folder: Path, truth: Truth, cores: Cores, console: Console
) -> dict[str, Any]:
    """Two workers on all cores, beside the clients."""
    figures: dict[str, Any] = {}
    folder.mkdir()
    with Servers(folder, console) as servers:
        try:
            kept = servers.gateway(KEPT, installation, cores.every, workers=2)
            made = servers.gateway(MADE, installation, cores.every, workers=2, keep_forecasts_s=0)
            subjects = [kept, made, infer_subject(kept, installation, truth, folder)]
        except (ServerFailedError, WrongAnswerError) as error:
            console.print(f"[yellow]two workers are not measured: {error}[/yellow]")
            return {"unavailable": str(error)[:300]}
        measure_rounds(
            subjects,
            clients=plan.clients[-2:],
            rounds=max(1, plan.rounds // 2),
            duration_s=plan.duration_s,
            core=None,
            console=console,
        )
        for subject in subjects:
            figures[subject.name] = rate_figures(subject, subjects[0])
    show_rates(console, "Two workers on all cores; ratios to the first row", figures, plan.clients[-2:])
    return figures


def measure_releases(
    plan: Plan, installation: Installation, folder: Path, cores: Cores, console: Console
) -> dict[str, Any]:
    """The champion moved, and a canary, under load."""
    folder.mkdir()
    with Servers(folder, console) as servers:
        gateway = servers.gateway(KEPT, installation, cores.servers)
        console.print("[dim]moving the champion under load[/dim]")
        found = {
            "reload": measure_reloads(
                gateway.port, installation, gateway.calls, clients=32, moves=plan.moves, core=cores.client
            )
        }
        if plan.canary_s:
            console.print("[dim]a canary under load[/dim]")
            found["canary"] = measure_canary(
                gateway.port,
                installation,
                gateway.calls,
                version=2 - plan.moves % 2,
                clients=32,
                duration_s=plan.canary_s,
                core=cores.client,
            )
    return found


def single_bars(single: dict[str, Any]) -> list[Bar]:
    """The bars on what one connection sees."""
    bars = []
    for name in ("kept", "made"):
        batch = single["batch"][name]["times_faster"]
        label = f"forecasts {name}"
        for clients in ("1", "8"):
            time_ms = single["inference_time_ms"][name][clients]
            what = f"{label}: median inference_time_ms at {clients}"
            bars.append(Bar(name=what, found=time_ms, limit=INFERENCE_BAR_MS, at_least=False, unit="ms"))
        bars.append(Bar(name=f"{label}: batch of 1,000 to single calls", found=batch, limit=BATCH_BAR, at_least=True))
    return bars


def release_bars(releases: dict[str, Any]) -> list[Bar]:
    """The bars on releases under load: nothing fails, and what was released came."""
    bars = []
    for name, found in releases.items():
        came = found["moves_that_came"] == found["moves"] if name == "reload" else found["became_champion"]
        failed = float(found["failed"])
        bars.append(
            Bar(name=f"{name} under load: failed requests", found=failed, limit=0.0, at_least=False, unit="requests")
        )
        bars.append(Bar(name=f"{name} under load: came", found=float(came), limit=1.0, at_least=True, unit=""))
    return bars


def show_single(console: Console, single: dict[str, Any]) -> None:
    """What one connection sees."""
    table = Table(
        "forecasts",
        "bare run + JSON, median / p99 ms",
        "over HTTP",
        "ratio",
        "1,000 singles, batch ms",
        "x",
        "inference ms at 1, 8, 32",
    )
    for name, times in single["latency_ms"].items():
        batch = single["batch"][name]
        table.add_row(
            name,
            f"{times['bare_median_ms']:.2f} / {times['bare_p99_ms']:.2f}",
            f"{times['http_median_ms']:.2f} / {times['http_p99_ms']:.2f}",
            f"{times['median_ratio']:.2f} / {times['p99_ratio']:.2f}",
            f"{batch['singles_ms']:.0f}, {batch['batch_ms']:.0f}",
            f"{batch['times_faster']:.1f}",
            ", ".join(f"{value:g}" for value in single["inference_time_ms"][name].values()),
        )
    console.print(table)


def measure(folder: Path, plan: Plan, console: Console) -> dict[str, Any]:
    """All figures, in a folder that is filled."""
    cores = choose_cores()
    if cores.client in cores.servers:
        console.print("[yellow]There is one core: servers and clients share it[/yellow]")
    console.print("[dim]making a town and a registry[/dim]")
    installation = install(folder / "town", roads=plan.roads)
    truth = true_forecasts(installation)
    with Servers(folder, console) as servers:
        figures, kept, made = measure_side_by_side(servers, plan, installation, truth, cores, console)
        console.print("[dim]one connection[/dim]")
        figures["single"] = measure_single(plan, installation, truth, kept, made)
    show_single(console, figures["single"])
    figures["two_workers"] = measure_workers(plan, installation, folder / "workers", truth, cores, console)
    figures["releases"] = measure_releases(plan, installation, folder / "releases", cores, console)
    off = [name for name, on in figures["on"].items() if not on]
    bars = [
        *rate_bars(figures["servers"], plan.clients),
        *single_bars(figures["single"]),
        *release_bars(figures["releases"]),
        Bar(
            name=f"switched off: {', '.join(off) or 'nothing'}", found=float(len(off)), limit=0, at_least=False, unit=""
        ),
    ]
    show_bars(console, bars)
    figures["bars"] = {bar.name: bar.as_json() for bar in bars}
    return figures


def main() -> None:
    """Run the benchmark and print its report."""
    options = arguments(__doc__ or "").parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    substitute()
    with temporary_folder() as folder:
        figures = measure(folder, QUICK if options.quick else Plan(), wide_console())
    print_result("serving", figures)


if __name__ == "__main__":
    main()
