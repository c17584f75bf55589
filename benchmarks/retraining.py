"""How soon weekly retraining brings the error back after the world has changed.

Run: `python -m benchmarks.retraining --data DIR [--quick]`. A concept change is injected into the last fifth of each
series. The champion knows what lies before it; a retraining a week later, and another after two weeks, learn from all
readings but the last two days, as the retraining job does, and forget what lies before a break that they find. After
two cycles the error of the next four weeks is held against a model that was trained only on readings after the change:
the two weeks since, and eight more of after the judged weeks, which no retraining can know; what it sees of a site's
history is of after the change too.

What forgetting does where nothing was changed is measured beside it: weekly looks for a break in the half year before
the change, by a model that knows only what lies before that half year, and the error of the week after each look with
and without the forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from features.domains import DOMAINS
from features.quality import check_readings
from features.sources import PUBLISHED
from features.vocabulary import Domain, Float32Array, Site
from features.windows import Panel
from pipelines.quiet import quiet_libraries
from pipelines.rehearsal.injections import Injection, inject
from pipelines.rehearsal.outcome import panel_of
from pipelines.rehearsal.replay import Story
from training.families import Workplace, make_forecaster
from training.forecaster import Forecaster
from training.models.forgetting import breaks_of, forget_breaks
from training.recipes import RECIPES, Recipe, SeasonalRecipe
from training.span import without_past
from training.window_set import Splits, WindowSet, join_windows, split_windows, windows_at

_BAR = 1.10
_TEST_DAYS = 2.0
_STRIDE = 6
_QUICK_SITES, _QUICK_WEEKS = 1, 30
_JUDGED_WEEKS, _REFERENCE_WEEKS = 4, 8
# Weekly looks for breaks where nothing was changed.
_CALM_WEEKS = 26
_KINDS = ("turned_day", "new_peak")
# In the last fifth of each series, on a Monday.
_CHANGES = {"metro_interstate": "2018-03-05", "bwdf": "2022-10-31"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A data set and how it is forecast.

    Attributes:
        story: Its readings, unchanged.
        recipe: How models are trained.
        change: When the world changes, local midnight.
    """

    story: Story
    recipe: Recipe
    change: pd.Timestamp

    @property
    def domain(self) -> Domain:
        """What is forecast."""
        return self.story.domain


def main() -> None:
    """Run every change on every data set."""
    quiet_libraries()
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--only", choices=sorted(_CHANGES), help="one data set alone")
    parser.add_argument("--change", help="another day of the change, for looking at earlier years")
    options = parser.parse_args()
    console = wide_console()
    figures: dict[str, Any] = {}
    calm: dict[str, Any] = {}
    for name, day in _CHANGES.items():
        if options.only in (None, name) and not (options.quick and name == "metro_interstate"):
            subject = _subject(name, options.data, options.change or day, quick=options.quick)
            figures[name] = run(subject, _KINDS[:1] if options.quick else _KINDS, console)
            calm[name] = run_unchanged(subject, 2 if options.quick else _CALM_WEEKS, console)
    console.print(_table(figures))
    console.print(_calm_table(calm))
    print_result("retraining", figures | {"unchanged": calm})


def _subject(name: str, data: Path, day: str, *, quick: bool) -> Subject:
    entry = PUBLISHED[name]
    domain = DOMAINS[entry.domain]
    parsed = entry.read(data)
    readings = check_readings(parsed.readings, domain).accepted.drop(columns="outlier")
    if entry.reliable_from is not None:
        readings = readings[readings["valid_at"] >= entry.reliable_from]
    recipe = (
        Recipe(name="profile", family="seasonal", config=SeasonalRecipe()) if quick else RECIPES[domain.name]["quick"]
    )
    sites: list[Site] = parsed.sites[: _QUICK_SITES if quick else None]
    begin = pd.Timestamp(day, tz="UTC") - pd.Timedelta(weeks=_QUICK_WEEKS if quick else 1000)
    readings = readings[readings["site"].isin([site.name for site in sites]) & (readings["valid_at"] >= begin)]
    story = Story(domain=domain, sites=tuple(sites), readings=readings.reset_index(drop=True))
    return Subject(story=story, recipe=recipe, change=pd.Timestamp(day, tz=sites[0].timezone))


