"""What a search may choose for each family: a typed function from a trial to a recipe, and a line below.

Every choice names the value that the recipe has now. So the same function tells a search where to begin, and the
range always holds the present value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from features.registry import Registry
from features.vocabulary import Domain
from training.models.blended_graph import BlendConfig
from training.models.boosted_config import BoostedConfig, BoosterConfig, Variant, VariantConfig
from training.models.day_networks import NetworkConfig
from training.recipes import Recipe, RecurrentRecipe
from training.search_budget import Budget

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Option = TypeVar("Option", bool, int, float, str)
Scale = Literal["linear", "log"]


class Choices:
    """Where a search space gets its values: from a trial, or, without one, from the recipe as it is.

    Args:
        trial: Suggests the values; None to keep what the recipe has.

    Attributes:
        present: What the recipe has now, by name, of all choices that were asked for.
    """

    def __init__(self, trial: BaseTrial | None = None) -> None:
        self.trial = trial
        self.present: dict[str, Any] = {}

    def integer(self, name: str, present: int, *, low: int, high: int, scale: Scale = "linear") -> int:
        """A whole number from `low` to `high`, both included; the range is widened to hold `present`."""
        self.present[name] = present
        if self.trial is None:
            return present
        return self.trial.suggest_int(name, min(low, present), max(high, present), log=scale == "log")

    def number(self, name: str, present: float, *, low: float, high: float, scale: Scale = "linear") -> float:
        """A number from `low` to `high`; the range is widened to hold `present`."""
        self.present[name] = present
        if self.trial is None:
            return present
        return self.trial.suggest_float(name, min(low, present), max(high, present), log=scale == "log")

    def factor(self, name: str, *, most: float) -> float:
        """What one or several of the recipe's values are multiplied by, from 1 / `most` to `most`; 1 at present."""
        return self.number(f"{name}_factor", 1.0, low=1 / most, high=most, scale="log")

    def one_of(self, name: str, present: Option, options: Sequence[Option]) -> Option:
        """One of some options, to which `present` is added where it is none of them."""
        self.present[name] = present
        if self.trial is None:
            return present
        every = [*options, *([] if present in options else [present])]
        chosen: Any = self.trial.suggest_categorical(name, every)
        return chosen  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What can be chosen in a family.

    Attributes:
        choose: Choices, the domain and the present recipe to another recipe.
        lighten: The recipe that a trial fits in place of the chosen one, where the chosen one costs more and compares
            the same, such as one network for an average of several; it keeps to the search's budget.
    """

    choose: Callable[[Choices, Domain, Recipe], Recipe]
    lighten: Callable[[Recipe, Budget], Recipe]


def recurrent(choices: Choices, domain: Domain, recipe: Recipe) -> Recipe:
    """Sizes, regularisation, schedule and loss of a recurrent network."""
    config = recipe.config
    assert isinstance(config, RecurrentRecipe), f"recipe {recipe.name} of {domain.name} is not recurrent"
    sizes, fitting = config.sizes, config.fitting
    second = sizes.hidden_second
    if sizes.second:
        second = choices.integer("hidden_second", second, low=16, high=64, scale="log")
    sizes = replace(
        sizes,
        hidden=choices.integer("hidden", sizes.hidden, low=32, high=128, scale="log"),
        layers=choices.integer("layers", sizes.layers, low=1, high=2),
        hidden_second=second,
        head=choices.integer("head", sizes.head, low=32, high=192, scale="log"),
        dropout=choices.number("dropout", sizes.dropout, low=0.0, high=0.4),
    )
    fitting = replace(
        fitting,
        learning_rate=choices.number("learning_rate", fitting.learning_rate, low=1e-3, high=2e-2, scale="log"),
        batch_size=choices.one_of("batch_size", fitting.batch_size, (64, 128, 256)),
        near_emphasis=choices.number("near_emphasis", fitting.near_emphasis, low=0.0, high=5.0),
        weight_power=choices.number("weight_power", fitting.weight_power, low=0.0, high=1.0),
    )
    # A recipe that takes so many windows an epoch has set what it costs: a search would always ask for more of them.
    if fitting.windows_per_epoch is None:
        fitting = replace(fitting, epochs=choices.integer("epochs", fitting.epochs, low=4, high=10))
    return replace(recipe, config=replace(config, sizes=sizes, fitting=fitting))


def lightened_recurrent(recipe: Recipe, budget: Budget) -> Recipe:
    """One network, where the recipe averages several, and the windows of an epoch that the budget has."""
    config = recipe.config
    assert isinstance(config, RecurrentRecipe), f"recipe {recipe.name} is not recurrent"
    known = [most for most in (config.fitting.windows_per_epoch, budget.windows_per_epoch) if most is not None]
    fitting = replace(config.fitting, windows_per_epoch=min(known, default=None))
    return replace(recipe, config=replace(config, sizes=replace(config.sizes, members=1), fitting=fitting))


def boosted(choices: Choices, domain: Domain, recipe: Recipe) -> Recipe:
    """Shape of each booster's trees; their number, penalty and draws by factors that all boosters share."""
    config = recipe.config
    assert isinstance(config, BoostedConfig), f"recipe {recipe.name} of {domain.name} is not boosted"
    trees, rate = choices.factor("trees", most=2), choices.factor("learning_rate", most=2)
    penalty = choices.factor("reg_lambda", most=10)
    rows, columns = choices.factor("subsample", most=2), choices.factor("colsample", most=2)

    def booster(name: str, one: BoosterConfig) -> BoosterConfig:
        return replace(
            one,
            trees=max(1, round(one.trees * trees)),
            learning_rate=one.learning_rate * rate,
            reg_lambda=one.reg_lambda * penalty,
            subsample=min(1.0, one.subsample * rows),
            colsample_bytree=min(1.0, one.colsample_bytree * columns),
            max_depth=choices.integer(f"{name}_depth", one.max_depth, low=3, high=9),
            min_child_weight=choices.number(f"{name}_leaf", one.min_child_weight, low=2.0, high=400.0, scale="log"),
        )

    def variant(name: Variant, one: VariantConfig) -> VariantConfig:
        level = booster(f"{name}_level", one.level)
        if one.ratio is None:
            return replace(one, level=level)
        fade_steps = choices.number(f"{name}_fade_steps", one.fade_steps, low=4.0, high=96.0, scale="log")
        return replace(one, level=level, ratio=booster(f"{name}_ratio", one.ratio), fade_steps=fade_steps)

    base_alpha = choices.number("base_alpha", config.base_alpha, low=0.1, high=1000.0, scale="log")
    found = replace(config, plain=variant("plain", config.plain), base_alpha=base_alpha)
    # Without weather ahead its boosters are never fitted.
    if config.ahead is not None and domain.known_ahead:
        found = replace(found, ahead=variant("ahead", config.ahead))
    return replace(recipe, config=found)


