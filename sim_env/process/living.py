"""A living model: a process's state and parameters, and a solver that takes them a step further."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.system import ConvergenceError


class Solver(Protocol):
    """Takes a state a step further; everything that it starts from is in its arguments."""

    def advance(
        self, state_S: FloatArray, control: float, parameter_P: FloatArray, *, delta_time_s: float
    ) -> FloatArray:
        """The state after the step, a new array.

        Raises:
            ConvergenceError: There is no solution.
        """

    def close(self) -> None:
        """Give back what it holds; it starts afresh if it is asked again."""


class LivingModel:
    """One instance of a process: see `sim_env.process.system.ProcessModel`.

    Calls from several threads take turns; a call waits until the step of another one has ended.

    Args:
        process: Its equations.
        solver: Its own solver.
        parameters: Those that differ from their defaults.
        state: Those that differ from their defaults.

    Raises:
        UnknownNameError: There is no such parameter or state.
        InvalidParameterError: A value cannot be.
    """

    def __init__(
        self,
        process: DifferentialProcess,
        solver: Solver,
        *,
        parameters: Mapping[str, float],
        state: Mapping[str, float],
    ) -> None:
        self._process = process
        self._solver = solver
        self._turn = threading.Lock()
        # A dictionary is replaced as a whole, so that a reader in another thread sees one state or the next.
        self._parameters = {variable.name: variable.default for variable in process.parameters}
        self._parameters |= process.known_parameters(parameters)
        defaults = {variable.name: variable.default for variable in process.states}
        # A default may stand above a ceiling that was chosen lower; a state that was asked for may not.
        for low, high in process.ceilings.items():
            defaults[low] = min(defaults[low], self._parameters[high])
        self._state = defaults | process.known_states(state)
        process.check_ceilings(self._state, self._parameters)

    @property
    def state(self) -> dict[str, float]:
        """The states by name, in their units."""
        return dict(self._state)

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name, in their units."""
        return dict(self._parameters)

    def step(self, control: float, *, delta_time_s: float) -> dict[str, float]:
        """Hold the control for a time and return the state after it.

        Args:
            control: Value of the process's control.
            delta_time_s: How long [s].

        Raises:
            InvalidParameterError: The control or the time is not finite, or outside what is allowed.
            ConvergenceError: The equations could not be solved; the state is what it was.
        """
        held, time_s = self._process.checked_step(control, delta_time_s)
        with self._turn:
            before_S = np.array(list(self._state.values()))
            parameter_P = np.array(list(self._parameters.values()))
            after_S = self._solver.advance(before_S, held, parameter_P, delta_time_s=time_s)
            self._state = self._bounded(after_S)
            return dict(self._state)

    def _bounded(self, state_S: FloatArray) -> dict[str, float]:
        bounded = {}
        for variable, value in zip(self._process.states, state_S.tolist(), strict=True):
            upper = variable.upper
            if variable.name in self._process.ceilings:
                upper = min(upper, self._parameters[self._process.ceilings[variable.name]])
            tolerance = self._process.tolerance[variable.name]
            if not variable.lower - tolerance <= value <= upper + tolerance:
                raise ConvergenceError(
                    f"The step takes {variable.name} of the {self._process.name} out of its bounds",
                    found=value,
                    remedy=f"It must stay within {variable.lower:g} to {upper:g} {variable.unit}: change the control "
                    "or the parameters.",
                )
            bounded[variable.name] = min(max(value, variable.lower), upper)
        return bounded

    def update_parameters(self, parameters: Mapping[str, float]) -> None:
        """Change some parameters from the next step on; all of them or, after an error, none.

        Raises:
            UnknownNameError: The process has no such parameter.
            InvalidParameterError: A value is not finite, or outside what is allowed, or below a state that it limits.
        """
        checked = self._process.known_parameters(parameters)
        with self._turn:
            changed = self._parameters | checked
            self._process.check_ceilings(self._state, changed)
            self._parameters = changed

    def set_state(self, state: Mapping[str, float]) -> None:
        """Put some states to measured values; all of them or, after an error, none.

        Raises:
            UnknownNameError: The process has no such state.
            InvalidParameterError: A value is not finite, or outside what is allowed.
        """
        checked = self._process.known_states(state)
        with self._turn:
            changed = self._state | checked
            self._process.check_ceilings(changed, self._parameters)
            self._state = changed

    def close(self) -> None:
        """Give back what the solver holds, also twice; a later step starts it again."""
        with self._turn:
            self._solver.close()
