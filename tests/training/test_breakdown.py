"""A judgement by horizon, site, local hour and month, against figures worked out from the arrays."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from training.breakdown import ALL, breakdown, local_calendar, rows_by, worst_site
from training.train import Judgement

MakeJudgement = Callable[[dict[str, float]], Judgement]

EVEN = {"A": 0.1, "B": 0.1, "C": 0.1}


@pytest.fixture(scope="module")
def judgement(judgement_of: MakeJudgement) -> Judgement:
    return judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})


@pytest.fixture(scope="module")
def table(judgement: Judgement) -> pd.DataFrame:
    return breakdown(judgement)


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
