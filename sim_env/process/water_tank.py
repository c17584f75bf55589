"""A water tank: an inflow that is set, an outlet by Torricelli's law, a draw that is asked for, and an overflow.

The balance of volume, A being the area of the surface and h the level:

    A dh/dt = inflow - outflow - draw - overflow.

- Outflow: Torricelli's law, k sqrt(h), k holding the outlet's area, its discharge coefficient and sqrt(2 g). Below
  centimetres the root is smoothed as in Modelica.Fluid.Utilities.regRoot, h / (h^2 + d^2)^(1/4): within 1 % from 5 cm.
- Draw: what a zone asks for, delivered in full until the level falls to the pipe's mouth, where it fades with
  tanh(h / 5 cm); half a metre above it, all but 4e-9 of it comes.
- Overflow: a weir over the tank's uppermost tenth, c head^(3/2) (Poleni's formula). It is built, as such weirs are, to
  carry the largest inflow when the water stands at the brim. The head begins smoothly (within a millimetre).

So an empty tank gives nothing, and a brimful one spills whatever comes: the level stays within its bounds by the
equations alone, the same smooth ones for GEKKO and for native integration, without events.

Three states count the volumes that left: inflow x time = outflow + draw + overflow + A x rise of the level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sim_env.process.differential import DifferentialProcess, FloatArray
from sim_env.process.system import Variable

LITRES_PER_M3 = 1000.0
LARGEST_INFLOW_L_PER_S = 200.0
_ROOT_SMOOTHED_M = 0.01
_MOUTH_M = 0.05
_FREEBOARD = 0.1
_HEAD_SMOOTHED_M = 0.001


def tank_rates(state_S: FloatArray, control: float, parameter_P: FloatArray, rate_S: FloatArray) -> None:
    """Rates of the level [m/s] and of the volumes that left [m3/s]; equations in the module's text."""
    area, outlet_coefficient, height, draw = parameter_P[0], parameter_P[1], parameter_P[2], parameter_P[3]
    level = state_S[0]
    freeboard = _FREEBOARD * height
    above = level - (height - freeboard)
    head = 0.5 * (above + math.sqrt(above * above + _HEAD_SMOOTHED_M * _HEAD_SMOOTHED_M))
    outflow = outlet_coefficient * level / math.sqrt(math.sqrt(level * level + _ROOT_SMOOTHED_M * _ROOT_SMOOTHED_M))
    delivered = draw * math.tanh(level / _MOUTH_M)
    overflow = LARGEST_INFLOW_L_PER_S * (head / freeboard) * math.sqrt(head / freeboard)
    rate_S[0] = (control - outflow - delivered - overflow) / (LITRES_PER_M3 * area)
    rate_S[1] = outflow / LITRES_PER_M3
    rate_S[2] = delivered / LITRES_PER_M3
    rate_S[3] = overflow / LITRES_PER_M3


def _gekko_rates(model: Any, state: Mapping[str, Any], control: Any, parameter: Mapping[str, Any]) -> dict[str, Any]:
    level, height = state["level"], parameter["height"]
    above = level - (1.0 - _FREEBOARD) * height
    head = model.Intermediate(0.5 * (above + (above**2 + _HEAD_SMOOTHED_M**2) ** 0.5))
    outflow = model.Intermediate(parameter["outlet_coefficient"] * level / (level**2 + _ROOT_SMOOTHED_M**2) ** 0.25)
    delivered = model.Intermediate(parameter["draw"] * model.tanh(level / _MOUTH_M))
    overflow = model.Intermediate(LARGEST_INFLOW_L_PER_S * (head / (_FREEBOARD * height)) ** 1.5)
    return {
        "level": (control - outflow - delivered - overflow) / (LITRES_PER_M3 * parameter["area"]),
        "outflow_volume": outflow / LITRES_PER_M3,
        "draw_volume": delivered / LITRES_PER_M3,
        "overflow_volume": overflow / LITRES_PER_M3,
    }


def _volume(name: str, description: str) -> Variable:
    return Variable(name=name, unit="m3", default=0.0, lower=0.0, upper=1e12, description=description)


WATER_TANK = DifferentialProcess(
    name="water_tank",
    states=(
        Variable(name="level", unit="m", default=1.0, lower=0.0, upper=20.0, description="level above the outlet"),
        _volume("outflow_volume", "volume that left by the outlet"),
        _volume("draw_volume", "volume that was drawn"),
        _volume("overflow_volume", "volume that was spilt"),
    ),
    control=Variable(
        name="inflow",
        unit="L/s",
        default=10.0,
        lower=0.0,
        upper=LARGEST_INFLOW_L_PER_S,
        description="flow into the tank",
    ),
    parameters=(
        Variable(name="area", unit="m2", default=10.0, lower=2.0, upper=10_000.0, description="area of the surface"),
        Variable(
            name="outlet_coefficient",
            unit="L/s/m^0.5",
            default=8.0,
            lower=0.0,
            upper=100.0,
            description="outflow at a level of a metre",
        ),
        Variable(name="height", unit="m", default=3.0, lower=1.0, upper=20.0, description="height of the brim"),
        Variable(name="draw", unit="L/s", default=0.0, lower=0.0, upper=200.0, description="flow that a zone asks for"),
    ),
    longest_step_s=3600.0,
    rates=tank_rates,
    gekko_rates=_gekko_rates,
    tolerance={"level": 1e-4, "outflow_volume": 1e-2, "draw_volume": 1e-2, "overflow_volume": 1e-2},
    ceilings={"level": "height"},
    accumulated=("outflow_volume", "draw_volume", "overflow_volume"),
)
