"""What a reader makes of a file: readings, the cells that it could not read, and what it decided on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from features.readings import READING_COLUMNS, join_readings
from features.vocabulary import Site

REJECTED_COLUMNS: tuple[str, ...] = (*READING_COLUMNS, "reason", "raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A file's content, each mapped cell in exactly one place: a reading, a rejected row, or counted as missing.

    Attributes:
        readings: Columns as in `READING_COLUMNS`, canonical units, bounds not yet checked.
        rejected: Columns as in `REJECTED_COLUMNS`; `raw` is the text that could not be read, moments may be NaT.
        sites: Sites that the readings name.
        rows: Rows of the file.
        missing: Empty cells by quantity.
        units: Unit in the file by quantity.
        notes: What the reader decided where the file is ambiguous, as sentences.
    """

    readings: pd.DataFrame
    rejected: pd.DataFrame
    sites: list[Site]
    rows: int
    missing: dict[str, int] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def join_parsed(parts: Sequence[Parsed]) -> Parsed:
    """What several files hold together; of a site that several name, the first tells the facts."""
    missing: dict[str, int] = {}
    sites: dict[str, Site] = {}
    for part in parts:
        for quantity, count in part.missing.items():
            missing[quantity] = missing.get(quantity, 0) + count
        for site in part.sites:
            sites.setdefault(site.name, site)
    return Parsed(
        readings=join_readings([part.readings for part in parts]),
        rejected=join_rejected([part.rejected for part in parts]),
        sites=list(sites.values()),
        rows=sum(part.rows for part in parts),
        missing=missing,
        units={quantity: unit for part in parts for quantity, unit in part.units.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def join_rejected(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows of `parts`, with the columns and types of rejected rows even if there are none."""
    kept = [part[list(REJECTED_COLUMNS)] for part in parts if len(part)]
    if not kept:
        return join_readings([]).assign(reason=pd.Series(dtype=object), raw=pd.Series(dtype=object))
    return pd.concat(kept, ignore_index=True)
