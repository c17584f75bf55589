"""Calendar channels: the local clock of a site, its holidays, its daylight saving."""

import numpy as np
import pandas as pd
import pytest

from features.calendar import HOLIDAY_KINDS, calendar_features
from features.errors import InvalidParameterError
from features.vocabulary import CALENDAR_CHANNELS, Site

MINNEAPOLIS = Site(name="A", timezone="US/Central", country="US", subdivision="MN")
AHMEDABAD = Site(name="B", timezone="Asia/Kolkata", country="IN", subdivision="GJ")


def channels(moments: list[str], site: Site) -> dict[str, list[float]]:
    """Channels by name at moments, which are UTC unless they say otherwise."""
    seconds = np.array([int(pd.Timestamp(moment, tz="UTC").timestamp()) for moment in moments], dtype=np.int64)
    table = calendar_features(seconds, site)
    assert table.shape == (len(moments), len(CALENDAR_CHANNELS))
    return {name: table[:, index].tolist() for index, name in enumerate(CALENDAR_CHANNELS)}


def on_day(day: str, site: Site) -> dict[str, float]:
    """Channels at local noon of a day."""
    noon_s = int(pd.Timestamp(f"{day} 12:00", tz=site.timezone).timestamp())
    return dict(zip(CALENDAR_CHANNELS, calendar_features(np.array([noon_s]), site)[0].tolist(), strict=True))


def test_hours_and_offsets_follow_daylight_saving() -> None:
    # 10 March 2024: 02:00 CST becomes 03:00 CDT; 3 November 2024: 02:00 CDT becomes 01:00 CST.
    spring = channels(["2024-03-10 07:00", "2024-03-10 08:00", "2024-03-10 09:00"], MINNEAPOLIS)
    assert spring["hour_of_day"] == [1.0, 3.0, 4.0]
    assert spring["utc_offset_h"] == [-6.0, -5.0, -5.0]
    autumn = channels(["2024-11-03 06:00", "2024-11-03 07:00", "2024-11-03 08:00"], MINNEAPOLIS)
    assert autumn["hour_of_day"] == [1.0, 1.0, 2.0]
    assert autumn["utc_offset_h"] == [-5.0, -6.0, -6.0]


def test_weekday_and_day_of_year_are_local() -> None:
    # Sunday evening in Minneapolis is Monday in UTC, and the old year's last day is the new one's.
    named = channels(["2024-01-01 03:00", "2024-01-01 06:00", "2024-12-31 12:00"], MINNEAPOLIS)
    assert named["day_of_week"] == [6.0, 0.0, 1.0]
    assert named["day_of_year"] == [365.0, 1.0, 366.0]
    assert named["hour_of_day"] == [21.0, 0.0, 6.0]


def test_a_zone_off_by_half_an_hour() -> None:
    named = channels(["2024-06-01 00:00", "2024-06-01 18:00", "2024-06-01 19:00"], AHMEDABAD)
    assert named["hour_of_day"] == [5.5, 23.5, 0.5]
    assert named["day_of_week"] == [5.0, 5.0, 6.0]
    assert set(named["utc_offset_h"]) == {5.5}


def test_minutes_past_midnight_belong_to_the_new_day_where_the_zone_is_off_by_half_an_hour() -> None:
    named = channels(["2024-06-01 18:15", "2024-06-01 18:30", "2024-06-01 18:45"], AHMEDABAD)
    assert named["hour_of_day"] == [23.75, 0.0, 0.25]
    assert named["day_of_week"] == [5.0, 6.0, 6.0]


def test_every_minute_agrees_with_pandas() -> None:
    moments = pd.date_range("2024-10-26", periods=4 * 24 * 12, freq="5min", tz="UTC")
    seconds = (moments.to_numpy(dtype="datetime64[s]")).astype(np.int64)
    for site in (MINNEAPOLIS, AHMEDABAD, Site(name="C", timezone="Europe/Rome"), Site(name="D")):
        local = moments.tz_convert(site.timezone)
        table = calendar_features(seconds, site)
        np.testing.assert_allclose(table[:, 0], local.hour + local.minute / 60, atol=1e-5)
        np.testing.assert_array_equal(table[:, 1], local.dayofweek)
        np.testing.assert_array_equal(table[:, 2], local.dayofyear)
        np.testing.assert_array_equal(table[:, 7], [moment.utcoffset().total_seconds() / 3600 for moment in local])


