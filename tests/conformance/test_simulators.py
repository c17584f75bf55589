"""Every simulator keeps its promises, on every scenario that it names; a new one is tested without a line here."""

import dataclasses

import pytest

from sim_env import SIMULATORS, check_simulator

_CASES = [(name, scenario) for name in SIMULATORS for scenario in SIMULATORS[name].scenarios()]


@pytest.mark.parametrize(("name", "scenario"), _CASES)
def test_a_simulator_keeps_its_promises(name: str, scenario: str) -> None:
    simulator = SIMULATORS[name]
    chosen = simulator.scenarios()[scenario]
    shorter = {"weeks": 2} if hasattr(chosen, "weeks") else {"hours": 12}
    usual = scenario == next(iter(simulator.scenarios()))
    check_simulator(simulator, dataclasses.replace(chosen, **shorter), elsewhere=usual)
