"""The serving memory: every site's last history, read from Feast's online store, and windows cut from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.calendar import calendar_features
from features.errors import NotEnoughDataError, UnknownNameError
from features.feast_repository import FeatureRepository
from features.online_history import OnlineHistory, window_of, with_neighbours
from features.registry import nearest_names
from features.vocabulary import Domain, Float32Array, Site, Window

_DAY_S = 86400
_HOUR_S = 3600
# How far back gaps are looked for.
_GAP_DAYS = 30
# Reading all histories holds the interpreter, and thereby every request, for milliseconds: where the files say that
# nothing was written, it is done this seldom [s].
_WHOLE_READ_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRecord:
    """What is to be said about one target's readings before an origin.

    Attributes:
        last_reading_s: Moment of the last one [s since 1970].
        missing_share: Share of the steps of the last day that are missing (0 to 1).
        gap_h: Longest time without a reading within the last 30 days [h].
        history_h: Time from the first reading of the history to the origin [h].
        constant: Whether all readings of the history, a day's at least, are equal.
    """

    last_reading_s: int
    missing_share: float
    gap_h: float
    history_h: float
    constant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A window, and what is to be said about its readings.

    Attributes:
        window: One window.
        origin_s: Its origin [s since 1970].
        records: Each target's record, by its name; targets without any reading are left out.
        extremes: Lowest and highest value of each measured channel over the last day; channels without any are left
            out.
        missing_shares: Share of the steps of the last day that are missing (0 to 1) of each measured channel that the
            site can have: neighbours that it has not are left out.
    """

    window: Window
    origin_s: int
    records: dict[str, TargetRecord]
    extremes: dict[str, tuple[float, float]]
    missing_shares: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """What one read of the online store gave; replaced whole, so that a request sees one of them."""

    version: int
    sites: dict[str, Site]
    histories: dict[str, OnlineHistory]


