"""The blend of day networks and Prophet: what it learns, how it behaves within a day, and what is kept of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from features.domains import DOMAINS
from features.errors import ArtifactError, NotEnoughDataError
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from features.windows import Panel, build_panel
from training.evaluate import judge_horizons
from training.forecaster import predict_set
from training.models.additive import ProphetConfig
from training.models.additive_forecaster import AdditiveForecaster
from training.models.blended import BlendedForecaster
from training.models.blended_graph import BlendConfig
from training.models.day_networks import NetworkConfig
from training.models.nowcast import Nowcast
from training.models.seasonal import SeasonalForecaster
from training.window_set import Splits, split_windows

WATER = dataclasses.replace(DOMAINS["water"], history_steps=4 * 168, horizon_steps=48, horizons={"24h": 24, "48h": 48})
PROPHET = ProphetConfig(yearly=False, monthly_order=0)
CONFIG = BlendConfig(
    networks=(NetworkConfig(width=24, epochs=12, noise=0.1), NetworkConfig(kind="day", width=32, epochs=12, noise=0.1)),
    prophet=PROPHET,
    batch_size=64,
    most_windows=1_500,
    refit=False,
    accelerator="cpu",
)
BRIEF = dataclasses.replace(CONFIG, networks=(NetworkConfig(width=8, epochs=1),), prophet=None, most_windows=200)


def panel_of_water(*, weeks: int = 36, late_site_weeks: int = 0) -> Panel:
    """Two zones whose demand has a daily and a weekly shape, a level that wanders, and more on hot days."""
    rng = np.random.default_rng(4)
    moments = pd.date_range("2023-01-01", periods=weeks * 168, freq="h", tz="UTC")
    hours, days = len(moments), weeks * 7
    hot = rng.normal(size=days).repeat(24)
    level = np.zeros(days)
    for day in range(1, days):
        level[day] = 0.9 * level[day - 1] + 0.03 * rng.normal()
    shape = 1 + 0.4 * np.sin(2 * np.pi * (moments.hour - 7) / 24) + 0.1 * (moments.dayofweek >= 5)
    parts = []
    for number, site in enumerate(("north", "south")):
        demand = (10 + 20 * number) * np.asarray(shape) * (1 + level.repeat(24) + 0.06 * hot)
        demand = demand * (1 + 0.02 * rng.normal(size=hours))
        begin = max(weeks - late_site_weeks, 0) * 168 if late_site_weeks and site == "south" else 0
        for name, value in (("demand", demand), ("temperature", 20 + 5 * hot), ("rainfall", np.zeros(hours))):
            parts.append(
                make_readings(
                    site=site,
                    quantity=WATER.target.name if name == "demand" else name,
                    valid_at=moments[begin:],
                    value=np.asarray(value)[begin:],
                    source="sensor:test",
                )
            )
    sites = [Site(name="north", timezone="Europe/Rome"), Site(name="south", timezone="Europe/Rome")]
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    return build_panel(WATER, sites, join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return split_windows(panel_of_water())


@pytest.fixture(scope="module")
def fitted(splits: Splits) -> BlendedForecaster:
    forecaster = BlendedForecaster(WATER, config=CONFIG)
    forecaster.fit(splits, seed=0)
    return forecaster


def mean_absolute_error(forecaster: object, splits: Splits, *, weather: bool) -> float:
    test = splits.test.subset(np.arange(0, len(splits.test), 5)).seen("observed" if weather else "known")
    quantiles = predict_set(forecaster, test)  # type: ignore[arg-type]
    figures = judge_horizons(WATER, quantiles, test.targets(), quantiles[:, :, 3], levels=forecaster.levels)  # type: ignore[attr-defined]
    return figures["24h"]["mae"]


def test_it_beats_the_profile_and_knows_more_with_the_weather_ahead(splits: Splits, fitted: BlendedForecaster) -> None:
    profile = mean_absolute_error(SeasonalForecaster(WATER, levels=fitted.levels), splits, weather=False)
    without = mean_absolute_error(fitted, splits, weather=False)
    with_weather = mean_absolute_error(fitted, splits, weather=True)
    assert without < 0.95 * profile
    assert with_weather < 0.9 * without


def test_each_zone_has_its_prophet(fitted: BlendedForecaster) -> None:
    graph = fitted.graph()
    assert graph.prophet is not None
    assert graph.has_prophet.tolist() == [1.0, 1.0, 0.0]


def test_a_zone_with_a_few_days_of_readings_goes_without_a_prophet_and_is_forecast() -> None:
    splits = split_windows(panel_of_water(late_site_weeks=14))
    # Of its few midnights nearly none is drawn.
    forecaster = BlendedForecaster(WATER, config=dataclasses.replace(BRIEF, prophet=PROPHET, most_windows=30))
    forecaster.fit(splits, seed=0)
    assert forecaster.graph().has_prophet[1] == 0
    south = splits.test.subset(splits.test.site_index_B == 1)
    assert np.isfinite(predict_set(forecaster, south.subset(np.arange(3)))).all()


def test_prophet_alone_passes_over_a_zone_without_readings_of_its_own() -> None:
    splits = split_windows(panel_of_water(late_site_weeks=8))
    forecaster = AdditiveForecaster(WATER, config=PROPHET)
    forecaster.fit(splits, seed=0)
    south = splits.test.subset(splits.test.site_index_B == 1)
    late = south.subset(np.arange(len(south) - 24, len(south)))
    profile = predict_set(SeasonalForecaster(WATER, levels=forecaster.levels), late)
    ours = predict_set(forecaster, late)
    middle = forecaster.levels.index(0.5)
    # The profile of four weeks of local days stands in: near the naive one.
    np.testing.assert_allclose(ours[:, :, middle].mean(), profile[:, :, middle].mean(), rtol=0.2)


def test_at_midnight_nothing_is_corrected_and_later_errors_fade(fitted: BlendedForecaster) -> None:
    nowcast = Nowcast(48)
    nowcast.weight.fill_(0.1)
    errors = torch.full((3, 24), torch.nan)
    errors[1, :6] = 1.0
    errors[2] = 1.0
    first = torch.tensor([[0], [6], [23]])
    added = nowcast(errors, first)
    assert added[0].abs().max() == 0
    assert (added[1:, 0] > added[1:, -1]).all()
    # What is measured after the origin plays no part.
    assert torch.equal(nowcast(errors[1:2], first[1:2]), nowcast(torch.ones(1, 24), first[1:2]))
    assert fitted.graph().nowcast.weight.abs().max() > 0


def test_a_stopped_training_goes_on(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(BRIEF, networks=(NetworkConfig(width=8, epochs=2), NetworkConfig(width=8, epochs=2)))
    whole = BlendedForecaster(WATER, config=config)
    whole.fit(splits, seed=0)
    stopped = BlendedForecaster(WATER, config=config, folder=tmp_path)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stopped, "calibrate", stop)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(splits, seed=0)
    assert (tmp_path / "train_network_1" / "last.ckpt").exists()
    again = BlendedForecaster(WATER, config=config, folder=tmp_path)
    again.fit(splits, seed=0)
    chosen = splits.test.windows(np.arange(4))
    np.testing.assert_allclose(again.predict(chosen).value_BHQ, whole.predict(chosen).value_BHQ, rtol=1e-5)


def test_a_refit_keeps_the_intervals_that_the_validation_weeks_gave(splits: Splits) -> None:
    config = dataclasses.replace(BRIEF, refit=True)
    forecaster = BlendedForecaster(WATER, config=config)
    forecaster.fit(splits, seed=0)
    once = BlendedForecaster(WATER, config=BRIEF)
    once.fit(splits, seed=0)
    assert torch.equal(forecaster.graph().intervals.offset, once.graph().intervals.offset)
    assert not torch.equal(*(next(one.graph().networks.parameters()) for one in (forecaster, once)))


def test_a_saved_forecaster_comes_back_whole(splits: Splits, fitted: BlendedForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = BlendedForecaster(WATER)
    loaded.load(tmp_path)
    assert loaded.config == CONFIG
    chosen = splits.test.windows(np.arange(8))
    assert np.array_equal(loaded.predict(chosen).value_BHQ, fitted.predict(chosen).value_BHQ)


def test_a_damaged_forecaster_is_refused(fitted: BlendedForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match="Train the model again"):
        BlendedForecaster(WATER).load(tmp_path)


def test_too_little_history_for_a_midnight_is_refused(splits: Splits) -> None:
    none = dataclasses.replace(splits, train=splits.train.subset(np.arange(0)))
    with pytest.raises(NotEnoughDataError, match="midnight"):
        BlendedForecaster(WATER, config=BRIEF).fit(none, seed=0)
