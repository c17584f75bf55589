"""The claim: logging every forecast costs nothing that anybody feels, and a year of it is summed up in a minute.

`python -m benchmarks.prediction_log [--quick]` measures

- the median latency of a kept answer of `towncast serve`, with the log on and off: two servers on one core, loaded in
  turns by `wrk` on the other one, with 1 and with 8 clients. Between the turns nobody works, so that what one server
  does in the background is not counted against the other;
- how many predictions, a forecast and an answer each, one core enters in a second: records to lines of the journal,
  and a journal's lines to SQLite, and to a PostgreSQL of the benchmark's own;
- a year of hourly forecasts of 1,000 roads, 24 steps and 5 levels each: a month of them goes all the way through log
  and join, the other months are written as the join writes them, and all are summed up by model, road and horizon, and
  once more by hour of the week: count, errors, coverage.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.load import Load, drive
from benchmarks.local_postgres import new_database, postgres_is_there, postgres_server
from benchmarks.prediction_log_year import YearPlan, measure_year
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.serving_domain import substitute
from benchmarks.serving_gateway import install
from benchmarks.serving_rates import Subject
from benchmarks.serving_servers import Servers, choose_cores
from benchmarks.serving_subject import LEVELS, temporary_folder
from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record, from_lines, to_lines
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore

LATENCY_BAR = 1.05
ENTRY_BAR_PER_S = 10_000.0
SUMMARY_BAR_S = 60.0
_STEPS = 24
# Longer than a flush: what was answered is in the log before the other server has its turn [s].
_REST_S = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        clients: Numbers of clients.
        rounds: How often each server has its turn with each number.
        duration_s: How long a turn is [s].
        predictions: How many are entered into each database.
        together: Of these in a segment of the journal.
        year: How much of a year.
    """

    clients: tuple[int, ...] = (1, 8)
    rounds: int = 20
    duration_s: float = 2.0
    predictions: int = 200_000
    together: int = 10_000
    year: YearPlan = field(default_factory=YearPlan)


QUICK = Plan(clients=(1,), rounds=1, duration_s=1.0, predictions=10_000, together=5_000, year=YearPlan(roads=10))


def measure_latency(folder: Path, plan: Plan, console: Console) -> dict[str, Any]:
    """Medians with the log on and off, and of their ratios in each round."""
    cores = choose_cores()
    installation = install(folder, roads=50)
    with Servers(folder, console) as servers:
        off = servers.gateway("log off", installation, cores.servers, prediction_log="off")
        on = servers.gateway("log on", installation, cores.servers)
        log = PredictionLogSettings(data_dir=folder)
        given = 0
        for clients in plan.clients:
            for number in range(-1, plan.rounds):  # the first one warms up
                for subject in (on, off) if number % 2 else (off, on):
                    load = _turn(subject, clients, plan.duration_s, cores.client, keep=number >= 0)
                    given += load.answers if subject is on else 0
                console.print(f"[dim]latency with {clients} clients: round {number + 1} of {plan.rounds}[/dim]")
        with closing(PredictionStore(log.log_url)) as store:
            logged = store.count()["answers"]
    found = {str(clients): _latency_figures(on, off, clients) for clients in plan.clients}
    # wrk hangs up on the answers that are on their way at its end; these are logged too.
    return {"clients": found, "answered": given, "logged": logged}


def _turn(subject: Subject, clients: int, duration_s: float, core: int, *, keep: bool) -> Load:
    before_s = subject.process.processor_s()
    load = drive(subject.port, subject.calls, clients=clients, duration_s=duration_s, core=core)
    time.sleep(_REST_S)
    if keep:
        subject.loads.setdefault(clients, []).append(load)
        used_s = subject.process.processor_s() - before_s
        subject.processor_us.setdefault(clients, []).append(1e6 * used_s / load.answers)
    return load