class WindowMemory:
    """Histories of all sites of one domain.

    Args:
        repository: Where they are read from.
        clock: Seconds that never go back.
    """

    def __init__(self, repository: FeatureRepository, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.domain: Domain = repository.domain
        self._repository = repository
        self._clock = clock
        self._snapshot = _Snapshot(version=0, sites={}, histories={})
        self._read_at = self._whole_read_at = -float("inf")
        self._seen: tuple[tuple[int, int], ...] | None = None

    @property
    def version(self) -> int:
        """Raised by every read that found something new."""
        return self._snapshot.version

    @property
    def sites(self) -> dict[str, Site]:
        """Known sites by name."""
        return self._snapshot.sites

    @property
    def age_s(self) -> float:
        """Time since the last read [s]."""
        return self._clock() - self._read_at

    def refresh(self) -> None:
        """Read all histories if there may be news; blocks, and is to be called from one thread at a time.

        Raises:
            NotEnoughDataError: The online store was never filled.
        """
        if not self._repository.exists():
            raise NotEnoughDataError(
                f"There is no online store of {self.domain.name}",
                found=str(self._repository.folder),
                remedy=f"Ingest readings of {self.domain.name}, then run `towncast materialise {self.domain.name}`.",
            )
        seen = self._files_seen()
        if seen is not None and seen == self._seen and self._clock() - self._whole_read_at < _WHOLE_READ_S:
            self._read_at = self._clock()
            return
        sites = self._repository.readings.sites()
        histories = self._repository.online(list(sites)) if sites else {}
        before = self._snapshot
        if sites != before.sites or not _same(histories, before.histories):
            self._snapshot = _Snapshot(version=before.version + 1, sites=sites, histories=histories)
        self._seen = seen
        self._read_at = self._whole_read_at = self._clock()

    def _files_seen(self) -> tuple[tuple[int, int], ...] | None:
        """What tells whether anything was written since, without reading it; None where that cannot be told."""
        online = self._repository.folder / "online.db"
        if not online.exists():
            return None
        files = (online, online.with_name("online.db-wal"), self._repository.readings.folder / "sites.json")
        stats = [file.stat() for file in files if file.exists()]
        return tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)

    def site(self, name: str) -> Site:
        """The site called `name`.

        Raises:
            UnknownNameError: It is not known; near names are in the message.
        """
        sites = self._snapshot.sites
        if name not in sites:
            known = list(sites)
            raise UnknownNameError(kind=self.domain.entity, name=name, nearest=nearest_names(name, known), known=known)
        return sites[name]

    def warm(self) -> None:
        """Make the calendars of every site's window, so that no request waits for them."""
        back_s, ahead_s = (
            steps * self.domain.step_s for steps in (self.domain.history_steps, self.domain.horizon_steps)
        )
        for name, history in self._snapshot.histories.items():
            ends = np.array([history.valid_until_s - back_s, history.valid_until_s + ahead_s], dtype=np.int64)
            calendar_features(ends, self._snapshot.sites[name])

    def prepare(self, name: str, *, now_s: float, stale_after_s: float) -> Prepared:
        """The window of a site now, or at its last reading if that is older than `stale_after_s`.

        Args:
            name: The site.
            now_s: The moment of the request [s since 1970].
            stale_after_s: Oldest last reading that a forecast from now may build on [s].

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: The site has no reading of any target.
        """
        snapshot, site = self._snapshot, self.site(name)
        step_s = self.domain.step_s
        current_s = int(now_s) // step_s * step_s
        last_s = self._last_readings(snapshot.histories.get(name), name, current_s)
        # One origin for all targets, so that what is derived from several of them is of the same hours.
        newest_s = max(last_s.values())
        origin_s = current_s if now_s - newest_s <= stale_after_s else newest_s
        group = with_neighbours(self.domain, site, snapshot.sites)
        window = window_of(self.domain, group, snapshot.histories, origin_s=origin_s)
        day = window.history_BLK[0, -(_DAY_S // step_s) :]
        inputs = len(self.domain.inputs)
        return Prepared(
            window=window,
            origin_s=origin_s,
            records={
                target.name: _record(window.history_BLK[0, :, channel], step_s, last_s[target.name])
                for channel, target in enumerate(self.domain.targets)
                if target.name in last_s
            },
            extremes={
                channel: (float(np.nanmin(day[:, index])), float(np.nanmax(day[:, index])))
                for index, channel in enumerate(self.domain.measured_channels)
                if np.isfinite(day[:, index]).any()
            },
            missing_shares={
                channel: float(np.isnan(day[:, index]).mean())
                for index, channel in enumerate(self.domain.measured_channels[: inputs + len(site.neighbours)])
            },
        )

    def _last_readings(self, history: OnlineHistory | None, name: str, current_s: int) -> dict[str, int]:
        """Moment of each target's last reading up to now, by its name."""
        found = {}
        if history is not None:
            steps = self.domain.history_steps
            moments_s = history.valid_until_s - np.arange(steps, dtype=np.int64)[::-1] * self.domain.step_s
            for channel, target in enumerate(self.domain.targets):
                known = np.isfinite(history.value_TK[:steps, channel]) & (moments_s <= current_s)
                if known.any():
                    found[target.name] = int(moments_s[known][-1])
        if not found:
            raise no_reading(self.domain, self.domain.target.name, name)
        return found


def no_reading(domain: Domain, target: str, site: str) -> NotEnoughDataError:
    """The error of a site without any reading of a target."""
    return NotEnoughDataError(
        f"There is no reading of {target} of this {domain.entity}",
        found=site,
        remedy=f"Ingest its readings, then run `towncast materialise {domain.name}`.",
    )


def _record(value_L: Float32Array, step_s: int, last_reading_s: int) -> TargetRecord:
    missing = np.isnan(value_L)
    known = value_L[~missing]
    day = _DAY_S // step_s
    first = int(missing.argmin()) if len(known) else len(missing)
    return TargetRecord(
        last_reading_s=last_reading_s,
        missing_share=float(missing[-day:].mean()),
        gap_h=_longest_run(missing[-_GAP_DAYS * day :]) * step_s / _HOUR_S,
        history_h=(len(missing) - first) * step_s / _HOUR_S,
        constant=len(known) >= day and bool((known == known[0]).all()),
    )


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """Length of the longest run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _same(first: dict[str, OnlineHistory], second: dict[str, OnlineHistory]) -> bool:
    return first.keys() == second.keys() and all(
        history.valid_until_s == second[name].valid_until_s
        and np.array_equal(history.value_TK, second[name].value_TK, equal_nan=True)
        for name, history in first.items()
    )
