"""The scoreboard of the water battle: its rules on small tables, and that no inflow of a week is known before it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.bwdf import forecast_week, known_before, local_inflow, panel_before, splits_before, start_of
from benchmarks.bwdf_rules import (
    AREAS,
    HOURS,
    SUBMISSIONS_FILE,
    WEEKS,
    hour_of_week_median,
    indicators,
    last_week,
    measured_weeks,
    ranks,
    read_submissions,
    stand_alone,
)
from features.domains.water import WATER
from features.errors import DataError
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from training.recipes import Recipe, SeasonalRecipe

WEEK = WEEKS[0]
SITES = [Site(name=area, timezone="Europe/Rome", country="IT") for area in AREAS[:2]]


def make_town(*, later: float = 0.0, late: bool = False) -> pd.DataFrame:
    """Twenty-two weeks of two areas, two of them after the week's start, when inflow has moved by `later`."""
    start = start_of(WEEK)
    moments = pd.date_range(start - pd.Timedelta(weeks=20), start + pd.Timedelta(weeks=2), freq="h")
    # A reading is true for the hour that it ends.
    hour = (moments - pd.Timedelta(hours=1)).tz_convert("Europe/Rome").hour.to_numpy()
    after = (moments > start).astype(float)
    parts = []
    for size, site in enumerate(SITES, start=1):
        inflow = size * (10 + hour + np.random.default_rng(size).normal(size=len(moments)))
        known = moments + pd.Timedelta(weeks=3) if late else moments
        parts.append(
            make_readings(
                site=site.name,
                quantity="inflow",
                valid_at=moments,
                value=inflow + later * after,
                source="sensor:t",
                available_at=known,
            )
        )
        temperature = 20 + np.arange(len(moments)) / 1000
        parts.append(
            make_readings(
                site=site.name, quantity="temperature", valid_at=moments, value=temperature, source="sensor:t"
            )
        )
    return join_readings(parts)


def test_indicators_are_of_the_first_day_and_of_the_rest() -> None:
    measured = np.zeros((HOURS, 1))
    forecast = np.full((HOURS, 1), 2.0)
    forecast[:24] = 1.0
    forecast[5] = -4.0
    assert indicators(forecast, measured).tolist() == [[(23 * 1.0 + 4.0) / 24, 4.0, 2.0]]


def test_an_hour_that_was_not_measured_does_not_count() -> None:
    measured = np.zeros((HOURS, 1))
    measured[[3, 100]] = np.nan
    forecast = np.ones((HOURS, 1))
    forecast[3] = 99.0
    forecast[100] = np.nan
    assert indicators(forecast, measured).tolist() == [[1.0, 1.0, 1.0]]


def test_a_missing_forecast_is_infinitely_wrong() -> None:
    forecast = np.ones((HOURS, 2))
    forecast[30, 1] = np.nan
    found = indicators(forecast, np.zeros((HOURS, 2)))
    assert found.tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, np.inf]]


def test_equal_entries_share_their_ranks_and_those_without_a_number_are_last() -> None:
    cell = np.array([2.0, 1.0, 2.0, np.inf, np.inf]).reshape(5, 1, 1, 1)
    assert ranks(cell).ravel().tolist() == [2.5, 1.0, 2.5, 4.5, 4.5]


def test_an_entry_stands_alone_among_the_others() -> None:
    others = np.stack([np.full((2, 1, 3), value) for value in (1.0, 3.0)])
    entry = np.full((2, 1, 3), 2.0)
    entry[1] = 0.5
    standing = stand_alone(entry, others)
    assert standing.mean_rank == 1.5
    assert standing.by_week == (2.0, 1.0)
    assert standing.others == (1.5, 3.0)
    assert (standing.place, standing.entries) == (1, 3)
    assert standing.indicators == (1.25, 1.25, 1.25)


def test_naive_forecasts_see_the_weeks_before_alone() -> None:
    hours = pd.date_range(WEEK - pd.Timedelta(weeks=9), WEEK + pd.Timedelta(weeks=1), freq="h", inclusive="left")
    number = (hours - hours[0]) // pd.Timedelta(weeks=1)
    inflow = pd.DataFrame({area: number.astype(float) for area in AREAS}, index=hours)
    inflow.loc[WEEK - pd.Timedelta(weeks=1)] = np.nan
    assert set(measured_weeks(inflow, [WEEK]).ravel()) == {9.0}
    assert set(hour_of_week_median(inflow, WEEK)[1:].ravel()) == {4.5}
    filled = last_week(inflow, WEEK)
    assert set(filled[1:].ravel()) == {8.0}
    assert set(filled[0]) == {4.0}


