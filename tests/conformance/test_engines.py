"""Every traffic engine keeps its promises."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from sim_env.engine_check import check_engine
from sim_env.simulator import SimulatorError
from sim_env.traffic.engine import TRAFFIC_ENGINES, TrafficEngine, TrafficState
from sim_env.traffic.mock_engine import MockEngine
from sim_env.traffic.sumo import SumoEngine, propose_controls


@pytest.mark.parametrize("seed", [0, 7])
def test_the_mock_engine_keeps_its_promises(seed: int) -> None:
    check_engine(MockEngine(), seed=seed)
    check_engine(MockEngine(), seed=seed, duration_s=5.0 * 60)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crossings by three with signals, and roads out of town, as SUMO's own generator makes them."""
    import sumo

    path = tmp_path_factory.mktemp("net") / "grid.net.xml"
    words = "--grid --grid.number=3 --grid.length=150 --grid.attach-length=100 --default-junction-type=traffic_light"
    program = Path(sumo.SUMO_HOME) / "bin" / "netgenerate"
    subprocess.run([program, *words.split(), f"--output-file={path}"], check=True, capture_output=True)
    return path


@pytest.mark.parametrize(("link", "mesoscopic"), [("libsumo", False), ("libsumo", True), ("traci", False)])
def test_sumo_keeps_its_promises(grid: Path, link: Literal["libsumo", "traci"], mesoscopic: bool) -> None:
    controls = propose_controls(grid, most=4)
    check_engine(SumoEngine(grid, controls, link=link, mesoscopic=mesoscopic), seed=3)


def test_engines_are_found_by_name() -> None:
    assert (TRAFFIC_ENGINES["mock"], TRAFFIC_ENGINES["sumo"]) == (MockEngine, SumoEngine)


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
