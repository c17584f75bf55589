"""Native integration in compiled code: the solver of living models, and whole rollouts at once.

Both go through the same kernel, one step being one call of it: living and bulk form agree to the last bit.

Array names carry their axes: B runs, T steps, S states, P parameters, N sub-steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError
from sim_env.process.differential import DifferentialProcess, FloatArray, allowed_number, known_variable
from sim_env.process.runge_kutta import FAILED, MOST_ON_THE_WAY, MOST_SUBSTEPS, PRECISION, WORK_ROWS, kernels
from sim_env.process.system import ConvergenceError, Process, Variable


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
    way_NS = np.empty((MOST_ON_THE_WAY + 1, 1 + len(state_S)))
    count = _integrate(process, np.array(state_S), control, parameter_P, delta_time_s, PRECISION, way_NS)
    if count > MOST_ON_THE_WAY:
        raise _no_solution(process, control, MOST_ON_THE_WAY)
    return way_NS[: count + 1, 0], way_NS[: count + 1, 1:]


def _integrate(
    process: DifferentialProcess,
    state_S: FloatArray,
    control: float,
    parameter_P: FloatArray,
    time_s: float,
    precision: float,
    way_NS: FloatArray,
) -> int:
    code = kernels()
    work_KS = np.empty((WORK_ROWS, state_S.size))
    rates = code.compiled_rates(process.rates)
    count = code.advance(rates, state_S, control, parameter_P, time_s, precision, work_KS, way_NS)
    if count == FAILED or not np.isfinite(state_S).all():
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
    code = kernels()
    rates = code.compiled_rates(process.rates)
    state_BTS = np.empty((*control_BT.shape, len(process.states)))
    failed_B = np.full(len(control_BT), FAILED, dtype=np.int64)

    def work(part: slice) -> None:
        arrays = state_BS[part], control_BT[part], parameter_BTP[part]
        code.roll(code.advance, rates, *arrays, time_s, PRECISION, state_BTS[part], failed_B[part])

    edges = np.linspace(0, len(control_BT), threads + 1).astype(int).tolist()
    parts = [slice(first, last) for first, last in itertools.pairwise(edges)]
    if threads == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    failed = np.flatnonzero(failed_B != FAILED)
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
        raise InvalidParameterError(
            parameter=name,
            provided=np.asarray(values).tolist(),
            allowed="numbers",
            fact=f"{name} is not made of numbers",
            remedy="Give it as numbers.",
        ) from None
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
            process.check_ceilings({low: float(state_BS[run, states.index(low)])}, {high: float(ceiling_BT[run].min())})


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
