"""The serving memory: every site's last history, read from Feast's online store, and windows cut from it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
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
# What is written to the online store is told, and read then; all of it is read this seldom, in case that a process died
# between the two [s].
_WHOLE_READ_S = 600.0


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
        version: Names what the window is made of: two windows of a site with one version are equal.
        origin_s: Its origin [s since 1970].
        records: Each target's record, by its name; targets without any reading are left out.
        extremes: Lowest and highest value of each measured channel over the last day; channels without any are left
            out.
        missing_shares: Share of the steps of the last day that are missing (0 to 1) of each measured channel that the
            site can have: neighbours that it has not are left out.
    """

    window: Window
    version: str
    origin_s: int
    records: dict[str, TargetRecord]
    extremes: dict[str, tuple[float, float]]
    missing_shares: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
    """What one read of the online store gave; replaced whole, so that a request sees one of them."""

    sites: dict[str, Site]
    histories: dict[str, OnlineHistory]
    versions: dict[str, str]


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
        self._snapshot = _Snapshot(sites={}, histories={}, versions={})
        self._read_at = self._whole_read_at = -float("inf")
        self._told = -1
        self._sites_seen: tuple[int, int] | None = None
        self._digests: dict[str, str] = {}

    def version(self, name: str) -> str:
        """Names a site's readings, its neighbours' and the facts about it, the same in every process; "" without."""
        return self._snapshot.versions.get(name, "")

    @property
    def sites(self) -> dict[str, Site]:
        """Known sites by name."""
        return self._snapshot.sites

    @property
    def age_s(self) -> float:
        """Time since the last read [s]."""
        return self._clock() - self._read_at

    def refresh(self) -> frozenset[str]:
        """Read what was written since the last read, and all now and then; blocks, and is for one thread at a time.

        Returns:
            The sites whose windows changed.

        Raises:
            NotEnoughDataError: The online store was never filled.
            StorageError: The online store does not answer.
        """
        if not self._repository.exists():
            raise NotEnoughDataError(
                f"There is no online store of {self.domain.name}",
                found=str(self._repository.folder),
                remedy=f"Ingest readings of {self.domain.name}, then run `towncast materialise {self.domain.name}`.",
            )
        told = self._repository.news_since(self._told)
        sites_seen = self._sites_file()
        if told.sites is None or self._clock() - self._whole_read_at >= _WHOLE_READ_S:
            sites = self._repository.readings.sites()
            changed = self._take(sites, self._repository.online(list(sites)) if sites else {})
            self._whole_read_at = self._clock()
        elif told.sites or sites_seen != self._sites_seen:
            changed = self.refresh_sites(told.sites)
        else:
            changed = frozenset()
        self._told, self._sites_seen = told.number, sites_seen
        self._read_at = self._clock()
        return changed

    def refresh_sites(self, names: Iterable[str]) -> frozenset[str]:
        """Read the histories of some sites, of which it is known that there is news; blocks like `refresh`.

        Returns:
            The sites whose windows changed, neighbours of these among them.
        """
        sites = self._repository.readings.sites()
        read = self._repository.online([name for name in names if name in sites])
        return self._take(sites, {**self._snapshot.histories, **read})

    def _take(self, sites: dict[str, Site], histories: dict[str, OnlineHistory]) -> frozenset[str]:
        """Replace the snapshot; the sites whose windows changed."""
        before = self._snapshot
        # What did not change keeps its digest: hashing every history anew would hold the interpreter.
        digests = {
            name: _digest(history) for name, history in histories.items() if history is not before.histories.get(name)
        }
        same = {name: before.histories[name] for name, digest in digests.items() if digest == self._digests.get(name)}
        histories = {**histories, **same}
        self._digests = {name: digests.get(name) or self._digests[name] for name in histories}
        versions = {name: self._version(site, sites) for name, site in sites.items() if name in histories}
        self._snapshot = _Snapshot(sites=sites, histories=histories, versions=versions)
        return frozenset(name for name, version in versions.items() if version != before.versions.get(name))

    def _version(self, site: Site, sites: dict[str, Site]) -> str:
        """Of what `window_of` reads: the histories of a site and its neighbours, and all that is known of the site."""
        group = with_neighbours(self.domain, site, sites)
        parts = [repr(site), *(self._digests.get(member.name, "") for member in group)]
        return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest()

    def _sites_file(self) -> tuple[int, int] | None:
        """What tells whether the facts about sites were written since, without reading them; None without any."""
        path = self._repository.readings.folder / "sites.json"
        if not path.exists():
            return None
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size

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

    def history(self, name: str) -> OnlineHistory:
        """The last history of a site, not cut to any origin; not to be written to.

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: It has no readings.
        """
        history = self._snapshot.histories.get(self.site(name).name)
        if history is None:
            raise no_reading(self.domain, self.domain.target.name, name)
        return history

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
            version=f"{snapshot.versions[name]}@{origin_s}",
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


def _digest(history: OnlineHistory) -> str:
    """Names what a history holds, the same in every process."""
    digest = hashlib.blake2b(str(history.valid_until_s).encode(), digest_size=8)
    digest.update(history.value_TK.tobytes())
    return digest.hexdigest()
