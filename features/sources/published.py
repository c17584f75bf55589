"""Finding the files of a published data set, and telling when one is cut off."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFiles:
    """The files that a publisher released together.

    Attributes:
        title: What people call the data set.
        pattern: Glob pattern of the names of its files.
        origin: Where to fetch it.
        ends_line: Whether the last line of a whole file ends like the others.
    """

    title: str
    pattern: str
    origin: str
    ends_line: bool = True

    def find(self, path: Path) -> list[Path]:
        """The files in a folder or under it, in the order of their names; a path that is no folder stands for itself.

        Raises:
            DataError: The folder holds none, or the last line of a CSV is cut off.
        """
        files = sorted(path.glob(f"**/{self.pattern}")) if path.is_dir() else [path]
        if not files:
            raise DataError(
                f"The folder does not hold the {self.title} file",
                found=str(path),
                remedy=f"Put {self.pattern.rstrip('*')} ({self.origin}) into it.",
            )
        for file in files:
            if self.ends_line and file.suffix == ".csv":
                self._check_end(file)
        return files

    def _check_end(self, file: Path) -> None:
        """Refuse a file whose last line is cut: a value of 9 instead of 954 would be a plausible reading."""
        if not file.is_file() or not file.stat().st_size:
            return
        with file.open("rb") as stream:
            stream.seek(-1, 2)
            if stream.read() != b"\n":
                raise DataError(
                    f"The {self.title} file is cut off in its last line",
                    found=f"{file}, {file.stat().st_size} bytes",
                    remedy=f"Fetch it again ({self.origin}): its last line ends like the others.",
                )
