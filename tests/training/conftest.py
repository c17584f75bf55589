"""A made-up town whose forecasts can be made as good or as bad as a test needs them."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Quantity, Site
from features.windows import build_panel
from training.train import Judgement, judge_quantiles
from training.window_set import Splits, WindowSet, split_windows

LEVELS = (0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975)
# Half widths of the intervals, in standard deviations of a normal distribution.
_WIDTHS = np.array([-1.96, -1.645, -0.674, 0.0, 0.674, 1.645, 1.96])

MakeJudgement = Callable[[dict[str, float]], Judgement]


@pytest.fixture(scope="session")
def town() -> Domain:
    return Domain(
        name="town",
        entity="road",
        targets=(
            Quantity(
                name="volume", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0, description="vehicles"
            ),
        ),
        covariates=(Quantity(name="temperature", unit="degC", aggregation="mean"),),
        history_steps=4 * 168,
        horizon_steps=6,
        horizons={"2h": 2, "6h": 6},
        static_names=("lanes",),
    )


@pytest.fixture(scope="session")
def town_splits(town: Domain) -> Splits:
    """Twenty-four weeks of three roads of different size and clock, with some gaps."""
    rng = np.random.default_rng(4)
    hours = 24 * 168
    moments = pd.date_range("2024-01-01", periods=hours, freq="h", tz="UTC")
    sites = [
        Site(name="A", timezone="Asia/Kolkata", attributes={"zone": 1.0, "lanes": 2.0}),
        Site(name="B", timezone="US/Central", attributes={"zone": 1.0, "lanes": 3.0}),
        Site(name="C", attributes={"zone": 2.0, "lanes": 1.0}),
    ]
    parts = []
    for site, size in zip(sites, (200.0, 2000.0, 600.0), strict=True):
        shape = 1 + 0.6 * np.sin(2 * np.pi * (moments.hour.to_numpy() - 6) / 24)
        volume = size * shape * np.exp(0.1 * rng.normal(size=hours))
        volume[rng.random(hours) < 0.02] = np.nan
        for name, value in (("volume", volume), ("temperature", rng.normal(10, 5, hours))):
            parts.append(make_readings(site=site.name, quantity=name, valid_at=moments, value=value, source="sensor:t"))
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    panel = build_panel(town, sites, join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)
    return split_windows(panel)


@pytest.fixture(scope="session")
def held_out(town_splits: Splits) -> WindowSet:
    """The last fifth of it."""
    return town_splits.test


@pytest.fixture(scope="session")
def judgement_of(held_out: WindowSet) -> MakeJudgement:
    """Judges forecasts whose errors at each site are normal, of a given share of the value; intervals fit 10 %."""

    def make(error_share: dict[str, float]) -> Judgement:
        rng = np.random.default_rng(8)
        names = [site.name for site in held_out.panel.sites]
        share_B = np.array([error_share[names[index]] for index in held_out.site_index_B])[:, None]
        target = held_out.targets().astype(np.float64)
        value = np.where(np.isfinite(target), target, np.nanmean(target))
        median = value * (1 + share_B * rng.normal(size=value.shape))
        quantiles = median[:, :, None] + 0.1 * value[:, :, None] * _WIDTHS
        return judge_quantiles(quantiles.astype(np.float32), held_out, levels=LEVELS)

    return make
