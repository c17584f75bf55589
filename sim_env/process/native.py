"""Native integration: an adaptive Runge-Kutta method, compiled by Numba, for living models and for bulk rollouts.

The method is the pair of orders 5 and 4 of J. R. Dormand and P. J. Prince (A family of embedded Runge-Kutta formulae,
Journal of Computational and Applied Mathematics 6, 1980), with the step control of E. Hairer, S. P. Norsett and
G. Wanner, Solving Ordinary Differential Equations I, section II.4. Each held control is begun anew with the whole time
as the first sub-step, so a step depends on nothing but what it is given: living and bulk form agree to the last bit.

Array names carry their axes: B runs, T steps, S states, P parameters, K stages, N sub-steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError
from sim_env.process.differential import DifferentialProcess, FloatArray, Rates, allowed_number, known_variable
from sim_env.process.system import ConvergenceError, Process, Variable

# Largest local error, relative to a state, or in its own unit where it is near zero.
PRECISION = 1e-11
# A step that needs more sub-steps than these is stiffer than an explicit method should be asked to solve.
MOST_SUBSTEPS = 1_000_000

_IntArray = npt.NDArray[np.int64]
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
_WORK_ROWS = _STAGES + 1
_FAILED = -1
_MOST_ON_THE_WAY = 20_000


def _advance(
    rates: Rates,
    state_S: FloatArray,
    control: float,
    parameter_P: FloatArray,
    time_s: float,
    precision: float,
    work_KS: FloatArray,
    path_NS: FloatArray,
) -> int:
    """Take a state over a time, in place; `path_NS` gets time and state of the first sub-steps. Number of sub-steps."""
    rates(state_S, control, parameter_P, work_KS[0])
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
            recorded = accepted < len(path_NS)
            if recorded:
                path_NS[accepted, 0] = time_s - left_s
            for state in range(state_S.size):
                state_S[state] = trial_S[state]
                if recorded:
                    path_NS[accepted, 1 + state] = trial_S[state]
                # The last stage is the first of the next sub-step.
                work_KS[0, state] = work_KS[_STAGES - 1, state]
            accepted += 1
            if left_s <= 0.0:
                return accepted
        factor = 5.0 if worst < 1e-4 else 0.9 * worst**-0.2
        substep_s = min(left_s, substep_s * (factor if factor >= 0.1 else 0.1))
    return _FAILED


def _roll(
    advance: Callable[..., int],
    rates: Rates,
    state_BS: FloatArray,
    control_BT: FloatArray,
    parameter_BTP: FloatArray,
    time_s: float,
    precision: float,
    state_BTS: FloatArray,
    failed_B: _IntArray,
) -> None:
    """Take every run over all its steps; a run that fails leaves the number of the step in `failed_B`."""
    runs, steps, parameters = parameter_BTP.shape
    parameter_P = np.empty(parameters)
    work_KS = np.empty((_WORK_ROWS, state_BS.shape[1]))
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


@functools.cache
def _kernels() -> tuple[Callable[..., int], Callable[..., None], Callable[[Rates], Rates]]:
    """`_advance`, `_roll` and a compiler of rates. The rates come in by pointer, so the first two compile once for all."""
    from numba import float64, int64, types

    row, table = float64[::1], float64[:, ::1]
    rates_type = types.FunctionType(types.void(row, float64, row, row))
    advance_signature = int64(rates_type, row, float64, row, float64, float64, table, table)
    roll_signature = types.void(
        types.FunctionType(advance_signature),
        rates_type,
        types.Array(float64, 2, "A", readonly=True),
        types.Array(float64, 2, "A", readonly=True),
        types.Array(float64, 3, "A", readonly=True),
        float64,
        float64,
        float64[:, :, ::1],
        int64[::1],
    )
    return (
        _compiled(_advance, advance_signature),
        _compiled(_roll, roll_signature),
        functools.cache(lambda rates: _compiled(rates, rates_type.signature)),
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


class NativeSolver:
    """Integrates a process in compiled code; holds nothing.

    Args:
        process: Its equations.
    """

    def __init__(self, process: DifferentialProcess) -> None:
        self._process = process

    def advance(
        self, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
    ) -> FloatArray:
        """The state after the step.

        Raises:
            ConvergenceError: The equations are too stiff, or have no finite solution.
        """
        after_S = np.array(state_S)
        _integrate(self._process, after_S, control, parameter_P, delta_time_s, PRECISION, np.empty((0, 0)))
        return after_S

    def close(self) -> None:
        """There is nothing to give back."""


def rates_on_the_way(
    process: DifferentialProcess, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
) -> tuple[FloatArray, FloatArray]:
    """How fast the states change along a step.

    Returns:
        Times [s] from 0 to the step's end, close where the rates bend, (N,), and the rates at them, (N, S).

    Raises:
        ConvergenceError: There are more sub-steps than are kept, or there is no finite solution.
    """
    path_NS = np.empty((_MOST_ON_THE_WAY, 1 + len(state_S)))
    count = _integrate(process, np.array(state_S), control, parameter_P, delta_time_s, PRECISION, path_NS)
    if count > _MOST_ON_THE_WAY:
        raise _no_solution(process, control, _MOST_ON_THE_WAY)
    whole_NS = np.vstack([np.append(0.0, state_S), path_NS[:count]])
    rate_NS = np.empty((len(whole_NS), len(state_S)))
    rates = _kernels()[2](process.rates)
    for here_S, rate_S in zip(whole_NS, rate_NS, strict=True):
        rates(here_S[1:], control, parameter_P, rate_S)
    return whole_NS[:, 0], rate_NS


def _integrate(
    process: DifferentialProcess,
    state_S: FloatArray,
    control: float,
    parameter_P: FloatArray,
    time_s: float,
    precision: float,
    path_NS: FloatArray,
) -> int:
    advance, _, compiled_rates = _kernels()
    work_KS = np.empty((_WORK_ROWS, state_S.size))
    rates = compiled_rates(process.rates)
    count = advance(rates, state_S, control, parameter_P, time_s, precision, work_KS, path_NS)
    if count == _FAILED or not np.isfinite(state_S).all():
        raise _no_solution(process, control, MOST_SUBSTEPS)
    return count


def _no_solution(process: Process, control: float, most: int, where: str = "") -> ConvergenceError:
    return ConvergenceError(
        f"The equations of the {process.name} have no solution in {most} sub-steps{where}",
        found=f"{process.control.name} = {control:g} {process.control.unit}",
        remedy="Take a shorter step, or move the parameters and the state towards their defaults.",
    )


def roll(
    process: Process,
    state_BS: npt.ArrayLike,
    control_BT: npt.ArrayLike,
    delta_time_s: float,
    parameters: Mapping[str, npt.ArrayLike] | None = None,
    *,
    threads: int = 1,
) -> FloatArray:
    """The states of many runs after each of their steps, (B, T, S): the same numbers as stepping living models.

    Args:
        process: One of `sim_env.process.PROCESSES`.
        state_BS: States at the start, in the order of `process.states`.
        control_BT: What the control is held at in each step.
        delta_time_s: Length of every step [s].
        parameters: Those that differ from their defaults: a number, an array (B,) of one for each run, or (B, T),
            where either axis may be 1.
        threads: Into how many threads the runs are dealt.

    Raises:
        UnknownNameError: The process has no such parameter.
        InvalidParameterError: A value is not finite or outside what is allowed, or the shapes do not fit.
        ConvergenceError: A run cannot be solved; the message says which and where.
    """
    if not isinstance(process, DifferentialProcess):
        raise TypeError(f"{process.name} has no rates that could be integrated.")
    time_s = process.checked_time(delta_time_s)
    start_BS = _allowed_array(state_BS, process.states, name="state")
    held_BT = _allowed_array(np.asarray(control_BT)[..., None], (process.control,), name=process.control.name)[..., 0]
    runs, steps = held_BT.shape if held_BT.ndim == 2 else (0, 0)
    if held_BT.ndim != 2 or start_BS.shape != (runs, len(process.states)):
        raise _misfit("state", f"{start_BS.shape} with controls {held_BT.shape}", f"(runs, {len(process.states)})")
    parameter_BTP = _parameter_array(process, parameters or {}, runs, steps)
    _check_ceilings(process, start_BS, parameter_BTP)
    state_BTS = _deal(process, start_BS, held_BT, parameter_BTP, time_s, max(1, min(threads, runs)))
    return _bounded(process, state_BTS, parameter_BTP)


def _deal(
    process: DifferentialProcess,
    state_BS: FloatArray,
    control_BT: FloatArray,
    parameter_BTP: FloatArray,
    time_s: float,
    threads: int,
) -> FloatArray:
    advance, kernel, compiled_rates = _kernels()
    rates = compiled_rates(process.rates)
    state_BTS = np.empty((*control_BT.shape, len(process.states)))
    failed_B = np.full(len(control_BT), _FAILED, dtype=np.int64)

    def work(part: slice) -> None:
        arrays = state_BS[part], control_BT[part], parameter_BTP[part]
        kernel(advance, rates, *arrays, time_s, PRECISION, state_BTS[part], failed_B[part])

    edges = np.linspace(0, len(control_BT), threads + 1).astype(int).tolist()
    parts = [slice(first, last) for first, last in zip(edges[:-1], edges[1:], strict=True)]
    if threads == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    failed = np.flatnonzero(failed_B != _FAILED)
    if failed.size:
        run = int(failed[0])
        step = int(failed_B[run])
        raise _no_solution(process, float(control_BT[run, step]), MOST_SUBSTEPS, f" (run {run}, step {step})")
    return state_BTS


def _parameter_array(
    process: DifferentialProcess, parameters: Mapping[str, npt.ArrayLike], runs: int, steps: int
) -> FloatArray:
    """Parameters of every run and step, (B, T, P), without copies where they stay."""
    by_name = {variable.name: variable for variable in process.parameters}
    given: dict[str, FloatArray] = {}
    for name, values in parameters.items():
        variable = known_variable(name, by_name, kind=f"parameter of the {process.name}")
        array = _allowed_array(np.asarray(values)[..., None], (variable,), name=f"parameters.{name}")[..., 0]
        array = array.reshape(-1, 1) if array.ndim < 2 else array
        if array.ndim != 2 or array.shape[0] not in {1, runs} or array.shape[1] not in {1, steps}:
            raise _misfit(f"parameters.{name}", np.shape(values), f"a number, ({runs},) or ({runs}, {steps})")
        given[name] = array
    rows = runs if any(array.shape[0] > 1 for array in given.values()) else 1
    columns = steps if any(array.shape[1] > 1 for array in given.values()) else 1
    parameter_BTP = np.empty((rows, columns, len(by_name)))
    for position, variable in enumerate(process.parameters):
        parameter_BTP[:, :, position] = given.get(variable.name, np.array([[variable.default]]))
    return np.broadcast_to(parameter_BTP, (runs, steps, len(by_name)))


def _allowed_array(values: npt.ArrayLike, variables: tuple[Variable, ...], *, name: str) -> FloatArray:
    """An array whose last axis goes over the variables, every value allowed."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise _misfit(name, values, "numbers") from None
    if array.ndim == 0 or array.shape[-1] != len(variables):
        raise _misfit(name, array.shape, f"{len(variables)} values in the last axis")
    lower = np.array([variable.lower for variable in variables])
    upper = np.array([variable.upper for variable in variables])
    outside = ~((array >= lower) & (array <= upper))
    if outside.any():
        place = tuple(int(axis) for axis in np.argwhere(outside)[0])
        variable = variables[place[-1]]
        label = name if len(variables) == 1 else f"{name}.{variable.name}"
        allowed_number(float(array[place]), variable.lower, variable.upper, name=label, unit=variable.unit)
    return array


