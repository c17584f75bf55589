"""The reading store: Parquet files that are only ever added, read through DuckDB."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from features.errors import DataError, UnknownNameError
from features.files import whole_file
from features.quality import Checked
from features.readings import KEY_COLUMNS, READING_COLUMNS, content_hash, join_readings
from features.registry import nearest_names
from features.vocabulary import Domain, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch.

    Attributes:
        stored: Rows that are new.
        known: Rows that the store held already, to the letter.
        quarantined: Rows that were refused, with those that contradict a stored reading.
        reasons: Rows per reason for quarantine.
    """

    stored: int
    known: int
    quarantined: int
    reasons: dict[str, int]


class ReadingStore:
    """Readings, quarantine and sites of one domain in a folder.

    Args:
        root: Folder of all domains' readings; made at the first write.
        domain: Whose readings these are.
    """

    def __init__(self, root: Path, domain: Domain) -> None:
        self.folder = root / domain.name
        self.domain = domain

    def append(self, checked: Checked, sites: list[Site]) -> Appended:
        """Add checked readings; the same batch twice changes nothing.

        A row that contradicts a stored one (same key and availability, another value) goes to quarantine.

        Raises:
            StorageError: The folder cannot be written or the disk is full; then nothing of the batch is stored.
        """
        accepted, quarantined = checked.accepted, checked.quarantined
        stored = self.readings(columns=("value",))
        known = 0
        if len(stored) and len(accepted):
            merged = accepted.merge(stored, on=KEY_COLUMNS, how="left", suffixes=("", "_stored"))
            same = (merged["value_stored"] == merged["value"]).to_numpy()
            other = (merged["value_stored"].notna().to_numpy()) & ~same
            known = int(same.sum())
            contradicting = accepted[other].drop(columns="outlier").assign(reason="contradicts a stored reading")
            quarantined = (
                pd.concat([quarantined, contradicting], ignore_index=True) if len(contradicting) else quarantined
            )
            accepted = accepted[~same & ~other].reset_index(drop=True)
        if len(quarantined):
            self._write("quarantine", quarantined, name=_rows_hash(quarantined))
        if len(accepted):
            ordered = accepted.sort_values(["site", "quantity", "valid_at"], kind="stable")
            self._write("readings", ordered, name=content_hash(ordered))
        self.add_sites(sites)
        reasons = {str(key): int(count) for key, count in quarantined["reason"].value_counts().items()}
        return Appended(stored=len(accepted), known=known, quarantined=len(quarantined), reasons=reasons)

    def _write(self, part: str, frame: pd.DataFrame, *, name: str) -> None:
        with whole_file(self.folder / part / f"{name}.parquet") as path:
            frame.to_parquet(path, index=False, compression="zstd")

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
        files = self._files("readings")
        if not files:
            empty = join_readings([])
            empty["outlier"] = pd.Series(dtype=bool)
            return empty[[*KEY_COLUMNS, *columns]]
        conditions: list[str] = []
        values: list[Any] = [files]
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
        query = f"SELECT {', '.join([*KEY_COLUMNS, *columns])} FROM read_parquet(?) {where} ORDER BY 1, 2, 3, 4"
        try:
            with duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                frame = connection.execute(query, values).df()
        except duckdb.Error as error:
            raise DataError(
                "A file of the reading store is damaged",
                found=f"{self.folder / 'readings'}: {str(error).splitlines()[0]}",
                remedy="Remove the damaged file and ingest its source again.",
            ) from error
        for column in ("valid_at", "available_at"):
            frame[column] = frame[column].dt.tz_convert("UTC").astype("datetime64[us, UTC]")
        return frame

    def quarantine(self) -> pd.DataFrame:
        """All quarantined rows with their `reason`."""
        parts = [pd.read_parquet(file) for file in self._files("quarantine")]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*READING_COLUMNS, "reason"])

    def _files(self, part: str) -> list[str]:
        return sorted(str(path) for path in (self.folder / part).glob("[!.]*.parquet"))

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
        readings = self.readings(columns=("source",))
        return sorted(readings.loc[readings["source"].str.startswith("sensor:"), "site"].unique())

    def data_hash(self) -> str:
        """A hash of all stored readings, from the names of their files (16 hexadecimal digits)."""
        names = "\n".join(Path(file).stem for file in self._files("readings"))
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def _rows_hash(frame: pd.DataFrame) -> str:
    """A hash of all columns: refused rows may differ in nothing but the text that could not be read."""
    hashes = np.sort(pd.util.hash_pandas_object(frame, index=False).to_numpy())
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]
