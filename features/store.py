"""The reading store: Parquet files that are only ever added, read through DuckDB."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import DataError, UnknownNameError
from features.files import whole_file
from features.quality import Checked
from features.readings import KEY_COLUMNS, READING_COLUMNS, content_hash, join_readings
from features.registry import nearest_names
from features.stored_files import MOST_TRIES, StoredFiles, one_writer
from features.vocabulary import Domain, Site

# What becomes of a row.
STORED, KNOWN, CONTRADICTS = "stored", "known", "contradicts a stored reading"
_MOMENT_KEY = ["site", "quantity", "valid_at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch.

    Attributes:
        stored: Rows that are new.
        known: Rows that the store held already, to the letter.
        quarantined: Rows that were refused, with those that contradict a stored reading.
        reasons: Rows per reason for quarantine.
        outcomes: Of each accepted row `STORED`, `KNOWN` or `CONTRADICTS`.
    """

    stored: int
    known: int
    quarantined: int
    reasons: dict[str, int]
    outcomes: tuple[str, ...] = ()


class ReadingStore:
    """Readings, quarantine and sites of one domain in a folder; several processes may write it at once.

    Args:
        root: Folder of all domains' readings; made at the first write.
        domain: Whose readings these are.
    """

    def __init__(self, root: Path, domain: Domain) -> None:
        self.folder = root / domain.name
        self.domain = domain
        self._readings = StoredFiles(self.folder / "readings")
        self._quarantine = StoredFiles(self.folder / "quarantine")
        # Whether a site's readings are simulated: once it has some that never changes.
        self._simulated: dict[str, bool] = {}

    def append(self, checked: Checked, sites: list[Site], *, arrived: npt.NDArray[np.bool_] | None = None) -> Appended:
        """Add checked readings; the same batch twice changes nothing.

        A row that contradicts a stored one (same key and availability, another value) goes to quarantine.

        Args:
            checked: Accepted and quarantined rows.
            sites: Added to the known ones, in place of those of their names.
            arrived: Of which accepted rows the availability is no more than the moment they came in: such a row is
                known where any revision of its moment has the same value. By default of none.

        Raises:
            StorageError: The folder cannot be written or the disk is full; then nothing of the batch is stored.
        """
        with one_writer(self.folder):
            outcome = self._outcomes(checked.accepted, arrived)
            quarantined = checked.quarantined
            contradicting = checked.accepted[outcome == CONTRADICTS]
            if len(contradicting):
                refused = contradicting.drop(columns="outlier").assign(reason=CONTRADICTS)
                if "raw" in quarantined.columns:
                    refused["raw"] = ""
                quarantined = pd.concat([quarantined, refused], ignore_index=True) if len(quarantined) else refused
            accepted = checked.accepted[outcome == STORED]
            if len(quarantined):
                self._quarantine.write(quarantined, name=_rows_hash(quarantined))
            if len(accepted):
                # By time, so that a look at some hours reads little of a file.
                ordered = accepted.sort_values(["valid_at", "site", "quantity"], kind="stable")
                self._readings.write(ordered, name=content_hash(ordered))
            self.add_sites(sites)
        reasons = {str(key): int(count) for key, count in quarantined["reason"].value_counts().items()}
        return Appended(
            stored=len(accepted),
            known=int((outcome == KNOWN).sum()),
            quarantined=len(quarantined),
            reasons=reasons,
            outcomes=tuple(outcome.tolist()),
        )

    def _outcomes(self, accepted: pd.DataFrame, arrived: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.object_]:
        """What is to become of each accepted row."""
        outcome: npt.NDArray[np.object_] = np.full(len(accepted), STORED, dtype=object)
        if not len(accepted):
            return outcome
        came = np.zeros(len(accepted), dtype=np.bool_) if arrived is None else arrived
        stored = self._stored_beside(accepted)
        if len(stored):
            merged = accepted[[*KEY_COLUMNS, "value"]].merge(
                stored, on=KEY_COLUMNS, how="left", suffixes=("", "_stored")
            )
            held = merged["value_stored"].to_numpy()
            same = held == merged["value"].to_numpy()
            outcome[same] = KNOWN
            outcome[np.isfinite(held) & ~same] = CONTRADICTS
        if came.any():
            content = [*_MOMENT_KEY, "value"]
            told = pd.concat([stored[content], accepted[content]], ignore_index=True)
            outcome[came & told.duplicated(content).to_numpy()[len(stored) :]] = KNOWN
        return outcome

    def _stored_beside(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Key and value of all stored revisions of the moments that `rows` are about."""
        asked = rows[_MOMENT_KEY].drop_duplicates()
        found = self._query(
            f"SELECT {', '.join(f'stored.{column}' for column in [*KEY_COLUMNS, 'value'])} "
            "FROM read_parquet(?) AS stored SEMI JOIN asked USING (site, quantity, valid_at) "
            "WHERE stored.valid_at >= ? AND stored.valid_at <= ? ORDER BY 1, 2, 3, 4",
            [asked["valid_at"].min(), asked["valid_at"].max()],
            asked=asked,
        )
        return join_readings([])[[*KEY_COLUMNS, "value"]] if found is None else _in_utc(found)

    def simulated(self, sites: Sequence[str]) -> dict[str, bool]:
        """Of the sites that have readings whether these are simulated, not measured."""
        asked = [site for site in dict.fromkeys(sites) if site not in self._simulated]
        if asked:
            found = self._query(
                "SELECT site, bool_or(starts_with(source, 'sim:')) AS simulated FROM read_parquet(?) "
                "WHERE list_contains(?, site) GROUP BY site",
                [asked],
            )
            if found is not None:
                self._simulated |= dict(zip(found["site"], found["simulated"].astype(bool), strict=True))
        return {site: self._simulated[site] for site in sites if site in self._simulated}

    def of_another_kind(self, rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which rows are measured where their site's readings are simulated, or the other way round.

        Simulated rows may train, never evaluate: no site may have both, or nothing could tell them apart later. Of a
        site without readings the first row decides.
        """
        kinds = self.simulated(rows["site"].unique().tolist())
        simulated = rows["source"].str.startswith("sim:").astype(bool).tolist()
        named = zip(rows["site"].tolist(), simulated, strict=True)
        return np.array([kinds.setdefault(site, kind) != kind for site, kind in named], dtype=np.bool_)

    def merge(self) -> int:
        """Merge small files where there are many; what is read, and `data_hash`, stay as they are.

        Returns:
            How many files were merged.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        return self._readings.merge() + self._quarantine.merge()

    def readings(
        self,
        *,
        sites: list[str] | None = None,
        quantities: list[str] | None = None,
        start: pd.Timestamp | None = None,
        end: pd.Timestamp | None = None,
        available_by: pd.Timestamp | None = None,
        columns: tuple[str, ...] = ("value", "source", "outlier"),
    ) -> pd.DataFrame:
        """Stored readings, all revisions, ordered by site, quantity and both clocks.

        Args:
            sites: Only these.
            quantities: Only these.
            start: Only valid at or after this moment.
            end: Only valid at or before this moment.
            available_by: Only what was known by this moment.
            columns: Columns beside the four of the key.

        Returns:
            Key columns, then `columns`; moments in UTC.

        Raises:
            DataError: A stored file is damaged.
        """
        conditions: list[str] = []
        values: list[Any] = []
        for test, value in (
            ("list_contains(?, site)", sites),
            ("list_contains(?, quantity)", quantities),
            ("valid_at >= ?", start),
            ("valid_at <= ?", end),
            ("available_at <= ?", available_by),
        ):
            if value is not None:
                conditions.append(test)
                values.append(value)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        chosen = ", ".join([*KEY_COLUMNS, *columns])
        frame = self._query(f"SELECT {chosen} FROM read_parquet(?) {where} ORDER BY 1, 2, 3, 4", values)
        if frame is None:
            empty = join_readings([])
            empty["outlier"] = pd.Series(dtype=bool)
            return empty[[*KEY_COLUMNS, *columns]]
        return _in_utc(frame)

    def _query(
        self,
        query: str,
        values: Sequence[Any] = (),
        *,
        choose: Callable[[], list[Path]] | None = None,
        **tables: pd.DataFrame,
    ) -> pd.DataFrame | None:
        """Ask the stored files, or those that are chosen, which are the query's first value; None where there are none.

        Raises:
            DataError: A stored file is damaged.
        """
        for attempt in range(MOST_TRIES):
            files = [str(path) for path in (choose or self._readings.live)()]
            if not files:
                return None
            try:
                with _database(os.getpid()).cursor() as connection:
                    connection.execute("SET TimeZone = 'UTC'")
                    for name, table in tables.items():
                        connection.register(name, table)
                    return connection.execute(query, [files, *values]).df()
            except duckdb.Error as error:
                # Since they were listed, files may have been merged and removed.
                if attempt < MOST_TRIES - 1 and not all(Path(file).exists() for file in files):
                    continue
                raise DataError(
                    "A file of the reading store is damaged",
                    found=f"{self._readings.folder}: {str(error).splitlines()[0]}",
                    remedy="Remove the damaged file and ingest its source again.",
                ) from error
        raise AssertionError("the last attempt returns or raises")

    def quarantine(self) -> pd.DataFrame:
        """All quarantined rows with their `reason`."""
        parts = [pd.read_parquet(file) for file in self._quarantine.live()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*READING_COLUMNS, "reason"])

    def sites(self) -> dict[str, Site]:
        """Known sites by name."""
        path = self.folder / "sites.json"
        if not path.exists():
            return {}
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {entry["name"]: Site(**{**entry, "neighbours": tuple(entry["neighbours"])}) for entry in entries}

    def site(self, name: str) -> Site:
        """The site called `name`.

        Raises:
            UnknownNameError: It is not known; near names are in the message.
        """
        known = self.sites()
        if name not in known:
            raise UnknownNameError(
                kind=self.domain.entity, name=name, nearest=nearest_names(name, list(known)), known=list(known)
            )
        return known[name]

    def add_sites(self, sites: list[Site]) -> None:
        """Add sites; one that is known already is replaced."""
        before = self.sites()
        merged = {**before, **{site.name: site for site in sites}}
        if merged == before:
            return
        entries = [asdict(site) for site in merged.values()]
        with whole_file(self.folder / "sites.json") as path:
            path.write_text(json.dumps(entries, indent=1), encoding="utf-8")

    def measured_sites(self) -> list[str]:
        """Names of the sites with readings of sensors, not only of simulators."""
        found = self._query("SELECT DISTINCT site FROM read_parquet(?) WHERE starts_with(source, 'sensor:') ORDER BY 1")
        return [] if found is None else found["site"].tolist()

    def came_since(
        self, seen: Collection[str], quantity: str, *, start: pd.Timestamp | None = None
    ) -> tuple[frozenset[str], pd.DataFrame]:
        """What came in since this was asked before, whatever moments it is about.

        Args:
            seen: What the answer before named; nothing for all readings.
            quantity: Readings of this one.
            start: Only valid at or after this moment.

        Returns:
            What names all that is there now, and rows `site, number`: sites and the domain's steps [since 1970] in
            which they have readings that are new. A step may be named that has none.

        Raises:
            DataError: A stored file is damaged.
        """
        behind: dict[Path, frozenset[str]] = {}

        def unseen() -> list[Path]:
            behind.clear()
            behind.update({path: self._readings.behind(path) for path in self._readings.live()})
            return [path for path, names in behind.items() if not _is_seen(path.name, names, seen)]

        found = self._query(
            f"SELECT DISTINCT site, epoch_us(valid_at) // {self.domain.step_s * 1_000_000} AS number "
            "FROM read_parquet(?) WHERE quantity = ? AND (? IS NULL OR valid_at >= ?)",
            [quantity, start, start],
            choose=unseen,
        )
        if found is None:
            found = pd.DataFrame({"site": pd.Series(dtype=object), "number": pd.Series(dtype=np.int64)})
        return frozenset[str]().union(*behind.values()), found

    def data_hash(self) -> str:
        """Names the stored readings as they came in, from the names of their files (16 hexadecimal digits).

        Merging files does not change it: a merged file is called after those that it replaces.
        """
        return f"{self._readings.digest():016x}"


def _is_seen(name: str, names: frozenset[str], seen: Collection[str]) -> bool:
    """Whether a file, or every one that it was merged of, was seen."""
    return name in seen or (len(names) > 1 and all(one in seen for one in names if one != name))


@functools.cache
def _database(process_id: int) -> duckdb.DuckDBPyConnection:
    """A database in memory that holds nothing but what is known of the files' footers.

    Each process has its own: one that is inherited through a fork has lost its threads.
    """
    connection = duckdb.connect()
    connection.execute("SET parquet_metadata_cache = true")
    # The operating system caches files already.
    connection.execute("SET enable_external_file_cache = false")
    return connection


def _in_utc(frame: pd.DataFrame) -> pd.DataFrame:
    for column in ("valid_at", "available_at"):
        frame[column] = frame[column].dt.tz_convert("UTC").astype("datetime64[us, UTC]")
    return frame


def _rows_hash(frame: pd.DataFrame) -> str:
    """A hash of all columns: refused rows may differ in nothing but the text that could not be read."""
    hashes = np.sort(pd.util.hash_pandas_object(frame, index=False).to_numpy())
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]
