"""Readers of published files and feeds: canonical units, UTC, nothing dropped. A new published set is a line below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from features.errors import DataError
from features.registry import Registry
from features.sources import beijing_multisite, bikeshare_dc, bwdf, metro_interstate
from features.sources.parsed import Parsed
from features.vocabulary import Domain


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDataset:
    """A published file that is recognised by its name.

    Attributes:
        name: Unique.
        domain: Name of the domain that it feeds.
        pattern: Glob pattern of its files' names.
        read: Reader; takes the file, its folder, or a folder above it.
        reliable_from: Moment from which the test's share of the time is counted, where a gap lies before it.
    """

    name: str
    domain: str
    pattern: str
    read: Callable[[Path], Parsed]
    reliable_from: pd.Timestamp | None = None


PUBLISHED: Registry[PublishedDataset] = Registry("published data set")
PUBLISHED.register(
    "metro_interstate",
    PublishedDataset(
        name="metro_interstate",
        domain="traffic",
        pattern=metro_interstate.FILE_PATTERN,
        read=metro_interstate.read_metro_interstate,
        reliable_from=metro_interstate.RELIABLE_FROM,
    ),
)
PUBLISHED.register(
    "beijing_multisite",
    PublishedDataset(
        name="beijing_multisite",
        domain="pollution",
        pattern=beijing_multisite.FILE_PATTERN,
        read=beijing_multisite.read_beijing_multisite,
    ),
)
PUBLISHED.register(
    "bwdf",
    PublishedDataset(name="bwdf", domain="water", pattern=bwdf.FILE_PATTERN, read=bwdf.read_bwdf),
)
PUBLISHED.register(
    "bikeshare_dc",
    PublishedDataset(
        name="bikeshare_dc",
        domain="demand",
        pattern=bikeshare_dc.FILE_PATTERN,
        read=bikeshare_dc.read_bikeshare_dc,
    ),
)


def is_published(path: Path, domain: Domain) -> bool:
    """Whether the name of a file is that of a published data set of the domain."""
    return any(entry.domain == domain.name and path.match(entry.pattern) for entry in PUBLISHED.values())


def find_published(domain: Domain, folder: Path) -> PublishedDataset:
    """The published data set of a domain that lies in a folder, or under it; a file stands for itself.

    Raises:
        DataError: There is no such folder, or nothing in it is recognised.
    """
    if not folder.exists():
        raise DataError("There is no such folder", found=str(folder), remedy="Check the path.")
    own = [entry for entry in PUBLISHED.values() if entry.domain == domain.name]
    for entry in own:
        if folder.match(entry.pattern) if folder.is_file() else any(folder.glob(f"**/{entry.pattern}")):
            return entry
    recognised = ", ".join(entry.pattern.rstrip("*") for entry in own) or "none yet"
    raise DataError(
        f"No published {domain.name} data set is recognised here",
        found=str(folder),
        remedy=f"Recognised are: {recognised}. For your own files use `towncast ingest {domain.name} FILE --map ...`.",
    )
