import numpy as np
import pandas as pd
import pytest

from features.errors import InvalidParameterError, UnknownNameError
from features.readings import join_readings, make_readings
from pipelines.rehearsal.injections import KINDS, Injection, inject

ZONE = "Europe/Rome"
BEGIN = pd.Timestamp("2022-02-02", tz=ZONE)
MOMENTS = pd.date_range("2022-01-01 01:00", "2022-03-01", freq="h", tz=ZONE).tz_convert("UTC")


def readings() -> pd.DataFrame:
    """Hourly inflow of two zones that follows the local hour and the day of the week, and a temperature."""
    local = MOMENTS.tz_convert(ZONE) - pd.Timedelta(seconds=1)
    inflow = 10.0 + local.hour.to_numpy() + 100.0 * local.dayofweek.to_numpy()
    warm = 5.0 + np.sin(np.arange(len(MOMENTS)))
    parts = [
        make_readings(site=site, quantity=quantity, valid_at=MOMENTS, value=value, source="sensor:test")
        for site in ("a", "b")
        for quantity, value in (("inflow", inflow), ("temperature", warm))
    ]
    return join_readings(parts)


def injected(kind: str, size: float | None = None, end: pd.Timestamp | None = None) -> tuple[pd.Series, pd.Series]:
    """Zone a's inflow before and after, by local time."""
    before = readings()
    harm = Injection(kind=kind, sites=("a",), quantity="inflow", begin=BEGIN, end=end, size=size, timezone=ZONE)
    after = inject(before, harm)
    other = (before["site"] == "b") | (before["quantity"] != "inflow") | (before["valid_at"] < BEGIN)
    still = (after["site"] == "b") | (after["quantity"] != "inflow") | (after["valid_at"] < BEGIN)
    pd.testing.assert_frame_equal(before[other].reset_index(drop=True), after[still].reset_index(drop=True))
    first, second = (
        frame[(frame["site"] == "a") & (frame["quantity"] == "inflow")].set_index("valid_at")["value"].tz_convert(ZONE)
        for frame in (before, after)
    )
    return first, second


def test_a_level_shift_ends_where_it_is_told() -> None:
    end = BEGIN + pd.Timedelta(days=3)
    before, after = injected("level_shift", size=2.0, end=end)
    during = (before.index >= BEGIN) & (before.index < end)
    assert (after[during] == 2.0 * before[during]).all()
    assert (after[~during] == before[~during]).all()


def test_a_stuck_sensor_repeats_its_last_value_and_a_silent_one_sends_nothing() -> None:
    before, after = injected("stuck_sensor")
    assert set(after[BEGIN:]) == {before[before.index < BEGIN].iloc[-1]}
    _, silent = injected("silent_sensor")
    assert silent.index.max() < BEGIN


def test_a_shifted_clock_brings_the_day_later() -> None:
    before, after = injected("shifted_clock", size=6.0)
    assert after[BEGIN + pd.Timedelta(hours=7)] == before[BEGIN + pd.Timedelta(hours=1)]
    _, early = injected("shifted_clock", size=-6.0)
    assert early[BEGIN + pd.Timedelta(hours=1)] == before[BEGIN + pd.Timedelta(hours=7)]


def test_weekdays_go_as_the_sunday_before() -> None:
    before, after = injected("sundays")
    days = pd.Series(after[after.index > BEGIN].to_numpy() // 100)
    assert set(days) == {6.0}
    assert after[BEGIN + pd.Timedelta(hours=24)] == before[BEGIN - pd.Timedelta(hours=48)]


def test_a_turned_day_runs_backwards() -> None:
    before, after = injected("turned_day")
    assert after[BEGIN + pd.Timedelta(hours=9)] == before[BEGIN + pd.Timedelta(hours=15)]
    _, half = injected("turned_day", size=0.5)
    moment = BEGIN + pd.Timedelta(hours=9)
    assert half[moment] == pytest.approx((before[moment] + after[moment]) / 2)


def test_a_new_peak_stands_at_half_past_ten() -> None:
    before, after = injected("new_peak", size=1.0)
    rise = (after - before)[BEGIN : BEGIN + pd.Timedelta(hours=23)]
    assert rise.idxmax().hour in (10, 11)
    assert rise.min() < 1e-3 * rise.max()


def test_values_rise_with_the_weather() -> None:
    before, after = injected("weather_effect", size=0.2)
    frame = readings()
    warm = frame[(frame["site"] == "a") & (frame["quantity"] == "temperature")].set_index("valid_at")["value"]
    ratio = (after / before)[after.index >= BEGIN]
    assert np.corrcoef(ratio, warm[warm.index >= BEGIN])[0, 1] > 0.999


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_changes_a_copy_alone(kind: str) -> None:
    frame = readings()
    kept = frame.copy()
    harm = Injection(kind=kind, sites=("a", "b"), quantity="inflow", begin=BEGIN, timezone=ZONE)
    changed = inject(frame, harm)
    pd.testing.assert_frame_equal(frame, kept)
    assert len(changed) < len(frame) or (changed["value"] != frame["value"]).any()
    assert changed["value"].notna().all()


def test_what_hits_nothing_is_refused() -> None:
    with pytest.raises(InvalidParameterError, match="hits no reading"):
        inject(readings(), Injection(kind="level_shift", sites=("c",), quantity="inflow", begin=BEGIN))
    with pytest.raises(UnknownNameError, match="level_shift"):
        inject(readings(), Injection(kind="level_shft", sites=("a",), quantity="inflow", begin=BEGIN))
