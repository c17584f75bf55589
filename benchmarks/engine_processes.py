"""What a living GEKKO model costs beside GEKKO itself, and native integration beside both; for `benchmarks.engines`.

- 1,000 reactor steps of 6 s, ours and a bare GEKKO object in turns, each with the same random coolant below ignition:
  99th percentile of ours (bar: 100 ms) and the ratio of medians (bar: 1.3), by the clock; beside it that of processor
  time, which other work on the machine disturbs less. The bare object is as lean as GEKKO allows:
  alive from step to step, folder in memory, numbers for parameters, one element a step. Ours solves one to three
  elements, as its tolerance asks for, and takes parameters and measured states.
- The same of ours while every core is kept busy by a process of its own (bar: 100 ms).
- 200 steps of a minute of tank and room, ours alone.
- 1,000 native runs of 200 reactor steps: steps a second in one thread, over those of our living model (bar: 5,000).
- How far each differs from native integration over all its steps, never set right in between.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from sim_env.process import PROCESSES
from sim_env.process.differential import DifferentialProcess
from sim_env.process.native import roll

STEP_BAR_MS = 100.0
RATIO_BAR = 1.3
BULK_BAR = 5000.0
_REACTOR_STEP_S = 6.0
_OTHER_STEP_S = 60.0
_SEED = 4
# Below the coolant at which the reactor ignites.
_COOLANT_K = (285.0, 302.0)

Show = Callable[[str], None]
Figures = dict[str, Any]


def process_figures(*, quick: bool, show: Show) -> Figures:
    """Measure all.

    Args:
        quick: A smoke run; its figures mean nothing.
        show: Is told what is being measured.

    Returns:
        Figures by name: times in milliseconds, differences in the states' units.
    """
    steps, others, repeats = (30, 10, 1) if quick else (1000, 200, 5)
    show(f"{steps} reactor steps, ours and a bare GEKKO object in turns")
    figures = _against_bare(steps)
    show(f"{steps} reactor steps with every core busy")
    with _busy_cores():
        figures["busy"] = _alone("reactor", steps, _REACTOR_STEP_S)
    for name in ("water_tank", "room_temperature"):
        show(f"{others} steps of the {name}")
        figures[name] = _alone(name, others, _OTHER_STEP_S)
    show("1,000 x 200 native reactor steps")
    figures["bulk"] = _bulk(repeats, gekko_steps_per_s=1e3 / figures["reactor"]["p50_ms"])
    return figures


def _controls(process: DifferentialProcess, shape: int | tuple[int, int]) -> np.ndarray:
    low, high = _COOLANT_K if process.name == "reactor" else (process.control.lower, process.control.upper / 2)
    return np.random.default_rng(_SEED).uniform(low, high, shape)


def _process(name: str) -> DifferentialProcess:
    process = PROCESSES[name]
    assert isinstance(process, DifferentialProcess)
    return process


def _against_bare(steps: int) -> Figures:
    process = _process("reactor")
    native, ours = process.native(), process.gekko()
    bare = _BareReactor()
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    processor_s: dict[str, list[float]] = {"ours": [], "bare": []}
    apart = {"ours": dict.fromkeys(process.tolerance, 0.0), "bare": dict.fromkeys(process.tolerance, 0.0)}
    try:
        for number, control in enumerate(_controls(process, steps).tolist()):
            truth = native.step(control, delta_time_s=_REACTOR_STEP_S)
            calls = {
                "ours": functools.partial(ours.step, control, delta_time_s=_REACTOR_STEP_S),
                "bare": functools.partial(bare.step, control),
            }
            # Who goes first changes from step to step.
            for name in sorted(calls, reverse=bool(number % 2)):
                began, used_s = time.perf_counter(), _processor_s()
                state = calls[name]()
                seconds[name].append(time.perf_counter() - began)
                processor_s[name].append(_processor_s() - used_s)
                for key, value in state.items():
                    apart[name][key] = max(apart[name][key], abs(value - truth[key]))
    finally:
        ours.close()
        bare.close()
    figures = {"steps": steps, "step_s": _REACTOR_STEP_S}
    return {
        "reactor": {**figures, **_percentiles(seconds["ours"]), "largest_difference": apart["ours"]},
        "bare": {**figures, **_percentiles(seconds["bare"]), "largest_difference": apart["bare"]},
        "ratio": statistics.median(seconds["ours"]) / statistics.median(seconds["bare"]),
        "processor_ratio": statistics.median(processor_s["ours"]) / statistics.median(processor_s["bare"]),
    }


def _processor_s() -> float:
    """Processor time [s] of this process and the solvers that it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class _BareReactor:
    """The reactor as a user of GEKKO would write it down, in plain GEKKO."""

    def __init__(self) -> None:
        from gekko import GEKKO

        before = tempfile.tempdir
        tempfile.tempdir = "/dev/shm" if Path("/dev/shm").is_dir() else before
        self._model = GEKKO(remote=False)
        tempfile.tempdir = before
        model, process = self._model, _process("reactor")
        self._control = model.Param(process.control.default)
        self._states = {variable.name: model.Var(variable.default) for variable in process.states}
        parameters = {variable.name: variable.default for variable in process.parameters}
        rates = process.gekko_rates(model, self._states, self._control, parameters)
        model.Equations([self._states[name].dt() == rate for name, rate in rates.items()])
        model.time = np.array([0.0, _REACTOR_STEP_S])
        model.options.IMODE, model.options.NODES, model.options.SOLVER = 4, 3, 3

    def step(self, control: float) -> dict[str, float]:
        self._control.value = control
        self._model.solve(disp=False)
        return {name: float(state.value[-1]) for name, state in self._states.items()}

    def close(self) -> None:
        self._model.cleanup()


