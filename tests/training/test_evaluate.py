"""Figures of a forecast, against values worked out by hand."""

import dataclasses

import numpy as np
import pytest

from features.domains import DOMAINS
from training.evaluate import judge, judge_horizons, mean_interval, seasonal_scale, skill_interval

LEVELS = (0.025, 0.05, 0.5, 0.95, 0.975)


def quantiles(median: list[float], *, near: float, far: float) -> np.ndarray:
    """One step ahead: the 90 % interval is `near` wide on either side of the median, the 95 % interval `far`."""
    offsets = np.array([-far, -near, 0.0, near, far])
    return (np.array(median)[:, None, None] + offsets).astype(np.float32)


def column(values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


def test_figures_worked_out_by_hand() -> None:
    # Errors 2, -4, 0; the profile's 4, -4, 8. Two of three are inside 3 on either side, all inside 5.
    forecast = quantiles([8.0, 24.0, 40.0], near=3.0, far=5.0)
    figures = judge(forecast, column([10.0, 20.0, 40.0]), column([6.0, 24.0, 32.0]), levels=LEVELS, lead=1)
    assert figures["mae"] == pytest.approx(2.0)
    assert figures["rmse"] == pytest.approx(np.sqrt(20 / 3))
    assert figures["mape"] == pytest.approx(100 * (0.2 + 0.2 + 0.0) / 3)
    assert figures["r2"] == pytest.approx(1 - 20 / (1400 / 3))
    assert figures["naive_mae"] == pytest.approx(16 / 3)
    assert figures["naive_rmse"] == pytest.approx(np.sqrt(96 / 3))
    assert figures["naive_mape"] == pytest.approx(100 * (0.4 + 0.2 + 0.2) / 3)
    assert figures["skill"] == pytest.approx(1 - 6 / 16)
    assert figures["coverage_90"] == pytest.approx(2 / 3)
    assert figures["coverage_95"] == 1.0
    assert figures["width_90"] == pytest.approx(6.0)
    assert figures["windows"] == 3.0
    losses = [
        max(level * (target - value), (level - 1) * (target - value))
        for target, row in zip([10.0, 20.0, 40.0], forecast[:, 0].tolist(), strict=True)
        for level, value in zip(LEVELS, row, strict=True)
    ]
    assert figures["pinball"] == pytest.approx(np.mean(losses))


def test_hours_without_traffic_are_left_out_of_the_mape_alone() -> None:
    forecast = quantiles([5.0, 11.0], near=1.0, far=2.0)
    figures = judge(forecast, column([0.0, 10.0]), column([2.0, 12.0]), levels=LEVELS, lead=1)
    assert figures["mape"] == pytest.approx(10.0)
    assert figures["naive_mape"] == pytest.approx(20.0)
    assert figures["mae"] == pytest.approx(3.0)
    assert figures["windows"] == 2.0


def test_unmeasured_targets_are_left_out() -> None:
    forecast = quantiles([8.0, 99.0, 24.0], near=3.0, far=5.0)
    target, naive = column([10.0, np.nan, 20.0]), column([6.0, 0.0, 24.0])
    measured = [0, 2]
    assert judge(forecast, target, naive, levels=LEVELS, lead=1) == judge(
        forecast[measured], target[measured], naive[measured], levels=LEVELS, lead=1
    )


def test_a_lead_that_was_never_measured_has_no_figures_and_raises_no_warning() -> None:
    figures = judge(quantiles([8.0, 9.0], near=3.0, far=5.0), column([np.nan] * 2), column([6.0, 7.0]),
                    levels=LEVELS, lead=1)  # fmt: skip
    assert figures["windows"] == 0.0
    assert all(np.isnan(value) for name, value in figures.items() if name != "windows")


def test_figures_that_are_not_defined_are_not_made_up() -> None:
    # Nothing ever came, and the profile knew it.
    figures = judge(quantiles([1.0, 1.0], near=3.0, far=5.0), column([0.0, 0.0]), column([0.0, 0.0]),
                    levels=LEVELS, lead=1)  # fmt: skip
    assert np.isnan([figures["mape"], figures["naive_mape"], figures["r2"], figures["skill"]]).all()
    assert figures["mae"] == 1.0
    assert figures["naive_mae"] == 0.0


def test_horizons_are_their_last_step_and_the_mean_is_that_of_all_leads() -> None:
    domain = dataclasses.replace(DOMAINS["traffic"], horizon_steps=3, horizons={"2h": 2, "3h": 3})
    forecast = np.concatenate([quantiles([10.0, 20.0], near=near, far=9.0) for near in (1.0, 2.0, 3.0)], axis=1)
    target = np.array([[11.0, 12.0, 13.0], [21.0, 22.0, np.nan]], dtype=np.float32)
    naive = np.full((2, 3), 10.0, dtype=np.float32)
    table = judge_horizons(domain, forecast, target, naive, levels=LEVELS)
    assert sorted(table) == ["2h", "3h", "mean"]
    assert table["2h"] == judge(forecast, target, naive, levels=LEVELS, lead=2)
    assert [table[name]["mae"] for name in ("2h", "3h", "mean")] == pytest.approx([2.0, 3.0, 2.0])
    assert table["mean"]["width_90"] == pytest.approx(4.0)
    unmeasured = target.copy()
    unmeasured[:, 0] = np.nan
    assert judge_horizons(domain, forecast, unmeasured, naive, levels=LEVELS)["mean"]["mae"] == pytest.approx(2.5)


def test_the_interval_of_the_skill_holds_the_true_skill_nine_times_in_ten() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        # The profile's errors are twice ours: a skill of 0.5. Neighbouring hours share a part of theirs.
        shared = np.repeat(rng.normal(size=60), 12)
        error = shared + rng.normal(size=720)
        naive_error = 2 * (np.repeat(rng.normal(size=60), 12) + rng.normal(size=720))
        low, high = skill_interval(error, naive_error, block=48, rng=rng, draws=300)
        held += low <= 0.5 <= high
    assert 165 <= held <= 195


def test_the_interval_of_the_skill_ignores_unmeasured_hours_and_is_exact_without_spread() -> None:
    error = np.array([1.0, -1.0, np.nan, 1.0, 1.0] * 20)
    naive_error = np.array([2.0, 2.0, 9.0, -2.0, np.nan] * 20)
    assert skill_interval(error, naive_error, block=7, rng=np.random.default_rng(0)) == pytest.approx((0.5, 0.5))


def test_the_interval_of_the_skill_over_less_than_a_block() -> None:
    low, high = skill_interval([1.0, 1.0], [2.0, 4.0], block=168, rng=np.random.default_rng(0))
    assert low == high == pytest.approx(1 - 2 / 6)


def test_the_same_generator_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    error, naive_error = rng.normal(size=500), rng.normal(size=500)
    first, second = (skill_interval(error, naive_error, block=24, rng=np.random.default_rng(1)) for _ in range(2))
    assert first == second


def test_the_interval_of_a_mean_lies_above_the_truth_one_time_in_twenty_of_few_blocks_too() -> None:
    above = below = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        # Six hours share a part of theirs; four blocks of two days.
        values = np.repeat(rng.normal(size=32), 6) + rng.normal(size=192)
        low, high = mean_interval(values, np.ones(192), block=48, confidence=0.9, rng=np.random.default_rng(0))
        above += low > 0
        below += high < 0
    assert above <= 20
    assert below <= 20


def test_the_interval_of_a_mean_weighs_each_moment_by_its_count() -> None:
    count = np.tile([1.0, 3.0], 100)
    low, high = mean_interval(2 * count, count, block=20, confidence=0.9, rng=np.random.default_rng(0))
    assert low == high == pytest.approx(2.0)


def test_the_scaled_error_divides_by_that_of_copying_the_last_season_in_the_history() -> None:
    # A season of two steps. Site 0 changes by 1, 3 and 5 from season to season, site 1 by 2 where it was measured.
    measured = np.array([[10.0, 20.0, 11.0, 23.0, 16.0, 99.0], [5.0, np.nan, 7.0, 8.0, np.nan, 99.0]], dtype=np.float32)
    scale = seasonal_scale(measured, until=5, season_steps=2)
    assert scale == pytest.approx([(1 + 3 + 5) / 3, 2.0])
    forecast = quantiles([8.0, 24.0, 40.0], near=3.0, far=5.0)
    target, naive = column([10.0, 20.0, 40.0]), column([6.0, 24.0, 32.0])
    figures = judge(forecast, target, naive, levels=LEVELS, lead=1, scale_B=scale[[0, 1, 0]])
    assert figures["mase"] == pytest.approx((2 / 3 + 4 / 2 + 0 / 3) / 3)
    assert figures["naive_mase"] == pytest.approx((4 / 3 + 4 / 2 + 8 / 3) / 3)


def test_with_one_site_the_scaled_error_is_the_ratio_of_two_mean_absolute_errors() -> None:
    # As utilsforecast and the textbook define it: MAE over the in-sample MAE of the seasonal naive forecast.
    rng = np.random.default_rng(2)
    history = rng.gamma(4.0, size=(1, 500)).astype(np.float32)
    scale = seasonal_scale(history, until=500, season_steps=24)
    target, naive = (rng.gamma(4.0, size=(60, 1)).astype(np.float32) for _ in range(2))
    forecast = quantiles(rng.gamma(4.0, size=60).tolist(), near=1.0, far=2.0)
    figures = judge(forecast, target, naive, levels=LEVELS, lead=1, scale_B=np.repeat(scale, 60))
    in_sample = np.mean(np.abs(history[0, 24:].astype(np.float64) - history[0, :-24]))
    assert figures["mase"] == pytest.approx(figures["mae"] / in_sample)


def test_a_site_whose_history_has_no_scale_is_left_out_of_the_scaled_error_alone() -> None:
    flat = np.array([[7.0] * 6, [np.nan] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], dtype=np.float32)
    scale = seasonal_scale(flat, until=6, season_steps=2)
    assert scale[0] == 0.0
    assert np.isnan(scale[1])
    assert np.isnan(seasonal_scale(flat, until=2, season_steps=2)).all()
    forecast, known = quantiles([8.0, 8.0, 8.0], near=3.0, far=5.0), column([10.0, 10.0, 11.0])
    figures = judge(forecast, known, known, levels=LEVELS, lead=1, scale_B=scale)
    assert figures["mase"] == pytest.approx(3.0 / 2.0)
    assert figures["mae"] == pytest.approx(7 / 3)
    assert np.isnan(judge(forecast, known, known, levels=LEVELS, lead=1, scale_B=np.zeros(3))["mase"])
