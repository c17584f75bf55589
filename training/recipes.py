"""Recipes: typed configurations, `quick` for minutes on a laptop and `full` for the best figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.registry import Registry
from training.models.neural import RecurrentConfig
from training.models.recurrent import FitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentRecipe:
    """A recurrent network and its fitting.

    Attributes:
        sizes: Of the network.
        fitting: How it is fitted.
    """

    sizes: RecurrentConfig = field(default_factory=RecurrentConfig)
    fitting: FitConfig = field(default_factory=FitConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeasonalRecipe:
    """The seasonal profile: there is nothing to choose."""


FamilyConfig = RecurrentRecipe | SeasonalRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that is chosen about one training.

    Attributes:
        name: `quick`, `full`, ...
        family: Model family.
        config: What the family takes.
        seed: Of everything random.
    """

    name: str
    family: str
    config: FamilyConfig
    seed: int = 0


def traffic_quick() -> Recipe:
    """One small network and few windows: `make train` in minutes on two cores."""
    return Recipe(
        name="quick",
        family="lstm",
        config=RecurrentRecipe(
            sizes=RecurrentConfig(hidden=64, hidden_second=32, head=128),
            fitting=FitConfig(epochs=6, learning_rate=6e-3, near_emphasis=3.0, windows_per_epoch=12_000),
        ),
    )


def traffic_full() -> Recipe:
    """Three networks, all windows: what the accuracy benchmark reports."""
    return Recipe(
        name="full",
        family="lstm",
        config=RecurrentRecipe(
            sizes=RecurrentConfig(hidden=64, hidden_second=32, head=128, members=3),
            fitting=FitConfig(epochs=8, learning_rate=6e-3, near_emphasis=3.0),
        ),
    )


def traffic_document() -> Recipe:
    """The sizes and the batch of the design document, 4.2.1; on one measured road they overfit."""
    return Recipe(
        name="document",
        family="lstm",
        config=RecurrentRecipe(fitting=FitConfig(epochs=10, batch_size=64, learning_rate=1e-3, patience=10)),
    )


RECIPES: Registry[Registry[Recipe]] = Registry("domain with recipes")
for _domain, _recipes in {"traffic": (traffic_quick(), traffic_full(), traffic_document())}.items():
    _table: Registry[Recipe] = RECIPES.register(_domain, Registry(f"{_domain} recipe"))
    for _recipe in _recipes:
        _table.register(_recipe.name, _recipe)
