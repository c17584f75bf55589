"""An exothermic reaction A -> B in a continuous stirred tank with a cooling jacket (CSTR).

Seborg, Edgar and Mellichamp, Process Dynamics and Control, 2nd edition (2004), section 2.4.6: the balances of A and of
energy, volume and densities being constant,

    dCa/dt = q/V (Caf - Ca) - k Ca,    k = k0 exp(-E/(R T))
    dT/dt = q/V (Tf - T) + (-dH)/(rho cp) k Ca + UA/(rho cp V) (Tc - T).

The same equations and constants are the CSTR benchmark of APMonitor (J. D. Hedengren). The book gives the constants per
minute and litre (q 100 L/min, k0 7.2e10 1/min, UA 5e4 J/(min K), V 100 L); here they are per second. With the coolant
at 300 K there are three steady states: a stable one at 324.5 K and 877 mol/m3, where all begins, and unstable ones at
350 K (the book's nominal point, 500 mol/m3) and 369.7 K. From 304 K on the reactor
ignites, at 305 K again and again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.system import Variable

_MINUTE_S = 60.0
_LITRES_PER_M3 = 1000.0


def reactor_rates(state_S: FloatArray, control: float, parameter_P: FloatArray, rate_S: FloatArray) -> None:
    """Rates of temperature [K/s] and concentration [mol/(m3 s)]; equations in the module's text."""
    flow, feed_temperature, feed_concentration = parameter_P[0], parameter_P[1], parameter_P[2]
    volume, density, heat_capacity, reaction_heat = parameter_P[3], parameter_P[4], parameter_P[5], parameter_P[6]
    activation, rate_constant, heat_transfer = parameter_P[7], parameter_P[8], parameter_P[9]
    temperature, concentration = state_S[0], state_S[1]
    reaction = rate_constant * math.exp(-activation / temperature) * concentration
    renewal = flow / (_LITRES_PER_M3 * volume)
    heat = density * heat_capacity
    cooling = heat_transfer / (heat * volume) * (control - temperature)
    rate_S[0] = renewal * (feed_temperature - temperature) + reaction_heat / heat * reaction + cooling
    rate_S[1] = renewal * (feed_concentration - concentration) - reaction


def _gekko_rates(model: Any, state: Mapping[str, Any], control: Any, parameter: Mapping[str, Any]) -> dict[str, Any]:
    temperature, concentration = state["T"], state["Ca"]
    reaction = model.Intermediate(
        parameter["rate_constant"] * model.exp(-parameter["activation_temperature"] / temperature) * concentration
    )
    renewal = parameter["feed_flow"] / (_LITRES_PER_M3 * parameter["volume"])
    heat = parameter["density"] * parameter["heat_capacity"]
    return {
        "T": renewal * (parameter["feed_temperature"] - temperature)
        + parameter["reaction_heat"] / heat * reaction
        + parameter["heat_transfer"] / (heat * parameter["volume"]) * (control - temperature),
        "Ca": renewal * (parameter["feed_concentration"] - concentration) - reaction,
    }


def _variable(name: str, unit: str, default: float, lower: float, upper: float, description: str) -> Variable:
    return Variable(name=name, unit=unit, default=default, lower=lower, upper=upper, description=description)


REACTOR = DifferentialProcess(
    name="reactor",
    states=(
        _variable("T", "K", 324.475443431599, 200.0, 1500.0, "temperature of the reactor"),
        _variable("Ca", "mol/m3", 877.25294608097, 0.0, 2000.0, "concentration of A in the reactor"),
    ),
    control=_variable("Tc", "K", 300.0, 250.0, 350.0, "temperature of the coolant"),
    parameters=(
        _variable("feed_flow", "L/s", 100.0 / _MINUTE_S, 0.0, 10.0, "flow of the feed"),
        _variable("feed_temperature", "K", 350.0, 250.0, 400.0, "temperature of the feed"),
        _variable("feed_concentration", "mol/m3", 1000.0, 0.0, 2000.0, "concentration of A in the feed"),
        _variable("volume", "m3", 100.0 / _LITRES_PER_M3, 0.02, 10.0, "volume of the reactor's content"),
        _variable("density", "kg/m3", 1000.0, 700.0, 1500.0, "density of the content"),
        _variable("heat_capacity", "J/(kg K)", 239.0, 150.0, 5000.0, "specific heat capacity of the content"),
        _variable("reaction_heat", "J/mol", 5e4, 0.0, 1e5, "heat that a mole of A sets free, -dH"),
        _variable("activation_temperature", "K", 8750.0, 5000.0, 15000.0, "activation energy over gas constant, E/R"),
        _variable("rate_constant", "1/s", 7.2e10 / _MINUTE_S, 0.0, 1e12, "rate constant, k0"),
        _variable("heat_transfer", "W/K", 5e4 / _MINUTE_S, 0.0, 1e5, "heat transfer to the jacket, UA"),
    ),
    longest_step_s=600.0,
    rates=reactor_rates,
    gekko_rates=_gekko_rates,
    # 1e-4 of a feed of 1 mol/L.
    tolerance={"T": 5e-3, "Ca": 0.1},
)
