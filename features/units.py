"""Conversion to canonical units, done once, where data enters or leaves (by the pint library)."""

from __future__ import annotations

import functools
import re
import tokenize

import numpy as np
import numpy.typing as npt
import pint

from features.errors import UnitError


@functools.cache
def _registry() -> pint.UnitRegistry[float]:
    registry: pint.UnitRegistry[float] = pint.UnitRegistry(
        autoconvert_offset_to_baseunit=True,
        preprocessors=[
            lambda text: text.replace("%", "percent"),
            lambda text: re.sub(r"(?<=[A-Za-z])(?=[23]\b)", "**", text),
        ],
    )
    registry.define("vehicle = [vehicle] = veh = vehicles")
    registry.define("trip = [trip] = trips")
    return registry


# Where the wind comes from, as one of 16 points [degree], north being 0.
COMPASS_POINTS: dict[str, float] = {
    point: 22.5 * place for place, point in enumerate("N NNE NE ENE E ESE SE SSE S SSW SW WSW W WNW NW NNW".split())
}

# What people write, and what pint calls it.
_ALIASES = {
    "K": "kelvin",
    "C": "degC",
    "°C": "degC",
    "F": "degF",
    "°F": "degF",
    "kmh": "km/h",
    "kph": "km/h",
    "mph": "mile/h",
    "compass": "degree",
}


def convert(values: npt.ArrayLike, *, unit: str, to: str) -> npt.NDArray[np.float64]:
    """`values` in `unit`, as float64 in the unit `to`.

    Raises:
        UnitError: A unit is unknown, or the two measure different things.
    """
    array = np.asarray(values, dtype=np.float64)
    if unit == to:
        return array
    registry = _registry()
    try:
        given = registry.Unit(_ALIASES.get(unit, unit))
        wanted = registry.Unit(_ALIASES.get(to, to))
        converted: npt.NDArray[np.float64] = registry.Quantity(array, given).to(wanted).magnitude
    except (
        pint.UndefinedUnitError,
        pint.DimensionalityError,
        pint.DefinitionSyntaxError,
        ValueError,
        TypeError,
        # What pint's parser lets through on text that is no expression, such as "veh/" or "veh(".
        AssertionError,
        tokenize.TokenError,
    ) as error:
        raise UnitError(
            f"Values cannot be converted to {to}",
            found=repr(unit),
            remedy=f"Give a unit that converts to {to}, such as {to!r} itself ({type(error).__name__}).",
        ) from error
    return converted
