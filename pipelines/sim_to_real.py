"""Do simulated rows help? Train with more and more of them, and judge on measured rows alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from features.domains import DOMAINS
from features.errors import InvalidParameterError, TowncastError
from features.vocabulary import Domain
from pipelines.prepare import Prepared, find_recipe, prepare
from pipelines.settings import Settings
from pipelines.simulate import Run, plan_run, raise_failed, simulate, usable_cores
from pipelines.steps import Steps
from sim_env.rollouts import rollouts_of
from training.evaluate import skill_interval
from training.families import Workplace, make_forecaster
from training.forecaster import predict_set
from training.plots import NAIVE, OURS, STYLE
from training.recipes import Recipe
from training.simulated import simulated_share
from training.window_set import WindowSet, first_test_origin

SHARES: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
_DAY_S, _WEEK_S = 86_400, 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareJudged:
    """What a model that learnt from some simulated rows is worth on measured ones.

    Attributes:
        asked: Share of simulated windows that was asked for.
        share: Share that there was.
        windows: Windows that trained.
        mae: On the test [unit].
        rmse: On the test [unit].
        gain: 1 - MAE / MAE without simulated rows, on the test.
        gain_90: Its 90 % interval.
        validation_gain: The same on the validation weeks, by which a recipe would decide.
        validation_gain_90: Its 90 % interval.
        failed: Why there is no model, empty if there is one.
    """

    asked: float
    share: float
    windows: int
    mae: float = math.nan
    rmse: float = math.nan
    gain: float = math.nan
    gain_90: tuple[float, float] = (math.nan, math.nan)
    validation_gain: float = math.nan
    validation_gain_90: tuple[float, float] = (math.nan, math.nan)
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimToReal:
    """What simulated rows are worth in a domain.

    Attributes:
        domain: What is forecast.
        recipe: How it was trained.
        judged: By share.
    """

    domain: Domain
    recipe: Recipe
    judged: tuple[ShareJudged, ...]

    @property
    def recommended(self) -> float:
        """The share that a recipe should use: one that clearly helps on the validation weeks, else none."""
        helping = [entry for entry in self.judged if entry.validation_gain_90[0] > 0]
        return max(helping, key=lambda entry: entry.validation_gain).asked if helping else 0.0


def judge_simulated(
    name: str,
    *,
    data: Path,
    weeks: int,
    settings: Settings,
    console: Console,
    recipe_name: str = "quick",
    shares: Sequence[float] = SHARES,
) -> SimToReal:
    """Train a domain's first target with each share of simulated windows, and judge on measured ones alone.

    The rollouts end where the test of the measured readings begins, on the same calendar and clock.

    Args:
        name: Of the domain.
        data: Folder with the published files.
        weeks: Length of the rollouts [weeks].
        settings: Folders; the readings go into the stores there.
        console: Where progress is shown.
        recipe_name: How to train.
        shares: Of simulated windows among those that train; the first is what the others are compared with.

    Raises:
        TowncastError: With its remedy.
    """
    domain, steps = DOMAINS[name], Steps(console)
    recipe = find_recipe(name, recipe_name, studies_url=settings.studies_url)
    measured = prepare(domain, settings=settings, steps=steps, data=data)
    run = _run_beside(measured, weeks=weeks, settings=settings)
    raise_failed(simulate(run, workers=usable_cores(), settings=settings, console=console))
    prepared = prepare(domain, settings=settings, steps=steps, data=data, simulated=True)
    if prepared.measured_sites != measured.measured_sites:
        raise TowncastError("Sites changed on the way", found=prepared.measured_sites, remedy="Run it again.")
    judged: list[ShareJudged] = []
    reference: dict[str, npt.NDArray[np.float64]] = {}
    for share in shares:
        with steps.step(f"{name}: {share:.0%} simulated rows", spinner=False) as say:
            entry, errors = _judge_share(prepared, recipe, share, reference, settings=settings)
            reference = reference or errors
            say(entry.failed or f"MAE {entry.mae:.4g} {domain.target.unit}")
        judged.append(entry)
    return SimToReal(domain=domain, recipe=recipe, judged=tuple(judged))


def _run_beside(measured: Prepared, *, weeks: int, settings: Settings) -> Run:
    """Rollouts that end where the measured readings' test begins."""
    domain, panel = measured.domain, measured.panel
    rollouts = rollouts_of(domain.name)
    if rollouts is None:
        raise InvalidParameterError(
            parameter="domain",
            provided=domain.name,
            allowed="a domain with rollouts",
            fact="Nothing simulates this domain",
            remedy="Choose traffic, demand, pollution or water.",
        )
    ends_s = int(panel.moments_s[first_test_origin(panel, counted_from_s=measured.reliable_from_s)])
    begins_s = (ends_s - weeks * _WEEK_S) // _DAY_S * _DAY_S
    site = panel.sites[0]
    usual = dataclasses.replace(
        rollouts.usual,
        start=pd.Timestamp(begins_s, unit="s", tz="UTC").isoformat(),
        timezone=site.timezone,
        country=site.country,
        subdivision=site.subdivision,
    )
    return plan_run(rollouts.name, weeks=weeks, settings=settings, usual=usual)


