"""What the error will be, said from the width of intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serving.monitoring.estimate import WAITING_COLUMNS, estimate_errors
from serving.monitoring.realised import REALISED_COLUMNS

HOUR_S, WEEK_S = 3600, 7 * 86400
END_S = int(pd.Timestamp("2026-02-02T00:00:00Z").timestamp())


def realised(site: str, *, weeks: int = 4, width: float = 10.0, error: float = 2.0, steps: int = 1) -> pd.DataFrame:
    """Hourly forecasts that are off by the same, up and down, with one width."""
    valid_s = np.arange(END_S - weeks * WEEK_S, END_S, HOUR_S)
    off = np.where(np.arange(len(valid_s)) % 2, error, -error)
    return pd.DataFrame(
        {
            "site": site,
            "model_version": "v1",
            "role": "champion",
            "origin_s": valid_s - steps * HOUR_S,
            "steps": steps,
            "valid_s": valid_s,
            "actual": 50.0,
            "median": 50.0 + off,
            "lower": 50.0 + off - width / 2,
            "upper": 50.0 + off + width / 2,
            "made_s": valid_s - steps * HOUR_S,
            "joined_s": valid_s,
        }
    )[list(REALISED_COLUMNS)]


def waiting(site: str, *, width: float, steps: int = 1, count: int = 24) -> pd.DataFrame:
    valid_s = END_S + HOUR_S * np.arange(count)
    return pd.DataFrame(
        {
            "site": site,
            "role": "champion",
            "origin_s": valid_s - steps * HOUR_S,
            "steps": steps,
            "valid_s": valid_s,
            "median": 50.0,
            "lower": 50.0 - width / 2,
            "upper": 50.0 + width / 2,
        }
    )[list(WAITING_COLUMNS)]


def test_a_width_like_the_last_weeks_promises_their_error_and_twice_the_width_twice_that() -> None:
    past = pd.concat([realised("A"), realised("B", error=4.0)])
    found = estimate_errors(past, pd.concat([waiting("A", width=10.0), waiting("B", width=20.0)]))
    assert [(line.site, line.steps) for line in found] == [("A", 24), ("B", 24)]
    assert [line.error for line in found] == pytest.approx([2.0, 8.0])
    assert [line.usual_error for line in found] == pytest.approx([2.0, 4.0])


def test_steps_further_ahead_are_compared_with_their_own_past() -> None:
    past = pd.concat([realised("A", steps=1), realised("A", steps=24, error=6.0, width=20.0)])
    (line,) = estimate_errors(past, waiting("A", width=20.0, steps=24))
    assert (line.error, line.usual_error) == pytest.approx((6.0, 6.0))
    (unknown,) = estimate_errors(past, waiting("A", width=20.0, steps=12))
    assert unknown.error == pytest.approx(20.0 * 8.0 / 30.0)


def test_a_site_without_a_past_has_no_estimate_and_nothing_waiting_gives_none() -> None:
    (line,) = estimate_errors(realised("A"), waiting("B", width=10.0))
    assert np.isnan([line.error, line.usual_error]).all()
    assert line.steps == 24
    assert estimate_errors(realised("A"), waiting("A", width=1.0).iloc[:0]) == ()
    (none,) = estimate_errors(realised("A").iloc[:0], waiting("A", width=10.0))
    assert np.isnan(none.error)


def test_intervals_without_width_give_no_estimate() -> None:
    (line,) = estimate_errors(realised("A", width=0.0), waiting("A", width=10.0))
    assert np.isnan(line.error)
    assert line.usual_error == pytest.approx(2.0)


def test_only_the_champion_counts() -> None:
    shadow = realised("A", error=40.0).assign(role="shadow")
    (line,) = estimate_errors(pd.concat([realised("A"), shadow]), waiting("A", width=10.0))
    assert line.error == pytest.approx(2.0)
    assert estimate_errors(realised("A"), waiting("A", width=10.0).assign(role="canary")) == ()
