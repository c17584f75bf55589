"""A process given by ordinary differential equations, as plain data and two forms of the same equations."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError, UnknownNameError
from features.registry import nearest_names
from sim_env.process.system import ProcessModel, Variable

FloatArray = npt.NDArray[np.float64]
Rates = Callable[[FloatArray, float, FloatArray, FloatArray], None]
GekkoRates = Callable[[Any, Mapping[str, Any], Any, Mapping[str, Any]], dict[str, Any]]

SHORTEST_STEP_S = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferentialProcess:
    """A process whose states change at rates that depend on states, control and parameters alone.

    Attributes:
        name: As in the registry.
        states: Its states, in the order of `rates`.
        control: What is held during a step.
        parameters: Its parameters, in the order of `rates`.
        longest_step_s: Longest time of one step [s].
        rates: Writes into its last argument what each state changes by in a second, from states, control and
            parameters, in that order. Compiled by Numba, so it knows numbers and `math` alone.
        gekko_rates: The same for GEKKO: from the model, states by name, control and parameters by name, the
            expressions by state.
        tolerance: For each state, the largest difference between GEKKO and native integration, in its unit; what
            a solver overshoots a bound by within it is rounding.
        ceilings: States that may not be above a parameter, and that parameter.
        accumulated: States that only count, and that no rate depends on.
    """

    name: str
    states: tuple[Variable, ...]
    control: Variable
    parameters: tuple[Variable, ...]
    longest_step_s: float
    rates: Rates
    gekko_rates: GekkoRates
    tolerance: Mapping[str, float]
    ceilings: Mapping[str, str] = field(default_factory=dict)
    accumulated: tuple[str, ...] = ()

    def native(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        """A model that our own compiled code integrates.

        Raises:
            UnknownNameError: There is no such parameter or state.
            InvalidParameterError: A value cannot be.
        """
        from sim_env.process.living import LivingModel
        from sim_env.process.native import NativeSolver

        return LivingModel(self, NativeSolver(self), parameters=parameters or {}, state=state or {})

    def gekko(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        """A model that GEKKO solves on this machine.

        Raises:
            UnknownNameError: There is no such parameter or state.
            InvalidParameterError: A value cannot be.
        """
        from sim_env.process.gekko_model import GekkoSolver
        from sim_env.process.living import LivingModel

        return LivingModel(self, GekkoSolver(self), parameters=parameters or {}, state=state or {})

    def known_parameters(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values, checked one by one.

        Raises:
            UnknownNameError: There is no such parameter.
            InvalidParameterError: A value is not finite, or outside what is allowed.
        """
        return _known(values, self.parameters, kind=f"parameter of the {self.name}", prefix="parameters")

    def known_states(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values, checked one by one.

        Raises:
            UnknownNameError: There is no such state.
            InvalidParameterError: A value is not finite, or outside what is allowed.
        """
        return _known(values, self.states, kind=f"state of the {self.name}", prefix="state")

    def check_ceilings(self, state: Mapping[str, float], parameters: Mapping[str, float]) -> None:
        """Check that no state is above the parameter that limits it.

        Raises:
            InvalidParameterError: One is.
        """
        for low, high in self.ceilings.items():
            if state[low] > parameters[high]:
                raise InvalidParameterError(
                    parameter=f"state.{low}",
                    provided=state[low],
                    allowed=f"at most the {high}, {parameters[high]:g}",
                    fact=f"The {low} of the {self.name} is above its {high}",
                    remedy=f"Choose a {low} of at most {parameters[high]:g}, or a greater {high}.",
                )

    def checked_step(self, control: float, delta_time_s: float) -> tuple[float, float]:
        """Control and time as numbers, checked.

        Raises:
            InvalidParameterError: One is not finite, or outside what is allowed.
        """
        held = allowed_number(
            control, self.control.lower, self.control.upper, name=self.control.name, unit=self.control.unit
        )
        return held, self.checked_time(delta_time_s)

    def checked_time(self, delta_time_s: float) -> float:
        """The time of a step, checked.

        Raises:
            InvalidParameterError: It is not finite, not above 0 or longer than allowed.
        """
        return allowed_number(delta_time_s, SHORTEST_STEP_S, self.longest_step_s, name="delta_time", unit="s")


def allowed_number(value: float, lower: float, upper: float, *, name: str, unit: str) -> float:
    """The value as a number between its bounds.

    Raises:
        InvalidParameterError: It is no number, not finite, or outside.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        fact = f"{name} is not a finite number"
    elif not lower <= value <= upper:
        fact = f"{name} is outside what is allowed"
    else:
        return float(value)
    allowed = f"{lower:g} to {upper:g} {unit}".rstrip()
    raise InvalidParameterError(
        parameter=name, provided=value, allowed=allowed, fact=fact, remedy=f"Choose a number from {allowed}."
    )


def _known(values: Mapping[str, float], variables: tuple[Variable, ...], *, kind: str, prefix: str) -> dict[str, float]:
    by_name = {variable.name: variable for variable in variables}
    checked = {}
    for name, value in values.items():
        variable = known_variable(name, by_name, kind=kind)
        checked[name] = allowed_number(
            value, variable.lower, variable.upper, name=f"{prefix}.{name}", unit=variable.unit
        )
    return checked


def known_variable(name: str, by_name: Mapping[str, Variable], *, kind: str) -> Variable:
    """The variable of that name.

    Raises:
        UnknownNameError: There is none; near names are in the message.
    """
    if name not in by_name:
        known = list(by_name)
        raise UnknownNameError(kind=kind, name=name, nearest=nearest_names(name, known), known=known)
    return by_name[name]