def _judge_share(
    prepared: Prepared,
    recipe: Recipe,
    share: float,
    reference: dict[str, npt.NDArray[np.float64]],
    *,
    settings: Settings,
) -> tuple[ShareJudged, dict[str, npt.NDArray[np.float64]]]:
    splits = prepared.splits(simulated_share=share, seed=recipe.seed)
    actual = simulated_share(splits.train, prepared.measured_sites)
    forecaster = make_forecaster(prepared.domain, recipe, Workplace())
    try:
        forecaster.fit(splits, seed=recipe.seed)
    except TowncastError as error:
        return ShareJudged(asked=share, share=actual, windows=len(splits.train), failed=str(error)), {}
    level = forecaster.levels.index(0.5)
    parts = {"validation": splits.validation, "test": splits.test}
    medians = {part: predict_set(forecaster, windows)[:, :, level] for part, windows in parts.items()}
    errors = {part: _by_origin(windows, medians[part]) for part, windows in parts.items()}
    off_BH = splits.test.targets() - medians["test"]
    gains = {part: _gain(errors[part], (reference or errors)[part], parts[part]) for part in parts}
    return (
        ShareJudged(
            asked=share,
            share=actual,
            windows=len(splits.train),
            mae=float(np.nanmean(np.abs(off_BH))),
            rmse=float(np.sqrt(np.nanmean(off_BH**2))),
            gain=gains["test"][0],
            gain_90=gains["test"][1],
            validation_gain=gains["validation"][0],
            validation_gain_90=gains["validation"][1],
        ),
        errors,
    )


def _by_origin(windows: WindowSet, median_BH: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean absolute error of each window, in order of time."""
    absolute = np.nanmean(np.abs(windows.targets() - median_BH), axis=1)
    ordered: npt.NDArray[np.float64] = absolute[np.argsort(windows.origin_B, kind="stable")].astype(np.float64)
    return ordered


def _gain(
    error: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], windows: WindowSet
) -> tuple[float, tuple[float, float]]:
    sites = len(np.unique(windows.site_index_B))
    block = windows.panel.domain.season_steps * sites
    interval = skill_interval(error, reference, block=block, rng=np.random.default_rng(0))
    return 1.0 - float(np.nanmean(error) / np.nanmean(reference)), interval


def render_sim_to_real(result: SimToReal) -> Table:
    """The shares beside each other."""
    unit = result.domain.target.unit
    table = Table(title=f"{result.domain.name}: {result.domain.target.name}, judged on measured rows alone")
    for column in ("simulated", "there were", "windows", f"MAE {unit}", f"RMSE {unit}", "gain on the test",
                   "gain on validation"):  # fmt: skip
        table.add_column(column, justify="right")
    for entry in result.judged:
        figures = (
            (entry.failed, "", "", "")
            if entry.failed
            else (
                f"{entry.mae:.4g}",
                f"{entry.rmse:.4g}",
                _interval(entry.gain, entry.gain_90),
                _interval(entry.validation_gain, entry.validation_gain_90),
            )
        )
        table.add_row(f"{entry.asked:.0%}", f"{entry.share:.0%}", f"{entry.windows:,}", *figures)
    return table


def _interval(gain: float, interval: tuple[float, float]) -> str:
    return f"{gain:+.1%} [{interval[0]:+.1%}, {interval[1]:+.1%}]"


def plot_sim_to_real(results: Sequence[SimToReal]) -> Figure:
    """Gain over a training without simulated rows, by their share, a panel for each domain.

    Where there were fewer rows than the share asks for, the share that there was stands below it.
    """
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), squeeze=False)
        for axis, result in zip(axes[0], results, strict=True):
            entries = [entry for entry in result.judged if not entry.failed]
            places = np.arange(len(entries))
            gain = np.array([entry.gain for entry in entries])
            ends = np.array([entry.gain_90 for entry in entries]).T
            axis.axhline(0.0, color="#888888", linewidth=1)
            axis.errorbar(
                places,
                gain,
                yerr=np.abs(ends - gain),
                fmt="o",
                capsize=4,
                color=OURS if result.recommended else NAIVE,
            )
            axis.set_xticks(places, [_share_label(entry) for entry in entries])
            axis.set_title(result.domain.name)
            axis.set_xlabel("simulated rows")
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[0][0].set_ylabel("gain in MAE on measured rows")
        figure.tight_layout()
    return figure


def _share_label(entry: ShareJudged) -> str:
    asked, share = f"{entry.asked:.0%}", f"{entry.share:.0%}"
    return asked if asked == share else f"{asked}\n({share})"
