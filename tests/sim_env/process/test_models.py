"""What every model of every process promises, native or GEKKO."""

import hashlib
import math
import subprocess
import sys

import pytest

from features.errors import InvalidParameterError, UnknownNameError
from sim_env.process import PROCESSES
from sim_env.process.system import ProcessModel

KINDS = [(name, kind) for name in PROCESSES for kind in ("native", "gekko")]


def make(name: str, kind: str, **arguments: dict[str, float]) -> ProcessModel:
    return getattr(PROCESSES[name], kind)(**arguments)


@pytest.mark.parametrize("name", list(PROCESSES))
def test_a_process_names_each_thing_once_and_its_defaults_are_allowed(name: str) -> None:
    process = PROCESSES[name]
    variables = (*process.states, process.control, *process.parameters)
    assert process.name == name
    assert len({variable.name.casefold() for variable in variables}) == len(variables)
    for variable in variables:
        assert variable.lower <= variable.default <= variable.upper
        assert variable.description
        assert variable.unit
    assert set(process.tolerance) == {variable.name for variable in process.states}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_bad_control_or_time_is_refused_and_changes_nothing(name: str, kind: str) -> None:
    process = PROCESSES[name]
    model = make(name, kind)
    before = model.state
    usual = process.control.default
    for control in (
        math.nan,
        math.inf,
        -math.inf,
        process.control.upper * 2 + 1,
        process.control.lower - 1,
        "10",
        None,
    ):
        with pytest.raises(InvalidParameterError, match=process.control.name):
            model.step(control, delta_time_s=1.0)  # type: ignore[arg-type]
    for time_s in (0.0, -1.0, math.nan, math.inf, 1e9, process.longest_step_s * 1.001, True):
        with pytest.raises(InvalidParameterError, match="delta_time"):
            model.step(usual, delta_time_s=time_s)
    assert model.state == before


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_parameter_or_state_that_cannot_be_is_refused_and_none_is_changed(name: str, kind: str) -> None:
    process = PROCESSES[name]
    model = make(name, kind)
    parameters, state = model.parameters, model.state
    first, last = process.parameters[0], process.parameters[-1]
    for bad in (math.nan, math.inf, first.lower - 1.0, first.upper + 1.0):
        with pytest.raises(InvalidParameterError, match=first.name):
            model.update_parameters({last.name: last.upper, first.name: bad})
        with pytest.raises(InvalidParameterError, match=first.name):
            make(name, kind, parameters={first.name: bad})
    with pytest.raises(UnknownNameError, match=first.name):
        model.update_parameters({last.name: last.upper, first.name + "x": first.default})
    shown = process.states[0]
    for bad in (math.nan, shown.lower - 1.0, shown.upper + 1.0):
        with pytest.raises(InvalidParameterError, match=shown.name):
            model.set_state({shown.name: bad})
        with pytest.raises(InvalidParameterError, match=shown.name):
            make(name, kind, state={shown.name: bad})
    with pytest.raises(UnknownNameError):
        model.set_state({"nothing": 1.0})
    assert model.parameters == parameters
    assert model.state == state


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_what_a_model_shows_is_a_copy_and_models_share_nothing(name: str, kind: str) -> None:
    model, other = make(name, kind), make(name, kind)
    parameter, state = PROCESSES[name].parameters[0], PROCESSES[name].states[0]
    model.state[state.name] = -1.0
    model.parameters[parameter.name] = -1.0
    assert model.state == other.state
    assert model.parameters == other.parameters
    model.update_parameters({parameter.name: parameter.upper})
    model.set_state({state.name: state.lower})
    assert other.parameters[parameter.name] == parameter.default
    assert other.state[state.name] == state.default
    model.close()
    model.close()


PROGRAM = """
from sim_env.process import PROCESSES
for name in PROCESSES:
    process = PROCESSES[name]
    for model in (process.native(), process.gekko()):
        states = [model.step(process.control.default * share, delta_time_s=7.0) for share in (0.98, 1.02)]
        model.close()
        print(states)
"""


def test_the_same_steps_give_the_same_bits_in_another_process() -> None:
    digests = set()
    for _ in range(2):
        answer = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
        assert answer.stdout.count(b"\n") == 2 * len(PROCESSES)
        digests.add(hashlib.sha256(answer.stdout).hexdigest())
    assert len(digests) == 1