def test_no_inflow_of_the_week_is_in_the_panel() -> None:
    panel = panel_before(make_town(later=5000.0), SITES, WEEK)
    start = panel.last_origin
    assert panel.moments_s[start] == start_of(WEEK).timestamp()
    assert np.isfinite(panel.value_STK[:, start, 0]).all()
    assert not np.isfinite(panel.value_STK[:, start + 1 :, 0]).any()
    assert len(panel.revisions.flat) == 0
    assert np.nanmax(panel.value_STK[:, :, 0]) < 100
    # Its weather is there, to the end of the week and no further.
    assert np.isfinite(panel.value_STK[:, start + 1 :, WATER.history_channels.index("temperature")]).all()
    assert len(panel.moments_s) - 1 - start == HOURS


def test_inflow_that_came_in_late_is_not_known() -> None:
    known = known_before(make_town(late=True), WEEK)
    inflow = known[known["quantity"] == "inflow"]
    assert inflow["available_at"].max() <= start_of(WEEK)
    assert inflow["valid_at"].max() <= start_of(WEEK) - pd.Timedelta(weeks=3)


def test_nothing_is_fitted_on_the_week() -> None:
    panel = panel_before(make_town(), SITES, WEEK)
    splits = splits_before(panel)
    for part in (splits.train, splits.validation):
        assert int(part.origin_B.max()) + HOURS <= panel.last_origin
        assert not np.isfinite(part.target_ST[:, panel.last_origin + 1 :]).any()
    assert splits.test.origin_B.tolist() == [panel.last_origin] * 2
    assert not np.isfinite(splits.test.targets()).any()


def test_a_forecast_does_not_depend_on_what_comes_after_its_origin() -> None:
    recipe = Recipe(name="naive", family="seasonal", config=SeasonalRecipe())
    forecast = forecast_week(make_town(), SITES, WEEK, recipe)
    assert forecast.equals(forecast_week(make_town(later=5000.0), SITES, WEEK, recipe))
    assert forecast.index[0] == WEEK
    # The first hour forecast is the one that begins at midnight.
    expected = (10 + pd.DatetimeIndex(forecast.index).hour.to_numpy())[:, None] * np.array([1, 2])
    assert np.abs(forecast.to_numpy() - expected).max() < 4


def test_the_clock_of_a_table_is_the_local_one() -> None:
    town = make_town()
    table = local_inflow(town)
    site, first = AREAS[0], town["valid_at"] == start_of(WEEK) + pd.Timedelta(hours=1)
    inflow = town[first & (town["site"] == site) & (town["quantity"] == "inflow")]
    assert table.loc[WEEK, site] == pytest.approx(float(inflow["value"].iloc[0]))


def save_submissions(folder: Path, *, weeks: int = 4, missing: bool = False) -> None:
    hours = [moment for week in WEEKS[:weeks] for moment in pd.date_range(week, periods=HOURS, freq="h")]
    columns = {f"{area} (L/s)": np.full(len(hours), float(number)) for number, area in enumerate(AREAS)}
    stamps = [moment.strftime("%d/%m/%Y %H:%M") for moment in hours]
    table = pd.DataFrame({"Evaluation week": "W", "Date-time": stamps, **columns})
    if missing:
        table = table.astype({"DMA 2 (L/s)": object})
        table.loc[: HOURS - 1, "DMA 2 (L/s)"] = "-"
    with pd.ExcelWriter(folder / SUBMISSIONS_FILE) as book:
        for name in ("Ranking position 1", "Ranking position 2"):
            table.to_excel(book, sheet_name=name, index=False)


def test_submissions_are_a_sheet_each_and_a_dash_is_no_number(tmp_path: Path) -> None:
    save_submissions(tmp_path, missing=True)
    found = read_submissions(tmp_path)
    assert found.shape == (2, 4, HOURS, 10)
    assert np.isnan(found[0, 0, :, 1]).all()
    assert (found[0, 1, :, 1] == 1.0).all()
    assert (found[1, 3, :, 9] == 9.0).all()


def test_other_hours_than_the_competition_s_are_refused(tmp_path: Path) -> None:
    save_submissions(tmp_path, weeks=3)
    with pytest.raises(DataError, match="is no submission"):
        read_submissions(tmp_path)


def test_missing_submissions_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not here"):
        read_submissions(tmp_path)
