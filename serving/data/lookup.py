"""Stored readings of one place over some time: the latest revision of each moment, page by page. Blocks. No HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from features.domains import DOMAINS
from features.errors import InvalidParameterError
from features.store import ReadingStore
from features.vocabulary import Domain, Site
from serving.places import KnownSites, Place, locate

DEFAULT_HOURS = 24
MOST_HOURS = 366 * 24
_STAMP_CHARACTERS = 40
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time, both ends included."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is stored.

    Attributes:
        site: The place.
        moments: A row for each moment with any of the quantities, in order of time; a column for each quantity.
    """

    site: Site
    moments: pd.DataFrame


def read_span(*, start: str | None, end: str | None, hours: int | None, now: datetime) -> Span:
    """The time that a request is about: from start to end, or some hours up to the end; the end is now by default.

    Raises:
        InvalidParameterError: A stamp cannot be read, start and hours are both given, or the time is too long.
    """
    if start is not None and hours is not None:
        raise _bad("hours", hours, "left out where `start` is given", fact="The time is given in two ways")
    until = now if end is None else _moment("end", end)
    since = _moment("start", start) if start is not None else until - timedelta(hours=hours or DEFAULT_HOURS)
    since = max(since, _EARLIEST)
    if since > until:
        raise _bad("start", start, "before `end`, which is now by default", fact="The time ends before it begins")
    if until - since > timedelta(hours=MOST_HOURS):
        raise _bad("start", start, f"at most {MOST_HOURS} hours before `end`", fact="The time is too long")
    return Span(start=since, end=until)


def _moment(name: str, text: str) -> datetime:
    try:
        if not text.isascii() or len(text) > _STAMP_CHARACTERS:
            raise ValueError
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        wanted = "ISO 8601 with a time zone, such as 2026-02-06T00:00:00Z (a + must be written %2B)"
        raise _bad(name, text, wanted, fact="A time stamp cannot be read") from None


def _bad(parameter: str, provided: object, allowed: str, *, fact: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter=parameter, provided=provided, allowed=allowed, fact=fact, remedy=f"Give it as {allowed}."
    )


class StoredReadings:
    """The readings of all domains.

    Args:
        readings_dir: Folder of the reading stores.
        nearest_within_km: How far a site may be from coordinates [km].
    """

    def __init__(self, readings_dir: Path, *, nearest_within_km: float = 50.0) -> None:
        self._stores = {name: ReadingStore(readings_dir, DOMAINS[name]) for name in DOMAINS}
        self._within_km = nearest_within_km

    def find(self, domain: Domain, place: Place, span: Span, *, quantities: Sequence[str]) -> Found:
        """What is stored of some quantities of a place.

        Raises:
            InvalidParameterError: No place is named, or there is none near the coordinates.
            UnknownNameError: There is no place of this name.
            DataError: The store is damaged.
        """
        store = self._stores[domain.name]
        site, _ = locate(KnownSites(domain=domain, sites=store.sites()), place, within_km=self._within_km)
        rows = store.readings(
            sites=[site.name],
            quantities=list(quantities),
            start=pd.Timestamp(span.start),
            end=pd.Timestamp(span.end),
            columns=("value",),
        )
        latest = rows.drop_duplicates(["quantity", "valid_at"], keep="last")
        moments = latest.pivot(index="valid_at", columns="quantity", values="value")
        return Found(site=site, moments=moments.reindex(columns=list(quantities)).sort_index())


def coordinates_of(site: Site) -> tuple[float, float] | None:
    """Latitude and longitude, None where they are not known."""
    unknown = math.isnan(site.latitude) or math.isnan(site.longitude)
    return None if unknown else (site.latitude, site.longitude)


def statistics_of(values: pd.Series) -> dict[str, float] | None:
    """Smallest, largest, mean, and standard deviation (of the values themselves, not of a sample); None of none."""
    known = values.to_numpy(dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    told = {"min": known.min(), "max": known.max(), "mean": known.mean(), "std": known.std()}
    return {name: round(float(number), 4) for name, number in told.items()}
