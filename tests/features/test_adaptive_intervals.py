"""Adaptive intervals: they follow errors, keep the median, and know nothing of tomorrow."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from features.adaptive_intervals import INTERVALS_FILE, AdaptiveIntervals, load_intervals
from features.errors import ArtifactError

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
HOURS = 24


def day_of(rng: np.random.Generator, *, spread: float, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One day's forecasts of a standard normal at two sites, and what was measured: its spread is another."""
    quantiles = np.broadcast_to(norm.ppf(LEVELS), (2, HOURS, len(LEVELS))).astype(np.float32)
    target = shift + spread * rng.standard_normal((2, HOURS))
    return quantiles, target.astype(np.float32), np.broadcast_to(np.arange(HOURS), (2, HOURS))


def coverage_of(days: int, *, spread: float, shift: float = 0.0, skipped: int = 60) -> tuple[float, AdaptiveIntervals]:
    """Share of readings inside the 90 % interval, once it had some days to learn."""
    rng = np.random.default_rng(3)
    intervals = AdaptiveIntervals(("A", "B"), (6, HOURS), LEVELS)
    inside = []
    for _ in range(days):
        quantiles, target, hour = day_of(rng, spread=spread, shift=shift)
        adjusted = intervals.adjust(quantiles, ("A", "B"), hour, lower=-50.0, upper=50.0)
        inside.append((target >= adjusted[:, :, 0]) & (target <= adjusted[:, :, -1]))
        intervals.update(quantiles, target, ("A", "B"), hour)
    return float(np.mean(inside[skipped:])), intervals


@pytest.mark.parametrize(("spread", "shift"), [(1.0, 0.0), (2.5, 0.0), (0.4, 0.0), (1.0, 1.5)])
def test_intervals_hold_what_they_say_whatever_the_graph_believes(spread: float, shift: float) -> None:
    found, _ = coverage_of(300, spread=spread, shift=shift)
    assert found == pytest.approx(0.9, abs=0.03)


def test_a_graph_that_is_too_sure_stays_too_sure_without_adaptation() -> None:
    quantiles, target, _ = day_of(np.random.default_rng(1), spread=2.5)
    assert np.mean((target >= quantiles[:, :, 0]) & (target <= quantiles[:, :, -1])) < 0.7


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=5, max_size=5), st.integers(0, 23), st.sampled_from(["A", "B", "new"]))
def test_quantiles_stay_in_order_in_bounds_and_around_their_median(values: list[float], hour: int, site: str) -> None:
    _, intervals = coverage_of(20, spread=3.0, skipped=0)
    quantiles = np.sort(np.clip(np.asarray(values, dtype=np.float32), -80, 80)).reshape(1, 1, 5)
    adjusted = intervals.adjust(quantiles, (site,), np.array([[hour]]), lower=-80.0, upper=80.0)
    assert (np.diff(adjusted, axis=2) >= 0).all()
    assert adjusted.min() >= -80.0
    assert adjusted.max() <= 80.0
    assert adjusted[0, 0, 2] == quantiles[0, 0, 2]


def test_without_memory_quantiles_stay_as_they_are() -> None:
    intervals = AdaptiveIntervals(("A",), (HOURS,), LEVELS)
    quantiles, _, hour = day_of(np.random.default_rng(0), spread=1.0)
    np.testing.assert_array_equal(
        intervals.adjust(quantiles[:1], ("A",), hour[:1], lower=-50.0, upper=50.0), quantiles[:1]
    )
    intervals.update(quantiles[:1], np.full((1, HOURS), np.nan, dtype=np.float32), ("A",), hour[:1])
    assert (intervals.offset_CQ == 0).all()


def test_an_unseen_site_gets_the_mean_of_the_others() -> None:
    _, intervals = coverage_of(100, spread=2.0)
    quantiles, _, hour = day_of(np.random.default_rng(0), spread=1.0)
    a, b, new = (
        intervals.adjust(quantiles[:1], (name,), hour[:1], lower=-50.0, upper=50.0) for name in ("A", "B", "new")
    )
    np.testing.assert_allclose(new, (a + b) / 2, atol=1e-5)
    before = intervals.offset_CQ.copy()
    intervals.update(quantiles[:1], quantiles[:1, :, 0], ("new",), hour[:1])
    np.testing.assert_array_equal(intervals.offset_CQ, before)


def test_the_state_comes_back_and_goes_on(tmp_path: Path) -> None:
    _, intervals = coverage_of(80, spread=2.0)
    assert load_intervals(tmp_path) is None
    intervals.save(tmp_path)
    again = load_intervals(tmp_path)
    assert again is not None
    quantiles, target, hour = day_of(np.random.default_rng(5), spread=2.0)
    for state in (intervals, again):
        state.update(quantiles, target, ("A", "B"), hour)
    ours, theirs = (state.adjust(quantiles, ("A", "B"), hour, lower=-50.0, upper=50.0) for state in (intervals, again))
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    (tmp_path / INTERVALS_FILE).write_bytes((tmp_path / INTERVALS_FILE).read_bytes()[:200])
    with pytest.raises(ArtifactError, match="state of the intervals"):
        load_intervals(tmp_path)
