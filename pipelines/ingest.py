"""Ingest: files, published data sets and rollouts -> checked readings in the store, and what became of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from features.errors import DataError
from features.quality import Checked, check_readings
from features.sources import find_published
from features.sources.mapping import TabularMapping
from features.sources.parsed import Parsed, join_rejected
from features.sources.tabular import read_tabular
from features.store import Appended, ReadingStore
from features.vocabulary import Domain, Site

if TYPE_CHECKING:
    from sim_env.simulator import Simulator

Scenario = TypeVar("Scenario")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityCount:
    """What became of one quantity.

    Attributes:
        name: The quantity.
        unit: Canonical unit.
        given_unit: Unit in the file.
        accepted: Readings that passed the checks, those that the store knew already included.
        missing: Empty cells.
        outliers: Accepted readings that are flagged as far from the usual.
    """

    name: str
    unit: str
    given_unit: str
    accepted: int
    missing: int
    outliers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What became of a batch.

    Attributes:
        domain: Name of the domain.
        rows: Rows read.
        quantities: Counts by quantity.
        stored: Readings that are new.
        known: Readings that the store held already.
        quarantined: Readings that were refused.
        reasons: How many readings each reason refused.
        first: First accepted moment, None if there is none.
        last: Last accepted moment.
        sites: Names of the sites.
        notes: What the reader decided where the file is ambiguous.
    """

    domain: str
    rows: int
    quantities: tuple[QuantityCount, ...]
    stored: int
    known: int
    quarantined: int
    reasons: dict[str, int]
    first: pd.Timestamp | None
    last: pd.Timestamp | None
    sites: tuple[str, ...]
    notes: tuple[str, ...]


def ingest_files(paths: Sequence[Path], mapping: TabularMapping, domain: Domain, *, root: Path) -> IngestSummary:
    """Read a user's own files into the store under `root`.

    Raises:
        DataError: A file cannot be read as the mapping says.
        StorageError: The store cannot be written.
    """
    return ingest_parsed(read_tabular(paths, mapping, domain), domain, root=root)


def ingest_published(folder: Path, domain: Domain, *, root: Path) -> IngestSummary:
    """Read the published data set of `domain` that lies in `folder` into the store under `root`.

    Raises:
        DataError: No published file is recognised, or it is damaged.
        StorageError: The store cannot be written.
    """
    return ingest_parsed(find_published(domain, folder).read(folder), domain, root=root)


def ingest_rollout(
    simulator: Simulator[Scenario], scenario: Scenario, *, rng: np.random.Generator, root: Path
) -> IngestSummary:
    """Run a simulator and put its readings into the store under `root`, by the same checks as a sensor's.

    Raises:
        StorageError: The store cannot be written.
    """
    readings = simulator.rollout(scenario, rng=rng)
    parsed = Parsed(readings=readings, rejected=join_rejected([]), sites=simulator.sites(scenario), rows=len(readings))
    return ingest_parsed(parsed, simulator.domain, root=root)


def ingest_parsed(parsed: Parsed, domain: Domain, *, root: Path, checked: Checked | None = None) -> IngestSummary:
    """Check and store what a reader has read; what it rejected goes to the quarantine too.

    Args:
        parsed: What was read.
        domain: Whose readings they are.
        root: Folder of all domains' readings.
        checked: The outcome of `check_parsed`, if it is at hand.

    Returns:
        What became of each reading.

    Raises:
        DataError: A site would have measured and simulated readings.
        StorageError: The store cannot be written.
    """
    checked = checked or check_parsed(parsed, domain)
    store = ReadingStore(root, domain)
    _refuse_mixed(store, checked.accepted)
    known = store.sites()
    sites = [_with_known_facts(site, known.get(site.name)) for site in parsed.sites]
    return _summary(parsed, checked, store.append(checked, sites), domain)


def _refuse_mixed(store: ReadingStore, accepted: pd.DataFrame) -> None:
    """No site may have measured and simulated readings, see `ReadingStore.of_another_kind`."""
    mixed = sorted(accepted.loc[store.of_another_kind(accepted), "site"].unique())
    if mixed:
        raise DataError(
            f"Measured and simulated readings of {store.domain.name} have the same {store.domain.entity}",
            found=", ".join(mixed[:5]),
            remedy="Give it another name (--site), or keep measured readings in a folder of their own: "
            "TOWNCAST_DATA_DIR.",
        )


def check_parsed(parsed: Parsed, domain: Domain) -> Checked:
    """Quality checks over the readings; the quarantine holds the rejected rows as well, with their raw text."""
    checked = check_readings(parsed.readings, domain)
    parts = [checked.quarantined.assign(raw=""), parsed.rejected]
    return Checked(accepted=checked.accepted, quarantined=join_rejected(parts))