def _latency_figures(on: Subject, off: Subject, clients: int) -> dict[str, Any]:
    pairs = list(zip(on.loads[clients], off.loads[clients], strict=True))
    processor = list(zip(on.processor_us[clients], off.processor_us[clients], strict=True))
    ratios = [one.p50_ms / other.p50_ms for one, other in pairs]
    return {
        "p50_on_ms": round(statistics.median(one.p50_ms for one, _ in pairs), 4),
        "p50_off_ms": round(statistics.median(other.p50_ms for _, other in pairs), 4),
        "p50_ratio": round(statistics.median(ratios), 4),
        "p50_ratios": [round(ratio, 3) for ratio in ratios],
        "p99_on_ms": round(statistics.median(one.p99_ms for one, _ in pairs), 3),
        "p99_off_ms": round(statistics.median(other.p99_ms for _, other in pairs), 3),
        "requests_ratio": round(statistics.median(a.requests_per_s / b.requests_per_s for a, b in pairs), 4),
        # With what the log does behind the answers.
        "processor_on_us": round(statistics.median(one for one, _ in processor), 1),
        "processor_off_us": round(statistics.median(other for _, other in processor), 1),
        "errors": sum(load.errors for pair in pairs for load in pair),
    }


def predictions(count: int, *, seed: int) -> list[Record]:
    """So many forecasts of 24 steps and 5 levels, each with an answer that gave it, as the API logs them."""
    rng = np.random.default_rng(seed)
    names = rng.bytes(8 * count).hex()
    values = np.sort(rng.normal(1000.0, 200.0, (count, _STEPS, len(LEVELS))), axis=-1).astype("<f4")
    records: list[Record] = []
    for number in range(count):
        name, at_s = names[16 * number : 16 * number + 16], 1_700_000_000.0 + seed + number / count
        records.append(
            ForecastRecord(
                name=name,
                made_s=at_s,
                domain="traffic",
                target="volume",
                unit="veh/h",
                site=f"R{number % 1000:04d}",
                origin_s=1_700_000_000 // 3600 * 3600,
                step_s=3600,
                window=f"{name}{name}@1699999200",
                model_version="traffic-lstm-v1",
                role="champion",
                runtime="in_process",
                levels=LEVELS,
                values=values[number].tobytes(),
            )
        )
        records.append(
            AnswerRecord(
                request_id=f"pred_{name}{seed:06d}{number:06d}",
                answered_s=at_s,
                caller="benchmark",
                forecast=name,
                steps=_STEPS,
                latency_ms=0.123,
                came="made",
                lowered_by=(),
            )
        )
    return records


