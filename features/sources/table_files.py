"""Tables on disk: CSV, gzip CSV and Parquet, told apart by their first bytes and read strictly."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pandas as pd

from features.errors import DataError
from features.registry import nearest_names

_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_DELIMITERS = ",;\t|"


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Some columns of a table: text from a CSV (missing cells None), typed from Parquet.

    A CSV may be separated by comma, semicolon, tab or bar (the header line tells), and is UTF-8.

    Raises:
        DataError: The file is missing, empty, damaged or no table, or lacks a column (near ones are named).
    """
    kind = _first_bytes(path)
    if kind == _PARQUET:
        table = _read_parquet(path, columns)
    else:
        table = _read_csv(path, columns, compressed=kind[:2] == _GZIP)
    if table.empty:
        raise DataError("The file holds no rows", found=str(path), remedy="Check that the export ran to its end.")
    return table


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            first = file.read(4)
    except OSError as error:
        raise DataError(
            "The file cannot be opened", found=f"{path}: {error.strerror}", remedy="Check the path and its permissions."
        ) from error
    if not first:
        raise DataError("The file is empty", found=str(path), remedy="Fetch or export it again.")
    if first == _ZIP:
        raise DataError(
            "The file is a ZIP archive or a spreadsheet", found=str(path), remedy="Unpack it, or save the sheet as CSV."
        )
    return first


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        "The file is damaged, cut off, or no table of the kind its beginning claims",
        found=f"{path}: {str(error).splitlines()[0]}",
        remedy="Fetch or export it again; a CSV must be UTF-8 with the same number of fields in each line.",
    )


def _require_columns(path: Path, wanted: list[str], present: list[str]) -> None:
    for column in wanted:
        if present.count(column) == 1:
            continue
        if column in present:
            raise DataError(
                f"Several columns are called {column!r}", found=str(path), remedy="Give each column its own name."
            )
        near = nearest_names(column, present)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else "Name a column that the file has."
        shown = ", ".join(present[:12]) + (", ..." if len(present) > 12 else "")
        raise DataError(f"The file has no column {column!r}", found=f"{path.name} has: {shown}", remedy=hint)


def _read_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _require_columns(path, columns, list(pq.read_schema(path).names))
        table: pd.DataFrame = pq.read_table(path, columns=columns).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return table.reset_index()[columns] if set(columns) - set(table.columns) else table[columns]


def _read_csv(path: Path, columns: list[str], *, compressed: bool) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.csv as pv

    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            header = file.readline().decode("utf-8-sig")
        delimiter = max(_DELIMITERS, key=header.count)
        _require_columns(path, columns, next(csv.reader([header], delimiter=delimiter), []))
        with pa.input_stream(str(path), compression="gzip" if compressed else None) as stream:
            table: pd.DataFrame = pv.read_csv(
                stream,
                parse_options=pv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=pv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=True,
                ),
            ).to_pandas()
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error) from error
    return table
