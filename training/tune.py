"""What a trial is: a recipe fitted on folds in time, and how it is judged on their blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from features.errors import InvalidParameterError
from features.vocabulary import Domain, Float32Array, Quantity
from training.data_module import WindowDataModule
from training.families import Accelerator, Workplace, make_forecaster
from training.forecaster import LEVELS, Forecaster, predict_set
from training.models.seasonal import SeasonalForecaster
from training.recipes import Recipe
from training.search_budget import FULL_BUDGET, Budget
from training.search_spaces import SEARCH_SPACES, Choices, SearchSpace
from training.window_set import Splits, WindowSet

if TYPE_CHECKING:
    from optuna.trial import Trial

# Marks the trial of the recipe as it is: it is never pruned, so that there is something to compare with.
PRESENT = "present_recipe"
FOLD_LOSSES = "fold_losses"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFold:
    """A fold as a search sees it.

    Attributes:
        splits: Its windows, thinned; the test is the judged block.
        naive_S: Pinball loss of the seasonal profile on the judged windows of each site [unit], NaN where none is.
    """

    splits: Splits
    naive_S: Float32Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A search for a recipe; all that a worker process needs.

    Attributes:
        study: Name of its study.
        storage_url: Where the study is.
        recipe: The recipe to begin with.
        folds: In the order in which they are judged.
        budget: What was left of them, and how much of it a trial is fitted on.
        accelerator: What trials are fitted on.
        seed: Of the sampler.
        heartbeat_s: A running trial is given up for lost after three of these without a sign of life [s].
    """

    study: str
    storage_url: str
    recipe: Recipe
    folds: tuple[JudgedFold, ...]
    budget: Budget = FULL_BUDGET
    accelerator: Accelerator = "auto"
    seed: int = 0
    heartbeat_s: int = 20

    @property
    def domain(self) -> Domain:
        """What is forecast."""
        return self.folds[0].splits.train.panel.domain

    @property
    def target(self) -> Quantity:
        """The target whose recipe is searched for."""
        return self.folds[0].splits.train.target

    def present_choices(self) -> dict[str, object]:
        """The recipe's own values of all that can be chosen."""
        choices = Choices()
        search_space(self.recipe).choose(choices, self.domain, self.recipe)
        return choices.present


def search_space(recipe: Recipe) -> SearchSpace:
    """The search space of a recipe's family.

    Raises:
        InvalidParameterError: There is nothing to choose in this family.
    """
    if recipe.family not in SEARCH_SPACES:
        raise InvalidParameterError(
            parameter="recipe",
            provided=recipe.name,
            allowed=f"recipes of {', '.join(SEARCH_SPACES)}",
            fact=f"There is nothing to tune in the family {recipe.family}",
            remedy=f"Tune a recipe of one of these families: {', '.join(SEARCH_SPACES)}.",
        )
    return SEARCH_SPACES[recipe.family]


def judged_folds(data: WindowDataModule, budget: Budget, *, seed: int = 0) -> tuple[JudgedFold, ...]:
    """The folds of a data module within a budget; the same for every family and every trial.

    Args:
        data: With folds.
        budget: How much of them.
        seed: Of the draw of windows.
    """
    made = []
    for number in budget.folds:
        splits = data.fold(number).splits
        thin = Splits(
            train=thinned(splits.train, budget.train_windows, seed=seed),
            validation=thinned(splits.validation, budget.validation_windows, seed=seed + 1),
            test=thinned(splits.test, budget.judged_windows, seed=seed + 2),
        )
        naive = SeasonalForecaster(thin.test.panel.domain, target=thin.test.target)
        made.append(JudgedFold(splits=thin, naive_S=pinball_by_site(naive, thin.test)))
    return tuple(made)


def thinned(windows: WindowSet, most: int | None, *, seed: int) -> WindowSet:
    """At most `most` windows, drawn at random, in their order."""
    if most is None or len(windows) <= most:
        return windows
    chosen = np.random.default_rng(seed).choice(len(windows), most, replace=False)
    return windows.subset(np.sort(chosen))


def pinball_by_site(forecaster: Forecaster, windows: WindowSet) -> Float32Array:
    """Mean pinball loss over levels, leads and windows of each site, shape (S,) [unit], NaN where nothing is measured.

    Raises:
        AssertionError: The forecaster has other levels than all the others.
    """
    assert forecaster.levels == LEVELS, f"losses at other levels cannot be compared: {forecaster.levels}"
    level = np.asarray(forecaster.levels, dtype=np.float32)
    spread = windows.targets()[:, :, None] - predict_set(forecaster, windows)
    loss_BH = np.maximum(level * spread, (level - 1) * spread).mean(axis=2)
    losses = np.full(len(windows.panel.sites), np.nan, dtype=np.float32)
    for site in range(len(losses)):
        mine = loss_BH[windows.site_index_B == site]
        known = mine[~np.isnan(windows.targets()[windows.site_index_B == site])]
        if known.size:
            losses[site] = known.mean()
    return losses


def relative_loss(forecaster: Forecaster, fold: JudgedFold) -> float:
    """Pinball loss on a fold's block over that of the seasonal profile, mean over the sites: below 1 is better.

    Each site counts the same, whatever its size; a site whose profile is without error is passed over. Where the
    domain's weather is forecast, half of the loss is that of forecasts that see the weather ahead, as it was observed
    later.
    """
    test, counted = fold.splits.test, fold.naive_S > 0
    sights = [test, test.seen("observed")] if test.panel.domain.known_ahead else [test]
    losses_SS = np.stack([pinball_by_site(forecaster, windows)[counted] for windows in sights])
    return float(np.mean(losses_SS / fold.naive_S[counted]))


def run_trial(search: Search, trial: Trial) -> float:
    """Fit and judge what a trial chose, fold by fold; the mean relative loss.

    Raises:
        TrialPruned: The trial lags behind others, or diverged.
    """
    from optuna import TrialPruned

    space = search_space(search.recipe)
    chosen = space.lighten(space.choose(Choices(trial), search.domain, search.recipe), search.budget)
    place = Workplace(accelerator=search.accelerator)
    losses: list[float] = []
    for fold in search.folds:
        forecaster = make_forecaster(search.domain, chosen, place, target=search.target)
        forecaster.fit(fold.splits, seed=chosen.seed)
        losses.append(relative_loss(forecaster, fold))
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise TrialPruned("It diverged.")
        trial.set_user_attr(FOLD_LOSSES, losses)
        trial.report(mean, len(losses))
        unfinished = len(losses) < len(search.folds)
        if unfinished and PRESENT not in trial.user_attrs and trial.should_prune():
            raise TrialPruned
    return mean