def lightened_boosted(recipe: Recipe, budget: Budget) -> Recipe:
    """Trees fitted once, and on each of the origins where the budget has drawn some already."""
    config = recipe.config
    assert isinstance(config, BoostedConfig), f"recipe {recipe.name} is not boosted"
    stride = config.origin_stride if budget.train_windows is None else 1
    return replace(recipe, config=replace(config, refit=False, origin_stride=stride))


def prophet_blend(choices: Choices, domain: Domain, recipe: Recipe) -> Recipe:
    """Fitting and share of the day networks, of each kind by factors, and share and bending of the Prophet."""
    config = recipe.config
    assert isinstance(config, BlendConfig), f"recipe {recipe.name} of {domain.name} is no blend"
    first = config.networks[0].kind
    factors = {}
    for kind in dict.fromkeys(network.kind for network in config.networks):
        factors[kind] = {name: choices.factor(f"{kind}_{name}", most=2) for name in ("width", "dropout", "noise")}
        factors[kind]["epochs"] = choices.factor(f"{kind}_epochs", most=2)
        # Shares are scaled to a sum of 1, so one kind's is the measure of the others'.
        factors[kind]["weight"] = 1.0 if kind == first else choices.factor(f"{kind}_weight", most=4)

    def network(one: NetworkConfig) -> NetworkConfig:
        by = factors[one.kind]
        return replace(
            one,
            width=max(8, round(one.width * by["width"])),
            dropout=min(0.8, one.dropout * by["dropout"]),
            noise=one.noise * by["noise"],
            epochs=max(1, round(one.epochs * by["epochs"])),
            weight=one.weight * by["weight"],
        )

    found = replace(
        config,
        networks=tuple(network(one) for one in config.networks),
        learning_rate=choices.number("learning_rate", config.learning_rate, low=5e-4, high=1e-2, scale="log"),
        weight_decay=choices.number("weight_decay", config.weight_decay, low=1e-3, high=1e-1, scale="log"),
        batch_size=choices.one_of("batch_size", config.batch_size, (256, 512, 1024)),
    )
    if domain.known_ahead:
        hidden = choices.number("hide_weather", config.hide_weather, low=0.2, high=0.8)
        found = replace(found, hide_weather=hidden)
    if config.prophet is not None:
        bending = choices.number(
            "changepoint_prior_scale", config.prophet.changepoint_prior_scale, low=0.005, high=0.5, scale="log"
        )
        share = choices.number("prophet_weight", config.prophet_weight, low=0.0, high=0.3)
        found = replace(found, prophet=replace(config.prophet, changepoint_prior_scale=bending), prophet_weight=share)
    return replace(recipe, config=found)


def lightened_blend(recipe: Recipe, budget: Budget) -> Recipe:
    """One network for those that differ in nothing but their draws, all fitted once."""
    config = recipe.config
    assert isinstance(config, BlendConfig), f"recipe {recipe.name} is no blend"
    weights: dict[NetworkConfig, float] = {}
    for network in config.networks:
        alike = replace(network, weight=1.0)
        weights[alike] = weights.get(alike, 0.0) + network.weight
    networks = tuple(replace(alike, weight=weight) for alike, weight in weights.items())
    known = [most for most in (config.most_windows, budget.train_windows) if most is not None]
    return replace(
        recipe, config=replace(config, networks=networks, refit=False, most_windows=min(known, default=None))
    )


SEARCH_SPACES: Registry[SearchSpace] = Registry("family with a search space")
SEARCH_SPACES.register("lstm", SearchSpace(choose=recurrent, lighten=lightened_recurrent))
SEARCH_SPACES.register("gru", SearchSpace(choose=recurrent, lighten=lightened_recurrent))
SEARCH_SPACES.register("boosted", SearchSpace(choose=boosted, lighten=lightened_boosted))
SEARCH_SPACES.register("prophet_blend", SearchSpace(choose=prophet_blend, lighten=lightened_blend))
