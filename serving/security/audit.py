"""The audit log: who changed what, and who was refused. One JSON line an event, which no content can break."""

from __future__ import annotations

import json
import logging
import math
import queue
import time
from contextvars import Context, ContextVar
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Any, Self

from serving.request_context import CALLER, REQUEST_ID
from serving.text import utc_text

_LOG = logging.getLogger(__name__)
_AUDIT = logging.getLogger("towncast.audit")
_LONGEST_VALUE = 200
_LONGEST_LIST = 20
_QUEUED_LINES = 10000
# Refusals written in a minute: of one address for one reason, and of all. What is beyond is counted.
_REFUSALS_EACH = 5
_REFUSALS = 100

# Address that the request comes from.
CLIENT: ContextVar[str] = ContextVar("client", default="")


def audit(event: str, **fields: Any) -> None:
    """Write an event down, with the moment and, in a request, its id, caller and address.

    It costs some microseconds and waits for nothing. It is written where an `AuditLog` is open in this process;
    elsewhere it goes to the ordinary log.

    Args:
        event: What happened, such as `key_revoked`.
        fields: To what, why, by whom.
    """
    caller = CALLER.get()
    line: dict[str, Any] = {"time": utc_text(int(time.time())), "event": event}
    if request_id := REQUEST_ID.get():
        line["request_id"] = request_id
    if caller is not None:
        line["caller"] = caller.name
    if client := CLIENT.get():
        line["client"] = client
    line |= {name: _plain(value) for name, value in fields.items()}
    # ASCII alone: no line break, no terminal control and no direction mark gets through.
    _AUDIT.info("%s", json.dumps(line, ensure_ascii=True))


class AuditLog:
    """The file of the audit log. Lines are written by a thread, and all of them before it is closed.

    Several processes may write one file; it may be moved away to rotate it.

    Args:
        path: The file; made with its folder at the first event.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handler: _BoundedHandler | None = None
        self._listener: QueueListener | None = None

    def open(self) -> None:
        """Write events from now on."""
        lines: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUED_LINES)
        self._handler = _BoundedHandler(lines)
        self._listener = QueueListener(lines, _FileHandler(self.path))
        self._listener.start()
        _AUDIT.setLevel(logging.INFO)
        _AUDIT.propagate = False
        _AUDIT.addHandler(self._handler)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._handler is None or self._listener is None:
            return
        _AUDIT.removeHandler(self._handler)
        _AUDIT.propagate = not _AUDIT.handlers
        self._listener.stop()
        for handler in self._listener.handlers:
            handler.close()
        self._handler.close()
        self._handler = self._listener = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class RefusalAudit:
    """Writes refusals down, but only so many in a minute: a flood must not fill the disk."""

    def __init__(self) -> None:
        self._minute = 0
        self._written: dict[tuple[str, str], int] = {}
        self._total = 0
        self._left_out = 0

    def write(self, reason: str, *, client: str, now_s: float, **fields: Any) -> None:
        """Write a refusal down, or count it where there were too many."""
        minute = int(now_s) // 60
        if minute != self._minute:
            self.flush()
            self._minute, self._written, self._total = minute, {}, 0
        written = self._written.get((client, reason), 0)
        if written >= _REFUSALS_EACH or self._total >= _REFUSALS:
            self._left_out += 1
            return
        self._written[client, reason] = written + 1
        self._total += 1
        audit("refused", reason=reason, **fields)

    def flush(self) -> None:
        """Write down how many were counted alone."""
        if self._left_out:
            # In no request's name: that of the next one has nothing to do with it.
            Context().run(audit, "refusals_left_out", number=self._left_out, minute=utc_text(self._minute * 60))
            self._left_out = 0


class _BoundedHandler(QueueHandler):
    """Leaves out what the disk is too slow for, and says so once."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self._full = False

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            if not self._full:
                _LOG.error("The audit log is not written fast enough: events are left out")
            self._full = True
        else:
            self._full = False


class _FileHandler(WatchedFileHandler):
    """Appends to a file that only its owner and group may read; what cannot be written is said in the ordinary log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="ascii", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            path = Path(self.baseFilename)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o640)
        except OSError as error:
            _LOG.error("The audit log cannot be written (%s): %s", error, record.getMessage())
            return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        _LOG.exception("The audit log cannot be written: %s", record.getMessage())


def _plain(value: Any) -> Any:
    """A value as a line may hold it: short, and what JSON can hold."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:_LONGEST_LIST]]
    return str(value)[:_LONGEST_VALUE]
