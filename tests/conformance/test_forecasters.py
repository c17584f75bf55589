"""Every family of every domain, and every simulator, keeps its promises: a new entry is tested without a new test."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.errors import NotEnoughDataError
from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Quantity, Site
from features.windows import build_panel
from sim_env import SIMULATORS
from training.forecaster import Forecaster, check_forecaster
from training.models.additive import ProphetConfig
from training.models.additive_forecaster import AdditiveForecaster
from training.models.blended import BlendedForecaster
from training.models.blended_graph import BlendConfig
from training.models.boosted import BoostedForecaster
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.models.day_networks import NetworkConfig
from training.models.neural import RecurrentConfig
from training.models.recurrent import FitConfig, RecurrentForecaster
from training.models.seasonal import SeasonalForecaster
from training.recipes import RECIPES
from training.window_set import Splits, split_windows

WEEKS = 24


def small_lstm(domain: Domain) -> Forecaster:
    return small_recurrent(domain, RecurrentConfig(recent_steps=12, hidden=8, layers=1, hidden_second=8, head=8))


def small_gru(domain: Domain) -> Forecaster:
    sizes = RecurrentConfig(cell="gru", recent_steps=12, hidden=8, layers=1, second=False, head=8, context=True)
    return small_recurrent(domain, sizes)


def small_recurrent(domain: Domain, sizes: RecurrentConfig) -> Forecaster:
    return RecurrentForecaster(
        domain,
        sizes=sizes,
        fitting=FitConfig(epochs=1, batch_size=64, windows_per_epoch=256, accelerator="cpu"),
    )


def small_boosted(domain: Domain) -> Forecaster:
    variant = VariantConfig(level=BoosterConfig(trees=5), ratio=BoosterConfig(trees=5))
    return BoostedForecaster(domain, config=BoostedConfig(plain=variant, ahead=variant, origin_stride=12))


def small_prophet(domain: Domain) -> Forecaster:
    return AdditiveForecaster(domain, config=ProphetConfig(yearly="auto", last_days=40))


def small_blend(domain: Domain) -> Forecaster:
    networks = (NetworkConfig(width=8, epochs=1), NetworkConfig(kind="day", width=8, epochs=1))
    prophet = ProphetConfig(yearly="auto", last_days=40)
    config = BlendConfig(networks=networks, prophet=prophet, most_windows=200, refit=False, accelerator="cpu")
    return BlendedForecaster(domain, config=config)


# A family without an entry here fails: its smallest useful size is for its author to say.
SMALL = {
    "lstm": small_lstm,
    "gru": small_gru,
    "boosted": small_boosted,
    "prophet": small_prophet,
    "prophet_blend": small_blend,
    "seasonal": SeasonalForecaster,
}
FAMILIES = [(name, family) for name in DOMAINS for family in DOMAINS[name].families]


def generated_readings(domain: Domain) -> pd.DataFrame:
    """Readings of three sites with a daily shape inside each quantity's bounds; gaps, late arrivals, revisions."""
    rng = np.random.default_rng(9)
    moments = pd.date_range("2024-01-01", periods=WEEKS * 168, freq="h", tz="UTC")
    parts = []
    for site in ("A", "B", "C"):
        for quantity in domain.inputs:
            value = _inside(quantity, 0.5 + 0.3 * np.sin(moments.hour / 24 * 2 * np.pi) * rng.uniform(0, 1), rng)
            value[rng.random(len(value)) < 0.05] = np.nan
            delay_h = np.where(rng.random(len(value)) < 0.005, rng.integers(1, 30, len(value)), 0)
            parts.append(
                make_readings(
                    site=site,
                    quantity=quantity.name,
                    valid_at=moments,
                    available_at=moments + pd.to_timedelta(delay_h, unit="h"),
                    value=value,
                    source="sensor:test",
                )
            )
    revised = parts[0].iloc[::200].copy()
    revised["available_at"] += pd.Timedelta("40h")
    return join_readings([*parts, revised])


