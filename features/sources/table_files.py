"""Tables on disk: CSV, gzip CSV, Parquet and Excel, told apart by their first bytes and read strictly."""

from __future__ import annotations

import contextlib
import csv
import gzip
import zipfile
import zlib
from pathlib import Path
from xml.etree.ElementTree import ParseError

import pandas as pd

from features.errors import DataError
from features.registry import nearest_names

_GZIP, _PARQUET, _ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
_DELIMITERS = ",;\t|"
_WORKBOOK = "xl/workbook.xml"


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Some columns of a table: text from a CSV (missing cells None), typed from Parquet, cell by cell from Excel.

    A CSV may be separated by comma, semicolon, tab or bar (the header line tells), and is UTF-8. An Excel workbook has
    one sheet, whose first row is the header.

    Raises:
        DataError: The file is missing, empty, damaged or no table, or lacks a column (near ones are named).
    """
    kind = _first_bytes(path)
    if kind == _PARQUET:
        table = _read_parquet(path, columns)
    elif kind == _ZIP:
        table = _read_workbook(path, columns)
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


def _read_workbook(path: Path, columns: list[str]) -> pd.DataFrame:
    import pyarrow.csv as pv
    from openpyxl import load_workbook

    try:
        with zipfile.ZipFile(path) as archive:
            whole = _WORKBOOK in archive.namelist()
    except zipfile.BadZipFile:
        whole = False
    if not whole:
        raise DataError(
            "The file is a ZIP archive, or a workbook that is cut off",
            found=str(path),
            remedy="Unpack it, or fetch the workbook again.",
        )
    try:
        with contextlib.closing(load_workbook(path, read_only=True, data_only=True)) as workbook:
            if len(workbook.worksheets) != 1:
                raise DataError(
                    "The workbook has several sheets",
                    found=f"{path}: {', '.join(workbook.sheetnames[:6])}",
                    remedy="Save the sheet with the readings as a file of its own.",
                )
            rows = workbook.worksheets[0].iter_rows(values_only=True)
            header = ["" if name is None else str(name).strip() for name in next(rows, ())]
            _require_columns(path, columns, header)
            places = [header.index(column) for column in columns]
            cells = [[row[place] if place < len(row) else None for place in places] for row in rows]
    except (zipfile.BadZipFile, zlib.error, ParseError, KeyError, ValueError, IndexError, OSError, EOFError) as error:
        raise _damaged(path, error) from error
    table = pd.DataFrame(cells, columns=columns, dtype=object)
    table = table.where(~table.isin(pv.ConvertOptions().null_values), None)
    return table.dropna(how="all", ignore_index=True)


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
