"""A folder of Parquet files that are only ever added, and merged where they become many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from features.errors import StorageError
from features.files import make_folder, storage_errors, whole_file

# Small enough that a look at some hours reads little of a large file: rows are ordered by time.
ROWS_PER_GROUP = 16_384
MOST_TRIES = 5
_MERGED = "merged-"
_REPLACES = b"towncast.replaces"
# Files of one size, up to each bound, are merged once there are so many [byte].
_TIERS_BYTES = (2**16, 2**20, 2**24)
_MANY = 32
# How long a replaced file stays for those who are reading it [s].
_GRACE_S = 60.0
_LOCK_WAIT_S = 120.0
_NAMES = 2**64


class StoredFiles:
    """The Parquet files of one kind of row.

    A file is there whole or not at all. Many small ones are merged into one, which names in its footer what it
    replaces: the merged file's appearance is the one moment at which it counts and the others no longer do. They are
    removed a minute later, so that nobody who reads meanwhile finds a gap or a row twice, and a crash at any point
    changes nothing that is read.

    Args:
        folder: Where they are; made at the first write.
        order: Columns by which the rows of a merged file are ordered.
        only: What SQL says, after the rows' table, of those that a merged file keeps; empty for all.
    """

    def __init__(self, folder: Path, *, order: str = "valid_at, site, quantity", only: str = "") -> None:
        self.folder = folder
        self._order, self._only = order, only
        self._replaced: dict[str, frozenset[str]] = {}

    def live(self) -> list[Path]:
        """The files that count, by name."""
        # The merged ones are looked for last: what replaces a file that is gone by then is found.
        names = {name for name in self._names() if not name.startswith(_MERGED)}
        merged = [name for name in self._names() if name.startswith(_MERGED)]
        replaced = frozenset[str]().union(*(self._replaced_by(name) for name in merged))
        return [self.folder / name for name in sorted(names.union(merged) - replaced)]

    def _names(self) -> list[str]:
        try:
            found = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return [name for name in found if name.endswith(".parquet") and not name.startswith(".")]

    def _replaced_by(self, name: str) -> frozenset[str]:
        if name not in self._replaced:
            try:
                footer = pq.read_metadata(self.folder / name).metadata or {}
            except (FileNotFoundError, OSError):
                # Replaced and removed since it was listed, or damaged: then reading it says so.
                return frozenset()
            self._replaced[name] = frozenset(json.loads(footer.get(_REPLACES, b"[]")))
        return self._replaced[name]

    def behind(self, path: Path) -> frozenset[str]:
        """Names of a live file and of those that it replaced."""
        return frozenset([path.name]) | (self._replaced_by(path.name) if path.name.startswith(_MERGED) else frozenset())

    def digest(self) -> int:
        """Sum of the files' names as numbers: what a merged file is called keeps it."""
        return _sum_of_names(self.live())

    def write(self, frame: pd.DataFrame, *, name: str) -> None:
        """Add a file; it outlasts the process, and a loss of power too.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        path = self.folder / f"{name}.parquet"
        with whole_file(path) as temporary:
            frame.to_parquet(temporary, index=False, compression="zstd", row_group_size=ROWS_PER_GROUP)
            _sync(temporary)
        _sync(self.folder)

    def merge(self, *, whole: bool = False) -> int:
        """Merge the files of a size, wherever there are many; returns how many were.

        Another process that merges at the same time is left to it.

        Args:
            whole: Merge all of them into one, whatever their sizes and however few.

        Raises:
            StorageError: The folder cannot be written or the disk is full; then nothing has changed.
        """
        if not self.folder.exists():
            return 0
        try:
            with FileLock(self.folder / ".merge.lock", timeout=0):
                self._remove_replaced()
                return sum(self._merge_tier(files) for files in (self._all() if whole else self._tiers()))
        except Timeout:
            return 0

    def _all(self) -> list[list[Path]]:
        files = self.live()
        return [files] if len(files) > 1 else []

    def _tiers(self) -> list[list[Path]]:
        tiers: list[list[Path]] = [[] for _ in _TIERS_BYTES]
        for path in self.live():
            tier = sum(path.stat().st_size > bound for bound in _TIERS_BYTES)
            if tier < len(tiers):
                tiers[tier].append(path)
        return [files for files in tiers if len(files) >= _MANY]

    def _merge_tier(self, files: Sequence[Path]) -> int:
        present = set(self._names())
        # What these replaced themselves, and is not removed yet, stays replaced.
        earlier = {old for path in files for old in self._replaced_by(path.name) if old in present}
        replaces = sorted({path.name for path in files} | earlier)
        path = self.folder / f"{_MERGED}{_sum_of_names(files):016x}.parquet"
        with whole_file(path) as temporary:
            with storage_errors(self.folder), duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.execute(
                    f"COPY (SELECT * FROM read_parquet(?, union_by_name = true) {self._only} ORDER BY {self._order}) "
                    f"TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS_PER_GROUP}, "
                    # Its own temporary file would be listed; the one it writes to is ours already.
                    "USE_TMP_FILE false, "
                    f"KV_METADATA {{'{_REPLACES.decode()}': '{json.dumps(replaces)}'}})",
                    [[str(one) for one in files]],
                )
            _sync(temporary)
        _sync(self.folder)
        return len(files)

    def _remove_replaced(self) -> None:
        """Remove what was replaced a while ago."""
        now_s = time.time()
        for name in [name for name in self._names() if name.startswith(_MERGED)]:
            with contextlib.suppress(FileNotFoundError):
                if now_s - (self.folder / name).stat().st_mtime < _GRACE_S:
                    continue
                for old in self._replaced_by(name):
                    (self.folder / old).unlink(missing_ok=True)
        self._replaced = {name: old for name, old in self._replaced.items() if (self.folder / name).exists()}


@contextlib.contextmanager
def one_writer(folder: Path, name: str = ".write.lock") -> Iterator[None]:
    """Let one thread of one process at a time into the block; a process that dies lets go.

    Raises:
        StorageError: The folder cannot be written, or another process holds it for minutes.
    """
    make_folder(folder)
    try:
        with storage_errors(folder), FileLock(folder / name, timeout=_LOCK_WAIT_S):
            yield
    except Timeout as error:
        raise StorageError(
            "Another process is writing there for minutes",
            found=str(folder),
            remedy="See whether one hangs, and end it; nothing was written.",
        ) from error


def _sum_of_names(files: Sequence[Path]) -> int:
    return sum(map(_number, files)) % _NAMES


def _number(path: Path) -> int:
    """A file's name as a number; of one that we did not name its hash."""
    try:
        return int(path.stem.removeprefix(_MERGED), 16)
    except ValueError:
        return int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8])


def _sync(path: Path) -> None:
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
