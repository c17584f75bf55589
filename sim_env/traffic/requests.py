"""What a step may be asked for.

Array names carry their axes: P control points.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError
from sim_env.traffic.engine import FloatArray

LARGEST_MULTIPLIER = 100.0
LONGEST_INTERVAL_S = 86400.0


def checked_multipliers(multiplier_P: npt.ArrayLike, controls: int) -> FloatArray:
    """The multipliers as an array.

    Raises:
        InvalidParameterError: There is not one for each control, or one cannot be.
    """
    try:
        values: FloatArray = np.asarray(multiplier_P, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.shape != (controls,):
        fact, remedy = "There is not one multiplier for each control", f"Give {controls}, in the order of `controls`."
    elif not (np.isfinite(values) & (values >= 0) & (values <= LARGEST_MULTIPLIER)).all():
        fact, remedy = "A multiplier cannot be", "1 is the baseline; send 0 where nobody is to begin."
    else:
        return values
    raise InvalidParameterError(
        parameter="multiplier_P",
        provided=multiplier_P,
        allowed=f"one from 0 to {LARGEST_MULTIPLIER:g} for each control",
        fact=fact,
        remedy=remedy,
    )


def check_duration(duration_s: float, *, step_length_s: float) -> None:
    """Refuse an interval that is no whole number of the engine's steps.

    Raises:
        InvalidParameterError: It is not, or it is above a day.
    """
    if math.isfinite(duration_s) and 0 < duration_s <= LONGEST_INTERVAL_S:
        steps = duration_s / step_length_s
        if steps >= 1 - 1e-9 and abs(steps - round(steps)) < 1e-6:
            return
    raise InvalidParameterError(
        parameter="duration_s",
        provided=duration_s,
        allowed=f"whole multiples of {step_length_s:g} s, up to {LONGEST_INTERVAL_S:g} s",
        fact="The control interval cannot be",
        remedy="Use 60 s, say.",
    )


def check_seed(seed: int) -> None:
    """Refuse a seed that SUMO or NumPy cannot take.

    Raises:
        InvalidParameterError: It is outside 0 to 2147483647.
    """
    if not 0 <= seed < 2**31:
        raise InvalidParameterError(
            parameter="seed",
            provided=seed,
            allowed="0 to 2147483647",
            fact="The seed cannot be",
            remedy="Use a small whole number.",
        )
