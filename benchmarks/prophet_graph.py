"""The claim: Prophet's graph gives the numbers of `Prophet.predict`, a hundred times faster.

Run: `python -m benchmarks.prophet_graph --data DIR`. The water recipe `document` is fitted on areas of the Battle of
Water Demand Forecasting and exported as every model is: one graph from a raw window to quantiles, in ONNX Runtime on
one thread. Beside it stands the same Prophet of each area; it gets a ready frame of the same 168 hours and their
regressors. Both are called in turns, the short calls some fifty times in each, by the clock and in processor time,
which other work on the machine disturbs less.

The bar is judged in processor time, against the faster way to call Prophet, without uncertainty samples. The graph is
more than a Prophet: it gives intervals too, and answers for an area that was not fitted; so what is exported of the
Prophet alone is timed beside it. Forecasts are compared with each other alone, with no measurement.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
import torch
from onnx import ModelProto
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from features.domains.water import INFLOW, WATER
from features.quality import check_readings
from features.readings import epoch_s
from features.sources.bwdf import read_bwdf
from features.vocabulary import Window
from features.windows import build_panel
from pipelines.quiet import quiet_libraries
from training.families import Workplace, make_forecaster
from training.models.additive import fit_prophet, moments_of, terms_of
from training.models.additive_forecaster import AdditiveForecaster, document_regressors
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT, tensors_as_onnx, window_tensors
from training.models.training_days import target_hours
from training.recipes import RECIPES
from training.window_set import Splits, WindowSet, split_windows

RATIO_BAR = 100.0
DIFFERENCE_BAR = 1e-4
_SAMPLES = 1000  # Prophet's default
_GRAPH, _ALONE = "graph", "Prophet's part of it"
_PREDICT, _DEFAULT = "Prophet.predict", f"Prophet.predict, {_SAMPLES} samples"
_TURN_S, _MOST_REPEATS = 0.025, 200
_AREAS, _QUICK_WEEKS = 3, 40
# Over eight weeks, each from another hour of the day: three months after its readings a graph holds its trend.
_COMPARED_STEPS, _COMPARED_EVERY = 56 * 24, 151
_REGRESSORS = document_regressors(WATER)
Call = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The same Prophets twice.

    Attributes:
        forecaster: With all areas' Prophets in its graph.
        prophets: The `prophet.Prophet` of each area.
        compared: Windows over the weeks after the training, with observed weather.
    """

    forecaster: AdditiveForecaster
    prophets: tuple[Any, ...]
    compared: WindowSet

    def frame(self, position: int) -> pd.DataFrame:
        """The hours of a compared window as `Prophet.predict` takes them; gaps filled as the graph fills them."""
        future = self.compared.windows([position]).future_BHK[0].astype(np.float64)
        columns = {name: future[:, index] for index, name in enumerate(WATER.future_channels)}
        frame = pd.DataFrame({"ds": moments_of(columns["day_number"] + columns["hour_of_day"] / 24)})
        fills = terms_of(self.prophet(position)).regressors
        for regressor in _REGRESSORS:
            column = columns[regressor.name]
            frame[regressor.name] = np.where(np.isfinite(column), column, fills[regressor.name]["fill"])
        return frame

    def prophet(self, position: int) -> Any:
        """The Prophet of a compared window's area."""
        return self.prophets[int(self.compared.site_index_B[position])]


def main() -> None:
    """Fit, export, compare, time; the last line is one JSON object."""
    options = arguments(__doc__ or "", data=True).parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    quiet_libraries()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="All-NaN|Mean of empty|Degrees of freedom")
    console = Console(stderr=True)
    with console.status("reading the workbooks"):
        splits = read_splits(options.data, areas=1 if options.quick else _AREAS, quick=options.quick)
    with console.status("fitting each Prophet twice: for the graph, and to be asked itself"):
        subject = fit(splits)
    with console.status("exporting"):
        whole = open_session(subject.forecaster.onnx_model(splits.validation.windows(np.arange(4))))
        alone, alone_inputs = export_alone(subject)
    difference = largest_difference(subject, whole)
    calls = {
        _GRAPH: run_windows(whole, subject.compared.windows([0])),
        _ALONE: lambda: alone.run(None, alone_inputs),
        _PREDICT: predict(subject, samples=0),
        _DEFAULT: predict(subject, samples=_SAMPLES),
    }
    times = measure(calls, rounds=10 if options.quick else 60, console=console)
    print_result("prophet_graph", report(times, difference))


def read_splits(data: Path, *, areas: int, quick: bool) -> Splits:
    """The splits of the first so many areas; of less than a year in a smoke run."""
    parsed = read_bwdf(data)
    sites = parsed.sites[:areas]
    readings = check_readings(parsed.readings, WATER).accepted
    readings = readings[readings["site"].isin([site.name for site in sites])]
    moments_s = epoch_s(readings.loc[readings["quantity"] == INFLOW.name, "valid_at"])
    first_s, last_s = int(moments_s.min()), int(moments_s.max())
    if quick:
        last_s = min(last_s, first_s + _QUICK_WEEKS * WATER.season_steps * WATER.step_s)
    return split_windows(build_panel(WATER, sites, readings, first_origin_s=first_s, last_origin_s=last_s))


