"""An adaptive Runge-Kutta method, compiled by Numba.

The pair of orders 5 and 4 of J. R. Dormand and P. J. Prince (A family of embedded Runge-Kutta formulae, Journal of
Computational and Applied Mathematics 6, 1980), with the step control of E. Hairer, S. P. Norsett and G. Wanner, Solving
Ordinary Differential Equations I, section II.4. Each held control is begun anew with the whole time as the first
sub-step, so a step depends on nothing but what it is given.

Array names carry their axes: B runs, T steps, S states, P parameters, K stages, N sub-steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim_env.process.differential import FloatArray, Rates

# Largest local error, relative to a state, or in its own unit where it is near zero.
PRECISION = 1e-11
# A step that needs more sub-steps than these is stiffer than an explicit method should be asked to solve.
MOST_SUBSTEPS = 200_000

IntArray = npt.NDArray[np.int64]
_STAGE_KK = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1 / 5, 0.0, 0.0, 0.0, 0.0, 0.0],
        [3 / 40, 9 / 40, 0.0, 0.0, 0.0, 0.0],
        [44 / 45, -56 / 15, 32 / 9, 0.0, 0.0, 0.0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0.0, 0.0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0.0],
        [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ]
)
_ERROR_K = np.array([71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
_STAGES = 7
# Beside the rates of the stages: the state at a stage, which ends as the state after the sub-step.
WORK_ROWS = _STAGES + 1
FAILED = -1
MOST_ON_THE_WAY = 20_000


def _advance(
    rates: Rates,
    state_S: FloatArray,
    control: float,
    parameter_P: FloatArray,
    time_s: float,
    precision: float,
    work_KS: FloatArray,
    way_NS: FloatArray,
) -> int:
    """Take a state over a time, in place; `way_NS` gets times and rates, as far as it reaches. Number of sub-steps."""
    rates(state_S, control, parameter_P, work_KS[0])
    if len(way_NS) > 0:
        way_NS[0, 0] = 0.0
        for state in range(state_S.size):
            way_NS[0, 1 + state] = work_KS[0, state]
    trial_S = work_KS[_STAGES]
    left_s, substep_s, accepted = time_s, time_s, 0
    for _ in range(MOST_SUBSTEPS):
        for stage in range(1, _STAGES):
            for state in range(state_S.size):
                slope = 0.0
                for earlier in range(stage):
                    slope += _STAGE_KK[stage, earlier] * work_KS[earlier, state]
                trial_S[state] = state_S[state] + substep_s * slope
            rates(trial_S, control, parameter_P, work_KS[stage])
        worst = 0.0
        for state in range(state_S.size):
            error = 0.0
            for stage in range(_STAGES):
                error += _ERROR_K[stage] * work_KS[stage, state]
            size = max(abs(state_S[state]), abs(trial_S[state]))
            ratio = abs(substep_s * error) / (precision * (1.0 + size))
            # Not a number counts as too large.
            worst = ratio if not ratio <= worst else worst
        if worst <= 1.0:
            left_s -= substep_s
            accepted += 1
            recorded = accepted < len(way_NS)
            if recorded:
                way_NS[accepted, 0] = time_s - left_s
            for state in range(state_S.size):
                state_S[state] = trial_S[state]
                # The last stage is the first of the next sub-step.
                work_KS[0, state] = work_KS[_STAGES - 1, state]
                if recorded:
                    way_NS[accepted, 1 + state] = work_KS[0, state]
            if left_s <= 0.0:
                return accepted
        factor = 5.0 if worst < 1e-4 else 0.9 * worst**-0.2
        substep_s = min(left_s, substep_s * (factor if factor >= 0.1 else 0.1))
    return FAILED


def _roll(
    advance: Callable[..., int],
    rates: Rates,
    state_BS: FloatArray,
    control_BT: FloatArray,
    parameter_BTP: FloatArray,
    time_s: float,
    precision: float,
    state_BTS: FloatArray,
    failed_B: IntArray,
) -> None:
    """Take every run over all its steps; a run that fails leaves the number of the step in `failed_B`."""
    runs, steps, parameters = parameter_BTP.shape
    parameter_P = np.empty(parameters)
    work_KS = np.empty((WORK_ROWS, state_BS.shape[1]))
    state_S = np.empty(state_BS.shape[1])
    nowhere_NS = np.empty((0, 0))
    for run in range(runs):
        state_S[:] = state_BS[run]
        for step in range(steps):
            parameter_P[:] = parameter_BTP[run, step]
            control = control_BT[run, step]
            if advance(rates, state_S, control, parameter_P, time_s, precision, work_KS, nowhere_NS) < 0:
                failed_B[run] = step
                break
            state_BTS[run, step] = state_S


class Kernels(NamedTuple):
    """Compiled code: `_advance`, `_roll`, and what compiles the rates that both are given."""

    advance: Callable[..., int]
    roll: Callable[..., None]
    compiled_rates: Callable[[Rates], Rates]


@functools.cache
def kernels() -> Kernels:
    """The compiled code. Rates come in by pointer, so `_advance` and `_roll` compile once for all processes."""
    from numba import float64, int64, types

    row, table = float64[::1], float64[:, ::1]
    given_table, given_cube = (types.Array(float64, axes, "A", readonly=True) for axes in (2, 3))
    rates = types.FunctionType(types.void(row, float64, row, row))
    advance = types.FunctionType(int64(rates, row, float64, row, float64, float64, table, table))
    made = float64[:, :, ::1], int64[::1]
    roll = types.void(advance, rates, given_table, given_table, given_cube, float64, float64, *made)
    return Kernels(
        advance=_compiled(_advance, advance.signature),
        roll=_compiled(_roll, roll),
        compiled_rates=functools.cache(lambda function: _compiled(function, rates.signature)),
    )


def _compiled(function: Callable[..., Any], signature: Any) -> Any:
    """Machine code of the function, kept on disk where Numba finds a folder that it may write."""
    from numba import njit

    try:
        return njit(signature, nogil=True, cache=True)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return njit(signature, nogil=True)(function)
