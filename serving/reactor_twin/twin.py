"""The twin itself: a living model that is told what is measured, and an ideal one that is not.

Two models of the same reactor run beside each other, driven by measured flow and coolant, each held until the next one.

- The **living** model, solved by GEKKO, is put right by each measured temperature after it has said what it expected:
  a Luenberger observer (D. Luenberger, IEEE Transactions on Automatic Control 16 (1971) 596) whose gain over a time t
  is 1 - exp(-rate t), so that it does not depend on how often is measured. Its prediction is one step ahead. The
  concentration is not corrected; it follows, as it forgets its error in a few residence times.
- The **ideal** model, integrated by our own code, sees the temperature only when it begins. Measured minus ideal is
  the deviation: a fault that the living model follows stays visible in it.

Nothing in here knows a broker, a clock or a thread.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from features.errors import UnknownNameError
from serving.reactor_twin.alert import Change, DeviationWatch
from serving.reactor_twin.measurements import Kind, Measurement
from serving.reactor_twin.settings import ReactorSettings
from sim_env.process.system import ConvergenceError, Process, ProcessModel, Variable

TEMPERATURE = "T"
CONCENTRATION = "Ca"
FLOW = "feed_flow"
_SHORTEST_STEP_S = 1e-3
# A concentration that burns without warming anything [mol/m3].
_TRACE = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the twin says to one measured temperature.

    Attributes:
        predicted_temp_k: What the living model expected, before it was told [K].
        predicted_concentration: The concentration with it [mol/m3].
        ideal_temp_k: What the ideal model has [K].
        deviation_k: Measured minus ideal [K].
        certain: Whether all of it rests on measured inputs and a model that has lived a while.
        change: What it changes in the alert.
        begun_anew: Why the models were put to what was measured; empty where they were not.
        solve_ms: What the living model took to solve [ms].
    """

    predicted_temp_k: float
    predicted_concentration: float
    ideal_temp_k: float
    deviation_k: float
    certain: bool
    change: Change | None
    begun_anew: str
    solve_ms: float


