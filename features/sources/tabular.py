"""A user's own files (CSV, gzip CSV, Parquet, Excel) -> readings in canonical units, in UTC."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataError
from features.readings import join_readings, make_readings
from features.sources.mapping import ColumnMap, TabularMapping, make_mapping, mapping_beside, parse_map
from features.sources.parsed import REJECTED_COLUMNS, Parsed, join_rejected
from features.sources.stamps import RepeatedHour, parse_stamps
from features.sources.table_files import read_table
from features.units import COMPASS_POINTS, convert
from features.vocabulary import Domain

__all__ = ["ColumnMap", "TabularMapping", "make_mapping", "mapping_beside", "parse_map", "read_tabular"]

NOT_A_NUMBER = "not a number"
NO_SITE = "no site"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What the rows of one table have in common for all its quantities."""

    site: pd.Series
    valid_at: pd.Series
    available_at: pd.Series
    reason: pd.Series
    raw: pd.Series
    source: str


def read_tabular(paths: Sequence[Path], mapping: TabularMapping, domain: Domain) -> Parsed:
    """Read files of one shape.

    Each mapped cell ends as a reading, as a rejected row with its reason, or counted as missing if it is empty; where
    columns name their sites, a cell of a column that names none does so once for each site.

    Args:
        paths: CSV, gzip CSV, Parquet or Excel files.
        mapping: Which column means what.
        domain: Gives the canonical units.

    Returns:
        Readings in canonical units and UTC; bounds and repetitions are for `features.quality` to check.

    Raises:
        DataError: A file is missing, empty or damaged, lacks a column, has no readable stamp, or a column no number.
        UnknownNameError: The domain has no such quantity.
        UnitError: A unit does not convert to the canonical one.
    """
    readings: list[pd.DataFrame] = []
    rejected: list[pd.DataFrame] = []
    missing = {entry.quantity: 0 for entry in mapping.quantities}
    rows = repeated = 0
    for path in paths:
        table = read_table(path, mapping.columns)
        shared, twice = _read_rows(table, mapping, path)
        rows, repeated = rows + len(table), repeated + twice
        for entry in mapping.quantities:
            for own in _rows_of(entry, shared, mapping):
                good, bad, empty = _read_cells(table[entry.column], own, entry, mapping, domain)
                readings.append(good)
                rejected.append(bad)
                missing[entry.quantity] += empty
    joined = join_readings(readings)
    return Parsed(
        readings=joined,
        rejected=join_rejected(rejected),
        sites=[mapping.make_site(str(name)) for name in joined["site"].unique()],
        rows=rows,
        missing=missing,
        units={entry.quantity: entry.unit for entry in mapping.quantities},
        notes=_notes(mapping, repeated),
    )


def _read_rows(table: pd.DataFrame, mapping: TabularMapping, path: Path) -> tuple[_Rows, int]:
    reason = pd.Series("", index=table.index, dtype=object)
    if mapping.site_column:
        names = table[mapping.site_column]
        site = names.astype(str).str.strip().where(names.notna(), "").astype(object)
        reason[site == ""] = NO_SITE
    else:
        site = pd.Series(mapping.site, index=table.index, dtype=object)
    stamps = _stamps(table, mapping)
    parse = functools.partial(parse_stamps, tz=mapping.tz, stamp_format=mapping.timestamp_format)
    valid = parse(stamps, group=site, repeated_hour=_repeated_hour(mapping))
    raw = pd.Series("", index=table.index, dtype=object)
    _mark(reason, raw, valid.reason, stamps)
    repeated, valid_at = valid.repeated, valid.moment + mapping.interval
    if mapping.available_column:
        texts = table[mapping.available_column]
        known = parse(texts, repeated_hour="first")
        _mark(reason, raw, known.reason.where(known.reason == "", known.reason + " of availability"), texts)
        available_at, repeated = known.moment, repeated + known.repeated
    else:
        available_at = valid_at + mapping.delay
    feed = mapping.source or path.name.split(".")[0]
    source = feed if ":" in feed else f"sensor:{feed}"
    shared = _Rows(site=site, valid_at=valid_at, available_at=available_at, reason=reason, raw=raw, source=source)
    return shared, repeated


