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
from training.recipes import Recipe, RecurrentRecipe

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
            the same, such as one network for an average of several.
    """

    choose: Callable[[Choices, Domain, Recipe], Recipe]
    lighten: Callable[[Recipe], Recipe] = lambda recipe: recipe


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
        epochs=choices.integer("epochs", fitting.epochs, low=4, high=10),
        batch_size=choices.one_of("batch_size", fitting.batch_size, (64, 128, 256)),
        near_emphasis=choices.number("near_emphasis", fitting.near_emphasis, low=0.0, high=5.0),
        weight_power=choices.number("weight_power", fitting.weight_power, low=0.0, high=1.0),
    )
    return replace(recipe, config=replace(config, sizes=sizes, fitting=fitting))


def one_network(recipe: Recipe) -> Recipe:
    """A recurrent recipe with one network, where it averages several."""
    config = recipe.config
    assert isinstance(config, RecurrentRecipe), f"recipe {recipe.name} is not recurrent"
    return replace(recipe, config=replace(config, sizes=replace(config.sizes, members=1)))


SEARCH_SPACES: Registry[SearchSpace] = Registry("family with a search space")
SEARCH_SPACES.register("lstm", SearchSpace(choose=recurrent, lighten=one_network))
SEARCH_SPACES.register("gru", SearchSpace(choose=recurrent, lighten=one_network))
