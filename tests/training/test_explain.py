"""Shapley values of each family: they add up, they name the right inputs, and they come back from a file."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xgboost
from torch import Tensor, nn

from features.domains import DOMAINS
from features.errors import ArtifactError
from features.vocabulary import Domain, Site, Window
from features.windows import make_windows, panel_from_blocks
from training.explain import (
    ATTRIBUTION_FILE,
    Attribution,
    Explainable,
    additive_shap,
    coalition_shap,
    explain_forecaster,
    gradient_shap,
    load_attribution,
    sum_by_name,
    tree_shap,
)
from training.forecaster import LEVELS
from training.models.additive import ProphetTable, Regressor
from training.models.additive_attribution import prophet_terms
from training.models.blended import BlendedForecaster
from training.models.blended_attribution import NOWCAST
from training.models.blended_attribution import attribute as attribute_blend
from training.models.blended_graph import BlendConfig, BlendGraph, blend_regressors
from training.models.boosted import BoostedForecaster
from training.models.boosted_attribution import BASE
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.models.neural import RecurrentConfig, ResidualRecurrent
from training.models.onnx_graph import window_tensors
from training.models.recurrent import RecurrentForecaster
from training.models.recurrent_attribution import attribute, feature_groups
from training.models.seasonal import SeasonalForecaster
from training.window_set import Splits, WindowSet

SIZES = RecurrentConfig(recent_steps=24, hidden=8, layers=1, hidden_second=8, head=8)


def untrained(domain: Domain, sizes: RecurrentConfig = SIZES) -> ResidualRecurrent:
    """A network with random weights, whose weather scaling lets all inputs through."""
    torch.manual_seed(3)
    network = ResidualRecurrent(domain, domain.target, LEVELS, sizes).eval()
    for gain in (network.weather_gain, network.static_gain):
        gain.fill_(0.1)
    return network


def some_window(domain: Domain, *, count: int = 6) -> Window:
    """Plausible windows without gaps."""
    rng = np.random.default_rng(1)
    history = rng.uniform(1.0, 20.0, (count, domain.history_steps, len(domain.history_channels)))
    future = rng.uniform(1.0, 20.0, (count, domain.horizon_steps, len(domain.future_channels)))
    for array, channels in ((history, domain.history_channels), (future, domain.future_channels)):
        for name, most in (("hour_of_day", 24), ("day_of_week", 7), ("day_of_year", 366), ("holiday_kind", 5)):
            array[:, :, channels.index(name)] = rng.integers(0, most, array.shape[:2])
        array[:, :, channels.index("utc_offset_h")] = 0.0
    return Window(
        history_BLK=history.astype(np.float32),
        future_BHK=future.astype(np.float32),
        static_BS=rng.uniform(1.0, 4.0, (count, len(domain.static_channels))).astype(np.float32),
        sites=("A",) * count,
        origins=np.arange(count, dtype=np.int64) * 3600,
    )


def test_shapley_values_of_trees_add_up_to_the_prediction() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5)).astype(np.float32)
    features[rng.random(features.shape) < 0.1] = np.nan
    target = 50 + 4 * np.nan_to_num(features[:, 2]) + np.nan_to_num(features[:, 0]) ** 2
    parameters = {"objective": "reg:quantileerror", "quantile_alpha": 0.5, "max_depth": 3, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(features, target), 40)
    values = tree_shap(booster, features)
    # XGBoost's own exact contributions are the oracle; their last column is the mean.
    expected = booster.predict(xgboost.DMatrix(features), pred_contribs=True)
    assert np.allclose(values, expected[:, :-1], atol=1e-3)
    assert np.allclose(values.sum(axis=1) + expected[:, -1], booster.predict(xgboost.DMatrix(features)), atol=1e-3)
    assert np.abs(values).mean(axis=0).argmax() == 2


class _Weighted(nn.Module):
    """Two numbers from two inputs, linear in both, so that Shapley values are known."""

    def forward(self, steps: Tensor, fixed: Tensor) -> Tensor:
        total = steps[:, :, 0].sum(dim=1) + 2 * fixed[:, 0]
        return torch.stack([total, -3 * steps[:, 0, 1]], dim=1)


def test_expected_gradients_of_a_linear_network_are_its_weights_times_the_distance_from_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    steps, fixed = torch.randn((5, 3, 2), generator=generator), torch.randn((5, 1), generator=generator)
    of_steps, of_fixed = gradient_shap(_Weighted(), [steps, fixed], rng=np.random.default_rng(0), samples=2000)
    assert of_steps.shape == (5, 3, 2, 2)
    assert of_fixed.shape == (5, 1, 2)
    away = (steps - steps.mean(dim=0)).numpy()
    assert np.allclose(of_steps[:, :, 0, 0], away[:, :, 0], atol=0.1)
    assert np.allclose(of_steps[:, 0, 1, 1], -3 * away[:, 0, 1], atol=0.3)
    assert np.allclose(of_fixed[:, 0, 0], 2 * (fixed - fixed.mean(dim=0)).numpy()[:, 0], atol=0.2)
    assert np.all(of_steps[:, :, 1, 0] == 0)


def test_explaining_leaves_the_global_generator_and_the_inputs_as_they_were() -> None:
    inputs = [torch.randn((4, 3, 2)), torch.randn((4, 1))]
    kept = [part.clone() for part in inputs]
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    gradient_shap(_Weighted(), inputs, rng=np.random.default_rng(0), samples=5)
    assert np.random.random() == expected
    assert all(torch.equal(part, before) for part, before in zip(inputs, kept, strict=True))
    assert not any(part.requires_grad for part in inputs)


def test_terms_of_a_sum_are_explained_by_their_distance_from_their_mean() -> None:
    names, values = additive_shap({"trend": [[1.0, 3.0], [0.0, 0.0]], "weekly": [[5.0, 5.0], [2.0, 8.0]]})
    assert names == ("trend", "weekly")
    assert values[:, :, 0].tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    assert values[:, :, 1].tolist() == [[0.0, 0.0], [-3.0, 3.0]]


def test_terms_of_a_prophet_are_its_trend_its_waves_and_its_regressors_and_nothing_is_left() -> None:
    regressors = [Regressor(name="temperature"), Regressor(name="holiday", mode="additive")]
    table = ProphetTable(2, {"daily": (1.0, 2), "weekly": (7.0, 1)}, regressors, changepoints=3)
    generator = torch.Generator().manual_seed(0)
    for name in ("size", "rate", "level", "sine", "cosine", "delta", "weight"):
        buffer = table.get_buffer(name)
        buffer.copy_(torch.rand(buffer.shape, generator=generator))
    table.low.fill_(-10.0)
    table.high.fill_(10.0)
    table.span.fill_(400.0)
    site = torch.tensor([0, 1, 1])
    day = torch.tensor([[5.0, 5.25], [40.0, 40.5], [300.0, 300.75]], dtype=torch.float64)
    columns = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[torch.nan, 1.0], [3.0, 1.0]], [[-4.0, 0.0], [0.0, 1.0]]])
    terms = prophet_terms(table, site, day, columns)
    assert list(terms) == ["trend", "daily", "weekly", "temperature", "holiday"]
    whole = table(site, day, columns)
    assert torch.allclose(torch.stack(list(terms.values())).sum(dim=0), whole, atol=1e-5)
    # What is added is the day's number times weight and size; the trend is what a table without waves says.
    expected = columns[:, :, 1] * table.weight[site][:, 1:] * table.size[site]
    assert torch.allclose(terms["holiday"], expected, atol=1e-5)
    time = (day / 400.0).float()
    trend = (table.rate[site] * time + table.level[site]) * table.size[site]
    assert torch.allclose(terms["trend"], trend, atol=1e-5)


def test_columns_of_one_name_are_joined() -> None:
    names, joined = sum_by_name(np.array([[1.0, 2.0, 4.0]]), ["a", "b", "a"])
    assert names == ("a", "b")
    assert joined.tolist() == [[5.0, 2.0]]


# What of a raw window is changed, and the only groups of features that may answer to it.
CHANGES = {
    "temperature": {"temperature"},
    "wind_speed": {"wind_speed"},
    "trips": {"recent trips", "seasonal profile"},
    "neighbour_1_trips": {"trips nearby"},
    "hour_of_day": {"hour of day"},
    "day_of_week": {"day of week"},
    "day_of_year": {"time of year"},
    "holiday": {"holiday"},
    "holiday_kind": {"holiday"},
}
AHEAD = {
    "temperature": {"temperature ahead"},
    "humidity": {"humidity ahead"},
    "hour_of_day": {"hour of day"},
    # The profile of Sundays lies as many days back as the weekday says.
    "day_of_week": {"day of week", "seasonal profile"},
    "day_of_year": {"time of year"},
    "holiday_tomorrow": {"holiday"},
}
TRAVEL = dataclasses.replace(DOMAINS["demand"], neighbour_count=2, static_names=("docks", "lanes"))


@pytest.fixture(scope="module", params=["plain", "with context"])
def travel(request: pytest.FixtureRequest) -> tuple[ResidualRecurrent, Window]:
    sizes = dataclasses.replace(SIZES, context=request.param == "with context")
    return untrained(TRAVEL, sizes), some_window(TRAVEL)


def changed_groups(network: ResidualRecurrent, before: Window, after: Window) -> set[str]:
    groups = set()
    with torch.inference_mode():
        features, others = (network.inputs(*window_tensors(window))[:2] for window in (before, after))
    for names, first, second in zip(feature_groups(network), features, others, strict=True):
        moved = (first - second).abs().amax(dim=(0, 1)) > 0
        groups |= {name for name, is_moved in zip(names, moved.tolist(), strict=True) if is_moved}
    return groups


@pytest.mark.parametrize("channel", CHANGES)
def test_a_channel_of_the_history_moves_the_features_of_its_own_group_alone(
    travel: tuple[ResidualRecurrent, Window], channel: str
) -> None:
    network, window = travel
    history = window.history_BLK.copy()
    values = history[:, -20:, TRAVEL.history_channels.index(channel)]
    values[:] = np.where(values > 2, values - 2, values + 2)
    moved = changed_groups(network, window, dataclasses.replace(window, history_BLK=history))
    # The weather ahead is seen against that of the last day.
    allowed = CHANGES[channel] | ({f"{channel} ahead"} if channel in TRAVEL.known_ahead else set())
    assert moved
    assert moved <= allowed


@pytest.mark.parametrize("channel", AHEAD)
def test_a_channel_ahead_moves_the_features_of_its_own_group_alone(
    travel: tuple[ResidualRecurrent, Window], channel: str
) -> None:
    network, window = travel
    future = window.future_BHK.copy()
    values = future[:, :, TRAVEL.future_channels.index(channel)]
    values[:] = np.where(values > 2, values - 2, values + 2)
    moved = changed_groups(network, window, dataclasses.replace(window, future_BHK=future))
    assert moved
    assert moved <= AHEAD[channel]


def test_a_gap_and_a_fixed_attribute_move_their_own_groups(travel: tuple[ResidualRecurrent, Window]) -> None:
    network, window = travel
    static = window.static_BS.copy()
    static[:, 2] += 1
    assert changed_groups(network, window, dataclasses.replace(window, static_BS=static)) == {"lanes"}
    history = window.history_BLK.copy()
    history[:, -3, 0] = np.nan
    assert "gaps in the readings" in changed_groups(network, window, dataclasses.replace(window, history_BLK=history))


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("name", DOMAINS)
def test_every_feature_of_the_network_has_a_name_in_every_domain(name: str, context: bool) -> None:
    domain = DOMAINS[name]
    network = untrained(domain, dataclasses.replace(SIZES, context=context))
    with torch.inference_mode():
        past, ahead, _, _ = network.inputs(*window_tensors(some_window(domain, count=2)))
    assert (past.shape[2], ahead.shape[2]) == tuple(len(names) for names in feature_groups(network))


def test_shares_of_a_recurrent_network_add_up_to_its_correction(travel: tuple[ResidualRecurrent, Window]) -> None:
    network, _ = travel
    windows = some_window(TRAVEL, count=12)
    found = attribute(network, windows, rng=np.random.default_rng(0))
    assert found.horizons == tuple(TRAVEL.horizons)
    with torch.inference_mode():
        ratio, profile, scale = network.log_ratios(*window_tensors(windows))
        median = network.to_units(ratio, profile, scale)[:, :, network.levels.index(0.5)]
        correction = (median - profile)[:, [steps - 1 for steps in TRAVEL.horizons.values()]].T.numpy()
    away = correction - correction.mean(axis=1, keepdims=True)
    assert np.corrcoef(found.value_NBF.sum(axis=2).ravel(), away.ravel())[0, 1] > 0.95


def test_shares_of_boosted_trees_and_of_their_base_add_up_to_the_forecast(town: Domain, town_splits: Splits) -> None:
    booster = BoosterConfig(trees=20, max_depth=3, min_child_weight=5.0)
    config = BoostedConfig(plain=VariantConfig(level=booster, ratio=booster), origin_stride=6, refit=False)
    forecaster = BoostedForecaster(town, config=config)
    forecaster.fit(town_splits, seed=0)
    windows = town_splits.test.windows(np.arange(0, 300, 10))
    found = forecaster.explain(windows, rng=np.random.default_rng(0))
    assert found.features == (*forecaster.feature_names, BASE)
    median = forecaster.predict(windows).at_level(0.5)[:, [1, 5]].T.astype(np.float64)
    total = found.value_NBF.sum(axis=2, dtype=np.float64)
    distance = total - median
    assert np.allclose(distance, distance.mean(axis=1, keepdims=True), atol=1e-3 * np.abs(median).max())
    assert np.abs(found.value_NBF[:, :, :-1]).sum() > 0


def test_groups_of_inputs_share_out_exactly_what_is_explained() -> None:
    # Three numbers of each row: the first alone, and the product of the other two, which they share evenly.
    table = np.random.default_rng(0).normal(size=(7, 3))
    table[:, 1:] += 3.0

    def evaluate(coalition: Sequence[bool], other: np.ndarray) -> np.ndarray:
        mixed = np.where(np.array(coalition), table, table[other])
        return (mixed[:, 0] + mixed[:, 1] * mixed[:, 2])[None]

    nobody, values = coalition_shap(evaluate, groups=3, rows=7, rng=np.random.default_rng(0), backgrounds=500)
    explained = table[:, 0] + table[:, 1] * table[:, 2]
    assert np.allclose(nobody[0] + values[0].sum(axis=1), explained, atol=1e-5)
    assert np.allclose(values[0, :, 0], table[:, 0] - table[:, 0].mean(), atol=0.2)
    first, second = table[:, 1], table[:, 2]
    half = (first - first.mean()) * second.mean() / 2 + (first * second - (first * second).mean()) / 2
    half -= (second - second.mean()) * first.mean() / 2
    assert np.corrcoef(values[0, :, 1], half)[0, 1] > 0.98


@pytest.fixture(scope="module")
def blend() -> BlendGraph:
    """A blend with random weights for two sites, one of which the windows are of."""
    water = DOMAINS["water"]
    torch.manual_seed(2)
    graph = BlendGraph(water, water.target, LEVELS, BlendConfig(prophet_weight=0.3), sites=2).eval()
    # Networks begin as 0: they learn a residual.
    for parameter in graph.networks.parameters():
        nn.init.normal_(parameter, std=0.05)
    graph.prophet = ProphetTable(2, {"daily": (1.0, 2)}, blend_regressors(water), changepoints=2)
    for name in ("size", "level", "sine", "cosine", "weight"):
        graph.prophet.get_buffer(name).uniform_(0.1, 0.5)
    graph.prophet.low.fill_(-10.0)
    graph.prophet.high.fill_(30.0)
    graph.prophet.span.fill_(9000.0)
    graph.site_code.copy_(torch.tensor([5.0, 6.0]))
    return graph


def test_shares_of_the_blend_are_the_whole_forecast_and_none_is_left_for_the_nowcast(blend: BlendGraph) -> None:
    water = DOMAINS["water"]
    # With a clock that runs, which days are counted by; two sites of eight are fitted.
    sites = [Site(name=name, timezone="Europe/Rome", country="IT") for name in "ABCDEFGH"]
    blocks = np.random.default_rng(0).uniform(5, 30, (len(sites), water.history_steps, len(water.inputs)))
    panel = panel_from_blocks(water, sites, blocks.astype(np.float32), origin_s=1_700_000_000 // 3600 * 3600)
    window = make_windows(panel, range(len(sites)), [panel.first_origin] * len(sites))
    window.static_BS[:6, 0] = [5, 6, 6, 5, 5, 6]
    found = attribute_blend(blend, window, unit="L/s", rng=np.random.default_rng(0))
    assert {"seasonal profile", "Prophet: trend", "Prophet: holiday", "networks: weather"} <= set(found.features)
    with torch.inference_mode():
        median = blend.corrected(blend.from_midnight(*window_tensors(window)))[:, [23, 71, 167]].T.numpy()
    distance = found.value_NBF.sum(axis=2, dtype=np.float64) - median
    assert np.allclose(distance, distance.mean(axis=1, keepdims=True), atol=1e-3 * np.abs(median).max())
    # Its weights are 0: whatever it got would be an error of the other terms.
    assert np.allclose(found.value_NBF[:, :, found.features.index(NOWCAST)], 0, atol=1e-3 * np.abs(median).max())
    assert np.abs(found.value_NBF[:, :, found.features.index("networks: recent days")]).max() > 0


def test_the_seasonal_profile_has_one_term_that_is_all_of_it(town: Domain, held_out: WindowSet) -> None:
    found = explain_forecaster(SeasonalForecaster(town), held_out, rng=np.random.default_rng(0), count=20)
    assert found is not None
    assert found.features == ("seasonal profile",)
    assert found.horizons == ("2h", "6h")
    assert found.value_NBF.shape == (2, 20, 1)
    assert np.allclose(found.value_NBF.mean(axis=1), 0, atol=1e-2)
    again = explain_forecaster(SeasonalForecaster(town), held_out, rng=np.random.default_rng(0), count=20)
    assert again is not None
    assert np.array_equal(again.value_NBF, found.value_NBF)


def test_every_family_here_explains_itself(town: Domain) -> None:
    makers: list[Callable[..., object]] = [
        SeasonalForecaster,
        RecurrentForecaster,
        BoostedForecaster,
        BlendedForecaster,
    ]
    assert all(isinstance(make(town), Explainable) for make in makers)


def test_a_family_that_does_not_explain_itself_has_no_attribution(held_out: WindowSet) -> None:
    assert explain_forecaster(object(), held_out, rng=np.random.default_rng(0)) is None


def test_an_attribution_comes_back_from_its_file_to_four_digits(tmp_path: Path) -> None:
    made = Attribution(
        explains="the median forecast",
        method="a test",
        unit="veh/h",
        features=("a", "b"),
        horizons=("2h",),
        value_NBF=np.array([[[1.23456, -2.0], [0.0, 7e-9]]], dtype=np.float32),
        level_BF=np.array([[1.0, np.nan], [2.0, np.nan]], dtype=np.float32),
    )
    found = load_attribution(made.save(tmp_path / ATTRIBUTION_FILE))
    assert (found.explains, found.method, found.unit) == (made.explains, made.method, made.unit)
    assert (found.features, found.horizons) == (made.features, made.horizons)
    assert np.allclose(found.value_NBF, made.value_NBF, rtol=1e-3)
    assert np.array_equal(found.level_BF, made.level_BF, equal_nan=True)
    assert found.importance_NF() == pytest.approx(np.array([[0.61728, 1.0]]), rel=1e-3)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"value_NBF": [[[1]]]}', "null"])
def test_a_damaged_attribution_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / ATTRIBUTION_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ArtifactError, match="The attribution cannot be read"):
        load_attribution(tmp_path / ATTRIBUTION_FILE)
