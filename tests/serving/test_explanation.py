"""Explanations: groups that hide all inputs, and Shapley values that are exact where theory says so."""

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.vocabulary import Forecast, Quantity, Window
from serving.explanation import (
    BUDGET_WINDOWS,
    FeatureGroup,
    ShapleyValues,
    coalition_windows,
    coalitions,
    feature_groups,
    importances,
    shapley_values,
)
from serving.places import Place
from serving.service import ForecastResult, ForecastService, Question

TARGETS = [(domain.name, target) for domain in DOMAINS.values() for target in domain.targets]


def played(value: Callable[[Any], Any], groups: int, *, budget: int = BUDGET_WINDOWS) -> ShapleyValues:
    """Shapley values of a game: `value` of which groups are shown, shape (C, G), to the median of each step."""
    drawn = coalitions(groups, budget=budget)
    median_CH = np.asarray(value(drawn.shown_CG.astype(float)), dtype=np.float32).reshape(len(drawn.shown_CG), -1)
    copies = len(median_CH)
    forecast = Forecast(
        quantity="volume",
        unit="veh/h",
        sites=("R001",) * copies,
        origins=np.zeros(copies, dtype=np.int64),
        step_s=3600,
        levels=(0.5,),
        value_BHQ=median_CH[:, :, None],
        model="game",
    )
    return shapley_values(forecast, tuple(FeatureGroup(feature=str(index)) for index in range(groups)), drawn)


def exact(value: Callable[[Any], Any], groups: int) -> Any:
    """Shapley values by their definition, over all coalitions."""
    found = np.zeros(groups)
    for group in range(groups):
        others = [other for other in range(groups) if other != group]
        for size in range(groups):
            weight = math.factorial(size) * math.factorial(groups - size - 1) / math.factorial(groups)
            for chosen in itertools.combinations(others, size):
                shown = np.zeros((2, groups))
                shown[:, list(chosen)] = 1
                shown[1, group] = 1
                found[group] += weight * float(np.diff(np.asarray(value(shown)).ravel())[0])
    return found


@pytest.mark.parametrize("groups", [1, 2, 3, 5, 8])
def test_values_of_groups_that_interact_by_twos_are_exact(groups: int) -> None:
    rng = np.random.default_rng(groups)
    alone, together = rng.normal(size=groups), rng.normal(size=(groups, groups))

    def value(shown_CG: Any) -> Any:
        return shown_CG @ alone + np.einsum("cg,gk,ck->c", shown_CG, together, shown_CG)

    np.testing.assert_allclose(played(value, groups).value_GH[:, 0], exact(value, groups), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 3, 6, 8])
