"""The graph parts that pick lags and medians, against pandas and numpy."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.vocabulary import CALENDAR_CHANNELS, Domain, Quantity, Site, Window
from features.windows import make_windows, panel_from_blocks
from training.models.window_graph import (
    SEASONS,
    CalendarFeatures,
    SeasonalLags,
    day_profiles,
    known_or_zero,
    median_known,
    sunday_profile,
)

TOWN = Domain(
    name="town",
    entity="road",
    targets=(Quantity(name="flow", unit="veh/h", aggregation="mean"),),
    covariates=(),
    horizon_steps=48,
)
ZONES = ["UTC", "Asia/Kolkata", "US/Central", "Europe/Rome"]
# Two days after each change of the clocks of 2024 on either side of the ocean, and one day without any near.
ORIGINS = ["2024-03-12 05:00", "2024-04-02 17:00", "2024-10-29 00:00", "2024-11-05 12:00", "2024-08-07 09:00"]


def window_at(origin: pd.Timestamp, timezone: str, domain: Domain = TOWN) -> Window:
    """A window whose values are all different, so that each says where it comes from."""
    values = np.arange(domain.history_steps * len(domain.inputs), dtype=np.float32).reshape(1, domain.history_steps, -1)
    panel = panel_from_blocks(domain, [Site(name="A", timezone=timezone)], values, origin_s=int(origin.timestamp()))
    return make_windows(panel, [0], [panel.first_origin])


def wall_clock_before(moment: pd.Timestamp, days: int, timezone: str) -> pd.Timestamp | None:
    """The same reading of the local clock some days before, in UTC; None where it came twice or never."""
    wall = moment.tz_convert(timezone).tz_localize(None) - pd.Timedelta(days=days)
    found = wall.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    return None if pd.isna(found) else found.tz_convert("UTC")


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize("clock", ORIGINS)
def test_lags_ahead_are_the_same_hour_of_the_wall_clock(clock: str, timezone: str) -> None:
    origin = pd.Timestamp(clock, tz="UTC")
    window = window_at(origin, timezone)
    lags = SeasonalLags(TOWN, recent_steps=24)
    found = lags.before_ahead(torch.from_numpy(window.history_BLK), torch.from_numpy(window.future_BHK), 0)[0].numpy()
    assert found.shape == (7 * SEASONS, TOWN.horizon_steps)
    checked = 0
    for day in range(1, 7 * SEASONS + 1):
        for step in range(TOWN.horizon_steps):
            moment = origin + pd.Timedelta(hours=step + 1)
            then = wall_clock_before(moment, day, timezone)
            unsure = moment != wall_clock_before(moment, 0, timezone)
            if then is None or unsure:
                continue
            position = TOWN.history_steps - 1 - round((origin - then) / pd.Timedelta("1h"))
            inside = 0 <= position < TOWN.history_steps
            np.testing.assert_equal(found[day - 1, step], float(position) if inside else np.nan)
            checked += 1
    assert checked > 0.95 * found.size


@pytest.mark.parametrize("timezone", ZONES)
@pytest.mark.parametrize("clock", ORIGINS)
def test_lags_of_the_recent_past_are_the_same_hour_of_the_wall_clock_of_the_weeks_before(
    clock: str, timezone: str
) -> None:
    origin = pd.Timestamp(clock, tz="UTC")
    window = window_at(origin, timezone)
    found = SeasonalLags(TOWN, recent_steps=30).before_recent(torch.from_numpy(window.history_BLK), 0)[0].numpy()
    assert found.shape == (SEASONS, 30)
    for week in range(1, SEASONS + 1):
        for step in range(30):
            moment = origin - pd.Timedelta(hours=29 - step)
            then = wall_clock_before(moment, 7 * week, timezone)
            if then is not None and moment == wall_clock_before(moment, 0, timezone):
                assert found[week - 1, step] == TOWN.history_steps - 1 - (origin - then) / pd.Timedelta("1h")


def test_a_change_of_clocks_moves_the_lag_by_an_hour() -> None:
    origin = pd.Timestamp("2024-03-12 05:00", tz="UTC")
    last_week = {}
    for timezone in ("UTC", "US/Central"):
        window = window_at(origin, timezone)
        lags = SeasonalLags(TOWN, recent_steps=24).before_ahead(
            torch.from_numpy(window.history_BLK), torch.from_numpy(window.future_BHK), 0
        )
        last_week[timezone] = lags[0, 6, 0].item()
    assert last_week["US/Central"] == last_week["UTC"] + 1


def test_values_after_the_origin_and_before_the_history_are_missing() -> None:
    window = window_at(pd.Timestamp("2024-08-07 09:00", tz="UTC"), "UTC")
    history, future = torch.from_numpy(window.history_BLK), torch.from_numpy(window.future_BHK)
    ahead = SeasonalLags(TOWN, recent_steps=24).before_ahead(history, future, 0)[0]
    # Yesterday's same hour of the second day ahead is still to come.
    assert torch.isfinite(ahead[0, :24]).all()
    assert torch.isnan(ahead[0, 24:]).all()
    assert torch.isfinite(ahead[1]).all()
    short = dataclasses.replace(TOWN, history_steps=400)
    window = window_at(pd.Timestamp("2024-08-07 09:00", tz="UTC"), "UTC", short)
    weekly = SeasonalLags(short, recent_steps=24).before_recent(torch.from_numpy(window.history_BLK), 0)[0]
    assert torch.isfinite(weekly[:2]).all()
    assert torch.isnan(weekly[2:]).all()


def test_lags_of_quarter_hours() -> None:
    quarters = dataclasses.replace(TOWN, step_s=900, history_steps=4 * 1512, season_steps=4 * 168, horizon_steps=8)
    origin = pd.Timestamp("2024-03-12 05:00", tz="UTC")
    window = window_at(origin, "US/Central", quarters)
    found = SeasonalLags(quarters, recent_steps=8).before_ahead(
        torch.from_numpy(window.history_BLK), torch.from_numpy(window.future_BHK), 0
    )[0]
    moment = origin + pd.Timedelta("15min")
    then = wall_clock_before(moment, 7, "US/Central")
    assert then is not None
    assert found[6, 0] == quarters.history_steps - 1 - (origin - then) / pd.Timedelta("15min")


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    known=st.integers(0, 9),
    seed=st.integers(0, 10_000),
)
def test_the_median_is_that_of_numpy_for_even_and_odd_counts(rows: int, known: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-5, 6, size=(2, rows, 3)).astype(np.float32)
    values[rng.random(values.shape) > known / 9] = np.nan
    median, count = median_known(torch.from_numpy(values), dim=1)
    expected_count = np.isfinite(values).sum(axis=1)
    some = expected_count > 0
    np.testing.assert_array_equal(count.numpy(), expected_count)
    expected = np.zeros(some.shape, dtype=np.float32)
    columns = np.moveaxis(values, 1, 2)[some]
    if len(columns):
        expected[some] = np.nanmedian(columns, axis=1)
    np.testing.assert_array_equal(median.numpy(), expected)


def test_the_median_of_nothing_is_zero() -> None:
    median, count = median_known(torch.full((2, 4), torch.nan), dim=1)
    assert median.tolist() == [0.0, 0.0]
    assert count.tolist() == [0, 0]


def test_known_or_zero() -> None:
    assert known_or_zero(torch.tensor([1.0, torch.nan, -2.0])).tolist() == [1.0, 0.0, -2.0]


def test_day_profiles_are_medians_of_each_days_weeks() -> None:
    rng = np.random.default_rng(1)
    daily = rng.normal(size=(3, 7 * SEASONS, 5)).astype(np.float32)
    daily[rng.random(daily.shape) < 0.3] = np.nan
    daily[1, 6::7, 2] = np.nan
    profiles = day_profiles(torch.from_numpy(daily)).numpy()
    assert profiles.shape == (3, 7, 5)
    for days_before in range(1, 8):
        lags = daily[:, days_before - 1 :: 7]
        assert lags.shape[1] == SEASONS
        known = np.isfinite(lags).any(axis=1)
        expected = np.nanmedian(np.where(known[:, None], lags, 0.0), axis=1)
        np.testing.assert_array_equal(profiles[:, days_before - 1], expected.astype(np.float32))
    assert profiles[1, 6, 2] == 0.0


def test_the_sunday_profile_is_that_of_the_sunday_before() -> None:
    # Profile of the day i + 1 days before says i + 1.
    profiles = torch.arange(1.0, 8.0)[None, :, None].expand(1, 7, 7)
    weekday = torch.arange(7.0)[None]
    assert sunday_profile(profiles, weekday).tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]


def test_calendar_features_are_finite_and_know_ordinary_days() -> None:
    domain = DOMAINS["traffic"]
    panel = panel_from_blocks(
        domain,
        [Site(name="A", timezone="US/Central", country="US", subdivision="MN")],
        np.zeros((1, domain.history_steps, len(domain.inputs)), dtype=np.float32),
        origin_s=int(pd.Timestamp("2024-07-04 00:00", tz="US/Central").timestamp()),
    )
    calendar = torch.from_numpy(make_windows(panel, [0], [panel.first_origin]).future_BHK)
    torch.manual_seed(0)
    features = CalendarFeatures(kind_size=4)
    made = features(calendar)
    assert made.shape == (1, domain.horizon_steps, features.size)
    assert torch.isfinite(made).all()
    # The hour of the cycle: six in the morning is a quarter of a turn.
    np.testing.assert_allclose(made[0, 5, :2].detach().numpy(), [1.0, 0.0], atol=1e-6)
    # 4 July 2024 was a Thursday, and a holiday; the last step ahead is the midnight after it.
    assert made[0, 5, 6:13].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert made[0, 5, 13] == 1.0
    assert made[0, 5, 16:].abs().sum() > 0
    assert made[0, -1, 16:].abs().sum() == 0
    assert calendar.shape[2] == len(CALENDAR_CHANNELS)
