"""Labelled rows from rollouts: from an empty folder to windows that could train, on all cores.

Part of `benchmarks.engines`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.store import ReadingStore
from pipelines.settings import Settings
from pipelines.simulate import plan_run, raise_failed, simulate, usable_cores
from sim_env.traffic.town_scenario import TownScenario
from training.window_set import windows_at

WANTED_ROWS = 250_000
_LIMIT_S = 300


def rollout_figures(*, quick: bool, console: Console, show: Callable[[str], None]) -> dict[str, Any]:
    """Roll out the built-in town with a counter on every road, bring it through Feast, and count its windows.

    Args:
        quick: One week of a day, which gives no window.
        console: Where progress is shown.
        show: Told what is done.
    """
    show("rollouts of the built-in town, a counter on each of its roads")
    usual = replace(TownScenario(), counters=())
    weeks = 1 if quick else 33
    with tempfile.TemporaryDirectory() as temporary:
        settings = Settings(data_dir=Path(temporary))
        began = time.perf_counter()
        run = plan_run("traffic", weeks=weeks, settings=settings, usual=replace(usual, hours=24) if quick else usual)
        simulated = simulate(run, workers=usable_cores(), settings=settings, console=console)
        raise_failed(simulated)
        seconds = time.perf_counter() - began
        rows = 0 if quick else _windows(settings)
    return {
        "weeks": weeks,
        "workers": usable_cores(),
        "readings": simulated.readings,
        "window_rows": rows,
        "seconds": round(seconds, 1),
        "rows_in_300_s": round(rows * _LIMIT_S / seconds),
    }


def _windows(settings: Settings) -> int:
    traffic = DOMAINS["traffic"]
    panel = FeatureRepository(settings.feast_dir, ReadingStore(settings.readings_dir, traffic)).panel()
    return len(windows_at(panel, traffic.target, np.arange(panel.first_origin, panel.last_origin + 1)))


def render_rollouts(figures: dict[str, Any]) -> Table:
    """The figures beside what is asked."""
    table = Table(title=f"Rollouts on {figures['workers']} cores, into the store and Feast")
    for column in ("weeks", "readings", "labelled window rows", "seconds", "asked"):
        table.add_column(column, justify="right")
    table.add_row(
        str(figures["weeks"]),
        f"{figures['readings']:,}",
        f"{figures['window_rows']:,}",
        f"{figures['seconds']:.0f}",
        f"{WANTED_ROWS:,} in {_LIMIT_S} s",
    )
    return table
