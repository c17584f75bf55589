"""Model families by name, from a recipe to an unfitted forecaster: a new one is a file in `models` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger

from features.registry import Registry
from features.vocabulary import Domain, Quantity
from training.forecaster import Forecaster
from training.models.additive import ProphetConfig
from training.models.additive_forecaster import AdditiveForecaster
from training.models.blended import BlendedForecaster
from training.models.blended_graph import BlendConfig
from training.models.boosted import BoostedForecaster
from training.models.boosted_config import BoostedConfig
from training.models.recurrent import RecurrentForecaster
from training.models.seasonal import SeasonalForecaster
from training.recipes import Recipe, RecurrentRecipe

Accelerator = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where and how loudly a forecaster is fitted.

    Attributes:
        folder: Where checkpoints go, so that a stopped training is taken up again; None for none.
        logger: Where learning curves go; with one, progress is shown.
        accelerator: `cpu`, `gpu`, or `auto` for a GPU where there is one.
    """

    folder: Path | None = None
    logger: Logger | None = None
    accelerator: Accelerator = "auto"


MakeForecaster = Callable[[Domain, Quantity, Recipe, Workplace], Forecaster]


def _recurrent(domain: Domain, target: Quantity, recipe: Recipe, place: Workplace) -> Forecaster:
    config = recipe.config
    assert isinstance(config, RecurrentRecipe), f"recipe {recipe.name} of {domain.name} is not recurrent"
    return RecurrentForecaster(
        domain,
        target=target,
        sizes=config.sizes,
        fitting=replace(config.fitting, accelerator=place.accelerator),
        folder=place.folder,
        logger=place.logger,
        show_progress=place.logger is not None,
    )


def _boosted(domain: Domain, target: Quantity, recipe: Recipe, place: Workplace) -> Forecaster:
    config = recipe.config
    assert isinstance(config, BoostedConfig), f"recipe {recipe.name} of {domain.name} is not boosted"
    return BoostedForecaster(domain, target=target, config=config, show_progress=place.logger is not None)


def _prophet(domain: Domain, target: Quantity, recipe: Recipe, place: Workplace) -> Forecaster:
    config = recipe.config
    assert isinstance(config, ProphetConfig), f"recipe {recipe.name} of {domain.name} is no Prophet"
    return AdditiveForecaster(domain, target=target, config=config)


def _prophet_blend(domain: Domain, target: Quantity, recipe: Recipe, place: Workplace) -> Forecaster:
    config = recipe.config
    assert isinstance(config, BlendConfig), f"recipe {recipe.name} of {domain.name} is no blend"
    return BlendedForecaster(
        domain,
        target=target,
        config=replace(config, accelerator=place.accelerator),
        folder=place.folder,
        logger=place.logger,
        show_progress=place.logger is not None,
    )


def _seasonal(domain: Domain, target: Quantity, recipe: Recipe, place: Workplace) -> Forecaster:
    return SeasonalForecaster(domain, target=target)


FAMILIES: Registry[MakeForecaster] = Registry("model family")
FAMILIES.register("lstm", _recurrent)
FAMILIES.register("gru", _recurrent)
FAMILIES.register("boosted", _boosted)
FAMILIES.register("prophet", _prophet)
FAMILIES.register("prophet_blend", _prophet_blend)
FAMILIES.register("seasonal", _seasonal)


def make_forecaster(domain: Domain, recipe: Recipe, place: Workplace, *, target: Quantity | None = None) -> Forecaster:
    """The forecaster of a recipe, unfitted.

    Args:
        domain: Gives lengths and channels.
        recipe: What is made.
        place: Where it is fitted.
        target: What it forecasts, by default the domain's first target.

    Raises:
        UnknownNameError: There is no such family.
    """
    return FAMILIES[recipe.family](domain, target or domain.target, recipe, place)
