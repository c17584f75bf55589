"""Rows of realised forecasts: their types, and which of them count, as SQL."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from features.vocabulary import Int64Array
from serving.monitoring.realised import REALISED_KEY
from serving.prediction_log.batches import ForecastBatch

NOMINAL = "nominal"
"""Share of the actuals that the interval promises to hold (0 to 1), NaN where unknown: kept beside REALISED_COLUMNS."""
_TYPES: dict[str, pa.DataType] = {
    "site": pa.string(),
    "model_version": pa.string(),
    "role": pa.string(),
    "origin_s": pa.int64(),
    "steps": pa.int16(),
    "valid_s": pa.int64(),
    "actual": pa.float32(),
    "median": pa.float32(),
    "lower": pa.float32(),
    "upper": pa.float32(),
    "made_s": pa.float64(),
    "joined_s": pa.float64(),
    NOMINAL: pa.float64(),
}
_SCHEMA = pa.schema(list(_TYPES.items()))
_KEY = ", ".join(REALISED_KEY)
# A total order: which row is the last one must not hang on the order of the files.
_LAST_FIRST = "joined_s DESC, made_s DESC, actual DESC NULLS LAST, median DESC, lower DESC, upper DESC"
LAST_ONLY = f"QUALIFY row_number() OVER (PARTITION BY {_KEY} ORDER BY {_LAST_FIRST}) = 1"
ORDER = "valid_s, site, steps, origin_s, model_version, role"
_WIDE = {"actual", "median", "lower", "upper", NOMINAL}


def forecast_rows(batch: ForecastBatch, steps_K: Int64Array) -> pd.DataFrame:
    """Some steps of forecasts as rows without actuals, and without the moment of a join.

    Args:
        batch: The forecasts (N).
        steps_K: Which steps ahead, from 1; those beyond its horizon are passed over.
    """
    steps_K = steps_K[steps_K <= batch.value_NHQ.shape[1]]
    number, value_NKQ = len(steps_K), batch.value_NHQ[:, steps_K - 1]
    middle = int(np.argmin(np.abs(np.asarray(batch.levels) - 0.5)))
    origin_s, steps = np.repeat(batch.origin_s_N, number), np.tile(steps_K, len(batch))
    return pd.DataFrame(
        {
            "site": np.repeat(batch.site_N, number),
            "model_version": np.repeat(batch.model_version_N, number),
            "role": np.repeat(batch.role_N, number),
            "origin_s": origin_s,
            "steps": steps,
            "valid_s": origin_s + steps * batch.step_s,
            "median": value_NKQ[:, :, middle].reshape(-1),
            "lower": value_NKQ[:, :, 0].reshape(-1),
            "upper": value_NKQ[:, :, -1].reshape(-1),
            "made_s": np.repeat(batch.made_s_N, number),
            NOMINAL: round(batch.levels[-1] - batch.levels[0], 6),
        }
    )


class Choice:
    """Which rows are asked for; what it tests is the same for rows that replace each other.

    Args:
        since_s: Valid at this moment or later [s since 1970].
        until_s: Valid before this moment [s since 1970].
        sites: Of these alone.
        steps: So many steps ahead alone.
        roles: Of models with these roles alone.
        model_version: Of this one alone.
    """

    def __init__(
        self,
        since_s: float | None = None,
        until_s: float | None = None,
        sites: Collection[str] | None = None,
        steps: Collection[int] | None = None,
        roles: Collection[str] | None = None,
        model_version: str | None = None,
    ) -> None:
        self.since_s, self.until_s = since_s, until_s
        tests = (
            ("valid_s >= ?", since_s),
            ("valid_s < ?", until_s),
            ("site IN (SELECT unnest(?::VARCHAR[]))", None if sites is None else list(sites)),
            ("list_contains(?, steps)", None if steps is None else list(steps)),
            ("list_contains(?, role)", None if roles is None else list(roles)),
            ("model_version = ?", model_version),
        )
        self.tests = [test for test, value in tests if value is not None]
        self.values = [value for _, value in tests if value is not None]


def rows_of(
    months: Sequence[Sequence[Path]], choice: Choice, left_out: frozenset[str], *, last_only: bool
) -> tuple[str, list[Any]]:
    """SQL of the chosen rows of some months, and its values; a month of one file has none that replace others."""
    tests = [*choice.tests, *(["site NOT IN (SELECT unnest(?::VARCHAR[]))"] if left_out else [])]
    values = [*choice.values, *([sorted(left_out)] if left_out else [])]
    where = f"WHERE {' AND '.join(tests)}" if tests else ""
    parts: list[str] = []
    given: list[Any] = []
    alone = [file for files in months if len(files) == 1 or not last_only for file in files]
    if alone:
        parts.append(f"SELECT * FROM read_parquet(?) {where}")
        given += [[str(file) for file in alone], *values]
    for files in months if last_only else ():
        if len(files) > 1:
            # No key is twice in a file: what replaces and is replaced is found by looking into the small ones.
            ordered = sorted(files, key=lambda file: file.stat().st_size)
            small = f"(SELECT * FROM read_parquet(?) {where})"
            large = f"(SELECT * FROM read_parquet(?) {where}) AS large"
            of_small, of_large = [[str(file) for file in ordered[:-1]], *values], [[str(ordered[-1])], *values]
            parts.append(f"SELECT * FROM {large} ANTI JOIN {small} AS small USING ({_KEY})")
            parts.append(
                f"SELECT * FROM (SELECT * FROM {small} UNION ALL "
                f"SELECT * FROM {large} SEMI JOIN {small} AS small USING ({_KEY})) {LAST_ONLY}"
            )
            given += [*of_large, *of_small, *of_small, *of_large, *of_small]
    return " UNION ALL ".join(parts), given


def as_read(columns: Sequence[str]) -> str:
    """SQL of columns as they are read: what is kept in fewer bits is widened."""
    return ", ".join(f"{name}::DOUBLE AS {name}" if name in _WIDE else name for name in columns)


def as_stored(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows as they are written: all columns, each of its type, by time."""
    if NOMINAL not in rows:
        rows = rows.assign(**{NOMINAL: np.nan})
    types = {name: kind.to_pandas_dtype() for name, kind in _TYPES.items() if not pa.types.is_string(kind)}
    stored: pd.DataFrame = rows[list(_TYPES)].astype(types).sort_values(ORDER.split(", "), kind="stable")
    return stored


def rows_hash(rows: pd.DataFrame) -> str:
    """A hash of rows in any order (16 hexadecimal digits)."""
    hashes = np.sort(pd.util.hash_pandas_object(rows, index=False).to_numpy())
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]


def nothing(columns: Sequence[str]) -> pd.DataFrame:
    """No rows, with the types that they would have."""
    empty: pd.DataFrame = _SCHEMA.empty_table().to_pandas()[list(columns)]
    return empty.astype({name: np.float64 for name in columns if name in _WIDE})