def run(subject: Subject, kinds: tuple[str, ...], console: Console) -> dict[str, Any]:
    """Figures of each kind of change on one data set [unit of the target]."""
    before = panel_of(subject.story)
    change = (int(subject.change.timestamp()) - before.start_s) // before.domain.step_s
    week = before.domain.season_steps
    with console.status(f"{subject.domain.name}: the champion"):
        champion = _retrained(subject, before, now=change)
    judged = (change + 2 * week, change + (2 + _JUDGED_WEEKS) * week)
    usual = _error(champion, before, *judged)
    figures: dict[str, Any] = {}
    for kind in kinds:
        panel = panel_of(replace(subject.story, readings=_changed(subject, kind)))
        with console.status(f"{subject.domain.name}, {kind}: two retrainings and the model that knows nothing else"):
            first, second = (_retrained(subject, panel, now=change + cycle * week) for cycle in (1, 2))
            helped, reference = forget_breaks(second[0], second[1]), _only_after(subject, panel, change, judged[1])
        early = forget_breaks(first[0], first[1])
        weeks = [
            _error(one, panel, change + k * week, change + (k + 1) * week)
            for k, one in enumerate((champion, (early, first[1]), (helped, second[1])))
        ]
        after = _error((helped, second[1]), panel, *judged)
        alone = _error((reference, second[1]), without_past(panel, before=change + 1), *judged)
        figures[kind] = {
            "unchanged_mae": _digits(usual),
            "never_retrained_mae": _digits(_error(champion, panel, *judged)),
            "week_after_change_mae": _digits(weeks[0]),
            "week_after_first_cycle_mae": _digits(weeks[1]),
            "week_after_second_cycle_mae": _digits(weeks[2]),
            "after_two_cycles_mae": _digits(after),
            "without_forgetting_mae": _digits(_error(second, panel, *judged)),
            "only_after_mae": _digits(alone),
            "ratio": round(after / alone, 3),
            "bar": _BAR,
            "sites_that_forget": len(breaks_of(helped)),
            "sites": len(panel.sites),
        }
        console.print(f"{subject.domain.name}, {kind}: {after:.4g} against {alone:.4g}, {after / alone:.2f} times")
    return figures


Fitted = tuple[Forecaster, WindowSet]


def run_unchanged(subject: Subject, weeks: int, console: Console) -> dict[str, Any]:
    """How often a look finds a break though nothing was changed, and what forgetting it does to the week after.

    Args:
        subject: What is forecast.
        weeks: How many looks, a week apart, the last of them a week before the change.
        console: Where progress is shown.
    """
    panel, domain = panel_of(subject.story), subject.domain
    week = domain.season_steps
    change = (int(subject.change.timestamp()) - panel.start_s) // domain.step_s
    moments = [change - (weeks - number) * week for number in range(weeks)]
    with console.status(f"{domain.name}: a model of before the calm half year"):
        champion = _retrained(subject, panel, now=moments[0])
    found, remembered, forgotten = 0, [], []
    for now in moments:
        known = _until(panel, now)
        latest = windows_at(known, domain.target, np.array([known.last_origin], dtype=np.int64))
        other = forget_breaks(champion[0], latest)
        sites = [one.site for one in breaks_of(other)]
        found += len(sites)
        for site in sites:
            remembered.append(_error(champion, panel, now, now + week, site=site))
            forgotten.append(_error((other, latest), panel, now, now + week, site=site))
    ratios = np.array(forgotten) / np.array(remembered)
    looks = weeks * len(panel.sites)
    console.print(f"{domain.name}, unchanged: {found} breaks in {looks} looks")
    return {
        "looks": looks,
        "breaks": found,
        "share": round(found / looks, 4),
        "median_error_ratio": round(float(np.median(ratios)), 3) if found else None,
        "mean_error_ratio": round(float(np.sum(forgotten) / np.sum(remembered)), 3) if found else None,
        "made_worse": int((ratios > 1).sum()),
    }


def _changed(subject: Subject, kind: str) -> pd.DataFrame:
    injection = Injection(
        kind=kind,
        sites=tuple(site.name for site in subject.story.sites),
        quantity=subject.domain.target.name,
        begin=subject.change,
        timezone=subject.story.timezone,
    )
    return inject(subject.story.readings, injection)


def _retrained(subject: Subject, panel: Panel, *, now: int) -> Fitted:
    """A retraining at a moment as the job does it, and its test."""
    known = _until(panel, now)
    domain = panel.domain
    steps = _TEST_DAYS * 86400 / domain.step_s + domain.horizon_steps // 2
    splits = split_windows(known, test_share=steps / (known.last_origin + 1 - known.first_origin))
    return _fitted(subject, splits), splits.test


