"""What the SUMO engine costs beside SUMO itself; a part of `benchmarks.engines`.

- Ours against a bare libsumo loop in turns, in one process for each network, by processor time (bar: 1.10). Both have
  the same network, seed and vehicles: the scenario's own demand as control points. The bare loop is given all vehicles
  at its beginning by `vehicle.add`, and then only steps, 60 s at a time; ours injects by multiplier and reads every
  edge each 60 s. The counts at the end must be the same, so the cars drove the same ways.
- How many times faster than real time both are in these first minutes, and ours over the whole hour below.
- Equal rollouts by one and by two spawned workers that are warm, in turns, by the clock (bar: 1.9).
- An hour of the scenario's own demand, mesoscopic with junction control against microscopic: processor time (bar: 5),
  and the correlation of mean speeds and volumes over all edges, in quarters of an hour and in the whole hour, where
  both saw 5 vehicles or more.
- The same through TraCI, for reference.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table

OVERHEAD_BAR = 1.10
WORKERS_BAR = 1.9
MESOSCOPIC_BAR = 5.0
_INTERVAL_S = 60.0
_QUARTER_S = 900.0
_FEWEST_VEHICLES = 5
_SEED = 1

Show = Callable[[str], None]
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """How much is measured."""

    minutes: int
    pairs: int
    tasks: int
    batches: int
    hour_s: float


_WHOLE = _Sizes(minutes=5, pairs=21, tasks=8, batches=3, hour_s=3600.0)
_QUICK = _Sizes(minutes=10, pairs=2, tasks=2, batches=1, hour_s=1800.0)


def traffic_figures(*, data: Path, quick: bool, show: Show) -> Figures:
    """Measure everything that the module's text names.

    Args:
        data: Folder with the published files; only the Bologna networks are used, and not by a quick run.
        quick: A smoke run on a generated grid; its figures mean nothing.
        show: Is told what is measured now.

    Returns:
        Figures by subject and network.
    """
    with tempfile.TemporaryDirectory(prefix="towncast-bench-") as folder:
        networks = _grid(Path(folder)) if quick else _bologna(data)
        sizes = _QUICK if quick else _WHOLE
        names = list(networks)
        # The smallest and the largest; all three for the comparison of models.
        timed = [name for name in names if name != "pasubio"]
        figures: Figures = {"engine": {}, "mesoscopic": {}}
        for name in timed:
            show(f"{name}: ours and a bare loop in turns")
            figures["engine"][name] = _alone(_overhead, networks[name], sizes)
        for name in names:
            show(f"{name}: mesoscopic and microscopic")
            figures["mesoscopic"][name] = _alone(_models, networks[name], sizes)
        show(f"{names[0]}: one and two workers in turns")
        figures["workers"] = _workers(networks[names[0]], sizes)
        show(f"{names[0]}: through TraCI")
        figures["traci"] = _alone(_traci, networks[names[0]], sizes)
    return figures


def render(figures: Mapping[str, Any]) -> RenderableType:
    """The figures as tables."""
    return Group(_engine_table(figures), _mesoscopic_table(figures), _other_table(figures))


def _engine_table(figures: Mapping[str, Any]) -> Table:
    table = Table(title="SUMO engine beside a bare libsumo loop (processor time)", title_justify="left")
    for column in (
        "network",
        "ours [s]",
        "bare [s]",
        "ratio",
        "of fastest",
        f"bar {OVERHEAD_BAR:.2f}",
        "real time ours",
        "bare",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, row in figures["engine"].items():
        table.add_row(
            name,
            f"{row['ours_cpu_s']:.2f}",
            f"{row['bare_cpu_s']:.2f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['fastest_cpu_ratio']:.3f}",
            _verdict(row["cpu_ratio"] <= OVERHEAD_BAR),
            f"{row['real_time_factor']:.0f} x",
            f"{row['bare_real_time_factor']:.0f} x",
        )
    return table


def _mesoscopic_table(figures: Mapping[str, Any]) -> Table:
    table = Table(
        title="Mesoscopic with junction control beside microscopic: speed-up, correlations", title_justify="left"
    )
    for column in (
        "network",
        "speed-up",
        f"bar {MESOSCOPIC_BAR:.0f}",
        "speeds, 15 min",
        "speeds, 1 h",
        "volumes, 1 h",
        "micro, real time",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, row in figures["mesoscopic"].items():
        table.add_row(
            name,
            f"{row['speed_up']:.1f} x",
            _verdict(row["speed_up"] >= MESOSCOPIC_BAR),
            f"{row['speed_correlation_quarters']:.2f}",
            f"{row['speed_correlation_hour']:.2f}",
            f"{row['volume_correlation_hour']:.2f}",
            f"{row['micro_real_time_factor']:.0f} x",
        )
    return table


def _other_table(figures: Mapping[str, Any]) -> Table:
    workers, traci = figures["workers"], figures["traci"]
    table = Table(title="Workers and links", title_justify="left")
    for column in ("what", "figure", "bar"):
        table.add_column(column, justify="left" if column == "what" else "right")
    bar = f"{WORKERS_BAR} {_verdict(workers['speed_up'] >= WORKERS_BAR)}"
    table.add_row("two workers' rollouts over one's", f"{workers['speed_up']:.2f} x", bar)
    table.add_row("processor time of a rollout, two workers over one", f"{workers['cpu_ratio']:.2f}", "")
    table.add_row("TraCI over libsumo, processor time of both processes", f"{traci['cpu_ratio']:.2f}", "")
    table.add_row("TraCI over libsumo, by the clock", f"{traci['wall_ratio']:.2f}", "")
    return table


def _verdict(kept: bool) -> str:
    return "kept" if kept else "missed"


def _bologna(data: Path) -> dict[str, Path]:
    folder = data / "sumo" / "bologna"
    return {name: folder / name / "run.sumocfg" for name in ("acosta", "pasubio", "joined")}


def _grid(folder: Path) -> dict[str, Path]:
    """A grid with flows of its own."""
    from sim_env.traffic.sumo.link import sumo_program

    words = "--grid --grid.number 4 --grid.length 200 --grid.attach-length 150 --default.lanenumber 2 --tls.guess"
    program = [str(sumo_program("netgenerate")), *words.split(), "-o", str(folder / "grid.net.xml")]
    subprocess.run(program, check=True, capture_output=True)
    flows = "".join(
        f'<flow id="f{row}" begin="0" end="3600" from="left{row}A{row}" to="D{row}right{row}" vehsPerHour="400"/>'
        for row in range(4)
    )
    (folder / "grid.rou.xml").write_text(f"<routes>{flows}</routes>")
    inputs = '<net-file value="grid.net.xml"/><route-files value="grid.rou.xml"/>'
    (folder / "grid.sumocfg").write_text(f"<configuration><input>{inputs}</input></configuration>")
    return {"grid": folder / "grid.sumocfg"}


def _alone(work: Callable[[Path, _Sizes], Figures], configuration: Path, sizes: _Sizes) -> Figures:
    """What `work` finds in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, configuration, sizes).result()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Time:
    """What a run took, and the vehicles at its end."""

    cpu_s: float
    wall_s: float
    vehicles: Any