def _misfit(name: str, found: object, allowed: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter=name,
        provided=found,
        allowed=allowed,
        fact=f"The shape of {name} does not fit",
        remedy=f"Give it as {allowed}.",
    )


def _check_ceilings(process: DifferentialProcess, state_BS: FloatArray, parameter_BTP: FloatArray) -> None:
    states = [variable.name for variable in process.states]
    names = [variable.name for variable in process.parameters]
    for low, high in process.ceilings.items():
        ceiling_BT = parameter_BTP[:, :, names.index(high)]
        over = np.flatnonzero(state_BS[:, states.index(low)] > ceiling_BT.min(axis=1, initial=np.inf))
        for run in over[:1].tolist():
            process.check_ceilings(
                {low: float(state_BS[run, states.index(low)])}, {high: float(ceiling_BT[run].min())}
            )


def _bounded(process: DifferentialProcess, state_BTS: FloatArray, parameter_BTP: FloatArray) -> FloatArray:
    """The states with rounding at their bounds taken off; more than rounding is an error."""
    names = [variable.name for variable in process.parameters]
    for position, variable in enumerate(process.states):
        upper: FloatArray | float = variable.upper
        if variable.name in process.ceilings:
            upper = np.minimum(upper, parameter_BTP[:, :, names.index(process.ceilings[variable.name])])
        value_BT = state_BTS[:, :, position]
        bounded_BT = np.clip(value_BT, variable.lower, upper)
        outside = ~(np.abs(value_BT - bounded_BT) <= process.tolerance[variable.name])
        if outside.any():
            run, step = (int(axis) for axis in np.argwhere(outside)[0])
            raise ConvergenceError(
                f"A run takes {variable.name} of the {process.name} out of its bounds (run {run}, step {step})",
                found=float(value_BT[run, step]),
                remedy=f"It must stay above {variable.lower:g} and below {variable.upper:g} {variable.unit}: change "
                "the controls or the parameters.",
            )
        state_BTS[:, :, position] = bounded_BT
    return state_BTS
