"""Many forecasts of the log as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.vocabulary import Float32Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastBatch:
    """Forecasts of one target with the same levels and the same number of steps (N forecasts).

    Attributes:
        name_N: Names of the forecasts.
        made_s_N: When they were made [s since 1970].
        site_N: Where.
        origin_s_N: Where they start [s since 1970].
        model_version_N: What made them.
        role_N: The role that the model had.
        step_s: Length of a step [s].
        unit: Of the values.
        levels: Quantile levels (Q).
        value_NHQ: Quantiles [unit].
    """

    name_N: npt.NDArray[np.object_]
    made_s_N: npt.NDArray[np.float64]
    site_N: npt.NDArray[np.object_]
    origin_s_N: Int64Array
    model_version_N: npt.NDArray[np.object_]
    role_N: npt.NDArray[np.object_]
    step_s: int
    unit: str
    levels: tuple[float, ...]
    value_NHQ: Float32Array

    def __len__(self) -> int:
        return len(self.name_N)