def _timed(work: Callable[[], Any]) -> _Time:
    wall, cpu = time.perf_counter(), time.process_time()
    vehicles = work()
    return _Time(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall, vehicles=vehicles)


def _overhead(configuration: Path, sizes: _Sizes) -> Figures:
    pairs = []
    for number in range(sizes.pairs + 1):
        order = (_ours, _bare) if number % 2 else (_bare, _ours)
        pair = {work.__name__: work(configuration, sizes.minutes) for work in order}
        assert pair["_ours"].vehicles == pair["_bare"].vehicles, "the loops did not carry the same vehicles"
        pairs.append((pair["_ours"], pair["_bare"]))
    # The first pair warms up.
    ours, bare = zip(*pairs[1:], strict=True)
    simulated_s = sizes.minutes * _INTERVAL_S
    return {
        "ours_cpu_s": _median([run.cpu_s for run in ours]),
        "bare_cpu_s": _median([run.cpu_s for run in bare]),
        "cpu_ratio": _median([one.cpu_s / other.cpu_s for one, other in pairs[1:]]),
        # The fastest run of each was disturbed least by other work on the machine.
        "fastest_cpu_ratio": min(run.cpu_s for run in ours) / min(run.cpu_s for run in bare),
        "real_time_factor": simulated_s / _median([run.wall_s for run in ours]),
        "bare_real_time_factor": simulated_s / _median([run.wall_s for run in bare]),
        "vehicles": ours[0].vehicles.entered,
        "pairs": sizes.pairs,
        "minutes": sizes.minutes,
    }