def _fitted(subject: Subject, splits: Splits) -> Forecaster:
    forecaster = make_forecaster(subject.domain, subject.recipe, Workplace(accelerator="cpu"))
    forecaster.fit(splits, seed=subject.recipe.seed)
    return forecaster


def _until(panel: Panel, now: int) -> Panel:
    """What was there at a moment."""
    end = now + panel.domain.horizon_steps + 1
    value = panel.value_STK[:, :end].copy()
    value[:, now + 1 :, : len(panel.domain.measured_channels)] = np.nan
    # Indices of another width; the published sets have no revisions.
    assert not len(panel.revisions.flat), "revised readings cannot be cut off"
    return replace(panel, value_STK=value, delay_STM=panel.delay_STM[:, :end].copy())


def _only_after(subject: Subject, panel: Panel, change: int, judged_until: int) -> Forecaster:
    """A model that was trained only on readings after the change, none of them in the judged weeks."""
    domain, alone = panel.domain, without_past(panel, before=change + 1)
    week, horizon, day = domain.season_steps, domain.horizon_steps, 86400 // domain.step_s
    early = np.arange(change + day, change + 2 * week - horizon + 1)
    late = np.arange(judged_until + horizon, min(judged_until + _REFERENCE_WEEKS * week, panel.last_origin - horizon))
    block, last_block = (late - late[0]) // (2 * horizon), (late + horizon - late[0]) // (2 * horizon)
    every = max(2, min(8, int(block[-1]) + 1))
    held, touches = block % every == every - 1, last_block % every == every - 1
    train, validation = late[~held & ~touches], late[held & (block == last_block)]
    parts = [windows_at(alone, domain.target, origins) for origins in (early, train, validation)]
    splits = Splits(train=join_windows(parts[0], parts[1]), validation=parts[2], test=parts[2])
    return _fitted(subject, splits)


def _error(fitted: Fitted, panel: Panel, begin: int, end: int, *, site: str | None = None) -> float:
    """Mean absolute error of the origins from `begin` to before `end`, of one site or all [unit of the target]."""
    windows = windows_at(panel, panel.domain.target, np.arange(begin, end, _STRIDE))
    if site is not None:
        windows = windows.subset(windows.site_index_B == [one.name for one in panel.sites].index(site))
    forecaster = fitted[0]
    parts: list[Float32Array] = []
    for first in range(0, len(windows), 512):
        chosen = np.arange(first, min(first + 512, len(windows)))
        median = forecaster.predict(windows.windows(chosen)).value_BHQ[:, :, list(forecaster.levels).index(0.5)]
        parts.append(np.abs(median - windows.targets(chosen)))
    return float(np.nanmean(np.concatenate(parts)))


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _table(figures: dict[str, Any]) -> Table:
    columns = {
        "unchanged": "unchanged_mae",
        "never retrained": "never_retrained_mae",
        "week 1": "week_after_change_mae",
        "after cycle 1": "week_after_first_cycle_mae",
        "after cycle 2": "week_after_second_cycle_mae",
        "four weeks after cycle 2": "after_two_cycles_mae",
        "no forgetting": "without_forgetting_mae",
        "trained only after": "only_after_mae",
        f"ratio (bar {_BAR:g})": "ratio",
    }
    table = Table(title="mean absolute error after a change of the world")
    for name in ("data", "change", *columns):
        table.add_column(name, justify="left" if name in ("data", "change") else "right")
    for data, kinds in figures.items():
        for kind, entry in kinds.items():
            table.add_row(data, kind, *(f"{entry[key]:.4g}" for key in columns.values()))
    return table


def _calm_table(figures: dict[str, Any]) -> Table:
    table = Table(title="breaks that are found where nothing was changed, and the error of the week after")
    for name in ("data", "looks at a site", "breaks", "error with forgetting / without", "made worse"):
        table.add_column(name, justify="left" if name == "data" else "right")
    for data, entry in figures.items():
        ratio = entry["mean_error_ratio"]
        numbers = (entry["looks"], entry["breaks"], "" if ratio is None else f"{ratio:.3f}", entry["made_worse"])
        table.add_row(data, *map(str, numbers))
    return table


if __name__ == "__main__":
    main()