def fit(splits: Splits) -> Subject:
    """The forecaster of the recipe, and the Prophets that it holds."""
    recipe = RECIPES["water"]["document"]
    forecaster = make_forecaster(WATER, recipe, Workplace())
    assert isinstance(forecaster, AdditiveForecaster), "the recipe is of another family"
    forecaster.fit(splits, seed=recipe.seed)
    allowed, panel = target_hours(splits.train), splits.train.panel
    columns = {name: panel.value_STK[:, :, index] for index, name in enumerate(WATER.history_channels)}
    prophets = []
    for site in range(len(panel.sites)):
        hours = np.flatnonzero(allowed[site])
        day, hour = (columns[name][site, hours].astype(np.float64) for name in ("day_number", "hour_of_day"))
        model = fit_prophet(
            day + hour / 24,
            splits.train.target_ST[site, hours],
            {regressor.name: columns[regressor.name][site, hours] for regressor in _REGRESSORS},
            config=forecaster.config,
            regressors=_REGRESSORS,
            seed=recipe.seed,
        )
        prophets.append(model)
    test = splits.test
    since = test.origin_B - int(test.origin_B.min())
    chosen = np.flatnonzero((since < _COMPARED_STEPS) & (since % _COMPARED_EVERY == 0))
    return Subject(forecaster=forecaster, prophets=tuple(prophets), compared=test.subset(chosen).seen("observed"))


def open_session(model: ModelProto) -> Any:
    """A graph in ONNX Runtime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_windows(session: Any, windows: Window) -> Call:
    """The call of a whole graph with raw windows."""
    arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
    inputs = dict(zip(GRAPH_INPUTS, arrays, strict=True))
    return lambda: session.run([GRAPH_OUTPUT], inputs)[0]


def export_alone(subject: Subject) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """What the graph holds of the Prophets alone, and its inputs for the first compared window."""
    graph = subject.forecaster.graph()
    _, future, _ = window_tensors(subject.compared.windows(np.arange(4)))
    sites = torch.from_numpy(subject.compared.site_index_B[:4])
    names = ("site", "day", "columns")
    tensors = (sites, graph.day(future), graph.columns(future))
    session = open_session(tensors_as_onnx(graph.table, tensors, inputs=names, outputs=("yhat",)))
    return session, {name: tensor[:1].numpy() for name, tensor in zip(names, tensors, strict=True)}


def predict(subject: Subject, *, samples: int) -> Call:
    """The call of `Prophet.predict` for the first compared window."""
    prophet, frame = subject.prophet(0), subject.frame(0)

    def call() -> Any:
        prophet.uncertainty_samples = samples
        return prophet.predict(frame)

    return call


def largest_difference(subject: Subject, session: Any) -> float:
    """Largest difference of the graph's median from `yhat` over all compared windows, relative to each `yhat`."""
    median_BH = run_windows(session, subject.compared.windows())()[:, :, subject.forecaster.levels.index(0.5)]
    found = []
    for position, median_H in enumerate(median_BH):
        expected_H = subject.prophet(position).predict(subject.frame(position))["yhat"].to_numpy()
        found.append(float(np.max(np.abs(median_H - expected_H) / np.abs(expected_H))))
    return max(found)


def measure(calls: dict[str, Call], *, rounds: int, console: Console) -> dict[str, npt.NDArray[np.float64]]:
    """Times of the calls in turns, by the clock and of the processor: shape (rounds, 2) [ms for one call]."""
    times_s = {name: np.empty((rounds, 2)) for name in calls}
    repeats = {name: _repeats(call) for name, call in calls.items()}
    for number in track(range(rounds), description="calls in turns", console=console):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                call()
            spent = time.perf_counter() - began, time.process_time() - used
            times_s[name][number] = np.array(spent) / repeats[name]
    return {name: 1e3 * values for name, values in times_s.items()}


def _repeats(call: Call) -> int:
    """How many calls take about as much processor time as one of Prophet; the first call warms up."""
    call()
    used = time.process_time()
    call()
    return int(np.clip(_TURN_S / max(time.process_time() - used, 1e-6), 1, _MOST_REPEATS))


def report(times_ms: dict[str, npt.NDArray[np.float64]], difference: float) -> dict[str, float]:
    """The comparison as a table and as figures; ratios are medians of the turns."""
    table = Table(title=f"One forecast of 168 hours, medians of {len(times_ms[_PREDICT])} turns; predict over graph")
    for column in ("", "ms", "processor ms", "ratio", "processor", "with samples"):
        table.add_column(column, justify="right" if column else "left")
    figures = {"largest_relative_difference": difference}
    for name, values in times_ms.items():
        clock_ms, processor_ms = np.median(values, axis=0)
        ratio, processor_ratio = np.median(times_ms[_PREDICT] / values, axis=0)
        default_ratio = float(np.median(times_ms[_DEFAULT] / values, axis=0)[1])
        key = name.lower().replace("'s", "").replace(".", "_").replace(",", "").replace(" ", "_")
        figures |= {f"{key}_ms": clock_ms, f"{key}_processor_ms": processor_ms}
        shown: list[str] = []
        if name in (_GRAPH, _ALONE):
            figures |= {f"{key}_ratio": ratio, f"{key}_processor_ratio": processor_ratio}
            figures[f"{key}_default_processor_ratio"] = default_ratio
            shown = [_coloured(value) for value in (ratio, processor_ratio, default_ratio)]
        table.add_row(name, f"{clock_ms:.3f}", f"{processor_ms:.3f}", *shown)
    console = wide_console()
    console.print(table)
    colour = "green" if difference <= DIFFERENCE_BAR else "red"
    console.print(f"Largest relative difference: [{colour}]{difference:.1e}[/] (bar: {DIFFERENCE_BAR:.0e})")
    console.print(f"The bar, {RATIO_BAR:g} times, is for the graph in processor time, against Prophet without samples.")
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def _coloured(ratio: float) -> str:
    return f"[{'green' if ratio >= RATIO_BAR else 'red'}]{ratio:.1f}[/]"


if __name__ == "__main__":
    main()
