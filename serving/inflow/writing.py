"""One domain's readings into its store and Feast's online store: blocking, for one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.feast_repository import FeatureRepository
from features.quality import REPEATED, Checked, flag_outliers, refusal_reasons
from features.readings import READING_COLUMNS, epoch_s
from features.sources.parsed import REJECTED_COLUMNS
from features.store import KNOWN, STORED
from features.vocabulary import Domain, Int64Array, Site
from serving.inflow.items import raw_text

QUARANTINED = "quarantined"
_MOMENT = "datetime64[us, UTC]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What came in, to be written.

    Attributes:
        site: Name of its site, empty where it names none.
        quantity: Name of its quantity, likewise.
        valid_at: When it was true, None where that cannot be told.
        available_at: When it could have been known, None where the sender does not say.
        came_at: When it came in.
        value: In the canonical unit, not a number where there is none.
        source: Where it is from.
        reason: Why it is refused already, empty where it is not.
        item: What came.
    """

    site: str
    quantity: str
    valid_at: datetime | None
    available_at: datetime | None
    came_at: datetime
    value: float
    source: str
    reason: str
    item: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of entries.

    Attributes:
        outcomes: Of each `stored`, `known` or `quarantined`, and why it was the last.
        pushed: Sites whose histories were written to the online store.
    """

    outcomes: tuple[tuple[str, str], ...]
    pushed: tuple[str, ...]


class DomainWriter:
    """Checks, stores and pushes the readings of one domain.

    A reading inside a step that is not over yet changes no window; its site is pushed once the step is, see `finish`.

    Args:
        repository: The domain's stores.
        tolerance_s: How far a sensor's clock may be ahead [s].
        new_sites: Whether a reading of an unknown site makes the site.
    """

    def __init__(self, repository: FeatureRepository, *, tolerance_s: float, new_sites: bool) -> None:
        self._repository = repository
        self._tolerance = timedelta(seconds=tolerance_s)
        self._new_sites = new_sites
        self._unfinished: list[pd.DataFrame] = []

    @property
    def domain(self) -> Domain:
        """Whose readings these are."""
        return self._repository.domain

    def write(self, entries: Sequence[Entry], *, now: datetime) -> Written:
        """Store what is right, quarantine what is not, and push the touched sites to the online store.

        Raises:
            StorageError: A store cannot be written; what was stored is known when it is sent again.
        """
        frame, arrived = self._frame(entries)
        reason = self._reasons(frame, entries)
        repeated = (reason == REPEATED).to_numpy()
        good = frame[reason == ""]
        if len(good):
            mixed = good.index[self._repository.readings.of_another_kind(good)]
            reason[mixed] = f"measured and simulated readings of one {self.domain.entity}"
        accepted, arrived = frame[reason == ""], arrived[(reason == "").to_numpy()]
        outcomes = self._append(frame, reason, accepted, arrived, entries)
        touched = accepted[np.isin(outcomes, (STORED, KNOWN))]
        pushed = self._push(touched, now=now)
        of_row = dict(zip(accepted.index.tolist(), outcomes, strict=True))
        told: list[tuple[str, str]] = []
        for place in range(len(entries)):
            if repeated[place]:
                told.append((KNOWN, ""))
                continue
            outcome = of_row.get(place, str(reason.iloc[place]))
            told.append((outcome, "") if outcome in (STORED, KNOWN) else (QUARANTINED, outcome))
        return Written(outcomes=tuple(told), pushed=pushed)

    def _frame(self, entries: Sequence[Entry]) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
        """The entries as rows, and of which the availability is the moment that they came in."""
        ahead = set(self.domain.known_ahead)
        available = []
        for entry in entries:
            if entry.available_at is not None or entry.valid_at is None:
                available.append(entry.available_at)
            else:
                # A clock that is a little ahead, within what is tolerated, does not make a reading of the future.
                available.append(entry.came_at if entry.quantity in ahead else max(entry.came_at, entry.valid_at))
        frame = pd.DataFrame(
            {
                "site": [entry.site for entry in entries],
                "quantity": [entry.quantity for entry in entries],
                "valid_at": pd.Series([entry.valid_at for entry in entries], dtype=_MOMENT),
                "available_at": pd.Series(available, dtype=_MOMENT),
                "value": np.array([entry.value for entry in entries], dtype=np.float64),
                "source": [entry.source for entry in entries],
            }
        )
        arrived = np.array([entry.available_at is None for entry in entries], dtype=np.bool_)
        return frame, arrived

    def _reasons(self, frame: pd.DataFrame, entries: Sequence[Entry]) -> pd.Series:
        reason = pd.Series([entry.reason for entry in entries], index=frame.index, dtype=object)
        came_at = pd.Series([entry.came_at for entry in entries], dtype=_MOMENT)
        latest = came_at + pd.Timedelta(self._tolerance)
        furthest = came_at + pd.Timedelta(seconds=2 * self.domain.horizon_steps * self.domain.step_s)
        ahead = frame["quantity"].isin(self.domain.known_ahead)

        def mark(bad: pd.Series, text: str) -> None:
            reason[bad & (reason == "")] = text

        mark(frame["valid_at"] > furthest.where(ahead, latest), "of the future")
        mark(frame["available_at"] > latest, "available only in the future")
        if not self._new_sites:
            mark(~frame["site"].isin(list(self._repository.readings.sites())), f"unknown {self.domain.entity}")
        sound = frame[reason == ""]
        if len(sound):
            reason[sound.index] = refusal_reasons(sound.reset_index(drop=True), self.domain).to_numpy()
        return reason

    def _append(
        self,
        frame: pd.DataFrame,
        reason: pd.Series,
        accepted: pd.DataFrame,
        arrived: npt.NDArray[np.bool_],
        entries: Sequence[Entry],
    ) -> tuple[str, ...]:
        """Store both parts; what became of the accepted rows."""
        bad = frame[(reason != "") & (reason != REPEATED)]
        raw = [raw_text(entries[place].item) for place in bad.index]
        quarantined = bad.assign(reason=reason[bad.index], raw=raw)[list(REJECTED_COLUMNS)].reset_index(drop=True)
        rows = accepted[list(READING_COLUMNS)].reset_index(drop=True)
        checked = Checked(accepted=rows.assign(outlier=flag_outliers(rows)), quarantined=quarantined)
        known = self._repository.readings.sites() if self._new_sites else {}
        sites = [Site(name=name) for name in rows["site"].unique() if name not in known] if self._new_sites else []
        return self._repository.readings.append(checked, sites, arrived=arrived).outcomes

    def _push(self, touched: pd.DataFrame, *, now: datetime) -> tuple[str, ...]:
        """Push what is in steps that are over, or known ahead; keep the rest for `finish`."""
        inputs = [quantity.name for quantity in self.domain.inputs]
        rows = touched.loc[touched["quantity"].isin(inputs), ["site", "quantity", "valid_at"]]
        over = (self._step_end(rows["valid_at"]) <= now.timestamp()) | rows["quantity"].isin(self.domain.known_ahead)
        if not over.all():
            # One row of each site and step is enough.
            waiting = rows[~over].drop_duplicates("site")
            self._unfinished = [pd.concat([*self._unfinished, waiting]).drop_duplicates("site")]
        return self._push_now(rows[over], now=now)

    def finish(self, *, now: datetime) -> tuple[str, ...]:
        """Push the sites that have readings in steps that are over by now; their names.

        Raises:
            StorageError: The online store cannot be written.
        """
        if not self._unfinished:
            return ()
        rows = self._unfinished[0]
        over = self._step_end(rows["valid_at"]) <= now.timestamp()
        pushed = self._push_now(rows[over], now=now)
        self._unfinished = [rows[~over]] if not over.all() else []
        return pushed

    def _push_now(self, rows: pd.DataFrame, *, now: datetime) -> tuple[str, ...]:
        if rows.empty or not self._repository.exists():
            return ()
        self._repository.push_changes(rows, as_of=pd.Timestamp(now))
        return tuple(rows["site"].unique().tolist())

    def _step_end(self, moments: pd.Series) -> Int64Array:
        ends: Int64Array = -(-epoch_s(moments) // self.domain.step_s) * self.domain.step_s
        return ends

    def merge(self) -> int:
        """Merge the store's small files where there are many."""
        return self._repository.readings.merge()
