"""Every traffic engine keeps its promises."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sim_env.engine_check import check_engine
from sim_env.simulator import SimulatorError
from sim_env.traffic.engine import TRAFFIC_ENGINES, TrafficEngine, TrafficState
from sim_env.traffic.mock_engine import MockEngine


@pytest.mark.parametrize("seed", [0, 7])
def test_the_mock_engine_keeps_its_promises(seed: int) -> None:
    check_engine(MockEngine(), seed=seed)
    check_engine(MockEngine(), seed=seed, duration_s=5.0 * 60)


def test_engines_are_found_by_name() -> None:
    assert TRAFFIC_ENGINES["mock"] is MockEngine


class Miscounting(MockEngine):
    def reset(self, *, seed: int) -> TrafficState:
        state = super().reset(seed=seed)
        self._flow.left = 1  # type: ignore[union-attr]
        return state


class Forgetful(MockEngine):
    """Does not keep the random generator."""

    def restore(self, path: Path) -> TrafficState:
        state = super().restore(path)
        self._rng = np.random.default_rng(99)
        return state


class Careless(MockEngine):
    """Takes any multiplier."""

    def step(self, multiplier_P: npt.ArrayLike, *, duration_s: float = 60.0) -> TrafficState:
        made_fine = np.clip(np.nan_to_num(np.asarray(multiplier_P, dtype=float)), 0.0, 10.0)
        return super().step(made_fine, duration_s=duration_s)


class Unsteady(MockEngine):
    """Never the same twice."""

    runs = 0

    def reset(self, *, seed: int) -> TrafficState:
        self.runs += 1
        return super().reset(seed=seed + self.runs)


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        (Miscounting, "made or lost"),
        (Forgetful, "goes another way"),
        (Careless, "not refused"),
        (Unsteady, "same seed gives other states"),
    ],
)
def test_an_engine_that_breaks_a_promise_is_found_out(engine: Callable[[], TrafficEngine], fault: str) -> None:
    with pytest.raises(SimulatorError, match=fault):
        check_engine(engine())
