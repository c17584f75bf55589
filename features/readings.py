"""Readings: one row is one value of one quantity at one site, with two clocks.

`valid_at` is the moment that the value is true for (the end of its interval), `available_at` the moment from which it
could have been known. A second row for the same moment with a later `available_at` is a revision.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pandas as pd

READING_COLUMNS: tuple[str, ...] = ("site", "quantity", "valid_at", "available_at", "value", "source")
KEY_COLUMNS: list[str] = ["site", "quantity", "valid_at", "available_at"]
_MOMENT = "datetime64[us, UTC]"
Moments = pd.DatetimeIndex | pd.Series | np.ndarray[tuple[int], np.dtype[np.datetime64]]


def make_readings(
    *,
    site: str | pd.Series,
    quantity: str,
    valid_at: Moments,
    value: npt.ArrayLike,
    source: str,
    available_at: Moments | None = None,
) -> pd.DataFrame:
    """A frame of readings of one quantity; rows without a value are left out.

    Args:
        site: One name, or a name per row.
        quantity: Name of the quantity.
        valid_at: Moments, with a time zone.
        value: Values in the quantity's canonical unit.
        source: `sensor:<feed>` or `sim:<engine>:<scenario>@<hash>`.
        available_at: Moments; by default the same as `valid_at`.

    Returns:
        Columns as in `READING_COLUMNS`.
    """
    moments = pd.DatetimeIndex(valid_at).tz_convert("UTC").as_unit("us")
    known = moments if available_at is None else pd.DatetimeIndex(available_at).tz_convert("UTC").as_unit("us")
    frame = pd.DataFrame({"valid_at": moments, "available_at": known, "value": np.asarray(value, dtype=np.float64)})
    frame = frame.assign(site=site, quantity=quantity, source=source)[list(READING_COLUMNS)]
    return frame[frame["value"].notna()].reset_index(drop=True)


def join_readings(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows of `parts`, with the columns and types of readings even if there are none."""
    kept = [part[list(READING_COLUMNS)] for part in parts if len(part)]
    if not kept:
        return pd.DataFrame(
            {
                "site": pd.Series(dtype=object),
                "quantity": pd.Series(dtype=object),
                "valid_at": pd.Series(dtype=_MOMENT),
                "available_at": pd.Series(dtype=_MOMENT),
                "value": pd.Series(dtype=np.float64),
                "source": pd.Series(dtype=object),
            }
        )
    return pd.concat(kept, ignore_index=True)


def epoch_s(moments: pd.Series) -> npt.NDArray[np.int64]:
    """Moments as whole seconds since 1970, UTC, rounded up: what comes within a second is not known before its end."""
    microseconds = moments.to_numpy(dtype="datetime64[us]").astype(np.int64)
    seconds: npt.NDArray[np.int64] = -(-microseconds // 1_000_000)
    return seconds


def content_hash(readings: pd.DataFrame) -> str:
    """A hash of what the readings say, the same for any order of rows (16 hexadecimal digits)."""
    ordered = readings[list(READING_COLUMNS)].sort_values(KEY_COLUMNS, kind="stable")
    hashes = pd.util.hash_pandas_object(ordered, index=False, categorize=True).to_numpy()
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]
