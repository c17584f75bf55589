"""The claim: a forecast can be explained online.

`python -m benchmarks.explain [--quick] [--data DIR] [--model DIR ...]` measures for each domain, in process and without
HTTP,

- a forecast with its explanation against a forecast alone, in turns: medians and their ratio (bar: 10), by the clock
  and in processor time, which other work on the machine disturbs less;
- how far the shares of an explanation are from those of exact Shapley values over all sets of groups.

It explains the champions of the registry, in place of that of traffic a random LSTM of the design document's size where
there is none, or the models in the folders that are given.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from benchmarks.serving_subject import TRAFFIC, find_artifact, make_town, temporary_folder
from features.domains import DOMAINS
from features.errors import ArtifactError
from features.vocabulary import Window
from serving.artifacts import Artifact, open_artifact
from serving.explanation import (
    Coalitions,
    FeatureGroup,
    ShapleyValues,
    coalition_windows,
    coalitions,
    feature_groups,
    shapley_values,
)
from serving.loading import build_service, champion, open_windows
from serving.places import Place
from serving.service import ForecastService, Question
from serving.settings import ServingSettings

RATIO_BAR = 10.0
_SITES = 12


async def measure_ratio(service: ForecastService, *, pairs: int) -> dict[str, float]:
    """A plain and an explained forecast over the whole horizon in turns [ms], each pair of another site."""
    horizon = max(service.domain.horizons, key=lambda name: service.domain.horizons[name])
    wall_s = np.empty((pairs + pairs // 10, 2))
    processor_s = np.empty_like(wall_s)
    for index in range(len(wall_s)):
        place = Place(name=f"R{1 + index % _SITES:03d}")
        for column, explain in enumerate((False, True)):
            began, used = time.perf_counter(), time.process_time()
            await service.forecast(Question(place=place, horizon=horizon, explain=explain))
            wall_s[index, column] = time.perf_counter() - began
            processor_s[index, column] = time.process_time() - used
    wall_ms, processor_ms = 1e3 * wall_s[pairs // 10 :], 1e3 * processor_s[pairs // 10 :]  # the first tenth warms up
    return {
        "plain_median_ms": float(np.median(wall_ms[:, 0])),
        "explained_median_ms": float(np.median(wall_ms[:, 1])),
        "median_ratio": float(np.median(wall_ms[:, 1] / wall_ms[:, 0])),
        "plain_processor_ms": float(np.median(processor_ms[:, 0])),
        "explained_processor_ms": float(np.median(processor_ms[:, 1])),
        "processor_ratio": float(np.median(processor_ms[:, 1]) / np.median(processor_ms[:, 0])),
        "explained_p99_ms": float(np.percentile(wall_ms[:, 1], 99)),
        "pairs": float(pairs),
    }


async def measure_accuracy(service: ForecastService, *, sites: int) -> dict[str, float]:
    """Largest and mean difference of a group's share from that by exact Shapley values."""
    differences = []
    every = feature_groups(service.domain, service.target)
    for site in range(1, sites + 1):
        prepared = await service.windows.prepared(f"R{site:03d}")
        groups = tuple(group for group in every if group.is_in(prepared.window))
        drawn = coalitions(len(groups))
        sampled = await _values(service, prepared.window, groups, drawn)
        exact = await _exact_values(service, prepared.window, groups)
        differences.append(np.abs(_shares(sampled.value_GH) - _shares(exact)))
    errors = np.concatenate(differences)
    return {
        "groups": float(len(groups)),
        "windows": float(len(drawn.shown_CG)),
        "mean_share_error": float(errors.mean()),
        "largest_share_error": float(errors.max()),
        "sites": float(sites),
    }


async def _values(
    service: ForecastService, window: Window, groups: tuple[FeatureGroup, ...], drawn: Coalitions
) -> ShapleyValues:
    answer = await service.runtime.answer(coalition_windows(window, groups, drawn))
    return shapley_values(answer.forecast, groups, drawn)


