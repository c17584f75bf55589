"""A judgement by horizon, site, local hour and month, against figures worked out from the arrays."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Site
from features.windows import build_panel
from training.breakdown import ALL, breakdown, figures_by_day, local_calendar, rows_by, worst_site
from training.train import Judgement, judge_quantiles
from training.window_set import windows_at

MakeJudgement = Callable[[dict[str, float]], Judgement]

EVEN = {"A": 0.1, "B": 0.1, "C": 0.1}


@pytest.fixture(scope="module")
def judgement(judgement_of: MakeJudgement) -> Judgement:
    return judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})


@pytest.fixture(scope="module")
def table(judgement: Judgement) -> pd.DataFrame:
    return breakdown(judgement)


@pytest.fixture(scope="module")
def two_days(town: Domain) -> Judgement:
    """Two sites of which a value is missing now and then, forecast two days ahead."""
    domain = dataclasses.replace(town, horizon_steps=48, horizons={"48h": 48}, covariates=(), static_names=())
    rng = np.random.default_rng(2)
    moments = pd.date_range("2024-01-01", periods=16 * 168, freq="h", tz="UTC")
    sites = [Site(name="A", timezone="Asia/Tokyo"), Site(name="B", timezone="US/Central")]
    parts = []
    for site in sites:
        value = rng.uniform(50, 100, len(moments))
        value[rng.random(len(moments)) < 0.01] = np.nan
        parts.append(make_readings(site=site.name, quantity="volume", valid_at=moments, value=value, source="sensor:t"))
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[4 * 168], moments[-50]))
    panel = build_panel(domain, sites, join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)
    windows = windows_at(panel, domain.target, np.arange(panel.first_origin, panel.last_origin + 1))
    levels = (0.025, 0.05, 0.5, 0.95, 0.975)
    quantiles = rng.uniform(60, 90, (len(windows), 48, 1)) + np.array([-20, -10, 0, 10, 20])
    return judge_quantiles(quantiles.astype(np.float32), windows, levels=levels)


def _absolute(judgement: Judgement) -> np.ndarray:
    return np.abs(judgement.target_BH.astype(np.float64) - judgement.quantiles_BHQ[:, :, judgement.levels.index(0.5)])


def test_the_row_of_a_horizon_is_that_of_its_lead(judgement: Judgement, table: pd.DataFrame) -> None:
    horizons = rows_by(table, "horizon")
    assert list(horizons.index) == ["2h", "6h"]
    for name, steps in (("2h", 2), ("6h", 6)):
        assert horizons.loc[name].to_dict() == pytest.approx(judgement.by_lead[steps - 1])


def test_hours_of_all_groups_of_a_kind_are_all_hours_that_were_measured(
    judgement: Judgement, table: pd.DataFrame
) -> None:
    measured = int(np.isfinite(judgement.target_BH).sum())
    for by in (ALL, "site", "hour", "month", "site and month"):
        rows = rows_by(table, by)
        assert rows["windows"].sum() == measured
        pooled = float((rows["mae"] * rows["windows"]).sum() / measured)
        assert pooled == pytest.approx(np.nanmean(_absolute(judgement)))
    assert len(rows_by(table, "hour")) == 24


def test_an_hour_is_local_to_its_site_and_that_of_the_moment_that_is_forecast(
    judgement: Judgement, table: pd.DataFrame
) -> None:
    windows = judgement.windows
    panel = windows.panel
    hour, month = local_calendar(windows)
    chosen = []
    for position in (0, 17, len(windows) - 1):
        site = panel.sites[windows.site_index_B[position]]
        valid = pd.to_datetime(panel.moments_s[windows.origin_B[position] + 3], unit="s", utc=True)
        local = valid.tz_convert(site.timezone)
        assert hour[position, 2] == local.hour
        assert str(month[position, 2]) == local.strftime("%Y-%m")
        chosen.append(site.name)
    of_seven = _absolute(judgement)[hour == 7]
    assert rows_by(table, "hour").loc["07", "mae"] == pytest.approx(np.nanmean(of_seven))


def test_the_figures_of_a_site_in_a_month_are_those_of_its_hours_alone(
    judgement: Judgement, table: pd.DataFrame
) -> None:
    _, month = local_calendar(judgement.windows)
    name = str(month[:, 0].max())
    rows = (judgement.windows.site_index_B == 1)[:, None] & (month == np.datetime64(name, "M"))
    known = rows & np.isfinite(judgement.target_BH)
    low, high = (judgement.quantiles_BHQ[:, :, judgement.levels.index(level)] for level in (0.05, 0.95))
    inside = (judgement.target_BH >= low) & (judgement.target_BH <= high)
    row = rows_by(table, "site and month").loc[f"B, {name}"]
    assert row["windows"] == known.sum()
    assert row["coverage_90"] == pytest.approx(inside[known].mean())


def test_the_worst_site_is_not_the_largest_but_the_one_with_the_largest_scaled_error(table: pd.DataFrame) -> None:
    sites = rows_by(table, "site")
    assert sites["mae"].idxmax() == "B"
    assert worst_site(table) == "C"


def test_a_site_of_few_hours_is_not_called_the_worst(table: pd.DataFrame) -> None:
    few = table.copy()
    few.loc[(few["by"] == "site") & (few["group"] == "C"), "windows"] = 20.0
    assert worst_site(few) != "C"


def test_without_a_scale_the_worst_site_is_the_one_with_the_least_skill(table: pd.DataFrame) -> None:
    unscaled = table.assign(mase=np.nan)
    assert worst_site(unscaled) == "C"


def test_a_day_is_the_mean_of_its_hours_from_a_local_midnight(two_days: Judgement) -> None:
    windows = two_days.windows
    found = figures_by_day(two_days)
    assert list(found) == [1, 2]
    median = two_days.quantiles_BHQ[:, :, two_days.levels.index(0.5)].astype(np.float64)
    by_site = []
    for index, site in enumerate(windows.panel.sites):
        local = pd.to_datetime(windows.panel.moments_s[windows.origin_B], unit="s", utc=True).tz_convert(site.timezone)
        chosen = (windows.site_index_B == index) & (local.hour == 0)
        truth, forecast = two_days.target_BH[chosen, 24:48].mean(axis=1), median[chosen, 24:48].mean(axis=1)
        whole = np.isfinite(truth)
        # Some days have a gap, and not all.
        assert 0 < whole.sum() < len(whole)
        by_site.append(100 * np.mean(np.abs(1 - forecast[whole] / truth[whole])))
    assert found[2]["mape"] == pytest.approx(np.mean(by_site), rel=1e-4)
    assert found[2]["naive_rmse"] > 0
    assert "coverage_90" not in found[2]


def test_a_horizon_within_a_day_has_no_day(judgement: Judgement) -> None:
    assert figures_by_day(judgement) == {}