def _with_known_facts(site: Site, known: Site | None) -> Site:
    """`site`, with what it does not say taken from what the store knows of it."""
    if known is None:
        return site
    blank = Site(name=site.name)
    facts: dict[str, Any] = {}
    for entry in dataclasses.fields(Site):
        given, empty = getattr(site, entry.name), getattr(blank, entry.name)
        unsaid = given == empty or (isinstance(given, float) and math.isnan(given))
        facts[entry.name] = getattr(known, entry.name) if unsaid else given
    return Site(**{**facts, "attributes": {**known.attributes, **site.attributes}})


def _summary(parsed: Parsed, checked: Checked, appended: Appended, domain: Domain) -> IngestSummary:
    accepted = checked.accepted
    counts = accepted.groupby("quantity")["outlier"].agg(["size", "sum"])
    named = set(counts.index) | set(parsed.units)
    return IngestSummary(
        domain=domain.name,
        rows=parsed.rows,
        quantities=tuple(
            QuantityCount(
                name=quantity.name,
                unit=quantity.unit,
                given_unit=parsed.units.get(quantity.name, quantity.unit),
                accepted=int(counts["size"].get(quantity.name, 0)),
                missing=parsed.missing.get(quantity.name, 0),
                outliers=int(counts["sum"].get(quantity.name, 0)),
            )
            for quantity in domain.quantities
            if quantity.name in named
        ),
        stored=appended.stored,
        known=appended.known,
        quarantined=appended.quarantined,
        reasons=appended.reasons,
        first=accepted["valid_at"].min() if len(accepted) else None,
        last=accepted["valid_at"].max() if len(accepted) else None,
        sites=tuple(site.name for site in parsed.sites),
        notes=parsed.notes,
    )


def render_preview(parsed: Parsed, checked: Checked, domain: Domain, *, rows: int = 8) -> Group:
    """The first readings as they would be stored, and an example of each reason for refusal."""
    zones = {site.name: site.timezone for site in parsed.sites}
    units = {quantity.name: quantity.unit for quantity in domain.quantities}
    several = len(parsed.sites) > 1
    table = Table(*([domain.entity] if several else []), "moment (UTC)", "local", "quantity", "reading", "known after")
    for row in checked.accepted.sort_values(["valid_at", "site"], kind="stable").head(rows).itertuples():
        moment, site = pd.Timestamp(str(row.valid_at)), str(row.site)
        cells = [
            f"{moment:%Y-%m-%d %H:%M}",
            f"{moment.tz_convert(zones[site]):%a %H:%M}",
            str(row.quantity),
            f"{row.value:.6g} {units[str(row.quantity)]}",
            _duration(pd.Timestamp(str(row.available_at)) - moment),
        ]
        table.add_row(*([escape(site)] if several else []), *cells)
    title = f"The first readings, as {domain.name} stores them ({escape(_names([*zones]))}):"
    refused = Table("reason", Column("readings", justify="right"), "for example")
    for reason, group in checked.quarantined.groupby("reason", sort=False):
        refused.add_row(escape(str(reason)), f"{len(group):,}", escape(_example(group.iloc[0])))
    return Group(title, table, "Refused (quarantine):", refused) if refused.row_count else Group(title, table)


def _example(row: pd.Series) -> str:
    if row["raw"] or pd.isna(row["valid_at"]):
        return f"{row['quantity']}: {row['raw']!r}"
    return f"{row['quantity']} {row['value']:.6g} at {row['valid_at']:%Y-%m-%d %H:%M} UTC"


def _duration(delay: pd.Timedelta) -> str:
    minutes = delay.total_seconds() / 60
    return "at once" if minutes == 0 else f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"


def render_summary(summary: IngestSummary) -> Group:
    """Tables of what became of a batch."""
    span = "no moment"
    if summary.first is not None:
        span = f"{summary.first:%Y-%m-%d %H:%M} to {summary.last:%Y-%m-%d %H:%M} UTC"
    title = f"{summary.domain}: {summary.rows:,} rows read, {escape(_names(summary.sites))}, {span}:"
    numbers = [Column(name, justify="right") for name in ("accepted", "missing", "flagged as outlier")]
    counts = Table("quantity", "unit", *numbers)
    for entry in summary.quantities:
        unit = entry.unit if entry.unit == entry.given_unit else f"{entry.given_unit} -> {entry.unit}"
        counts.add_row(entry.name, unit, f"{entry.accepted:,}", f"{entry.missing:,}", f"{entry.outliers:,}")
    outcome = Table("outcome", Column("readings", justify="right"))
    outcome.add_row("stored", f"{summary.stored:,}")
    outcome.add_row("already known", f"{summary.known:,}")
    outcome.add_row("quarantined", f"{summary.quarantined:,}")
    for reason, count in summary.reasons.items():
        outcome.add_row(f"  {escape(reason)}", f"{count:,}")
    return Group(title, counts, outcome, *(f"Note: {escape(note)}" for note in summary.notes))


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) or "no site"
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