def _ours(configuration: Path, minutes: int, *, link: str = "libsumo") -> _Time:
    """Our engine, every edge read and every control applied each 60 s."""
    from sim_env.traffic.sumo import SumoEngine, propose_controls

    controls = propose_controls(configuration)
    ones = np.ones(len(controls))
    engine = SumoEngine(configuration, controls, own_demand=False, link=link)  # type: ignore[arg-type]
    engine.reset(seed=_SEED)
    try:
        return _timed(lambda: [engine.step(ones, duration_s=_INTERVAL_S) for _ in range(minutes)][-1].vehicles)
    finally:
        engine.close()


def _bare(configuration: Path, minutes: int) -> _Time:
    """A libsumo loop that neither reads nor controls, with the vehicles that ours injects."""
    from sim_env.traffic.sumo import propose_controls
    from sim_env.traffic.sumo.injection import Injection
    from sim_env.traffic.sumo.live_run import LiveRun
    from sim_env.traffic.sumo.plan import LaunchChoices, make_plan

    controls = propose_controls(configuration)
    choices = LaunchChoices(mesoscopic=False, own_demand=False, edge_data=None, time_to_teleport_s=None)
    plan = make_plan(configuration, controls, choices)
    injection = Injection(controls, plan.route_ids, seed=_SEED)
    ones = np.ones(len(controls))
    departures = []
    for minute in range(minutes):
        begin_s = plan.configuration.begin_s + minute * _INTERVAL_S
        departures += injection.draw(ones, begin_s=begin_s, duration_s=_INTERVAL_S)[0]
    run = LiveRun(plan, "libsumo")
    try:
        run.begin(seed=_SEED)
        import libsumo

        def loop() -> None:
            for car in departures:
                moment = f"{car.depart_s:.3f}"
                libsumo.vehicle.add(car.vehicle_id, car.route_id, depart=moment, departLane="best", departSpeed="max")
            for minute in range(minutes):
                libsumo.simulationStep(plan.configuration.begin_s + (minute + 1) * _INTERVAL_S)

        took = _timed(loop)
        vehicles = run.state(np.zeros(len(controls), dtype=np.int64)).vehicles
    finally:
        run.close(complete=False)
    return _Time(cpu_s=took.cpu_s, wall_s=took.wall_s, vehicles=vehicles)


def _models(configuration: Path, sizes: _Sizes) -> Figures:
    """One pair of both models over the same demand, the quick one three times."""
    micro, micro_rows = _hour(configuration, sizes.hour_s, mesoscopic=False)
    runs = [_hour(configuration, sizes.hour_s, mesoscopic=True) for _ in range(3)]
    quarters = pd.merge(micro_rows, runs[0][1], on=["edge_id", "begin_s"], suffixes=("_micro", "_meso"))
    whole = pd.merge(_summed(micro_rows), _summed(runs[0][1]), on="edge_id", suffixes=("_micro", "_meso"))
    meso_cpu_s = _median([run.cpu_s for run, _ in runs])
    return {
        "micro_cpu_s": micro.cpu_s,
        "micro_real_time_factor": sizes.hour_s / micro.wall_s,
        "mesoscopic_cpu_s": meso_cpu_s,
        "speed_up": micro.cpu_s / meso_cpu_s,
        "speed_correlation_quarters": _correlation(quarters, "speed_mps"),
        "speed_correlation_hour": _correlation(whole, "speed_mps"),
        "volume_correlation_hour": _correlation(whole, "volume"),
        "simulated_s": sizes.hour_s,
    }


