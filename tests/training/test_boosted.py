"""Boosted trees as a forecaster: what they learn, which variant answers, and what is kept of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from features.domains.weather import DEW_POINT, TEMPERATURE, WIND_DIRECTION, WIND_SPEED
from features.errors import ArtifactError, NotEnoughDataError
from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Quantity, Site, Window
from features.windows import build_panel
from training.evaluate import judge_horizons
from training.forecaster import predict_set
from training.models.boosted import BoostedForecaster
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.models.seasonal import SeasonalForecaster
from training.window_set import Splits, split_windows


def concentration(name: str) -> Quantity:
    return Quantity(name=name, unit="ug/m3", aggregation="mean", lower=0.0, upper=2_000.0)


AIR = Domain(
    name="air",
    entity="station",
    targets=(concentration("dust"), concentration("coarse")),
    covariates=(concentration("gas"), TEMPERATURE, DEW_POINT, WIND_SPEED, WIND_DIRECTION),
    known_ahead=("temperature", "dew_point", "wind_speed", "wind_direction"),
    history_steps=336,
    horizon_steps=12,
    horizons={"3h": 3, "12h": 12},
    neighbour_count=1,
)
SHALLOW = BoosterConfig(
    trees=40, max_depth=4, min_child_weight=10.0, reg_lambda=5.0, learning_rate=0.15, colsample_bytree=0.5
)
SMALL = BoostedConfig(
    plain=VariantConfig(ratio=SHALLOW, level=SHALLOW, fade_steps=24.0),
    ahead=VariantConfig(ratio=SHALLOW, level=SHALLOW, fade_steps=12.0),
    origin_stride=4,
)
BRIEF = dataclasses.replace(
    SMALL,
    plain=VariantConfig(ratio=BoosterConfig(trees=5), level=BoosterConfig(trees=5)),
    ahead=VariantConfig(ratio=BoosterConfig(trees=5), level=BoosterConfig(trees=5)),
    origin_stride=12,
)
SITES = [Site(name="A", timezone="Asia/Kolkata", neighbours=("B",)), Site(name="B", timezone="US/Central")]


def air_readings(*, weeks: int = 24, without: tuple[str, ...] = ()) -> pd.DataFrame:
    """Dust that gathers for days and is blown away by wind from the north: who knows the wind knows the dust."""
    rng = np.random.default_rng(3)
    hours = weeks * 168
    moments = pd.date_range("2024-01-01", periods=hours, freq="h", tz="UTC")
    northward, log_dust = np.zeros(hours), np.zeros(hours)
    for hour in range(1, hours):
        northward[hour] = 0.93 * northward[hour - 1] + rng.normal()
        log_dust[hour] = 0.97 * log_dust[hour - 1] + 0.05 - 0.08 * max(-northward[hour], 0.0) + 0.05 * rng.normal()
    eastward = rng.normal(size=hours)
    parts = []
    for site in ("A", "B"):
        dust = 60 * np.exp(log_dust + 0.05 * rng.normal(size=hours) + 0.2 * np.sin(moments.hour / 24 * 2 * np.pi))
        values = {
            "dust": dust,
            "coarse": 1.5 * dust,
            "gas": 20 + 0.1 * dust,
            "temperature": 15 + 8 * np.sin(moments.hour / 24 * 2 * np.pi),
            "dew_point": np.full(hours, 5.0),
            "wind_speed": np.hypot(northward, eastward),
            "wind_direction": np.degrees(np.arctan2(-eastward, -northward)) % 360,
        }
        for name, value in values.items():
            if name not in without:
                known = np.where(rng.random(hours) < 0.02, np.nan, value)
                parts.append(
                    make_readings(site=site, quantity=name, valid_at=moments, value=known, source="sensor:test")
                )
    return join_readings(parts)


def air(domain: Domain = AIR, *, target: Quantity | None = None, without: tuple[str, ...] = ()) -> Splits:
    readings = air_readings(without=without)
    first_s, last_s = (int(moment.timestamp()) for moment in (readings["valid_at"].min(), readings["valid_at"].max()))
    panel = build_panel(domain, SITES, readings, first_origin_s=first_s, last_origin_s=last_s)
    return split_windows(panel, target=target)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return air()


@pytest.fixture(scope="module")
def fitted(splits: Splits) -> BoostedForecaster:
    forecaster = BoostedForecaster(AIR, config=SMALL)
    forecaster.fit(splits, seed=1)
    return forecaster


def quantiles(forecaster: BoostedForecaster, windows: Window) -> np.ndarray:
    return forecaster.predict(windows).value_BHQ


def with_weather(windows: Window, known: Callable[[np.ndarray], np.ndarray]) -> Window:
    """Windows whose weather ahead is known at the steps, counted from 1, that `known` says."""
    future = windows.future_BHK.copy()
    hidden = ~known(np.arange(1, AIR.horizon_steps + 1))
    future[:, hidden, -len(AIR.known_ahead) :] = np.nan
    return dataclasses.replace(windows, future_BHK=future)


def test_it_learns_what_the_seasonal_profile_does_not_know_and_more_with_the_weather_ahead(
    splits: Splits, fitted: BoostedForecaster
) -> None:
    levels, target = fitted.levels, splits.test.targets()
    naive = predict_set(SeasonalForecaster(AIR), splits.test)[:, :, levels.index(0.5)]
    figures = {
        ahead: judge_horizons(AIR, predict_set(fitted, splits.test.seen(ahead)), target, naive, levels=levels)
        for ahead in ("known", "observed")
    }
    assert figures["known"]["3h"]["skill"] > 0.4
    assert figures["known"]["3h"]["rmse"] < figures["known"]["12h"]["rmse"]
    assert figures["observed"]["12h"]["rmse"] < 0.8 * figures["known"]["12h"]["rmse"]
    assert figures["observed"]["12h"]["width_90"] < figures["known"]["12h"]["width_90"]
    for variant in figures.values():
        assert 0.8 < variant["mean"]["coverage_90"] < 0.97


@pytest.mark.parametrize("ahead", ["known", "observed"])
def test_intervals_hold_on_the_validation_weeks_near_and_far(
    splits: Splits, fitted: BoostedForecaster, ahead: str
) -> None:
    windows = splits.validation.seen(ahead)
    values, target = predict_set(fitted, windows), windows.targets()
    low, high = (fitted.levels.index(level) for level in (0.05, 0.95))
    for span in (slice(0, 3), slice(3, 8), slice(8, 12)):
        inside = (target[:, span] >= values[:, span, low]) & (target[:, span] <= values[:, span, high])
        assert np.mean(inside[np.isfinite(target[:, span])]) == pytest.approx(0.9, abs=0.05)


def test_the_middle_level_is_a_mean_that_squared_errors_ask_for(splits: Splits, fitted: BoostedForecaster) -> None:
    windows = splits.train.subset(np.arange(0, len(splits.train), 5))
    values, target = predict_set(fitted, windows), windows.targets()
    known = np.isfinite(target)
    middle = values[:, :, fitted.levels.index(0.5)][known]
    assert middle.mean() == pytest.approx(target[known].mean(), rel=0.03)
    # Errors are skewed: fewer than half of the readings lie above their mean.
    assert np.mean(target[known] > middle) < 0.5


def test_the_same_seed_gives_the_same_trees_and_another_seed_others(splits: Splits) -> None:
    windows = splits.test.seen("observed").windows(np.arange(4))
    found = []
    for seed in (1, 1, 2):
        forecaster = BoostedForecaster(AIR, config=BRIEF)
        forecaster.fit(splits, seed=seed)
        found.append(quantiles(forecaster, windows))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_each_step_goes_by_the_weather_where_enough_of_the_way_to_it_is_known(
    splits: Splits, fitted: BoostedForecaster
) -> None:
    whole = splits.test.seen("observed").windows(np.arange(0, 200, 20))
    seeing = quantiles(fitted, with_weather(whole, lambda step: step > 0))
    blind = quantiles(fitted, with_weather(whole, lambda step: step < 0))
    assert not np.array_equal(seeing, blind)

    half = quantiles(fitted, with_weather(whole, lambda step: step <= 6))
    assert np.array_equal(half[:, :6], seeing[:, :6])
    assert np.array_equal(half[:, 6:], blind[:, 6:])

    # Of the way to step 8 and on, less than half is known; of the way to step 12, half.
    late = quantiles(fitted, with_weather(whole, lambda step: step > 6))
    assert np.array_equal(late[:, :11], blind[:, :11])
    assert not np.array_equal(late[:, 11], blind[:, 11])


def test_a_missing_quantity_of_the_weather_ahead_does_not_hide_the_others(
    splits: Splits, fitted: BoostedForecaster
) -> None:
    whole = splits.test.seen("observed").windows(np.arange(0, 200, 20))
    future = whole.future_BHK.copy()
    future[:, :, AIR.future_channels.index("dew_point")] = np.nan
    found = quantiles(fitted, dataclasses.replace(whole, future_BHK=future))
    blind = quantiles(fitted, with_weather(whole, lambda step: step < 0))
    assert np.isfinite(found).all()
    assert (found != blind).any(axis=(0, 2)).all()


@pytest.mark.parametrize("missing", ["gas", "dew_point", "wind_direction"])
def test_a_quantity_that_was_never_measured_is_no_hindrance(missing: str) -> None:
    parts = air(without=(missing,))
    forecaster = BoostedForecaster(AIR, config=BRIEF)
    forecaster.fit(parts, seed=0)
    for ahead in ("known", "observed"):
        assert np.isfinite(quantiles(forecaster, parts.test.seen(ahead).windows(np.arange(8)))).all()


def test_a_domain_without_weather_ahead_has_one_variant() -> None:
    domain = dataclasses.replace(AIR, known_ahead=())
    forecaster = BoostedForecaster(domain, config=BRIEF)
    parts = air(domain)
    forecaster.fit(parts, seed=0)
    assert set(forecaster.boosters) == {"plain_ratio", "plain_level"}
    assert not any(name.startswith("ahead") for name in forecaster.feature_names)
    assert np.isfinite(quantiles(forecaster, parts.test.windows(np.arange(4)))).all()


def test_training_windows_without_weather_ahead_fit_one_variant() -> None:
    weather = ("temperature", "dew_point", "wind_speed", "wind_direction")
    forecaster = BoostedForecaster(AIR, config=BRIEF)
    parts = air(without=weather)
    forecaster.fit(parts, seed=0)
    assert set(forecaster.boosters) == {"plain_ratio", "plain_level"}
    # Weather that somebody sends all the same changes nothing.
    windows = parts.test.windows(np.arange(4))
    future = windows.future_BHK.copy()
    future[:, :, -len(weather) :] = 3.0
    sent = dataclasses.replace(windows, future_BHK=future)
    assert np.array_equal(quantiles(forecaster, sent), quantiles(forecaster, windows))


def test_each_target_has_a_forecaster_of_its_own(splits: Splits, fitted: BoostedForecaster) -> None:
    coarse = AIR.targets[1]
    parts = air(target=coarse)
    forecaster = BoostedForecaster(AIR, target=coarse, config=SMALL)
    forecaster.fit(parts, seed=1)
    middle = forecaster.levels.index(0.5)
    windows = splits.test.windows(np.arange(0, 300, 30))
    forecast = forecaster.predict(windows)
    assert forecast.quantity == "coarse"
    ratio = forecast.value_BHQ[:, :, middle] / quantiles(fitted, windows)[:, :, middle]
    assert float(np.median(ratio)) == pytest.approx(1.5, abs=0.15)


def test_features_have_names_and_boosters_see_the_first_of_them(splits: Splits, fitted: BoostedForecaster) -> None:
    windows = splits.test.seen("observed").windows(np.arange(5))
    table = fitted.features(windows)
    assert table.shape == (5, AIR.horizon_steps, len(fitted.feature_names))
    assert len(set(fitted.feature_names)) == len(fitted.feature_names)
    for name, booster in fitted.boosters.items():
        assert booster.num_features() == fitted.columns_of(name)
    plain = fitted.feature_names[: fitted.columns_of("plain_level")]
    assert not any(name.startswith("ahead_") for name in plain)
    assert all(name.startswith("ahead_") for name in fitted.feature_names[len(plain) :])


def test_a_refit_takes_in_the_validation_weeks_and_keeps_the_intervals(splits: Splits) -> None:
    once, twice = (BoostedForecaster(AIR, config=dataclasses.replace(BRIEF, refit=refit)) for refit in (False, True))
    for forecaster in (once, twice):
        forecaster.fit(splits, seed=0)
    assert once.boosters["plain_level"].save_raw() != twice.boosters["plain_level"].save_raw()
    windows = splits.test.windows(np.arange(4))
    middle = once.levels.index(0.5)
    spreads = [quantiles(one, windows)[:, :, -1] / quantiles(one, windows)[:, :, middle] for one in (once, twice)]
    np.testing.assert_allclose(spreads[0], spreads[1], rtol=0.2)


def test_a_booster_alone_says_the_level(splits: Splits) -> None:
    alone = VariantConfig(level=SHALLOW, ratio=None)
    config = dataclasses.replace(SMALL, plain=alone, ahead=None)
    forecaster = BoostedForecaster(AIR, config=config)
    forecaster.fit(splits, seed=0)
    assert set(forecaster.boosters) == {"plain_level"}
    windows = splits.test.windows(np.arange(6))
    rows = forecaster.features(windows)[:, :, : forecaster.columns_of("plain_level")]
    said = forecaster.boosters["plain_level"].inplace_predict(rows.reshape(-1, rows.shape[2])).reshape(rows.shape[:2])
    middle = forecaster.levels.index(0.5)
    np.testing.assert_allclose(quantiles(forecaster, windows)[:, :, middle], said, rtol=1e-5)


def test_a_training_without_any_origin_is_refused(splits: Splits) -> None:
    forecaster = BoostedForecaster(AIR, config=dataclasses.replace(BRIEF, origin_stride=10**6))
    with pytest.raises(NotEnoughDataError, match="no reading of dust to learn from"):
        forecaster.fit(splits, seed=0)


def test_a_saved_forecaster_comes_back_whole(splits: Splits, fitted: BoostedForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path / "new" / "folder")
    restored = BoostedForecaster(AIR)
    restored.load(tmp_path / "new" / "folder")
    assert restored.config == fitted.config
    assert restored.levels == fitted.levels
    assert restored.feature_names == fitted.feature_names
    for ahead in ("known", "observed"):
        windows = splits.test.seen(ahead).windows(np.arange(16))
        assert np.array_equal(quantiles(restored, windows), quantiles(fitted, windows))


@pytest.mark.parametrize("damage", ["cut off", "empty", "something else", "missing", "other content", "no trees"])
def test_a_damaged_forecaster_is_refused(fitted: BoostedForecaster, tmp_path: Path, damage: str) -> None:
    fitted.save(tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    damaged = {"cut off": content[: len(content) // 2], "empty": b"", "something else": b"no trees"}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    elif damage == "missing":
        path.unlink()
    elif damage == "other content":
        torch.save({"config": {}}, path)
    else:
        saved = torch.load(path, weights_only=True)
        saved["boosters"]["plain_level"] = saved["boosters"]["plain_level"][:100].clone()
        torch.save(saved, path)
    restored = BoostedForecaster(AIR)
    with pytest.raises(ArtifactError, match="The weights cannot be read"):
        restored.load(tmp_path)
    assert restored.boosters == {}


def test_a_forecaster_of_another_domain_is_refused(fitted: BoostedForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    for other in ({"horizon_steps": 6}, {"neighbour_count": 0}, {"known_ahead": ()}):
        with pytest.raises(ArtifactError):
            BoostedForecaster(dataclasses.replace(AIR, **other)).load(tmp_path)


def test_windows_without_anything_in_them_are_forecast_all_the_same(fitted: BoostedForecaster, splits: Splits) -> None:
    windows = splits.test.windows(np.arange(3))
    empty = dataclasses.replace(
        windows,
        history_BLK=np.full_like(windows.history_BLK, np.nan),
        future_BHK=np.full_like(windows.future_BHK, np.nan),
    )
    assert np.isfinite(quantiles(fitted, empty)).all()