def _segments(plan: Plan) -> Iterator[bytes]:
    for seed in range(max(1, plan.predictions // plan.together)):
        yield to_lines(predictions(plan.together, seed=seed))


def measure_entry(folder: Path, plan: Plan, console: Console) -> dict[str, Any]:
    """Predictions a second from a journal's lines into each database, on one core."""
    usable = os.sched_getaffinity(0)
    found: dict[str, Any] = {}
    os.sched_setaffinity(0, {min(usable)})
    try:
        records = predictions(plan.together, seed=0)
        began = time.perf_counter()
        to_lines(records)
        found["to_lines_per_s"] = round(plan.together / (time.perf_counter() - began))
        found["sqlite"] = enter_all(f"sqlite:///{folder / 'entry.db'}", plan)
        if postgres_is_there():
            os.sched_setaffinity(0, usable)
            with postgres_server() as port:
                url = new_database(port, "log")
                # The server may have the other core: one core is what the API's side has.
                os.sched_setaffinity(0, {min(usable)})
                found["postgresql"] = enter_all(url, plan)
        else:
            console.print("[yellow]PostgreSQL is not installed: not measured[/yellow]")
    finally:
        os.sched_setaffinity(0, usable)
    return found


def enter_all(url: str, plan: Plan) -> dict[str, float]:
    """Enter all segments into a new log; the time that their making takes is not counted."""
    times_s, processor_s = [], 0.0
    with closing(PredictionStore(url)) as store:
        store.open()
        for number, lines in enumerate(_segments(plan)):
            began, used = time.perf_counter(), time.process_time()
            store.add(f"segment-{number}", from_lines(lines))
            times_s.append(time.perf_counter() - began)
            processor_s += time.process_time() - used
        entered = store.count()
    total = len(times_s) * plan.together
    if entered != {"forecasts": total, "answers": total}:
        raise RuntimeError(f"{url}: {entered} of {total} predictions were entered")
    return {
        "predictions": total,
        "per_s": round(total / sum(times_s)),
        "median_segment_per_s": round(plan.together / statistics.median(times_s)),
        "slowest_segment_per_s": round(plan.together / max(times_s)),
        "per_processor_s": round(total / processor_s),
    }


def bars_of(figures: dict[str, Any]) -> dict[str, bool]:
    """Which bars are met."""
    entry = figures["entry"]
    bars = {
        f"latency_{clients}_clients": found["p50_ratio"] <= LATENCY_BAR
        for clients, found in figures["latency"]["clients"].items()
    }
    bars |= {
        f"entry_{name}": entry[name]["per_s"] >= ENTRY_BAR_PER_S for name in ("sqlite", "postgresql") if name in entry
    }
    return bars | {"year_summary": figures["year"]["summary_s"] <= SUMMARY_BAR_S}


def show(console: Console, figures: dict[str, Any]) -> None:
    """Print all figures."""
    table = Table("", "found", "bar", title="The prediction log")
    bars, entry, year = figures["bars"], figures["entry"], figures["year"]
    for clients, found in figures["latency"]["clients"].items():
        table.add_row(
            f"median latency, {clients} clients: on / off",
            f"{found['p50_on_ms']:g} / {found['p50_off_ms']:g} ms, "
            + _coloured(f"{found['p50_ratio'] - 1:+.1%}", good=bars[f"latency_{clients}_clients"]),
            f"{LATENCY_BAR - 1:+.0%}",
        )
        table.add_row(
            "  processor time of an answer: on / off",
            f"{found['processor_on_us']:g} / {found['processor_off_us']:g} us",
            "",
        )
    for name in ("sqlite", "postgresql"):
        if name in entry:
            per_s = _coloured(f"{entry[name]['per_s']:,}", good=bars[f"entry_{name}"])
            table.add_row(f"predictions entered a second, {name}", per_s, f"{ENTRY_BAR_PER_S:,.0f}")
    table.add_row(
        f"{year['forecasts']:,} forecasts of a year: summed up",
        _coloured(f"{year['summary_s']:g} s", good=bars["year_summary"]),
        f"{SUMMARY_BAR_S:g} s",
    )
    table.add_row("  by hour of the week too", f"{year['summary_hour_of_week_s']:g} s", "")
    table.add_row(
        f"  of these, through log and join: {year['joined_forecasts']:,}",
        f"entered in {year['entered_s']:g} s, joined in {year['joined_s']:g} s",
        "",
    )
    table.add_row("  on disk: log, realised", f"{year['log_mb']:,} MB, {year['realised_mb']:,} MB", "")
    console.print(table)


def _coloured(text: str, *, good: bool) -> str:
    colour = "green" if good else "red"
    return f"[{colour}]{text}[/{colour}]"


def main() -> None:
    """Run the benchmark and print its report."""
    options = arguments(__doc__ or "").parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    substitute()
    plan, console, progress = QUICK if options.quick else Plan(), wide_console(), Console(stderr=True)
    with temporary_folder() as folder:
        figures: dict[str, Any] = {
            "latency": measure_latency(folder / "town", plan, progress),
            "entry": measure_entry(folder, plan, progress),
            "year": measure_year(folder / "year", plan.year, progress),
        }
    figures["bars"] = bars_of(figures)
    show(console, figures)
    print_result("prediction_log", figures)


if __name__ == "__main__":
    main()