def _stamps(table: pd.DataFrame, mapping: TabularMapping) -> pd.Series:
    first, *others = (table[name] for name in mapping.stamp_columns)
    if not others:
        return first
    texts = [part.astype(str).str.strip().where(part.notna()) for part in (first, *others)]
    return functools.reduce(lambda left, right: left + " " + right, texts)


def _rows_of(entry: ColumnMap, shared: _Rows, mapping: TabularMapping) -> list[_Rows]:
    """The rows of each site that a column is about."""
    if not mapping.column_sites:
        return [shared]
    names = [entry.site] if entry.site else mapping.column_sites
    return [replace(shared, site=pd.Series(name, index=shared.site.index, dtype=object)) for name in names]


def _repeated_hour(mapping: TabularMapping) -> RepeatedHour:
    # With revisions two rows of one stamp are two versions of one moment.
    return "first" if mapping.available_column else mapping.repeated_hour


def _mark(reason: pd.Series, raw: pd.Series, found: pd.Series, texts: pd.Series) -> None:
    """Note a reason, and the text that gave it, on the rows that have none yet."""
    chosen = (found != "") & (reason == "")
    reason[chosen] = found[chosen]
    raw[chosen] = texts[chosen].astype(str).where(texts[chosen].notna(), "")


def _read_cells(
    cells: pd.Series, rows: _Rows, entry: ColumnMap, mapping: TabularMapping, domain: Domain
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Readings, rejected rows, and the number of empty cells of one column."""
    numbers, empty = _numbers(_degrees(cells) if entry.unit == "compass" else cells, mapping.decimal)
    numbers = numbers * entry.scale + entry.offset
    unread = ~empty & np.isnan(numbers)
    if unread.any() and np.isnan(numbers).all():
        raise DataError(
            f"No cell of the column {entry.column!r} is a number",
            found=repr(str(cells[unread].iloc[0])),
            remedy="Map the column that holds the numbers; for a decimal comma give --decimal ','.",
        )
    unit = domain.quantity(entry.quantity).unit
    value = pd.Series(convert(numbers, unit=entry.unit, to=unit), index=cells.index)
    good = ~empty & ~unread & (rows.reason == "").to_numpy()
    bad = ~empty & ~good
    readings = make_readings(
        site=rows.site[good].reset_index(drop=True),
        quantity=entry.quantity,
        valid_at=rows.valid_at[good],
        available_at=rows.available_at[good],
        value=value[good],
        source=rows.source,
    )
    rejected = pd.DataFrame(
        {
            "site": rows.site[bad],
            "quantity": entry.quantity,
            "valid_at": rows.valid_at[bad],
            "available_at": rows.available_at[bad],
            "value": value[bad],
            "source": rows.source,
            "reason": rows.reason[bad].where(rows.reason[bad] != "", NOT_A_NUMBER),
            "raw": rows.raw[bad].where(rows.reason[bad] != "", cells[bad].astype(str)),
        },
        columns=list(REJECTED_COLUMNS),
    )
    return readings, rejected, int(empty.sum())


def _degrees(cells: pd.Series) -> pd.Series:
    """Points of the compass as degrees; what is none stays as it is."""
    points = cells.astype(str).str.strip().str.upper().map(COMPASS_POINTS)
    return cells.astype(object).where(points.isna(), points)


def _numbers(cells: pd.Series, decimal: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Cells as numbers, NaN where they are none, and which are empty."""
    empty = cells.isna()
    if cells.dtype == object:
        text = cells.astype(str).str.strip().where(~empty)
        empty |= text == ""
        cells = text.str.replace(",", ".", regex=False) if decimal == "," else text
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers, empty.to_numpy(dtype=np.bool_)


def _notes(mapping: TabularMapping, repeated: int) -> tuple[str, ...]:
    notes = []
    if repeated:
        meaning = {
            "first": "each was taken as the first pass (daylight time)",
            "in_order": "two rows of one stamp were taken as first and second pass, any other number as the first pass",
            "reject": "none of them was read",
        }[_repeated_hour(mapping)]
        notes.append(f"{repeated} stamps lie in an hour that the clocks run through twice: {meaning}.")
    if not mapping.available_column and not mapping.available_after:
        notes.append("Nothing says when readings became known: each is taken as known at its own moment.")
    if not mapping.tz and not any("timezone" in facts for facts in mapping.sites.values()):
        notes.append("No time zone is given: the calendar of the sites runs on UTC.")
    return tuple(notes)
