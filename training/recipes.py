"""Recipes: typed configurations, `quick` for minutes on a laptop and `full` for the best figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from features.registry import Registry
from training.models.additive import ProphetConfig
from training.models.blended_graph import BlendConfig
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.models.day_networks import NetworkConfig
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


FamilyConfig = RecurrentRecipe | SeasonalRecipe | BoostedConfig | ProphetConfig | BlendConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that is chosen about one training.

    Attributes:
        name: `quick`, `full`, ...
        family: Model family.
        config: What the family takes.
        seed: Of everything random.
        simulated_share: Share of simulated windows among those that train, where there are measured ones. 0: on the
            published data they did not help (`benchmarks.sim_to_real`).
    """

    name: str
    family: str
    config: FamilyConfig
    seed: int = 0
    simulated_share: float = 0.0


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


_DEMAND_SIZES = RecurrentConfig(
    cell="gru", recent_steps=48, hidden=64, layers=1, second=False, head=256, dropout=0.4, context=True
)
# Few steps and much dropout: one site's two years are soon learnt by heart.
_DEMAND_FITTING = FitConfig(epochs=3, learning_rate=3e-3, weight_decay=0.02, weight_power=0.0, near_emphasis=6.0)


def demand_quick() -> Recipe:
    """One network, few windows: the fast smoke training of the simulator's driver."""
    return Recipe(
        name="quick",
        family="gru",
        config=RecurrentRecipe(sizes=_DEMAND_SIZES, fitting=replace(_DEMAND_FITTING, windows_per_epoch=6_000)),
    )


def demand_full() -> Recipe:
    """Three networks, all windows."""
    return Recipe(
        name="full",
        family="gru",
        config=RecurrentRecipe(sizes=replace(_DEMAND_SIZES, members=3), fitting=_DEMAND_FITTING),
    )


def pollution_quick() -> Recipe:
    """Fewer rows and trees that learn faster: a fit within a minute on two cores."""
    trees = BoosterConfig(trees=80, learning_rate=0.1)
    seeing = BoosterConfig(trees=80, learning_rate=0.1, max_depth=6, min_child_weight=10.0, reg_lambda=10.0)
    return Recipe(
        name="quick",
        family="boosted",
        config=BoostedConfig(
            plain=VariantConfig(ratio=trees, level=trees),
            ahead=VariantConfig(ratio=seeing, level=seeing, fade_steps=12.0),
            origin_stride=12,
        ),
    )


def pollution_full() -> Recipe:
    """Two boosters without and two with the weather ahead: what the accuracy benchmark reports."""
    return Recipe(name="full", family="boosted", config=BoostedConfig(refit=True))


def pollution_document() -> Recipe:
    """The parameters of the design document, 4.2.2: one booster that says the level."""
    level = BoosterConfig(
        trees=500,
        max_depth=8,
        min_child_weight=3.0,
        reg_lambda=1.0,
        reg_alpha=0.1,
        gamma=0.1,
        subsample=0.8,
        colsample_bytree=0.8,
        max_bin=256,
    )
    alone = VariantConfig(level=level, ratio=None)
    return Recipe(name="document", family="boosted", config=BoostedConfig(plain=alone, ahead=alone))


def water_quick() -> Recipe:
    """Two networks on fewer midnights, and Prophet on four months: a fit within a minute on two cores."""
    return Recipe(
        name="quick",
        family="prophet_blend",
        config=BlendConfig(
            networks=(
                NetworkConfig(width=48, epochs=4, weight=0.7),
                NetworkConfig(kind="day", width=96, noise=1.0, epochs=6, weight=0.3),
            ),
            prophet=ProphetConfig(yearly="auto", last_days=120),
            most_windows=3_000,
            refit=False,
        ),
    )


def water_full() -> Recipe:
    """Four networks and Prophet on all midnights: what the accuracy benchmark and the scoreboard report."""
    return Recipe(name="full", family="prophet_blend", config=BlendConfig())


def water_document() -> Recipe:
    """Prophet alone as in the design document, 4.2.3: its regressors are temperature, rainfall and holidays."""
    return Recipe(name="document", family="prophet", config=ProphetConfig())


RECIPES: Registry[Registry[Recipe]] = Registry("domain with recipes")
for _domain, _recipes in {
    "traffic": (traffic_quick(), traffic_full(), traffic_document()),
    "demand": (demand_quick(), demand_full()),
    "pollution": (pollution_quick(), pollution_full(), pollution_document()),
    "water": (water_quick(), water_full(), water_document()),
}.items():
    _table: Registry[Recipe] = RECIPES.register(_domain, Registry(f"{_domain} recipe"))
    for _recipe in _recipes:
        _table.register(_recipe.name, _recipe)
