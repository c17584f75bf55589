"""The tuning job: readings -> Feast -> folds in time -> trials in parallel -> MLflow, and a recipe called `tuned`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from features.domains import DOMAINS
from features.errors import InvalidParameterError, SearchError
from features.vocabulary import Domain, Quantity
from pipelines.prepare import Prepared, find_recipe, prepare
from pipelines.quiet import quiet_libraries
from pipelines.settings import Settings
from pipelines.steps import Steps
from training.families import Accelerator
from training.recipes import Recipe
from training.search_budget import Budget, budget_of
from training.search_log import SEARCH_TAG, SearchLog
from training.studies import (
    TUNED,
    Progress,
    finished_trials,
    found_recipe,
    importances,
    opened_study,
    progress_of,
    study_name,
)
from training.tracking import Tracking
from training.trial_processes import run_trials
from training.tune import Search, judged_folds, search_space

_SHOWN_TRIALS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTrial:
    """A trial that was judged on all folds.

    Attributes:
        number: Of the trial.
        loss: Pinball loss over that of the seasonal profile, mean over folds and sites.
        parameters: What it chose.
    """

    number: int
    loss: float
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a search found.

    Attributes:
        domain: What is forecast.
        target: The target whose recipe was searched for.
        study: Name of the study.
        progress: Its trials.
        begun_with: The recipe that it began with.
        present: What that recipe has, of all that could be chosen.
        found: The recipe of the best trial.
        best: The best trials, best first.
        importance: How much each choice matters, most important first; empty where there are too few trials to tell.
        measured: Whether the readings are a sensor's.
        seconds: Wall time of this call.
    """

    domain: Domain
    target: Quantity
    study: str
    progress: Progress
    begun_with: Recipe
    present: dict[str, Any]
    found: Recipe
    best: tuple[FoundTrial, ...]
    importance: dict[str, float]
    measured: bool
    seconds: float


def tune_domain(
    name: str,
    *,
    settings: Settings,
    console: Console,
    data: Path | None = None,
    recipe_name: str = "quick",
    target_name: str | None = None,
    trials: int = 100,
    workers: int = 2,
    timeout_s: float | None = None,
    accelerator: Accelerator = "auto",
    budget: Budget | None = None,
) -> Tuned:
    """Search for a better recipe on folds in time before the test, which stays untouched.

    Args:
        name: Of the domain.
        settings: Folders and addresses.
        console: Where progress is shown.
        data: Folder or file of a published data set; without it, ingested readings, and without those a generator's.
        recipe_name: The recipe to begin with; `quick` searches on few windows, any other on all.
        target_name: Whose recipe, by default the domain's first target.
        trials: Finished trials that the study shall have; those that it has already count.
        workers: Processes that work on trials.
        timeout_s: After this the search ends with what it has [s].
        accelerator: `cpu`, `gpu` or `auto`.
        budget: What a trial sees of the folds, by default that of the recipe.

    Raises:
        TowncastError: With its remedy; finished trials are kept.
        KeyboardInterrupt: Stopped; the same call goes on with the finished trials.
    """
    began = time.perf_counter()
    domain = DOMAINS[name]
    recipe = _checked_recipe(domain, recipe_name, settings)
    target = _checked_target(domain, target_name)
    for parameter, value in (("trials", trials), ("workers", workers)):
        _check_positive(parameter, value)
    steps = Steps(console)
    prepared = prepare(domain, settings=settings, steps=steps, data=data)
    search = _search(prepared, target, recipe, budget or budget_of(recipe.name), settings, accelerator, steps)
    tracking = Tracking(settings.tracking_uri)
    title = domain.name if target == domain.target else f"{domain.name}-{target.name}"
    tags = {
        SEARCH_TAG: search.study,
        "recipe": recipe.name,
        "target": target.name,
        "readings": "measured" if prepared.measured else "generated",
    }
    with tracking.run(domain, name=f"tune-{title}", tags=tags, same=SEARCH_TAG) as run_id:
        log = SearchLog(tracking, run_id)
        with steps.step(f"Trials: study {search.study}", spinner=False) as say, _shown(console, trials) as show:

            def seen(study: Study, progress: Progress) -> None:
                log.write(study)
                show(progress)

            progress = run_trials(
                search, trials=trials, workers=workers, timeout_s=timeout_s, seen=seen, prepare=quiet_libraries
            )
            say(f"{progress.finished} finished, {progress.pruned} of them pruned")
        with steps.step("MLflow: recipe, history and importance"):
            return _conclude(search, log, prepared, seconds=time.perf_counter() - began)


