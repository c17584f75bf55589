"""A public check that a traffic engine keeps the promises of `sim_env.traffic.engine.TrafficEngine`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from features.errors import InvalidParameterError
from sim_env.simulator import SimulatorError
from sim_env.traffic.engine import EngineError, FloatArray, TrafficEngine, TrafficState

_STEPS = 6
# Followers are drawn with a wish to drive somewhat faster than is allowed.
_OVER_LIMIT = 1.5
_CANNOT_BE = (float("nan"), float("inf"), -0.1, 100.1)


def check_engine(engine: TrafficEngine, *, seed: int = 0, duration_s: float = 60.0) -> None:
    """Check that a traffic engine keeps its promises; it is closed afterwards.

    Checked are: states are whole and within bounds; every vehicle that entered has left or is present; the same seed
    gives the same states; a saved run that is restored goes on as the one that saved it did, and one that goes on is
    not disturbed by saving; multipliers and durations that cannot be are refused and change nothing; nobody is
    injected at multiplier 0; and a closed engine refuses to step, can be closed again and can be reset.

    Args:
        engine: The engine, with one control or more.
        seed: Of the runs.
        duration_s: Length of a control interval [s].

    Raises:
        SimulatorError: A promise is broken; the message says which.
    """
    with tempfile.TemporaryDirectory(prefix="towncast-check-") as folder:
        try:
            _check(engine, Path(folder), seed=seed, duration_s=duration_s)
        finally:
            engine.close()


def _check(engine: TrafficEngine, folder: Path, *, seed: int, duration_s: float) -> None:
    inflow = _multipliers(len(engine.controls), seed)
    first = _run(engine, inflow, seed=seed, duration_s=duration_s)
    _check_states(engine, first, duration_s)
    again = _run(engine, inflow, seed=seed, duration_s=duration_s)
    _require(_equal(first, again), "The same seed gives other states", seed)
    _check_refusals(engine, again[-1], duration_s)

    interrupted = _run(engine, inflow[: _STEPS // 2], seed=seed, duration_s=duration_s)
    engine.save(folder / "state")
    interrupted += [engine.step(row, duration_s=duration_s) for row in inflow[_STEPS // 2 :]]
    _require(_equal(first, interrupted), "Saving changes how the run goes on", seed)
    restored = engine.restore(folder / "state")
    half = first[_STEPS // 2]
    _require(_same_network(half, restored), "A restored state is not the saved one", restored.vehicles)
    replayed = [engine.step(row, duration_s=duration_s) for row in inflow[_STEPS // 2 :]]
    _require(_equal(first[_STEPS // 2 + 1 :], replayed), "A restored run goes another way than the saved one", seed)
    (folder / "nothing").write_bytes(b"no state of any engine")
    _require(_refused(lambda: engine.restore(folder / "nothing")), "A file that is no state is restored", "nothing")
    _check_closing(engine, folder, seed=seed, duration_s=duration_s)


def _multipliers(controls: int, seed: int) -> FloatArray:
    """Inflow around the baseline; in the last interval none."""
    inflow: FloatArray = np.random.default_rng(seed).uniform(0.5, 3.0, (_STEPS, controls))
    inflow[-1] = 0.0
    return inflow


def _run(engine: TrafficEngine, inflow: FloatArray, *, seed: int, duration_s: float) -> list[TrafficState]:
    return [engine.reset(seed=seed), *(engine.step(row, duration_s=duration_s) for row in inflow)]


def _check_states(engine: TrafficEngine, states: list[TrafficState], duration_s: float) -> None:
    edges, controls = len(engine.edges), len(engine.controls)
    limit = np.array([edge.speed_limit_mps for edge in engine.edges])
    _require(edges > 0 and controls > 0, "There are no edges or no controls", (edges, controls))
    for number, state in enumerate(states):
        counts, speeds, vehicles = state.veh_count_E, state.mean_speed_E_mps, state.vehicles
        shapes = (counts.shape, speeds.shape, state.injected_P.shape)
        _require(shapes == ((edges,), (edges,), (controls,)), "An array has another length than its axis", shapes)
        _require(state.sim_time_s == number * duration_s, "The clock is wrong", state.sim_time_s)
        _require(bool((counts >= 0).all()), "A count is negative", counts.min())
        fine = np.isfinite(speeds) & (speeds >= 0) & (speeds <= limit * _OVER_LIMIT)
        _require(bool(fine.all()), "A speed is outside its bounds", speeds[~fine])
        empty = counts == 0
        _require(bool(np.allclose(speeds[empty], limit[empty])), "An empty edge has not its allowed speed", number)
        _require(vehicles.entered == vehicles.left + vehicles.present, "Vehicles were made or lost", vehicles)
        _require(min(vehicles.left, vehicles.present, vehicles.waiting) >= 0, "A count is negative", vehicles)
        # Vehicles on junctions are on no edge.
        _require(int(counts.sum()) <= vehicles.present, "More vehicles are on edges than are present", vehicles)
    injected = np.array([state.injected_P for state in states])
    _require(not injected[[0, -1]].any(), "Vehicles are injected at multiplier 0 or by a reset", injected[[0, -1]])
    _require(states[-1].vehicles.entered > 0, "Nobody ever entered", states[-1].vehicles)
    expected = np.array([control.baseline_veh_per_hour for control in engine.controls]).sum() * duration_s / 3600
    _require(bool(injected.any()) or expected < 1, "Nobody was injected", injected)


def _check_refusals(engine: TrafficEngine, last: TrafficState, duration_s: float) -> None:
    """What cannot be is refused, and the run goes on from where it was."""
    controls = len(engine.controls)
    for value in _CANNOT_BE:
        row = np.ones(controls)
        row[-1] = value
        _refuse_step(engine, row, duration_s, f"multiplier {value}")
    _refuse_step(engine, np.ones(controls + 1), duration_s, "one multiplier too many")
    for value in (0.0, -60.0, float("nan"), 1e9):
        _refuse_step(engine, np.ones(controls), value, f"duration {value}")
    after = engine.step(np.zeros(controls), duration_s=duration_s)
    gone_on = after.sim_time_s == last.sim_time_s + duration_s
    _require(gone_on, "The run does not go on after a refusal", after.sim_time_s)
    _require(not after.injected_P.any(), "What was refused was injected all the same", after.injected_P)


def _refuse_step(engine: TrafficEngine, multipliers: FloatArray, duration_s: float, what: str) -> None:
    try:
        engine.step(multipliers, duration_s=duration_s)
    except InvalidParameterError:
        return
    raise _broken("What cannot be is not refused", what)


def _check_closing(engine: TrafficEngine, folder: Path, *, seed: int, duration_s: float) -> None:
    engine.close()
    engine.close()
    ones = np.ones(len(engine.controls))
    _require(_refused(lambda: engine.step(ones, duration_s=duration_s)), "A closed engine steps", "after close")
    _require(_refused(lambda: engine.save(folder / "late")), "A closed engine saves", "after close")
    _require(engine.reset(seed=seed).sim_time_s == 0.0, "A closed engine cannot be reset", seed)


def _refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except EngineError:
        return True
    return False


def _equal(first: list[TrafficState], second: list[TrafficState]) -> bool:
    return len(first) == len(second) and all(
        _same_network(one, other) and np.array_equal(one.injected_P, other.injected_P)
        for one, other in zip(first, second, strict=True)
    )


def _same_network(one: TrafficState, other: TrafficState) -> bool:
    """Whether two states are equal; who was injected before a save is not part of it."""
    return (
        one.sim_time_s == other.sim_time_s
        and one.vehicles == other.vehicles
        and np.array_equal(one.veh_count_E, other.veh_count_E)
        and np.array_equal(one.mean_speed_E_mps, other.mean_speed_E_mps)
    )


def _broken(fact: str, found: object) -> SimulatorError:
    return SimulatorError(fact, found=found, remedy="Mend the engine: see sim_env.traffic.engine.TrafficEngine.")


def _require(kept: bool, fact: str, found: object) -> None:
    if not kept:
        raise _broken(fact, found)
