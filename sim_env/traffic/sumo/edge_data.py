"""Counts of every edge over longer periods, as SUMO itself keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from features.errors import DataError, InvalidParameterError
from features.files import whole_file

# SUMO's attributes, and what they are called here.
EDGE_DATA_COLUMNS = {
    "entered": "entered",
    "left": "left",
    "departed": "departed",
    "arrived": "arrived",
    "sampledSeconds": "sampled_s",
    "speed": "speed_mps",
}
_COUNTS = ("entered", "left", "departed", "arrived")


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeData:
    """A wish for counts of every edge, written to a CSV file when the run ends: at the engine's close or next reset.

    Attributes:
        path: The file; a run that fails leaves it as it was.
        period_s: Length of a period [s].
    """

    path: Path
    period_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 1 <= self.period_s <= 86400:
            raise InvalidParameterError(
                parameter="period_s",
                provided=self.period_s,
                allowed="1 s to 86400 s",
                fact="The period of edge data cannot be",
                remedy="Use 3600 s for hourly counts.",
            )


def read_edge_data(path: Path) -> pd.DataFrame:
    """Read what an engine wrote for `EdgeData`.

    Returns:
        One row for each period and edge, also where nobody drove: `begin_s`, `end_s` since the beginning of the run
        [s], `edge_id`; `entered` and `left` by way of a junction, `departed` and `arrived` in the middle of the edge
        [veh], so that volume is `entered + departed`; `sampled_s`, all vehicles' time on it [s]; and `speed_mps`
        [m/s], missing where nobody drove.

    Raises:
        DataError: The file is missing, or is not edge data.
    """
    try:
        frame = pd.read_csv(path, dtype={"edge_id": str})
        return frame[["begin_s", "end_s", "edge_id", *EDGE_DATA_COLUMNS.values()]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "The file is not edge data",
            found=f"{path}: {error}",
            remedy="Give the path of EdgeData; it is written when the engine is closed.",
        ) from error


def publish_edge_data(raw: Path, path: Path, *, begin_s: float) -> None:
    """Turn SUMO's own file into the one that `read_edge_data` reads, times counted from the run's beginning.

    Raises:
        StorageError: It cannot be written.
    """
    frame = pd.read_csv(raw, sep=";", dtype={"edge_id": str})
    named = {f"edge_{theirs}": ours for theirs, ours in EDGE_DATA_COLUMNS.items()}
    frame = frame.rename(columns={**named, "interval_begin": "begin_s", "interval_end": "end_s"})
    frame[["begin_s", "end_s"]] -= begin_s
    frame[list(_COUNTS)] = frame[list(_COUNTS)].fillna(0).astype("int64")
    frame["sampled_s"] = frame["sampled_s"].fillna(0.0)
    with whole_file(path) as temporary:
        frame[["begin_s", "end_s", "edge_id", *EDGE_DATA_COLUMNS.values()]].to_csv(temporary, index=False)