def test_holidays_of_a_state() -> None:
    independence = on_day("2024-07-04", MINNEAPOLIS)
    assert independence["holiday"] == 1.0
    assert independence["holiday_kind"] > 0
    before, after = on_day("2024-07-03", MINNEAPOLIS), on_day("2024-07-05", MINNEAPOLIS)
    assert (before["holiday"], before["holiday_tomorrow"], before["holiday_yesterday"]) == (0.0, 1.0, 0.0)
    assert (after["holiday"], after["holiday_tomorrow"], after["holiday_yesterday"]) == (0.0, 0.0, 1.0)
    assert before["holiday_kind"] == after["holiday_kind"] == 0.0


def test_holidays_of_india() -> None:
    republic, ordinary = on_day("2025-01-26", AHMEDABAD), on_day("2025-01-28", AHMEDABAD)
    assert (republic["holiday"], ordinary["holiday"]) == (1.0, 0.0)
    # Gujarat keeps its own day on 1 May; Kerala does not.
    kerala = Site(name="K", timezone="Asia/Kolkata", country="IN", subdivision="KL")
    assert on_day("2025-05-01", AHMEDABAD)["holiday_kind"] != on_day("2025-05-01", kerala)["holiday_kind"]


def test_a_holiday_is_a_local_day() -> None:
    named = channels(["2024-07-04 04:00", "2024-07-04 05:00", "2024-07-05 04:00", "2024-07-05 05:00"], MINNEAPOLIS)
    assert named["holiday"] == [0.0, 1.0, 1.0, 0.0]


def test_holidays_touch_their_neighbours_across_the_year() -> None:
    assert on_day("2023-12-31", MINNEAPOLIS)["holiday_tomorrow"] == 1.0
    assert on_day("2024-01-02", MINNEAPOLIS)["holiday_yesterday"] == 1.0


def test_a_holiday_keeps_its_kind_in_every_year() -> None:
    kinds = {on_day(f"{year}-12-25", MINNEAPOLIS)["holiday_kind"] for year in range(2012, 2027)}
    assert len(kinds) == 1
    # 4 July 2020 was a Saturday: Friday was "Independence Day (observed)".
    observed, proper = on_day("2020-07-03", MINNEAPOLIS), on_day("2019-07-04", MINNEAPOLIS)
    assert observed["holiday_kind"] == proper["holiday_kind"] > 0
    assert proper["holiday_kind"] not in kinds


def test_holidays_by_rule_keep_their_kind_too() -> None:
    thanksgiving = ["2021-11-25", "2022-11-24", "2023-11-23", "2024-11-28"]
    assert len({on_day(day, MINNEAPOLIS)["holiday_kind"] for day in thanksgiving}) == 1


def test_kinds_are_small_numbers() -> None:
    year = pd.date_range("2024-01-01", "2024-12-31 23:00", freq="h", tz="UTC").to_numpy(dtype="datetime64[s]")
    kind = calendar_features(year.astype(np.int64), AHMEDABAD)[:, CALENDAR_CHANNELS.index("holiday_kind")]
    assert kind.min() == 0
    assert 1 <= kind.max() <= HOLIDAY_KINDS
    assert len(np.unique(kind)) > 8


def test_without_a_country_there_are_no_holidays() -> None:
    assert on_day("2024-12-25", Site(name="A"))["holiday"] == 0.0


def test_moments_in_any_order_and_across_years() -> None:
    ordered = pd.date_range("2022-12-30", "2025-01-03", freq="7h", tz="UTC").to_numpy(dtype="datetime64[s]")
    seconds = ordered.astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(len(seconds))
    table = calendar_features(seconds, MINNEAPOLIS)
    np.testing.assert_array_equal(calendar_features(seconds[shuffled], MINNEAPOLIS), table[shuffled])


def test_no_moments() -> None:
    assert calendar_features(np.empty(0, dtype=np.int64), MINNEAPOLIS).shape == (0, len(CALENDAR_CHANNELS))


def test_a_caller_may_write_into_the_table() -> None:
    moment = np.array([1_720_000_800], dtype=np.int64)
    calendar_features(moment, MINNEAPOLIS)[:] = -1.0
    assert calendar_features(moment, MINNEAPOLIS)[0, 1] >= 0


@pytest.mark.parametrize(
    ("site", "parameter"),
    [
        (Site(name="A", timezone="Mars/Olympus"), "timezone"),
        (Site(name="A", timezone=""), "timezone"),
        (Site(name="A", country="ZZ"), "country"),
        (Site(name="A", country="US", subdivision="Gujarat"), "country"),
    ],
)
def test_an_unknown_place_is_refused(site: Site, parameter: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        calendar_features(np.array([1_700_000_000], dtype=np.int64), site)
    assert caught.value.parameter == parameter