async def _exact_values(
    service: ForecastService, window: Window, groups: tuple[FeatureGroup, ...]
) -> npt.NDArray[np.float64]:
    """Shapley values by their definition: the mean effect of a group over all sets of the others, by size."""
    count = len(groups)
    shown = np.array(list(itertools.product([False, True], repeat=count)))
    every = Coalitions(
        shown_CG=shown, order_PG=np.empty((0, count), np.int64), window_PS=np.empty((0, count + 1), np.int64)
    )
    answer = await service.runtime.answer(coalition_windows(window, groups, every))
    median = dict(zip(map(tuple, shown.tolist()), answer.forecast.at_level(0.5).astype(np.float64), strict=True))
    values: npt.NDArray[np.float64] = np.zeros((count, service.domain.horizon_steps))
    for group in range(count):
        for chosen, effect in median.items():
            if chosen[group]:
                size = sum(chosen) - 1
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                without = (*chosen[:group], False, *chosen[group + 1 :])
                values[group] += weight * (effect - median[without])
    return values


def _shares(value_GH: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sizes: npt.NDArray[np.float64] = np.abs(value_GH).mean(axis=1)
    shares: npt.NDArray[np.float64] = sizes / sizes.sum()
    return shares


def find_models(settings: ServingSettings, given: list[Path], folder: Path, console: Console) -> list[Artifact]:
    """The models in the given folders, or each domain's champion."""
    if given:
        return [open_artifact(one, version="0") for one in given]
    models = [find_artifact(settings, folder / "model")]
    for domain in DOMAINS.values():
        if domain is not TRAFFIC:
            try:
                models.append(champion(settings, domain.name))
            except ArtifactError as error:
                console.print(f"[yellow]{error}[/yellow]")
    return models


async def measure(artifact: Artifact, folder: Path, *, quick: bool, console: Console) -> dict[str, Any]:
    """All figures of one model, in a folder that may be filled."""
    domain = DOMAINS[artifact.card.domain]
    console.print(f"[dim]{artifact.model_version}: making a town[/dim]")
    make_town(folder, roads=_SITES, domain=domain)
    settings = ServingSettings(data_dir=folder)
    service = build_service(settings, artifact, open_windows(settings, domain))
    await service.start()
    try:
        console.print("[dim]plain and explained forecasts in turns[/dim]")
        speed = await measure_ratio(service, pairs=50 if quick else 500)
        console.print("[dim]exact Shapley values[/dim]")
        accuracy = await measure_accuracy(service, sites=2 if quick else _SITES)
    finally:
        await service.close()
    table = Table("median", "alone", "explained", "ratio", "bar", title=f"One forecast of {artifact.model_version}")
    for name, kind, ratio in (("clock", "median", "median_ratio"), ("processor", "processor", "processor_ratio")):
        colour = "green" if speed[ratio] <= RATIO_BAR else "red"
        plain, explained = (f"{speed[f'{part}_{kind}_ms']:.2f} ms" for part in ("plain", "explained"))
        table.add_row(name, plain, explained, f"[{colour}]{speed[ratio]:.2f}[/{colour}]", f"{RATIO_BAR:g}")
    console.print(table)
    console.print(
        f"{accuracy['windows']:.0f} windows for {accuracy['groups']:.0f} groups; a share differs from the exact one by "
        f"{accuracy['mean_share_error']:.4f} in the mean and {accuracy['largest_share_error']:.4f} at most"
    )
    figures = {name: round(value, 4) for name, value in (speed | accuracy).items()}
    return {"model": artifact.model_version, **figures}


def main() -> None:
    """Run the benchmark and print its report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", type=Path, help="data folder whose fetched artifacts are used (default: var)")
    parser.add_argument("--model", type=Path, action="append", default=[], help="folder of a model to explain; repeat")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    settings, console = ServingSettings(), wide_console()
    if options.data is not None:
        settings = ServingSettings(data_dir=options.data)
    figures = {}
    with temporary_folder() as folder:
        for artifact in find_models(settings, options.model, folder, console):
            domain = artifact.card.domain
            figures[domain] = asyncio.run(measure(artifact, folder / domain, quick=options.quick, console=console))
    print_result("explain", figures)


if __name__ == "__main__":
    main()