def _inside(quantity: Quantity, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = max(quantity.lower, -1000.0), min(quantity.upper, 1000.0)
    return low + (high - low) * np.clip(np.asarray(share) + 0.1 * rng.normal(size=len(share)), 0.0, 1.0)


def splits_of(domain: Domain) -> Splits:
    sites = [
        Site(name="A", timezone="US/Central", country="US", neighbours=("B", "C")),
        Site(name="B", timezone="Asia/Kolkata", country="IN", neighbours=("A",)),
        Site(name="C"),
    ]
    readings = generated_readings(domain)
    first_s, last_s = (int(moment.timestamp()) for moment in (readings["valid_at"].min(), readings["valid_at"].max()))
    return split_windows(build_panel(domain, sites, readings, first_origin_s=first_s, last_origin_s=last_s))


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_a_family_keeps_its_promises_in_a_domain(name: str, family: str, tmp_path: Path) -> None:
    # Four weeks of history are enough to find holes, and are cut faster than nine.
    domain = dataclasses.replace(DOMAINS[name], history_steps=4 * DOMAINS[name].season_steps)
    forecaster = SMALL[family](domain)
    assert isinstance(forecaster, Forecaster)
    assert forecaster.name == family
    assert list(forecaster.levels) == sorted(forecaster.levels)
    assert 0.5 in forecaster.levels
    splits = splits_of(domain)
    check_forecaster(forecaster, splits, tmp_path)
    # Forecasts over a leap day and over a change of clocks are as good as any.
    for moment in ("2024-02-28T12:00Z", "2024-03-10T02:00Z"):
        step = (int(pd.Timestamp(moment).timestamp()) - splits.train.panel.start_s) // domain.step_s
        near = np.flatnonzero(np.abs(splits.train.origin_B - step) <= domain.horizon_steps)
        assert len(near)
        assert np.isfinite(forecaster.predict(splits.train.windows(near[:8])).value_BHQ).all()


@pytest.mark.parametrize("name", list(DOMAINS))
def test_a_site_with_too_little_history_is_refused_with_a_remedy(name: str) -> None:
    domain = dataclasses.replace(DOMAINS[name], history_steps=4 * DOMAINS[name].season_steps)
    readings = generated_readings(domain)
    first = readings["valid_at"].min()
    few = readings[readings["valid_at"] < first + pd.Timedelta(weeks=2)]
    first_s, last_s = (int(moment.timestamp()) for moment in (first, few["valid_at"].max()))
    panel = build_panel(domain, [Site(name="A")], few, first_origin_s=first_s, last_origin_s=last_s)
    with pytest.raises(NotEnoughDataError, match=r"too few readings.*Ingest more"):
        split_windows(panel)


def test_a_forecaster_that_breaks_a_promise_is_found(tmp_path: Path) -> None:
    domain = dataclasses.replace(DOMAINS["traffic"], history_steps=336)
    low = dataclasses.replace(domain.target, lower=500.0)
    broken = SeasonalForecaster(domain)
    splits = splits_of(domain)
    graph = SeasonalForecaster(domain).graph()
    broken.target = low
    broken.graph = lambda: graph  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="below the quantity's bound"):
        check_forecaster(broken, splits, tmp_path)


@pytest.mark.parametrize("name", list(DOMAINS))
def test_a_domain_is_consistent(name: str) -> None:
    domain = DOMAINS[name]
    assert domain.name == name
    assert max(domain.horizons.values()) == domain.horizon_steps
    assert domain.season_steps * domain.step_s == 7 * 86400
    assert len({quantity.name for quantity in domain.quantities}) == len(domain.quantities)
    assert set(domain.simulators) <= set(SIMULATORS)
    assert all(SIMULATORS[simulator].domain is domain for simulator in domain.simulators)
    if name in RECIPES:
        assert {"quick", "full"} <= set(RECIPES[name])
        assert {recipe.family for recipe in RECIPES[name].values()} <= set(domain.families)