def _search(
    prepared: Prepared,
    target: Quantity,
    recipe: Recipe,
    budget: Budget,
    settings: Settings,
    accelerator: Accelerator,
    steps: Steps,
) -> Search:
    domain = prepared.domain
    with steps.step(f"Folds of {target.name}: in time, an embargo before each judged block") as say:
        folds = judged_folds(prepared.data_module(target), budget)
        last = folds[0].splits
        say(f"judged first: {last.test.span()}, {len(last.train):,} windows to train on")
    name = study_name(domain, target, recipe, budget, data_hash=prepared.store.data_hash())
    return Search(
        study=name,
        storage_url=settings.studies_url,
        recipe=recipe,
        folds=folds,
        budget=budget,
        accelerator=accelerator,
    )


def _conclude(search: Search, log: SearchLog, prepared: Prepared, *, seconds: float) -> Tuned:
    """Write what was found to MLflow, and give it."""
    with opened_study(search) as study, tempfile.TemporaryDirectory() as temporary:
        complete = [trial for trial in finished_trials(study) if trial.state == TrialState.COMPLETE]
        if not complete:
            raise SearchError(
                "No trial was judged on all folds yet",
                found=f"study {search.study}",
                remedy="Give it more time or more trials: the same command goes on.",
            )
        log.write(study)
        domain, target = search.domain, search.target
        found = found_recipe(search.recipe, domain, study.best_trial.params)
        log.conclude(study, found, Path(temporary), title=f"Search for a recipe: {domain.name}, {target.name}")
        ordered = sorted(complete, key=lambda trial: (trial.values, trial.number))
        return Tuned(
            domain=domain,
            target=target,
            study=search.study,
            progress=progress_of(study),
            begun_with=search.recipe,
            present=search.present_choices(),
            found=found,
            best=tuple(
                FoundTrial(number=trial.number, loss=float(trial.value or 0.0), parameters=trial.params)
                for trial in ordered[:_SHOWN_TRIALS]
            ),
            importance=importances(study),
            measured=prepared.measured,
            seconds=seconds,
        )


@contextmanager
def _shown(console: Console, trials: int) -> Iterator[Callable[[Progress], None]]:
    """A bar of the finished trials with the best loss so far."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[best]}[/]"),
    )
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("  trials", total=trials, best="the first one is under way")

        def show(progress: Progress) -> None:
            known = [
                f"{name} {value:.4f}"
                for name, value in (("best", progress.best), ("present recipe", progress.present))
                if value is not None
            ]
            text = ", ".join([*known, f"{progress.pruned} pruned"]) if known else "the first one is under way"
            bar.update(task, completed=min(progress.finished, trials), best=text)

        yield show


def _checked_recipe(domain: Domain, recipe_name: str, settings: Settings) -> Recipe:
    """The recipe to begin with, of a family in which there is something to choose."""
    if recipe_name == TUNED:
        raise InvalidParameterError(
            parameter="recipe",
            provided=recipe_name,
            allowed="a recipe that is written down",
            fact="A search begins with a recipe that is written down",
            remedy="Begin with quick or full; the same command goes on with its study.",
        )
    recipe = find_recipe(domain.name, recipe_name, studies_url=settings.studies_url)
    search_space(recipe)
    return recipe


def _checked_target(domain: Domain, name: str | None) -> Quantity:
    if name is None:
        return domain.target
    quantity = domain.quantity(name)
    if quantity not in domain.targets:
        raise InvalidParameterError(
            parameter="target",
            provided=name,
            allowed=[target.name for target in domain.targets],
            fact="This quantity is not forecast",
            remedy=f"Name one of {', '.join(target.name for target in domain.targets)}.",
        )
    return quantity


def _check_positive(parameter: str, value: int) -> None:
    if value < 1:
        raise InvalidParameterError(
            parameter=parameter,
            provided=value,
            allowed="1 or more",
            fact=f"A search needs {parameter}",
            remedy=f"Give --{parameter} a number from 1 on.",
        )
