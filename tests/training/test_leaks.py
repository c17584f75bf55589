"""The two leaks that make an air forecast look good: same-hour inputs, and a random split. Both would be seen here.

The air below is a random walk: who knows the past well forecasts little of the next day. A forecaster that does has
seen the answer.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.domains.weather import TEMPERATURE, WEATHER
from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Quantity, Site
from features.windows import Panel, build_panel
from training.folds import cross_validation
from training.forecaster import predict_set
from training.models.boosted import BoostedForecaster
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.window_set import Splits, WindowSet, split_windows

DUST = Quantity(name="dust", unit="ug/m3", aggregation="mean", lower=0.0, upper=2_000.0)
AIR = Domain(
    name="air",
    entity="station",
    targets=(DUST,),
    covariates=(TEMPERATURE,),
    history_steps=336,
    horizon_steps=24,
    horizons={"24h": 24},
)
DEEP = BoosterConfig(
    trees=150,
    max_depth=10,
    min_child_weight=1.0,
    reg_lambda=1.0,
    learning_rate=0.1,
    subsample=1.0,
    colsample_bytree=1.0,
)
VARIANT = VariantConfig(level=DEEP, ratio=None)
CONFIG = BoostedConfig(plain=VARIANT, ahead=VARIANT, origin_stride=1, steps_per_origin=1)


def panel_of_air(domain: Domain) -> Panel:
    rng = np.random.default_rng(0)
    moments = pd.date_range("2024-01-01", periods=40 * 168, freq="h", tz="UTC")
    # It returns to its mean within days: chance, without a rhythm.
    walk = np.zeros(len(moments))
    for hour in range(1, len(moments)):
        walk[hour] = 0.97 * walk[hour - 1] + rng.normal()
    dust = 60 * np.exp(0.12 * walk)
    parts = [
        make_readings(site="A", quantity=name, valid_at=moments, value=value, source="sensor:test")
        for name, value in (("dust", dust), ("temperature", dust / 10))
    ]
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    return build_panel(domain, [Site(name="A")], join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)


def r2_a_day_ahead(splits: Splits, *, observed: bool = False) -> float:
    forecaster = BoostedForecaster(splits.train.panel.domain, config=CONFIG)
    forecaster.fit(splits, seed=0)
    test = splits.test.seen("observed") if observed else splits.test
    forecast = predict_set(forecaster, test)[:, -1, forecaster.levels.index(0.5)]
    target = test.targets()[:, -1]
    measured = np.isfinite(target)
    return 1 - float(np.mean((target - forecast)[measured] ** 2) / np.var(target[measured]))


def test_an_honest_forecast_of_chance_is_poor() -> None:
    # 0.97 to the 24th power, squared, is the share of the variance that the past explains: a quarter.
    assert r2_a_day_ahead(split_windows(panel_of_air(AIR))) < 0.4


def test_same_hour_inputs_would_be_seen() -> None:
    # This "temperature" is the dust in disguise.
    leaky = dataclasses.replace(AIR, known_ahead=("temperature",))
    assert r2_a_day_ahead(split_windows(panel_of_air(leaky)), observed=True) > 0.8


def test_a_random_split_would_be_seen() -> None:
    splits = split_windows(panel_of_air(AIR))
    rng = np.random.default_rng(0)
    every = np.concatenate([splits.train.origin_B, splits.validation.origin_B, splits.test.origin_B])
    shuffled = rng.permutation(every)
    cuts = np.split(shuffled, [int(0.7 * len(every)), int(0.8 * len(every))])
    parts = [
        dataclasses.replace(splits.train, origin_B=np.sort(cut), site_index_B=np.zeros(len(cut), dtype=np.int64))
        for cut in cuts
    ]
    assert r2_a_day_ahead(Splits(train=parts[0], validation=parts[1], test=parts[2])) > 0.55


@pytest.mark.parametrize("name", list(DOMAINS))
def test_no_domain_gives_what_it_forecasts_or_another_concentration_ahead(name: str) -> None:
    assert set(DOMAINS[name].known_ahead) <= {quantity.name for quantity in WEATHER}


def target_hours(windows: WindowSet) -> set[int]:
    steps = np.arange(1, windows.panel.domain.horizon_steps + 1)
    return set((windows.origin_B[:, None] + steps).reshape(-1).tolist())


def test_what_is_judged_lies_after_all_that_was_learnt_from(tmp_path: Path) -> None:
    panel = panel_of_air(AIR)
    splits = split_windows(panel)
    for part in (splits, *cross_validation(panel)):
        judged = target_hours(part.test)
        for learnt in (part.train, part.validation):
            assert not target_hours(learnt) & judged
    learnt = target_hours(splits.train) | target_hours(splits.validation)
    assert max(learnt) < min(target_hours(splits.test))
