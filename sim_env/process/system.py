"""What a process is: its states, parameters and one control, and models of it that live.

A process is plain data and its differential equations, once for SciPy and Numba, once for GEKKO. A model is one
instance of it, with a state and parameters of its own, that steps when it is told to.

Array names carry their axes: B runs, T steps, S states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from features.errors import TowncastError
from features.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A state, the control or a parameter of a process.

    Attributes:
        name: Unique in its process.
        unit: Its unit.
        default: Value at the start, or of a parameter that nobody sets.
        lower: Smallest allowed value.
        upper: Largest allowed value.
        description: What it is, for people.
    """

    name: str
    unit: str
    default: float
    lower: float
    upper: float
    description: str


class ProcessModel(Protocol):
    """One instance of a process, alive. The constructor solves nothing; `close` leaves no file behind, also twice."""

    @property
    def state(self) -> dict[str, float]:
        """The states by name, in their units."""

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name, in their units."""

    def step(self, control: float, *, delta_time_s: float) -> dict[str, float]:
        """Hold the control for a time and return the state after it.

        Where a step fails, the state stays what it was.

        Args:
            control: Value of the process's control.
            delta_time_s: How long [s].

        Raises:
            InvalidParameterError: The control or the time is not finite, or outside what is allowed.
            ConvergenceError: The equations could not be solved.
        """

    def update_parameters(self, parameters: Mapping[str, float]) -> None:
        """Change some parameters from the next step on; all of them or, after an error, none.

        Raises:
            UnknownNameError: The process has no such parameter.
            InvalidParameterError: A value is not finite, or outside what is allowed.
        """

    def set_state(self, state: Mapping[str, float]) -> None:
        """Put some states to measured values; all of them or, after an error, none.

        Raises:
            UnknownNameError: The process has no such state.
            InvalidParameterError: A value is not finite, or outside what is allowed.
        """

    def close(self) -> None:
        """Give back what the model holds."""


class Process(Protocol):
    """A process: what it is made of, and how to bring one to life."""

    @property
    def name(self) -> str:
        """`water_tank`, `room_temperature` or `reactor`."""

    @property
    def states(self) -> tuple[Variable, ...]:
        """Its states, in a fixed order."""

    @property
    def control(self) -> Variable:
        """What is set at each step."""

    @property
    def parameters(self) -> tuple[Variable, ...]:
        """What stays until it is changed, in a fixed order."""

    @property
    def longest_step_s(self) -> float:
        """Longest time of one step [s]."""

    def native(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        """A model that integrates in this process's own compiled code, for bulk work and sessions.

        Raises:
            UnknownNameError: There is no such parameter or state.
            InvalidParameterError: A value cannot be.
        """

    def gekko(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        """A model that GEKKO solves (local solver, IMODE 4, NODES 3), kept alive from step to step.

        Raises:
            UnknownNameError: There is no such parameter or state.
            InvalidParameterError: A value cannot be.
        """


class ConvergenceError(TowncastError):
    """A solver did not reach a solution; the model's state is as it was before the step."""


PROCESSES: Registry[Process] = Registry("process")
