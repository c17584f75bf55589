"""The realised forecasts of a target: Parquet files that are only ever added, a folder for each month."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from features.errors import DataError
from features.files import age_s, storage_errors, whole_file
from features.store import ReadingStore
from features.stored_files import MOST_TRIES, StoredFiles
from features.vocabulary import Domain
from serving.monitoring.realised import REALISED_COLUMNS, REALISED_KEY
from serving.monitoring.realised_rows import (
    LAST_ONLY,
    NOMINAL,
    ORDER,
    Choice,
    as_read,
    as_stored,
    nothing,
    rows_hash,
    rows_of,
)
from serving.monitoring.realised_summary import GROUPS, Summary, summary_query

_MANY_FILES = 32
# Half a gigabyte of them.
_MOST_ROWS = 4_000_000
_DAY_S = 86_400


class RealisedStore:
    """Forecast steps of one target, each beside its actual, or without one as long as it waits.

    Rows of the same `REALISED_KEY` replace each other: the one that was joined last counts, in whatever order they
    are added. A row without an actual waits.

    Args:
        root: Folder of all targets; this one's is made at the first write.
        domain: Of the target.
        target: Name of what is forecast.
        readings: Knows the sites' local clocks; without it they are UTC's.
    """

    def __init__(self, root: Path, domain: Domain, target: str, *, readings: ReadingStore | None = None) -> None:
        self.domain = domain
        self.target = domain.quantity(target)
        self.folder = root / f"{domain.name}-{target}"
        self._readings = readings
        self._of_month: dict[str, StoredFiles] = {}

    def add(self, frame: pd.DataFrame) -> int:
        """Add rows; the same ones twice change nothing.

        Args:
            frame: `REALISED_COLUMNS`, and `NOMINAL` where it is known; `actual` is NaN where it is waited for.

        Returns:
            How many were added: those of months that have expired are not.

        Raises:
            StorageError: The folder cannot be written or the disk is full; what was added of other months stays.
        """
        frame = frame[frame["valid_s"] >= self.kept_since_s()]
        months = frame["valid_s"].to_numpy(dtype="datetime64[s]").astype("datetime64[M]").astype(str)
        for month, rows in frame.groupby(months, sort=True):
            files, stored = self._month(str(month)), as_stored(rows)
            files.write(stored, name=rows_hash(stored))
            if len(files.live()) >= _MANY_FILES:
                files.merge()
        return len(frame)

    def read(
        self,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        sites: Collection[str] | None = None,
        steps: Collection[int] | None = None,
        roles: Collection[str] | None = None,
        model_version: str | None = None,
        columns: Sequence[str] = REALISED_COLUMNS,
    ) -> pd.DataFrame:
        """Rows with an actual, by their time.

        Args:
            since_s: Valid at this moment or later [s since 1970].
            until_s: Valid before this moment [s since 1970].
            sites: Of these alone.
            steps: So many steps ahead alone.
            roles: Of models with these roles alone.
            model_version: Of this one alone.
            columns: Of `REALISED_COLUMNS` and `NOMINAL`.

        Raises:
            DataError: A stored file is damaged.
        """
        chosen = Choice(since_s, until_s, sites, steps, roles, model_version)
        return self._rows(chosen, "actual IS NOT NULL", columns)

    def tables(
        self,
        *,
        since_s: float | None = None,
        roles: Collection[str] | None = None,
        most_rows: int = _MOST_ROWS,
    ) -> Iterator[pd.DataFrame]:
        """Rows with an actual, some sites after the other: those of a large town are too many to be held at once.

        Args:
            since_s: Valid at this moment or later [s since 1970].
            roles: Of models with these roles alone.
            most_rows: In a table; a site with more of them has one of its own.

        Raises:
            DataError: A stored file is damaged.
        """
        counted = self._ask(
            Choice(since_s, roles=roles),
            "SELECT site, count(*) AS number FROM rows WHERE actual IS NOT NULL GROUP BY site ORDER BY site",
        )
        if counted is None:
            return
        table = (counted["number"].cumsum() - counted["number"]) // most_rows
        for _, sites in counted["site"].groupby(table):
            yield self.read(since_s=since_s, roles=roles, sites=list(sites))

    def waiting(
        self,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        sites: Collection[str] | None = None,
        steps: Collection[int] | None = None,
        roles: Collection[str] | None = None,
        model_version: str | None = None,
        columns: Sequence[str] = REALISED_COLUMNS,
    ) -> pd.DataFrame:
        """Rows whose actual has not come, also those that were given up; arguments as of `read`."""
        chosen = Choice(since_s, until_s, sites, steps, roles, model_version)
        return self._rows(chosen, "actual IS NULL", columns)

    def summary(
        self,
        *,
        by: Sequence[str] = ("model_version", "site", "horizon", "hour_of_week"),
        since_s: float | None = None,
        until_s: float | None = None,
        sites: Collection[str] | None = None,
        role: str | None = "champion",
    ) -> pd.DataFrame:
        """Errors and coverage by group.

        Args:
            by: Of `GROUPS`. `horizon` is the shortest of the domain's that reaches the step; `hour_of_week` is of the
                site's local time, 0 for Monday 00 to 01; `week_s` is the Monday on which a week begins [s since 1970].
            since_s: Valid at this moment or later [s since 1970].
            until_s: Valid before this moment [s since 1970].
            sites: Of these alone.
            role: Of models with this role alone, None for all.

        Returns:
            `by`, then `count`, `mae`, `bias`, `rmse`, `width`, `interval_score` (Winkler's) [unit], `mape_percent` of
            the actuals that are not zero, `coverage` and `nominal_coverage` (0 to 1).

        Raises:
            InvalidParameterError: `by` names something else.
            DataError: A stored file is damaged.
        """
        months = self._months(since_s, until_s)
        summary = Summary(
            domain=self.domain,
            by=tuple(by),
            months=tuple(months),
            zones={site.name: site.timezone for site in self._readings.sites().values()} if self._readings else {},
        )
        query, tables = summary_query(summary)
        roles = None if role is None else (role,)
        found = self._ask(Choice(since_s, until_s, sites, None, roles, None), query, tables)
        return pd.DataFrame(columns=summary.columns) if found is None else found

    def replacing(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Those rows whose forecast is not held, or only as it was made earlier.

        Args:
            frame: Rows with one for each key.

        Returns:
            Them, and `held_s`, the latest `joined_s` of what is held in their place, NaN for nothing.
        """
        bounds = float(frame["valid_s"].min()), float(frame["valid_s"].max()) + 1.0
        asked = frame[[*REALISED_KEY, "made_s", "median", "lower", "upper"]].assign(place=np.arange(len(frame)))
        same = " AND ".join(f"held.{name} = asked.{name}" for name in REALISED_KEY)
        # Of two that were made at the same moment one must win in whatever order they come.
        query = (
            "SELECT place, max(held.joined_s) AS held_s FROM asked LEFT JOIN rows AS held "
            f"ON {same} GROUP BY place HAVING count(held.site) = 0 OR NOT bool_or("
            "(held.made_s, held.median, held.lower, held.upper) >= "
            "(asked.made_s, asked.median::FLOAT, asked.lower::FLOAT, asked.upper::FLOAT)) ORDER BY place"
        )
        found = self._ask(Choice(*bounds), query, {"asked": asked}, last_only=False)
        if found is None:
            return frame.assign(held_s=np.nan)
        return frame.iloc[found["place"].to_numpy()].assign(held_s=found["held_s"].to_numpy(dtype=np.float64))

    def waiting_count(self, *, after_s: float | None = None, until_s: float | None = None) -> int:
        """How many rows have no actual, of those that are valid after one moment and up to another [s since 1970]."""
        first, last = (None if at_s is None else math.floor(at_s) + 1.0 for at_s in (after_s, until_s))
        found = self._ask(Choice(first, last), "SELECT count(*) AS number FROM rows WHERE actual IS NULL")
        return 0 if found is None else int(found["number"].iloc[0])

    def of_steps(self, site_steps: pd.DataFrame) -> pd.DataFrame:
        """All rows, waiting or not, of some sites' steps.

        Args:
            site_steps: Columns `site` and `number`, the step's end in whole steps of the domain [since 1970].
        """
        columns, step_s = [*REALISED_COLUMNS, NOMINAL], self.domain.step_s
        if not len(site_steps):
            return nothing(columns)
        first, last = int(site_steps["number"].min()), int(site_steps["number"].max())
        query = (
            f"SELECT {as_read(columns)} FROM rows SEMI JOIN asked "
            f"ON rows.site = asked.site AND rows.valid_s // {step_s} = asked.number ORDER BY {ORDER}"
        )
        choice = Choice(float(first * step_s), float((last + 1) * step_s))
        found = self._ask(choice, query, {"asked": site_steps})
        return nothing(columns) if found is None else found

    def months(self) -> list[str]:
        """Months with rows, such as `2026-02`, in order."""
        return self._months(None, None)

    def compact(self) -> int:
        """Merge the files of each month into one, without rows that others replace; how many were merged.

        Raises:
            StorageError: The folder cannot be written or the disk is full; then nothing has changed.
        """
        return sum(self._month(month).merge(whole=True) for month in self.months())

    def tidy(self, now_s: float, *, every_s: float, keep_days: float) -> None:
        """Merge files and remove what expired, no more often than asked.

        Args:
            now_s: The present, on the clock of the readings [s since 1970].
            every_s: Shortest time between two of these, on this machine's clock [s].
            keep_days: How long rows are kept, 0 for ever [d].

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        mark = self.folder / ".compacted"
        if not self.folder.exists() or age_s(mark) < every_s:
            return
        self.compact()
        if keep_days:
            self.expire(now_s - keep_days * _DAY_S)
        with storage_errors(mark):
            mark.touch()

    def expire(self, before_s: float) -> int:
        """Remove the months that ended before a moment, and take no more rows of them; how many were removed.

        Raises:
            StorageError: The folder cannot be written.
        """
        bound = str(np.datetime64(int(before_s), "s").astype("datetime64[M]"))
        old = [month for month in self.months() if month < bound]
        if not old:
            return 0
        with whole_file(self.folder / "expired.json") as path:
            path.write_text(json.dumps({"until": bound}), encoding="utf-8")
        for month in old:
            with storage_errors(self.folder):
                shutil.rmtree(self.folder / month, ignore_errors=True)
            self._of_month.pop(month, None)
        return len(old)

    def leave_out(self, sites: Collection[str]) -> None:
        """Have nothing of these sites read any more.

        Raises:
            StorageError: The folder cannot be written.
        """
        names = sorted(self.left_out().union(sites))
        with whole_file(self.folder / "left_out.json") as path:
            path.write_text(json.dumps(names), encoding="utf-8")

    def left_out(self) -> frozenset[str]:
        """Sites of which nothing is read."""
        try:
            return frozenset(json.loads((self.folder / "left_out.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return frozenset()

    def kept_since_s(self) -> int:
        """From when on rows are kept: the end of what expired [s since 1970]."""
        try:
            until = json.loads((self.folder / "expired.json").read_text(encoding="utf-8"))["until"]
        except FileNotFoundError:
            return np.iinfo(np.int64).min
        return int(np.datetime64(until, "s").astype(np.int64))

    def _month(self, month: str) -> StoredFiles:
        if month not in self._of_month:
            self._of_month[month] = StoredFiles(self.folder / month, order=ORDER, only=LAST_ONLY)
        return self._of_month[month]

    def _months(self, since_s: float | None, until_s: float | None) -> list[str]:
        """Those that may hold rows between two moments."""
        try:
            found = sorted(name for name in os.listdir(self.folder) if (self.folder / name).is_dir())
        except FileNotFoundError:
            return []
        first, last = (
            None if at_s is None else str(np.datetime64(int(at_s), "s").astype("datetime64[M]"))
            for at_s in (since_s, until_s)
        )
        return [name for name in found if (first is None or name >= first) and (last is None or name <= last)]

    def _rows(self, choice: Choice, test: str, columns: Sequence[str]) -> pd.DataFrame:
        found = self._ask(choice, f"SELECT {as_read(columns)} FROM rows WHERE {test} ORDER BY {ORDER}")
        return nothing(columns) if found is None else found

    def _ask(
        self,
        choice: Choice,
        query: str,
        tables: dict[str, pd.DataFrame] | None = None,
        *,
        last_only: bool = True,
    ) -> pd.DataFrame | None:
        """Ask about the table `rows`, the chosen ones that count; None where there are no files.

        Args:
            choice: Which rows.
            query: May name `rows` once or more.
            tables: Further ones by name.
            last_only: Whether rows that others replace are left out.
        """
        left_out = self.left_out()
        for attempt in range(MOST_TRIES):
            months = [self._month(month).live() for month in self._months(choice.since_s, choice.until_s)]
            files = [file for month in months for file in month]
            if not files:
                return None
            try:
                rows, values = rows_of(months, choice, left_out, last_only=last_only)
                with _database(os.getpid()).cursor() as connection:
                    for name, table in (tables or {}).items():
                        connection.register(name, table)
                    return connection.execute(f"WITH rows AS ({rows}) {query}", values).df()
            except (duckdb.Error, FileNotFoundError) as error:
                # Since they were listed, files may have been merged and removed.
                if attempt < MOST_TRIES - 1 and not all(file.exists() for file in files):
                    continue
                raise DataError(
                    "A file of the realised forecasts is damaged",
                    found=f"{self.folder}: {str(error).splitlines()[0]}",
                    remedy="Remove the folder of that month and its join.json: it is joined again from the log.",
                ) from error
        raise AssertionError("the last attempt returns or raises")


@functools.cache
def _database(process_id: int) -> duckdb.DuckDBPyConnection:
    """A database in memory that holds nothing; each process has its own, as a fork loses its threads."""
    return duckdb.connect()


__all__ = ["GROUPS", "NOMINAL", "RealisedStore"]
