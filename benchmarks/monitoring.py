"""Who finds harm, how soon, and how often for nothing: our monitoring and its peers on real weeks.

Run: `python -m benchmarks.monitoring --data DIR`. In each domain a champion (recipe `quick`) is trained on the first
40 % and served over the rest, undisturbed and with a week of harm injected at random sites and times (level shifts,
stuck sensors, shifted clocks, weekdays like Sundays, turned days, new peaks, effects of the weather; of several sizes),
among healthy weeks alone. A week is harmed where its error is above 1.5 times the median of the 26 weeks before,
whatever was done to it: an injection that does no harm is no harm. All parameters were chosen before the last 20 % of
each series, which is scored separately. In a week after a harmed one the first day's looks do not count, for any
detector.
Peers get what they are usually given: raw PSI, KS and Wasserstein and Evidently's preset the readings, against the
training year; ADWIN the hourly errors; NannyML half a year of forecasts. Evidently judges a sample of the weeks.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.monitoring_forecasts import ServedSeries, serve
from benchmarks.monitoring_peers.detectors import (
    adwin_alarms,
    dummy_alarms,
    evidently_alarms,
    nannyml_alarms,
    raw_alarms,
    spread_cases,
)
from benchmarks.monitoring_weeks import Alarms, Case, Watched, cases_of, our_alarms, score, watch
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.serving_peers.environments import PeerUnavailableError
from features.domains import DOMAINS
from pipelines.prepare import prepare
from pipelines.quiet import quiet_libraries
from pipelines.settings import Settings
from pipelines.steps import Steps
from serving.monitoring.detection_settings import DetectionSettings
from training.recipes import RECIPES, Recipe, SeasonalRecipe

OURS, EVERY_LOOK = "towncast", "towncast_every_look"
_SERIES = ("water", "pollution", "traffic")
_QUICK_SERIES = ("water", "traffic")
_EPISODES, _RAW_MOST, _EVIDENTLY_MOST = 256, 120, 15
_QUICK_EPISODES, _QUICK_WEEKS = 24, 34
_BARS = {"false_alarm_rate": 0.04, "recall": 0.65, "delay_days": 2.0}
_RATIOS = ((1.5, 2.0), (2.0, 4.0), (4.0, np.inf))
# Alarms of each detector on the cases it judged; or why it is missing.
Judged = dict[str, dict[int, float] | str]


def main() -> None:
    """Serve, let all of them judge, score."""
    # Two processes on two cores: threads within them would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    options = parser.parse_args()
    console = Console(stderr=True)
    names = _QUICK_SERIES if options.quick else _SERIES
    jobs = [(name, options.data, options.quick, not options.no_peers) for name in names]
    # Each domain in a process of its own: two of them at once on two cores.
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        parts = list(pool.map(_job, *zip(*jobs, strict=True)))
    figures = figures_of(parts)
    show(figures, console)
    print_result("monitoring", figures)


def _job(name: str, data: Path, quick: bool, peers: bool) -> tuple[list[Case], Judged]:
    quiet_libraries()
    warnings.filterwarnings("ignore")
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        panel = prepare(DOMAINS[name], settings=settings, steps=Steps(console), data=data).panel
    # In a smoke run there is nothing to learn.
    recipe = Recipe(name="quick", family="seasonal", config=SeasonalRecipe()) if quick else RECIPES[name]["quick"]
    series = serve(
        recipe,
        data,
        panel,
        console,
        episodes=_QUICK_EPISODES if quick else _EPISODES,
        weeks=_QUICK_WEEKS if quick else None,
    )
    return judge(series, console, peers=peers, quick=quick)


def judge(series: ServedSeries, console: Console, *, peers: bool, quick: bool) -> tuple[list[Case], Judged]:
    """All weeks of a series, and what each detector says of them."""
    watched = watch(series, DetectionSettings())
    cases = cases_of(watched, first_number=0)
    console.print(f"{series.data_set}: {len(cases)} weeks to judge")
    ours, every_look = our_alarms(watched, cases)
    found: Judged = {OURS: ours, EVERY_LOOK: every_look}
    if peers:
        for title, ask in _peers(watched, cases, quick=quick).items():
            console.print(f"{series.data_set}: {title}")
            try:
                found |= ask()
            except PeerUnavailableError as error:
                console.print(f"[yellow]{title} is left out: {error}[/]")
                found[title] = str(error)
    return cases, found


def _peers(watched: Watched, cases: Sequence[Case], *, quick: bool) -> dict[str, Callable[[], Mapping[str, Any]]]:
    some = 1 if quick else _EVIDENTLY_MOST
    here: dict[str, Callable[[], Mapping[str, Any]]] = {
        "raw": lambda: raw_alarms(watched, spread_cases(cases, _RAW_MOST)),
        "evidently": lambda: {"evidently": evidently_alarms(watched, cases, most=some)},
    }
    installed: dict[str, Callable[[], Mapping[str, Any]]] = {
        "adwin": lambda: {"adwin": adwin_alarms(watched, cases)},
        "nannyml": lambda: nannyml_alarms(watched, cases),
    }
    return here | {name: _not_installed for name in installed} if quick else here | installed


def _not_installed() -> Mapping[str, Any]:
    raise PeerUnavailableError("a smoke run installs nothing")


def figures_of(parts: Sequence[tuple[list[Case], Judged]]) -> dict[str, Any]:
    """The figures of all data sets: each by detector, before the last fifth, in it, and in all.

    Args:
        parts: Of each data set, its weeks and what each detector said of them.
    """
    figures: dict[str, Any] = {}
    everything: list[Case] = []
    alarms: dict[str, dict[int, float]] = {}
    missing: dict[str, str] = {}
    offset = 0
    for cases, judged in parts:
        by_detector = {name: found for name, found in judged.items() if not isinstance(found, str)}
        missing |= {name: found for name, found in judged.items() if isinstance(found, str)}
        figures[cases[0].data_set] = _by_detector(cases, by_detector) if cases else {}
        # Numbers are unique within a data set alone.
        everything += [_renumbered(case, offset) for case in cases]
        for name, found in by_detector.items():
            alarms.setdefault(name, {}).update({number + offset: days for number, days in found.items()})
        offset += 1 + max((case.number for case in cases), default=0)
    figures["all"] = _by_detector(everything, alarms)
    ours = [case for case in everything if case.episode is not None and case.harmed]
    figures["recall_by_ratio"] = {
        f"{low:g}_to_{high:g}": score([case for case in ours if low < case.ratio <= high], alarms[OURS])["recall"]
        for low, high in _RATIOS
    }
    last = figures["all"][OURS]["last_fifth"]
    figures |= {name: last[name] for name in _BARS}
    figures["peers_unavailable"] = missing
    return figures


def _renumbered(case: Case, offset: int) -> Case:
    return replace(case, number=case.number + offset, site=f"{case.data_set} {case.site}")


def _by_detector(cases: Sequence[Case], alarms: Mapping[str, Alarms]) -> dict[str, Any]:
    natural = [case for case in cases if case.episode is None]
    raised = [np.isfinite(alarms[OURS][case.number]) for case in natural]
    # The dummy alarms as often as ours do.
    dummy = dummy_alarms(cases, float(np.mean(raised)) if raised else 0.0)
    parts = {
        "before": [case for case in cases if not case.last_fifth],
        "last_fifth": [case for case in cases if case.last_fifth],
        "all": list(cases),
    }
    return {
        name: {part: score(chosen, found) for part, chosen in parts.items()}
        for name, found in {**alarms, "dummy": dummy}.items()
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """A table for all series, and one for the last fifth of each."""
    sets = [name for name, found in figures.items() if isinstance(found, dict) and OURS in found]
    for part, title in (("last_fifth", "the last 20 %, scored once"), ("before", "before it, where all was chosen")):
        table = Table(
            title=f"Site-weeks of {title}: false alarms at most 4 %, recall at least 65 %, delay at most 2 days"
        )
        for column in ("data set", "detector", "false alarms", "recall", "delay, days", "recall, natural", "no harm"):
            table.add_column(column, justify="left" if column in {"data set", "detector"} else "right")
        for data_set in sets:
            for detector, found in figures[data_set].items():
                row = found[part]
                table.add_row(
                    data_set,
                    detector,
                    f"{_share(row['false_alarm_rate'])} of {row['healthy_weeks']}",
                    f"{_share(row['recall'])} of {row['harmed_weeks']}",
                    "" if row["delay_days"] is None else f"{row['delay_days']:.2f}",
                    f"{_share(row['recall_natural'])} of {row['harmed_weeks_natural']}",
                    f"{_share(row['false_alarm_rate_no_harm'])} of {row['no_harm_weeks']}",
                )
        wide_console().print(table)
    by_ratio = ", ".join(
        f"{name.replace('_', ' ')}: {_share(found)}" for name, found in figures["recall_by_ratio"].items()
    )
    wide_console().print(f"Recall by error over the usual, all weeks: {by_ratio}.")
    for name, why in figures["peers_unavailable"].items():
        wide_console().print(f"{name} is left out: {why}")
    verdict = ", ".join(
        f"{name} {figures[name]} ({'met' if _met(name, figures[name]) else 'missed'})" for name in _BARS
    )
    wide_console().print(f"On the last fifth of all: {verdict}.")


def _met(name: str, found: float | None) -> bool:
    if found is None:
        return False
    return found >= _BARS[name] if name == "recall" else found <= _BARS[name]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
