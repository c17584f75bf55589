"""Fitting a domain's forecasters on published files, as the training job does it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from features.vocabulary import Domain
from pipelines.prepare import prepare
from pipelines.settings import Settings
from pipelines.steps import Steps
from training.families import Workplace, make_forecaster
from training.forecaster import Forecaster
from training.recipes import Recipe, RecurrentRecipe
from training.window_set import Splits


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A fitted forecaster and what it was fitted on; `quick` for a smoke run."""

    forecaster: Forecaster
    splits: Splits
    quick: bool


def fit_domain(domain: Domain, recipe: Recipe, data: Path, console: Console, *, quick: bool) -> dict[str, Fitted]:
    """A fitted forecaster for each target of a domain, by the target's name.

    Args:
        domain: What is forecast.
        recipe: How.
        data: Folder with the published files.
        console: Where progress is shown.
        quick: Whether one short epoch will do.
    """
    if quick and isinstance(recipe.config, RecurrentRecipe):
        fitting = replace(recipe.config.fitting, epochs=1, windows_per_epoch=2000)
        recipe = replace(recipe, config=replace(recipe.config, fitting=fitting))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        settings = Settings(data_dir=root)
        prepared = prepare(domain, settings=settings, steps=Steps(console), data=data)
        fitted = {}
        for target in domain.targets:
            splits = prepared.splits(target)
            console.print(f"{target.name}: train {splits.train.span()}, test {splits.test.span()}")
            place = Workplace(folder=root / "checkpoints" / target.name)
            forecaster = make_forecaster(domain, recipe, place, target=target)
            with console.status(f"fitting {target.name}"):
                forecaster.fit(splits, seed=recipe.seed)
            fitted[target.name] = Fitted(forecaster=forecaster, splits=splits, quick=quick)
    return fitted
