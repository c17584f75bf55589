"""A real boosted model through serving: fitted and exported by training, after which only its artifact is known."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from features.windows import build_panel
from serving.artifacts import Artifact, open_artifact
from serving.explanation import BUDGET_WINDOWS, coalitions, feature_groups
from serving.places import Place
from serving.service import ForecastResult, ForecastService, Question
from training.families import Workplace, make_forecaster
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.recipes import Recipe
from training.train import export_with_card, judge_forecaster
from training.window_set import Splits, split_windows

POLLUTION = DOMAINS["pollution"]


def made_up_splits() -> Splits:
    """Half a year of one station: PM2.5 follows the hour, and the temperature of the same hour."""
    rng = np.random.default_rng(2)
    moments = pd.date_range("2025-06-01", periods=24 * 168, freq="h", tz="UTC")
    warm = 15 + 8 * rng.standard_normal(len(moments)).cumsum() / np.sqrt(np.arange(1, len(moments) + 1))
    dust = 60 + 2 * moments.hour.to_numpy(float) + 2 * (warm - 15) + rng.normal(0, 2, len(moments))
    values = {"pm2_5": np.maximum(dust, 1), "pm10": np.maximum(dust, 1) * 2, "temperature": np.clip(warm, -20, 45)}
    values |= {name: rng.uniform(1, 5, len(moments)) for name in ("wind_speed", "rainfall", "dew_point")}
    readings = join_readings(
        [
            make_readings(site="P001", quantity=name, valid_at=moments, value=value, source="sensor:test")
            for name, value in values.items()
        ]
    )
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    site = Site(name="P001", timezone="Asia/Kolkata", country="IN")
    return split_windows(build_panel(POLLUTION, [site], readings, first_origin_s=first_s, last_origin_s=last_s))


@pytest.fixture(scope="module")
def boosted(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Trees for windows with and without the weather ahead."""
    splits, folder = made_up_splits(), tmp_path_factory.mktemp("boosted")
    trees = VariantConfig(
        level=BoosterConfig(trees=20, min_child_weight=20.0, learning_rate=0.2, reg_lambda=1.0, subsample=0.9),
        ratio=None,
    )
    config = BoostedConfig(plain=trees, ahead=trees, origin_stride=12)
    recipe = Recipe(name="tiny", family="boosted", config=config)
    forecaster = make_forecaster(POLLUTION, recipe, Workplace(accelerator="cpu"))
    forecaster.fit(replace(splits, train=splits.train.seen("observed")), seed=0)
    judgement = judge_forecaster(forecaster, splits.test.subset(np.arange(0, len(splits.test), 50)))
    export_with_card(forecaster, splits, judgement, folder, speeds={}, trained={})
    return open_artifact(folder, version="1")


@pytest.fixture(scope="module")
def air(make_town: Callable[..., FeatureRepository]) -> FeatureRepository:
    """P001 has weather for two days ahead; P003 has nothing but PM2.5 of every third hour."""
    weather = ("temperature", "wind_speed", "rainfall", "dew_point")
    values: dict[tuple[str, str], Callable[[pd.DatetimeIndex], Any]] = {
        ("P001", "pm2_5"): lambda moments: 60.0 + 2 * moments.hour.to_numpy(float),
        ("P003", "pm2_5"): lambda moments: np.where(moments.hour % 3 == 0, 60.0 + moments.hour, np.nan),
    }
    values |= {("P001", name): lambda moments: 3.0 + moments.hour.to_numpy(float) / 12 for name in weather}
    sites = [Site(name=name, timezone="Asia/Kolkata", country="IN") for name in ("P001", "P003")]
    return make_town("pollution", sites, values, hours_ahead=dict.fromkeys(weather, 48))


def test_a_boosted_model_is_served_and_explained(
    boosted: Artifact,
    air: FeatureRepository,
    service_of: Callable[..., ForecastService],
) -> None:
    async def ask() -> list[ForecastResult]:
        service = service_of(boosted, air)
        await service.start()
        found = [
            await service.forecast(Question(place=Place(name=name), horizon="12h", explain=explain))
            for name, explain in (("P001", False), ("P001", True), ("P003", True))
        ]
        await service.close()
        return found

    plain, explained, hollow = asyncio.run(ask())
    assert plain.forecast.model == "pollution-boosted-v1"
    np.testing.assert_allclose(explained.forecast.value_BHQ, plain.forecast.value_BHQ, rtol=1e-5)
    assert plain.quality.weather_ahead == "known"
    for result in (explained, hollow):
        assert np.isfinite(result.forecast.value_BHQ).all()
        assert (np.diff(result.forecast.value_BHQ, axis=2) >= 0).all()
        assert result.explanation is not None
        assert 0 < sum(item.importance for item in result.explanation) <= 1 + 1e-6
    # P001 has weather ahead, and the model was made to need it; P003 has none, and hiding none changes nothing.
    assert explained.explanation is not None
    assert "weather" in {item.feature for item in explained.explanation}
    assert hollow.explanation is not None
    assert "weather" not in {item.feature for item in hollow.explanation}
    assert {"missing", "weather_missing", "unseen_site", "missing_inputs"} <= set(hollow.quality.lowered_by)


def test_the_domain_with_most_inputs_keeps_to_the_budget() -> None:
    groups = feature_groups(POLLUTION, POLLUTION.target)
    assert [group.feature for group in groups] == [
        "historical_pm2_5_24h",
        "historical_pm2_5_168h",
        "hour_of_day",
        "calendar_date",
        "weather",
        "other_pollution",
        "nearby_pollution",
    ]
    assert len(coalitions(len(groups)).shown_CG) == BUDGET_WINDOWS
