"""A room with a heater: one heat capacity and one loss to the outside.

The heat balance of one node (the model "Ti" of P. Bacher and H. Madsen, Identifying suitable models for the heat
dynamics of buildings, Energy and Buildings 43, 2011, with the loss lumped),

    C dT/dt = Q + UA (To - T),

has, while heater and outside stay, the solution of `held_temperature`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.system import Variable


def room_rates(state_S: FloatArray, control: float, parameter_P: FloatArray, rate_S: FloatArray) -> None:
    """Rate of the temperature [K/s]; equation in the module's text."""
    outdoor_temperature, heat_loss, heat_capacity = parameter_P[0], parameter_P[1], parameter_P[2]
    rate_S[0] = (control + heat_loss * (outdoor_temperature - state_S[0])) / heat_capacity


def _gekko_rates(model: Any, state: Mapping[str, Any], control: Any, parameter: Mapping[str, Any]) -> dict[str, Any]:
    loss = parameter["heat_loss"] * (state["temperature"] - parameter["outdoor_temperature"])
    return {"temperature": (control - loss) / parameter["heat_capacity"]}


def held_temperature(
    *,
    temperature_c: float,
    heater_w: float,
    outdoor_temperature_c: float,
    heat_loss_w_per_k: float,
    heat_capacity_j_per_k: float,
    time_s: float,
) -> float:
    """Temperature of the room [degC] after a time of constant heating, exactly.

    T(t) = Te + (T(0) - Te) exp(-UA t / C) with Te = To + Q / UA, the solution of the linear balance.

    Args:
        temperature_c: Temperature at the start [degC].
        heater_w: Power of the heater [W].
        outdoor_temperature_c: Temperature outside [degC].
        heat_loss_w_per_k: Heat lost for each degree of difference [W/K], above 0.
        heat_capacity_j_per_k: Heat that warms the room by a degree [J/K].
        time_s: How long [s].
    """
    settled_c = outdoor_temperature_c + heater_w / heat_loss_w_per_k
    return settled_c + (temperature_c - settled_c) * math.exp(-heat_loss_w_per_k * time_s / heat_capacity_j_per_k)


ROOM_TEMPERATURE = DifferentialProcess(
    name="room_temperature",
    states=(
        Variable(
            name="temperature",
            unit="degC",
            default=18.0,
            lower=-60.0,
            upper=500.0,
            description="temperature of the room's air",
        ),
    ),
    control=Variable(
        name="heater", unit="W", default=1000.0, lower=0.0, upper=20_000.0, description="power of the heater"
    ),
    parameters=(
        Variable(
            name="outdoor_temperature",
            unit="degC",
            default=5.0,
            lower=-60.0,
            upper=60.0,
            description="temperature outside",
        ),
        Variable(
            name="heat_loss",
            unit="W/K",
            default=75.0,
            lower=50.0,
            upper=1000.0,
            description="heat lost for each degree of difference to the outside, UA",
        ),
        Variable(
            name="heat_capacity",
            unit="J/K",
            default=5e5,
            lower=1e5,
            upper=1e8,
            description="heat that warms the room by a degree",
        ),
    ),
    longest_step_s=3600.0,
    rates=room_rates,
    gekko_rates=_gekko_rates,
    tolerance={"temperature": 5e-3},
)
