"""Requests per second and latencies of many servers, in turns: one is loaded while the others idle."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, drive, keep_calls, median_load
from benchmarks.server_process import ServerProcess, ask
from benchmarks.serving_gateway import Installation, present_origin_s, window_at
from benchmarks.serving_peers.peers import Peer, Windows

# How many different windows the bodies hold in turns.
_WINDOWS = 20
# Largest difference from the graph [veh/h]; and the least that forecasts of two windows must differ by, or it would
# show nothing.
_TOLERANCE = 0.01
_VARIETY = 1.0


class WrongAnswerError(Exception):
    """A server answers something else than the graph."""


@dataclass(slots=True, kw_only=True)
class Subject:
    """A server that is up.

    Attributes:
        name: In tables and figures.
        process: All its processes.
        port: Where it listens, on loopback.
        calls: File of what it is asked.
        loads: What it did, by the number of clients, one entry a round.
        processor_us: Processor time of all its processes for each answer, likewise [us]. Others on the machine change
            rates more than this.
        memory_mb: All its processes' after the last round.
    """

    name: str
    process: ServerProcess
    port: int
    calls: Path
    loads: dict[int, list[Load]] = field(default_factory=dict)
    processor_us: dict[int, list[float]] = field(default_factory=dict)
    memory_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Windows, and what the graph makes of them in this process.

    Attributes:
        roads: Whose windows.
        windows: One of each road.
        quantiles: Their forecasts, shape (B, H, Q).
    """

    roads: tuple[str, ...]
    windows: tuple[Windows, ...]
    quantiles: np.ndarray[Any, np.dtype[np.float32]]


def bare_session(graph: Path) -> onnxruntime.InferenceSession:
    """The graph in this process, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def run_bare(session: onnxruntime.InferenceSession, window: Windows) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Quantiles of one window, shape (H, Q)."""
    quantiles: np.ndarray[Any, np.dtype[np.float32]] = session.run(
        ["quantiles"], {name: values[None] for name, values in window.items()}
    )[0][0]
    return quantiles


def true_forecasts(installation: Installation) -> Truth:
    """The graph's own answers for the first roads now.

    Raises:
        WrongAnswerError: They do not differ.
    """
    session, origin_s = bare_session(installation.artifact.graph), present_origin_s()
    roads = installation.roads[:_WINDOWS]
    windows = tuple(window_at(installation, road, origin_s=origin_s) for road in roads)
    quantiles = np.stack([run_bare(session, window) for window in windows])
    if np.abs(np.diff(quantiles, axis=0)).max() < _VARIETY:
        raise WrongAnswerError("the graph forecasts the same for every window: a check would show nothing")
    return Truth(roads=roads, windows=windows, quantiles=quantiles)


def check_peer(peer: Peer, port: int, truth: Truth) -> None:
    """Make sure that a peer answers what the graph answers.

    Raises:
        WrongAnswerError: It does not.
    """
    for window, quantiles in zip(truth.windows[:3], truth.quantiles, strict=False):
        answer = ask(port, peer.call(window))
        if answer.is_error:
            raise WrongAnswerError(f"{peer.name}: status {answer.status_code}: {answer.text[:200]}")
        found = np.array(peer.quantiles(answer.json()), dtype=np.float64).reshape(quantiles.shape)
        largest = float(np.abs(found - quantiles).max())
        if not largest <= _TOLERANCE:
            raise WrongAnswerError(f"{peer.name}: differs by {largest:.2g} from the graph")


def peer_subject(peer: Peer, process: ServerProcess, port: int, truth: Truth, folder: Path) -> Subject:
    """A checked peer, ready to be measured."""
    check_peer(peer, port, truth)
    calls = keep_calls([peer.call(window) for window in truth.windows], folder / f"{port}.calls")
    return Subject(name=peer.name, process=process, port=port, calls=calls)


def measure_rounds(
    subjects: Sequence[Subject],
    *,
    clients: Sequence[int],
    rounds: int,
    duration_s: float,
    core: int | None,
    console: Console,
) -> None:
    """Load every server with every number of clients, again and again; fills `Subject.loads` and `memory_mb`."""
    for subject in subjects:
        drive(subject.port, subject.calls, clients=8, duration_s=1, core=core)
    for turn in range(rounds):
        for count in clients:
            console.print(f"[dim]round {turn + 1} of {rounds}: {count} clients[/dim]")
            for subject in subjects:
                before_s = subject.process.processor_s()
                load = drive(subject.port, subject.calls, clients=count, duration_s=duration_s, core=core)
                spent_us = 1e6 * (subject.process.processor_s() - before_s)
                subject.loads.setdefault(count, []).append(load)
                subject.processor_us.setdefault(count, []).append(spent_us / max(1, load.answers))
    for subject in subjects:
        subject.memory_mb = subject.process.memory_mb()


def rate_ratio(subject: Subject, baseline: Subject, clients: int) -> float:
    """How many times the baseline's rate a server reaches: median of the rounds' ratios."""
    pairs = zip(subject.loads[clients], baseline.loads[clients], strict=True)
    return statistics.median(one.requests_per_s / other.requests_per_s for one, other in pairs)


def rate_figures(subject: Subject, baseline: Subject) -> dict[str, Any]:
    """All figures of a server, by the number of clients."""
    found: dict[str, Any] = {"memory_mb": round(subject.memory_mb)}
    for clients, loads in subject.loads.items():
        median = median_load(loads)
        found[str(clients)] = {
            "requests_per_s": round(median.requests_per_s, 1),
            "ratio": round(rate_ratio(subject, baseline, clients), 3),
            "p50_ms": round(median.p50_ms, 2),
            "p99_ms": round(median.p99_ms, 2),
            "processor_us": round(statistics.median(subject.processor_us[clients])),
            "errors": median.errors,
        }
    return found


def show_rates(console: Console, title: str, figures: dict[str, dict[str, Any]], clients: Sequence[int]) -> None:
    """A row for each server: at each number of clients its rate, its ratio, and its latencies."""
    table = Table(title=title, title_justify="left")
    table.add_column("server")
    for count in clients:
        table.add_column(f"{count} clients: requests/s, ratio, p50 / p99 ms", justify="right")
    table.add_column(f"processor us each at {clients[-1]}", justify="right")
    table.add_column("errors", justify="right")
    table.add_column("MB", justify="right")
    for name, found in figures.items():
        if "unavailable" in found:
            table.add_row(name, f"[yellow]{found['unavailable'][:60]}[/yellow]")
            continue
        cells = [
            f"{one['requests_per_s']:.0f}  {one['ratio']:.2f}x  {one['p50_ms']:.1f} / {one['p99_ms']:.1f}"
            for one in (found[str(count)] for count in clients)
        ]
        errors = sum(found[str(count)]["errors"] for count in clients)
        colour = "red" if errors else "green"
        spent = str(found[str(clients[-1])]["processor_us"])
        table.add_row(name, *cells, spent, f"[{colour}]{errors}[/{colour}]", str(found["memory_mb"]))
    console.print(table)