def test_values_sum_to_the_forecast_whatever_the_model(groups: int) -> None:
    rng = np.random.default_rng(groups)
    weights = rng.normal(size=(groups, 24))

    def value(shown_CG: Any) -> Any:
        return 100 * np.tanh(shown_CG @ weights) + np.prod(1 + shown_CG, axis=1, keepdims=True)

    values = played(value, groups)
    shown = value(np.ones((1, groups)))[0]
    np.testing.assert_allclose(values.hidden_H + values.value_GH.sum(axis=0), shown, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(values.hidden_H, value(np.zeros((1, groups)))[0], rtol=1e-6)


def test_a_group_without_effect_has_no_value_and_equal_groups_have_equal_ones() -> None:
    values = played(lambda shown_CG: shown_CG[:, 0] * 4 + shown_CG[:, 1] * 4, 3).value_GH[:, 0]
    np.testing.assert_allclose(values, [4, 4, 0], atol=1e-6)


@pytest.mark.parametrize("groups", range(1, 8))
def test_coalitions_stay_within_the_budget_and_are_the_same_each_time(groups: int) -> None:
    drawn = coalitions(groups)
    assert len(drawn.shown_CG) <= BUDGET_WINDOWS
    assert drawn.shown_CG[0].all()
    assert not drawn.shown_CG[1].any()
    assert len(np.unique(drawn.shown_CG, axis=0)) == len(drawn.shown_CG)
    # Each order comes with its reverse.
    np.testing.assert_array_equal(drawn.order_PG[::2], drawn.order_PG[1::2, ::-1])
    coalitions.cache_clear()
    np.testing.assert_array_equal(coalitions(groups).order_PG, drawn.order_PG)


@pytest.mark.parametrize(("name", "target"), TARGETS)
def test_every_input_is_in_one_of_at_most_seven_groups(name: str, target: Quantity) -> None:
    domain = DOMAINS[name]
    groups = feature_groups(domain, target)
    assert len({group.feature for group in groups}) == len(groups) <= 7
    rows = np.ones(1, dtype=bool)
    history = np.full((1, domain.history_steps, len(domain.history_channels)), -1, dtype=np.float32)
    future = np.full((1, domain.horizon_steps, len(domain.future_channels)), -1, dtype=np.float32)
    for group in groups:
        group.hide(history, future, rows)
    seen = {c for c, same in zip(domain.history_channels, (history == -1).any(axis=(0, 1)), strict=True) if same}
    ahead = {c for c, same in zip(domain.future_channels, (future == -1).any(axis=(0, 1)), strict=True) if same}
    assert seen == ahead == {"utc_offset_h", "day_number"}


def test_hiding_leaves_the_window_alone_and_the_first_copy_as_it_is(
    repository: FeatureRepository, now_s: float
) -> None:
    domain = DOMAINS["traffic"]
    window = repository.online_window("R001", origin_s=int(now_s) // 3600 * 3600)
    before = window.history_BLK.tobytes(), window.future_BHK.tobytes()
    groups = tuple(group for group in feature_groups(domain, domain.target) if group.is_in(window))
    drawn = coalitions(len(groups))
    copies = coalition_windows(window, groups, drawn)
    assert (window.history_BLK.tobytes(), window.future_BHK.tobytes()) == before
    assert copies.history_BLK[0].tobytes() == window.history_BLK[0].tobytes()
    measured = len(domain.measured_channels)
    assert np.isnan(copies.history_BLK[1, :, :measured]).all()
    assert len(copies) == len(drawn.shown_CG)
    # Of this town all groups are there; of one without weather and neighbours two are not.
    bare = Window(
        history_BLK=window.history_BLK.copy(),
        future_BHK=window.future_BHK,
        static_BS=window.static_BS,
        sites=window.sites,
        origins=window.origins,
    )
    bare.history_BLK[:, :, 1:measured] = np.nan
    assert [group.feature for group in feature_groups(domain, domain.target) if not group.is_in(bare)] == [
        "weather",
        "nearby_traffic",
    ]


def test_shares_are_of_the_mean_size_over_the_hours_asked_for() -> None:
    values = ShapleyValues(
        features=("up", "down", "late", "none"),
        value_GH=np.array([[2.0, 2.0], [-1.0, -1.0], [0.0, 9.0], [0.0, 0.0]]),
        hidden_H=np.array([10.0, 10.0]),
    )
    near = importances(values, steps=1)
    assert [(item.feature, item.importance) for item in near] == [
        ("up", pytest.approx(2 / 3)),
        ("down", pytest.approx(1 / 3)),
    ]
    whole = importances(values, steps=2)
    assert whole[0].feature == "late"
    assert sum(item.importance for item in whole) == pytest.approx(1.0)
    nothing = ShapleyValues(features=("up",), value_GH=np.zeros((1, 2)), hidden_H=np.ones(2))
    assert importances(nothing, steps=2) == ()


def test_the_explained_forecast_is_the_plain_one(make_service: Callable[..., ForecastService]) -> None:
    async def both() -> list[ForecastResult]:
        service = make_service()
        await service.start()
        place = Place(name="R001")
        found = [
            await service.forecast(Question(place=place, horizon="24h", explain=explain)) for explain in (False, True)
        ]
        await service.close()
        return found

    plain, explained = asyncio.run(both())
    np.testing.assert_array_equal(plain.forecast.value_BHQ, explained.forecast.value_BHQ)
    assert plain.explanation is None
    assert explained.explanation is not None
    # The graph adds last week's value (505 to 604 in place of 100 where hidden), the hour, and a tenth of the last one.
    sizes = {item.feature: item.importance for item in explained.explanation}
    assert list(sizes) == ["historical_traffic_168h", "historical_traffic_24h", "hour_of_day"]
    assert sum(sizes.values()) == pytest.approx(1.0)
