"""Realised errors: forecasts wait for their readings, and no more of them than is allowed."""

import numpy as np

from features.vocabulary import Forecast
from serving.releases.realised import RealisedErrors

HOUR_S = 3600


def forecast(origin_s: int, median: float, *, half: float = 10.0, steps: int = 4) -> Forecast:
    ends = np.array([median - half, median, median + half], dtype=np.float32)
    return Forecast(
        quantity="volume",
        unit="veh/h",
        sites=("R1",),
        origins=np.array([origin_s], dtype=np.int64),
        step_s=HOUR_S,
        levels=(0.025, 0.5, 0.975),
        value_BHQ=np.tile(ends, (1, steps, 1)),
        model="m",
    )


def moments(*hours: int) -> np.ndarray:
    return np.array(hours, dtype=np.int64) * HOUR_S


def values(*given: float) -> np.ndarray:
    return np.array(given, dtype=np.float32)


def test_each_step_is_compared_once_when_its_reading_comes() -> None:
    realised = RealisedErrors(limit=10)
    realised.enter("R1", forecast(0, 100.0), forecast(0, 120.0))
    realised.settle("R1", moments(-1, 0), values(1.0, 1.0))
    assert realised.matched.steps == 0
    realised.settle("R1", moments(0, 1, 2), values(1.0, 105.0, np.nan))
    realised.settle("R1", moments(0, 1, 2), values(1.0, 999.0, np.nan))
    found = realised.matched
    assert (found.steps, found.champion_error, found.rival_error) == (1, 5.0, 15.0)
    assert (found.champion_inside, found.rival_inside) == (1, 0)
    realised.settle("R1", moments(1, 2, 3, 4), values(999.0, 100.0, 100.0, 100.0))
    assert (realised.matched.steps, realised.matched.rival_error) == (4, 75.0)
    assert len(realised) == 0
    assert realised.waiting(frozenset({"R1"})) == []


def test_the_oldest_go_where_too_many_wait() -> None:
    realised = RealisedErrors(limit=3)
    for hour in range(10):
        realised.enter(f"R{hour}", forecast(hour * HOUR_S, 1.0), forecast(hour * HOUR_S, 2.0))
    assert len(realised) == 3
    assert sorted(realised.waiting(frozenset(f"R{hour}" for hour in range(10)))) == ["R7", "R8", "R9"]


def test_forecasts_of_different_lengths_are_compared_over_the_shorter() -> None:
    realised = RealisedErrors(limit=3)
    realised.enter("R1", forecast(0, 1.0, steps=4), forecast(0, 2.0, steps=2))
    realised.settle("R1", moments(1, 2, 3, 4), values(1.0, 1.0, 1.0, 1.0))
    assert realised.matched.steps == 2