def _summed(rows: pd.DataFrame) -> pd.DataFrame:
    """Volume and mean speed of each edge over the whole run."""
    driven_m = (rows["speed_mps"] * rows["sampled_s"]).fillna(0.0)
    sums = rows.assign(driven_m=driven_m).groupby("edge_id")[["volume", "sampled_s", "driven_m"]].sum()
    return sums.assign(speed_mps=sums["driven_m"] / sums["sampled_s"]).reset_index()


def _correlation(both: pd.DataFrame, quantity: str) -> float:
    """Of the two models, over the rows in which both saw enough vehicles."""
    enough = both[(both[["volume_micro", "volume_meso"]] >= _FEWEST_VEHICLES).all(axis=1)]
    return float(np.corrcoef(enough[f"{quantity}_micro"], enough[f"{quantity}_meso"])[0, 1])


def _hour(configuration: Path, duration_s: float, *, mesoscopic: bool) -> tuple[_Time, pd.DataFrame]:
    from sim_env.traffic.sumo import EdgeData, SumoEngine, propose_controls, read_edge_data

    with tempfile.TemporaryDirectory(prefix="towncast-bench-") as folder:
        wish = EdgeData(path=Path(folder) / "edges.csv", period_s=_QUARTER_S)
        controls = propose_controls(configuration, most=1)
        engine = SumoEngine(configuration, controls, mesoscopic=mesoscopic, edge_data=wish)
        engine.reset(seed=_SEED)
        try:
            took = _timed(lambda: engine.step([0.0], duration_s=duration_s).vehicles)
        finally:
            engine.close()
        rows = read_edge_data(wish.path)
        return took, rows.assign(volume=rows["entered"] + rows["departed"])


def _workers(configuration: Path, sizes: _Sizes) -> Figures:
    """The same rollout again and again, by one worker and by two."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as one, ProcessPoolExecutor(2, mp_context=context) as two:
        for pool in (one, two):
            # Two at once, so that both workers of two are there and warm.
            _batch(pool, configuration, 1, tasks=4)
        pairs = [
            [_batch(pool, configuration, sizes.minutes, tasks=sizes.tasks) for pool in (one, two)]
            for _ in range(sizes.batches)
        ]
    return {
        "one_worker_s": _median([alone.wall_s for alone, _ in pairs]),
        "two_workers_s": _median([both.wall_s for _, both in pairs]),
        "speed_up": _median([alone.wall_s / both.wall_s for alone, both in pairs]),
        # Where other work keeps the cores busy, this still shows whether two workers hinder each other.
        "cpu_ratio": _median([both.cpu_s / alone.cpu_s for alone, both in pairs]),
        "rollouts": sizes.tasks,
        "cores": len(os.sched_getaffinity(0)),
    }


def _batch(pool: ProcessPoolExecutor, configuration: Path, minutes: int, *, tasks: int) -> _Time:
    """Rollouts one after the other in each worker; processor time is that of their steps."""
    began = time.perf_counter()
    done = [pool.submit(_ours, configuration, minutes) for _ in range(tasks)]
    cpu_s = sum(rollout.result().cpu_s for rollout in done)
    return _Time(cpu_s=cpu_s, wall_s=time.perf_counter() - began, vehicles=None)


def _traci(configuration: Path, sizes: _Sizes) -> Figures:
    ratios = []
    for _ in range(max(1, sizes.pairs // 2)):
        inside = _ours(configuration, sizes.minutes)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        outside = _ours(configuration, sizes.minutes, link="traci")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert inside.vehicles == outside.vehicles, "the links did not carry the same vehicles"
        # The child's time holds its loading too.
        child_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        ratios.append(((outside.cpu_s + child_s) / inside.cpu_s, outside.wall_s / inside.wall_s))
    cpu, wall = zip(*ratios, strict=True)
    return {"cpu_ratio": _median(cpu), "wall_ratio": _median(wall), "pairs": len(ratios)}


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
