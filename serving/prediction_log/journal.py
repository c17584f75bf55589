"""The journal: files that lines are added to before an answer leaves, so that a killed process loses none."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from features.files import make_folder, storage_errors

# Room of a segment: a second of answers at the highest rate. One that is full makes way for another [byte].
ROOM_BYTES = 4 * 1024 * 1024
# Making room takes time, in which nobody else works: where little was written, the next one gets less of it.
_LEAST_BYTES = 64 * 1024
_TIMES_AS_MUCH = 4
# Taking so much into memory lasts some ten microseconds [byte].
_PIECE = bytes(64 * 1024)


@dataclass(slots=True)
class _Segment:
    """A file, and the memory that it is mapped to."""

    path: Path
    file: int
    room: mmap.mmap
    end: int = 0


class Journal:
    """Segments in a folder; each is written by one process, and may be taken away by anybody once it is finished.

    A segment is mapped to memory: a line is in the operating system's hands as soon as it is copied, without a system
    call, and survives the end of the process however it ends. It is on the disk when its segment is finished, a second
    later: what a power failure takes is at most that.

    Args:
        folder: Of all segments, of all processes; made by `open`.
        room_bytes: Most room of a segment, unless lines need more at once [byte].
    """

    def __init__(self, folder: Path, *, room_bytes: int = ROOM_BYTES) -> None:
        self.folder = folder
        self.room_bytes = room_bytes
        self._segment: _Segment | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begin a segment.

        Raises:
            StorageError: The folder cannot be written, or the disk is full.
        """
        make_folder(self.folder)
        self._segment = self._begin(self.room_bytes)

    def _begin(self, room_bytes: int) -> _Segment:
        path = self.folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        with storage_errors(path):
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                # Held as long as the process lives: how others know that the segment is not finished.
                fcntl.flock(file, fcntl.LOCK_EX)
                # All blocks now: memory that is mapped to a disk that fills up would end the process.
                os.posix_fallocate(file, 0, room_bytes)
                room = mmap.mmap(file, room_bytes)
                # Each page is taken into memory here: a first write to one waits for the file system, which may be busy
                # bringing the segment before to the disk. Piece by piece: requests are answered in between.
                for first in range(0, room_bytes, len(_PIECE)):
                    room[first : first + len(_PIECE)] = _PIECE[: room_bytes - first]
                return _Segment(path, file, room)
            except OSError:
                os.close(file)
                path.unlink()
                raise

    def write(self, lines: bytes) -> None:
        """Add whole lines to the segment.

        Raises:
            StorageError: It is full, and there is no room for another.
        """
        with self._lock:
            segment = self._segment
            assert segment is not None, "the journal is not open"
            end = segment.end + len(lines)
            if end > len(segment.room):
                self._segment = following = self._begin(max(self.room_bytes, len(lines)))
                _finish(segment)
                segment, end = following, len(lines)
            segment.room[segment.end : end] = lines
            segment.end = end

    def rotate(self) -> int:
        """Finish the segment, if there is a line in it, and begin another; writers wait for neither.

        Returns:
            How much is in the finished one [byte].

        Raises:
            StorageError: The folder cannot be written, or the disk is full.
        """
        if self._segment is None or self._segment.end == 0:
            return 0
        written_bytes = self._segment.end
        following = self._begin(min(self.room_bytes, max(_LEAST_BYTES, _TIMES_AS_MUCH * written_bytes)))
        with self._lock:
            before, self._segment = self._segment, following
        _finish(before)
        return before.end

    def finished(self) -> Iterator[tuple[Path, bytes]]:
        """Each segment that nobody writes any more, with its lines; it may be removed when the next one is asked for.

        The segment is locked until then: no other process takes it at the same time.
        """
        for path in sorted(self.folder.glob("*.jsonl")):
            if self._segment is not None and path == self._segment.path:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if path.exists():
                    # Behind the lines of a process that was killed is empty room.
                    yield path, file.read().partition(b"\0")[0]

    def close(self) -> None:
        """Finish the segment; it stays where it is."""
        with self._lock:
            before, self._segment = self._segment, None
        if before is not None:
            _finish(before)


def _finish(segment: _Segment) -> None:
    """Bring a segment to the disk, without its empty room, and let go of it."""
    segment.room.close()
    with contextlib.suppress(OSError):
        os.ftruncate(segment.file, segment.end)
        os.fsync(segment.file)
    os.close(segment.file)