def _alone(name: str, steps: int, step_s: float) -> Figures:
    process = _process(name)
    native, living = process.native(), process.gekko()
    seconds = []
    apart = dict.fromkeys(process.tolerance, 0.0)
    try:
        for control in _controls(process, steps).tolist():
            began = time.perf_counter()
            state = living.step(control, delta_time_s=step_s)
            seconds.append(time.perf_counter() - began)
            truth = native.step(control, delta_time_s=step_s)
            apart = {key: max(apart[key], abs(state[key] - truth[key])) for key in apart}
    finally:
        living.close()
    return {"steps": steps, "step_s": step_s, **_percentiles(seconds), "largest_difference": apart}


def _percentiles(seconds: list[float]) -> Figures:
    # A model's first step builds it; it counts.
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "largest_ms": max(seconds) * 1e3}


def _bulk(repeats: int, *, gekko_steps_per_s: float) -> Figures:
    process = _process("reactor")
    start_BS = np.tile([variable.default for variable in process.states], (1000, 1))
    control_BT = _controls(process, (1000, 200))
    roll(process, start_BS[:1], control_BT[:1], _REACTOR_STEP_S)
    rate = {}
    for threads in (1, _cores()):
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            roll(process, start_BS, control_BT, _REACTOR_STEP_S, threads=threads)
            seconds.append(time.perf_counter() - began)
        rate[threads] = control_BT.size / statistics.median(seconds)
    return {
        "steps_per_s": rate[1],
        "steps_per_s_all_cores": rate[_cores()],
        "times_gekko": rate[1] / gekko_steps_per_s,
        "times_gekko_all_cores": rate[_cores()] / gekko_steps_per_s,
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    """As many processes as there are cores, each counting as fast as it can."""
    context = multiprocessing.get_context("spawn")
    stop, started = context.Event(), context.Semaphore(0)
    burners = [context.Process(target=_burn, args=(stop, started), daemon=True) for _ in range(_cores())]
    for burner in burners:
        burner.start()
    try:
        for _ in burners:
            started.acquire()
        yield
    finally:
        stop.set()
        for burner in burners:
            burner.join()


def _burn(stop: threading.Event, started: threading.Semaphore) -> None:
    started.release()
    while not stop.is_set():
        sum(range(10_000))


def render(figures: Figures) -> RenderableType:
    """The figures as tables, each bar beside what must keep it."""
    times = Table(title="Steps of living models (99th percentile: below 100 ms)")
    for column in ("", "steps", "p50 ms", "p99 ms", "largest difference to native"):
        times.add_column(column, justify="left" if not column else "right")
    rows = {
        "reactor, ours": "reactor",
        "reactor, bare GEKKO": "bare",
        "reactor, ours, cores busy": "busy",
        "water tank": "water_tank",
        "room": "room_temperature",
    }
    for label, name in rows.items():
        row = figures[name]
        apart = ", ".join(f"{key} {value:.1e}" for key, value in row["largest_difference"].items())
        length = f"{row['steps']} x {row['step_s']:g} s"
        times.add_row(label, length, f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", apart)
    bars = Table(title="Ratios")
    for column in ("", "figure", "bar", "kept"):
        bars.add_column(column, justify="left" if not column else "right")
    ratio, bulk = figures["ratio"], figures["bulk"]["times_gekko"]
    bars.add_row("median of ours over bare GEKKO", f"{ratio:.2f}", f"<= {RATIO_BAR}", _kept(ratio <= RATIO_BAR))
    bars.add_row("the same of processor time", f"{figures['processor_ratio']:.2f}", "", "")
    bars.add_row("native over GEKKO, one thread", f"{bulk:,.0f}", f">= {BULK_BAR:,.0f}", _kept(bulk >= BULK_BAR))
    for label, name in (("p99, ms", "reactor"), ("p99 with cores busy, ms", "busy")):
        p99_ms = figures[name]["p99_ms"]
        bars.add_row(label, f"{p99_ms:.1f}", f"< {STEP_BAR_MS:g}", _kept(p99_ms < STEP_BAR_MS))
    return Group(times, bars)


def _kept(kept: bool) -> str:
    return "yes" if kept else "NO"
