"""Intervals over windows: each day is adjusted by what the days before taught, and by nothing else."""

import dataclasses

import numpy as np
import pandas as pd

from features.readings import make_readings
from features.vocabulary import Domain, Quantity, Site
from features.windows import build_panel
from training.calibrate import hours_ahead, start_intervals, walk_intervals
from training.forecaster import predict_set
from training.models.seasonal import SeasonalForecaster
from training.window_set import WindowSet, split_windows

FLOW = Quantity(name="flow", unit="veh/h", aggregation="mean", lower=0.0, upper=1000.0)
TOWN = Domain(
    name="town",
    entity="road",
    targets=(FLOW,),
    covariates=(),
    history_steps=336,
    horizon_steps=24,
    horizons={"6h": 6, "24h": 24},
)


def windows_of_a_road() -> WindowSet:
    rng = np.random.default_rng(4)
    moments = pd.date_range("2024-01-01", periods=30 * 168, freq="h", tz="UTC")
    shape = 300 + 200 * np.sin(moments.hour.to_numpy() / 24 * 2 * np.pi)
    noise = rng.normal(size=len(moments)) * np.where(np.arange(len(moments)) < 26 * 168, 20, 60)
    readings = make_readings(
        site="A", quantity="flow", valid_at=moments, value=np.clip(shape + noise, 0, 1000), source="sensor:test"
    )
    first_s, last_s = int(moments[0].timestamp()), int(moments[-1].timestamp())
    panel = build_panel(
        TOWN, [Site(name="A", timezone="Asia/Kolkata")], readings, first_origin_s=first_s, last_origin_s=last_s
    )
    return split_windows(panel).test


def walked(windows: WindowSet) -> np.ndarray:
    forecaster = SeasonalForecaster(TOWN)
    return walk_intervals(start_intervals(windows, forecaster.levels), windows, predict_set(forecaster, windows))


def test_what_comes_after_an_origin_does_not_move_its_interval() -> None:
    windows = windows_of_a_road()
    middle = int(np.median(windows.origin_B))
    changed = windows.target_ST.copy()
    changed[:, middle + 1 :] = 999.0
    ours, theirs = walked(windows), walked(dataclasses.replace(windows, target_ST=changed))
    before = windows.origin_B <= middle
    np.testing.assert_array_equal(ours[before], theirs[before])
    assert not np.array_equal(ours[~before], theirs[~before])


def test_every_window_is_adjusted_and_coverage_comes_nearer() -> None:
    windows = windows_of_a_road()
    adjusted, plain = walked(windows), predict_set(SeasonalForecaster(TOWN), windows)
    target = windows.targets()
    late = windows.origin_B > np.quantile(windows.origin_B, 0.4)
    gaps = [
        abs(0.9 - np.nanmean(((target >= part[:, :, 1]) & (target <= part[:, :, 7]))[late]))
        for part in (plain, adjusted)
    ]
    assert gaps[1] < gaps[0]
    np.testing.assert_array_equal(adjusted[:, :, 4], plain[:, :, 4])


def test_hours_are_those_of_the_site() -> None:
    windows = windows_of_a_road()
    origin = pd.Timestamp(int(windows.panel.moments_s[windows.origin_B[0]]), unit="s", tz="UTC")
    local = (origin + pd.Timedelta("1h")).tz_convert("Asia/Kolkata")
    assert hours_ahead(windows)[0, 0] == local.hour + local.minute / 60
