"""What a quantity turned out to be on a grid: the values of `Panel.final_ST`, without the panel."""

from __future__ import annotations

import numpy as np
import pandas as pd

from features.readings import epoch_s
from features.vocabulary import Quantity


def final_values(quantity: Quantity, readings: pd.DataFrame, *, step_s: int, phase_s: int = 0) -> pd.DataFrame:
    """Readings inside a step (its end included) as the step's value, all revisions applied.

    Args:
        quantity: Says how readings inside a step become its value.
        readings: Of this quantity: key columns and `value`, all revisions.
        step_s: Length of a step [s].
        phase_s: Any moment of the grid [s since 1970].

    Returns:
        Rows `site, moment_s, value`, one for each step with readings: the step's end [s since 1970] and its value, as
        float32 [unit].
    """
    frame = pd.DataFrame(
        {
            "site": readings["site"].to_numpy(),
            "moment_s": -((phase_s - epoch_s(readings["valid_at"])) // step_s) * step_s + phase_s,
            "valid_at": readings["valid_at"].to_numpy(dtype="datetime64[us]"),
            "available_at": readings["available_at"].to_numpy(dtype="datetime64[us]"),
            "value": readings["value"].to_numpy(dtype=np.float64),
        }
    )
    frame = frame.sort_values(["site", "valid_at", "available_at"], kind="stable")
    # Of the revisions of a moment the one that became known last.
    frame = frame.drop_duplicates(["site", "valid_at"], keep="last")
    if frame.duplicated(["site", "moment_s"]).any():
        grouped = frame.groupby(["site", "moment_s"], sort=True)["value"]
        frame = grouped.agg(quantity.aggregation).reset_index()
    return frame[["site", "moment_s", "value"]].astype({"value": np.float32}).reset_index(drop=True)