class TwinState(BaseModel):
    """All that a twin needs to go on where another one stopped."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    at_ns: int | None = None
    living: dict[str, float] = {}
    ideal: dict[str, float] = {}
    inputs: dict[Kind, float] = {}
    alert_raised: bool = False
    alert_large: int = 0


class ReactorTwin:
    """One reactor's twin; `start` brings it to life, `close` ends it, also twice.

    Args:
        process: The reactor.
        settings: Its parameters, gains and thresholds.
    """

    def __init__(self, process: Process, settings: ReactorSettings) -> None:
        self.process = process
        self._settings = settings
        self._at_ns: int | None = None
        self._failed = False
        self._inputs: dict[Kind, float] = {}
        self._models: tuple[ProcessModel, ProcessModel] | None = None
        self._watch = DeviationWatch(
            raise_k=settings.reactor_alert_raise_k,
            clear_k=settings.reactor_alert_clear_k,
            messages=settings.reactor_alert_messages,
        )

    @property
    def expected(self) -> dict[Kind, Variable]:
        """Unit and bounds of what is measured."""
        states = {variable.name: variable for variable in self.process.states}
        parameters = {variable.name: variable for variable in self.process.parameters}
        return {"temp": states[TEMPERATURE], "flow": parameters[FLOW], "coolant": self.process.control}

    @property
    def concentration_unit(self) -> str:
        """Unit of the predicted concentration."""
        return next(variable.unit for variable in self.process.states if variable.name == CONCENTRATION)

    @property
    def source(self) -> str:
        """Where its values come from: `sim:gekko:reactor@<hash of the parameters that are not measured>`."""
        fixed = {name: value for name, value in self._living.parameters.items() if name != FLOW}
        content = json.dumps(fixed, sort_keys=True)
        return f"sim:gekko:{self.process.name}@{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    @property
    def raised(self) -> bool:
        """Whether the alert is raised."""
        return self._watch.raised

    def threshold_k(self, change: Change) -> float:
        """The threshold that a change of the alert crossed [K]."""
        return self._watch.threshold_k(change)

    def start(self) -> None:
        """Make both models and solve, so that the first message does not wait for a compiler.

        Raises:
            UnknownNameError: The settings name a parameter that the reactor has not.
            InvalidParameterError: A parameter cannot be.
        """
        parameters = self._settings.reactor_parameters
        self._models = (self.process.gekko(parameters=parameters), self.process.native(parameters=parameters))
        for model in self._models:
            first, flow = model.state, model.parameters[FLOW]
            # A flow that changes for the first time is built into the model anew.
            for factor in (0.999, 1.0):
                model.update_parameters({FLOW: factor * flow})
                model.step(self.process.control.default, delta_time_s=1.0)
            model.set_state(first)

    def take_input(self, measurement: Measurement) -> None:
        """Hold a measured flow or coolant temperature from the next step on."""
        self._inputs[measurement.kind] = measurement.value
        if measurement.kind == "flow":
            for model in (self._living, self._ideal):
                model.update_parameters({FLOW: measurement.value})

    def take_temperature(self, measurement: Measurement) -> Answer:
        """Go on to the moment of a measured temperature, say what was expected, and learn from it.

        Raises:
            ConvergenceError: A model could not be solved; both begin anew from the next temperature.
        """
        elapsed_s = 0.0 if self._at_ns is None else (measurement.measured_at_ns - self._at_ns) / 1e9
        begun_anew = self._reason_to_begin_anew(elapsed_s)
        try:
            solve_ms = self._begin_anew(measurement.value) if begun_anew else self._advance(elapsed_s)
        except ConvergenceError:
            self._failed = True
            raise
        self._failed = False
        answer = self._answer(measurement.value, begun_anew, solve_ms)
        if begun_anew or elapsed_s >= _SHORTEST_STEP_S:
            self._at_ns = measurement.measured_at_ns
            settings = self._settings
            self._correct(self._living, measurement.value, settings.reactor_correction_per_s * elapsed_s)
            self._correct(self._ideal, measurement.value, settings.reactor_ideal_correction_per_s * elapsed_s)
        return answer

    def _reason_to_begin_anew(self, elapsed_s: float) -> str:
        if self._at_ns is None:
            return "it is the first temperature"
        if self._failed:
            return "the step before could not be solved"
        if elapsed_s > self._settings.reactor_resync_after_s:
            return f"there was no temperature for {elapsed_s:.0f} s"
        return ""

    def _answer(self, measured_k: float, begun_anew: str, solve_ms: float) -> Answer:
        living, ideal = self._living.state, self._ideal.state
        deviation_k = measured_k - ideal[TEMPERATURE]
        return Answer(
            predicted_temp_k=living[TEMPERATURE],
            predicted_concentration=living[CONCENTRATION],
            ideal_temp_k=ideal[TEMPERATURE],
            deviation_k=deviation_k,
            certain=not begun_anew and len(self._inputs) == 2,
            # A model that was just put to what was measured agrees with it, which says nothing about the reactor.
            change=None if begun_anew else self._watch.judge(deviation_k),
            begun_anew=begun_anew,
            solve_ms=solve_ms,
        )

    def _begin_anew(self, measured_k: float) -> float:
        concentration = self._steady_concentration(measured_k)
        for model in (self._living, self._ideal):
            model.set_state({TEMPERATURE: measured_k, CONCENTRATION: concentration})
        return 0.0

    def _advance(self, elapsed_s: float) -> float:
        """Take both models further and return what the living one took [ms]."""
        if elapsed_s < _SHORTEST_STEP_S:
            return 0.0
        steps = math.ceil(elapsed_s / self.process.longest_step_s)
        began = time.perf_counter()
        self._run(self._living, steps, elapsed_s / steps)
        solve_ms = 1e3 * (time.perf_counter() - began)
        self._run(self._ideal, steps, elapsed_s / steps)
        return solve_ms

    def _run(self, model: ProcessModel, steps: int, delta_time_s: float) -> None:
        for _ in range(steps):
            model.step(self._coolant_k, delta_time_s=delta_time_s)

    def _correct(self, model: ProcessModel, measured_k: float, exponent: float) -> None:
        expected_k = model.state[TEMPERATURE]
        model.set_state({TEMPERATURE: expected_k - math.expm1(-exponent) * (measured_k - expected_k)})

    def _steady_concentration(self, measured_k: float) -> float:
        """The concentration that would stay at a temperature, the best guess for one that nobody measures.

        At a fixed temperature its rate is affine in itself, and so is what a step makes of it: two short ones tell
        where it stays. They begin near zero, where the reaction is too weak to change the temperature.
        """
        variable = next(variable for variable in self.process.states if variable.name == CONCENTRATION)
        low, high = variable.lower, variable.lower + _TRACE
        after_low, after_high = (
            self._concentration_after(measured_k, before, _SHORTEST_STEP_S) for before in (low, high)
        )
        slope = (after_high - after_low) / (high - low)
        steady = (after_low - slope * low) / (1.0 - slope)
        return min(max(steady, variable.lower), variable.upper)

    def _concentration_after(self, temperature_k: float, concentration: float, delta_time_s: float) -> float:
        self._ideal.set_state({TEMPERATURE: temperature_k, CONCENTRATION: concentration})
        return self._ideal.step(self._coolant_k, delta_time_s=delta_time_s)[CONCENTRATION]

    @property
    def _coolant_k(self) -> float:
        return self._inputs.get("coolant", self.process.control.default)

    @property
    def _living(self) -> ProcessModel:
        assert self._models is not None, "start it first"
        return self._models[0]

    @property
    def _ideal(self) -> ProcessModel:
        assert self._models is not None, "start it first"
        return self._models[1]

    def state(self) -> TwinState:
        """What another twin would need to go on from here."""
        return TwinState(
            # What failed is begun anew by whoever goes on.
            at_ns=None if self._failed else self._at_ns,
            living=self._living.state,
            ideal=self._ideal.state,
            inputs=dict(self._inputs),
            alert_raised=self._watch.raised,
            alert_large=self._watch.large,
        )

    def restore(self, state: TwinState) -> None:
        """Go on where another twin stopped.

        Raises:
            UnknownNameError: It is the state of another process.
            InvalidParameterError: A value cannot be.
        """
        for model, values in ((self._living, state.living), (self._ideal, state.ideal)):
            _check_names(values, self.process)
            model.set_state(values)
            if "flow" in state.inputs:
                model.update_parameters({FLOW: state.inputs["flow"]})
        self._inputs = dict(state.inputs)
        self._at_ns = state.at_ns
        self._watch.raised, self._watch.large = state.alert_raised, state.alert_large

    def close(self) -> None:
        """Give back what the models hold."""
        for model in self._models or ():
            model.close()


def _check_names(values: Mapping[str, float], process: Process) -> None:
    known = [variable.name for variable in process.states]
    if set(values) != set(known):
        raise UnknownNameError(kind=f"state of the {process.name}", name=str(sorted(values)), nearest=[], known=known)
