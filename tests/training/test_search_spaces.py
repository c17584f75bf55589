"""Search spaces: every choice begins at the recipe, changes its part of it, and gives what can be fitted."""

import dataclasses

import optuna
import pytest
from optuna.trial import FixedTrial

from features.domains import DOMAINS
from features.errors import InvalidParameterError
from training.families import Workplace, make_forecaster
from training.models.blended_graph import BlendConfig
from training.models.boosted_config import BoostedConfig
from training.recipes import RECIPES, Recipe, RecurrentRecipe, SeasonalRecipe
from training.search_budget import FULL_BUDGET, QUICK_BUDGET
from training.search_spaces import SEARCH_SPACES, Choices
from training.tune import search_space

TUNABLE = [
    (domain, name) for domain in RECIPES for name in RECIPES[domain] if RECIPES[domain][name].family in SEARCH_SPACES
]


@pytest.mark.parametrize(("domain", "name"), TUNABLE)
def test_a_search_begins_at_the_recipe_itself(domain: str, name: str) -> None:
    recipe = RECIPES[domain][name]
    choices = Choices()
    assert search_space(recipe).choose(choices, DOMAINS[domain], recipe) == recipe
    assert len(choices.present) >= 3
    trial = FixedTrial(choices.present)
    # FixedTrial warns of a value outside its range, and a warning fails a test.
    assert search_space(recipe).choose(Choices(trial), DOMAINS[domain], recipe) == recipe
    assert set(trial.distributions) == set(choices.present)


def test_a_choice_changes_its_part_of_the_recipe_alone() -> None:
    recipe = RECIPES["traffic"]["full"]
    choices = Choices()
    space = search_space(recipe)
    space.choose(choices, DOMAINS["traffic"], recipe)
    trial = FixedTrial({**choices.present, "hidden": 100, "batch_size": 256, "near_emphasis": 4.5})
    found = space.choose(Choices(trial), DOMAINS["traffic"], recipe)
    assert isinstance(found.config, RecurrentRecipe)
    assert isinstance(recipe.config, RecurrentRecipe)
    assert found.config.sizes == dataclasses.replace(recipe.config.sizes, hidden=100)
    assert found.config.fitting == dataclasses.replace(recipe.config.fitting, batch_size=256, near_emphasis=4.5)
    # A trial fits one network for the three that are trained in the end.
    assert recipe.config.sizes.members == found.config.sizes.members
    lightened = space.lighten(found, dataclasses.replace(QUICK_BUDGET, windows_per_epoch=50)).config
    assert isinstance(lightened, RecurrentRecipe)
    assert lightened.sizes.members == 1
    assert lightened.fitting == dataclasses.replace(found.config.fitting, windows_per_epoch=50)


@pytest.mark.parametrize(("domain", "name"), TUNABLE)
def test_whatever_is_chosen_is_a_recipe_that_can_be_fitted(domain: str, name: str) -> None:
    recipe, place = RECIPES[domain][name], Workplace(accelerator="cpu")
    space = search_space(recipe)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    found = [space.choose(Choices(study.ask()), DOMAINS[domain], recipe) for _ in range(20)]
    assert all(one != recipe and one.family == recipe.family for one in found)
    for one in found:
        light = space.lighten(one, QUICK_BUDGET)
        assert make_forecaster(DOMAINS[domain], light, place).name in (recipe.family, "prophet_blend")
        if isinstance(one.config, BoostedConfig):
            for variant in one.config.variants().values():
                assert variant.level.trees >= 1
                assert 0 < variant.level.subsample <= 1
                assert 0 < variant.level.colsample_bytree <= 1
        if isinstance(one.config, BlendConfig):
            assert all(0 <= network.dropout < 1 and network.epochs >= 1 for network in one.config.networks)


def test_every_family_that_serves_a_domain_first_can_be_tuned() -> None:
    for domain in RECIPES:
        assert DOMAINS[domain].families[0] in SEARCH_SPACES
        assert {"quick", "full"} <= {name for of, name in TUNABLE if of == domain}


def test_a_trial_of_trees_takes_the_origins_that_were_drawn_and_fits_once() -> None:
    recipe = RECIPES["pollution"]["quick"]
    lighten = search_space(recipe).lighten
    assert isinstance(recipe.config, BoostedConfig)
    drawn, whole = lighten(recipe, QUICK_BUDGET).config, lighten(recipe, FULL_BUDGET).config
    assert drawn == dataclasses.replace(recipe.config, refit=False, origin_stride=1)
    assert whole == dataclasses.replace(recipe.config, refit=False)


def test_a_trial_of_a_blend_fits_one_network_for_those_that_are_alike() -> None:
    recipe = RECIPES["water"]["full"]
    assert isinstance(recipe.config, BlendConfig)
    light = search_space(recipe).lighten(recipe, FULL_BUDGET).config
    assert isinstance(light, BlendConfig)
    assert not light.refit
    assert [network.kernel for network in light.networks] == [3, 1, 3]
    assert light.networks[0].weight == pytest.approx(2 * light.networks[1].weight)
    total = sum(network.weight for network in recipe.config.networks)
    assert sum(network.weight for network in light.networks) == pytest.approx(total)


def test_a_choice_of_trees_reaches_all_boosters_or_its_own_alone() -> None:
    recipe = RECIPES["pollution"]["full"]
    choices = Choices()
    space = search_space(recipe)
    space.choose(choices, DOMAINS["pollution"], recipe)
    wanted = {**choices.present, "trees_factor": 0.5, "colsample_factor": 2.0, "ahead_level_depth": 5}
    before, found = recipe.config, space.choose(Choices(FixedTrial(wanted)), DOMAINS["pollution"], recipe).config
    assert isinstance(before, BoostedConfig)
    assert isinstance(found, BoostedConfig)
    shared = {"colsample_bytree": 0.6}
    assert found.plain.level == dataclasses.replace(before.plain.level, trees=100, **shared)
    assert before.ahead is not None
    assert found.ahead is not None
    assert found.ahead.level == dataclasses.replace(before.ahead.level, trees=150, max_depth=5, **shared)
    assert found.ahead.ratio == dataclasses.replace(before.ahead.ratio, trees=150, **shared)


def test_ranges_hold_the_present_value_whatever_it_is() -> None:
    choices = Choices(FixedTrial({"hidden": 7, "rate": 9.0, "size": 13}))
    assert choices.integer("hidden", 7, low=32, high=64, scale="log") == 7
    assert choices.number("rate", 9.0, low=0.0, high=1.0) == 9.0
    assert choices.one_of("size", 13, (1, 2)) == 13
    assert choices.present == {"hidden": 7, "rate": 9.0, "size": 13}


def test_a_family_without_choices_is_refused() -> None:
    recipe = Recipe(name="naive", family="seasonal", config=SeasonalRecipe())
    with pytest.raises(InvalidParameterError, match="nothing to tune in the family seasonal") as caught:
        search_space(recipe)
    assert "lstm" in caught.value.remedy
