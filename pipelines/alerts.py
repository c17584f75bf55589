"""Alerts: a state is told once, until it changes; what lasts is told again; what could not be sent is sent later."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import TypeAdapter

from features.errors import TowncastError
from features.files import make_folder, whole_file
from pipelines.schedule_settings import ScheduleSettings

Level = Literal["ok", "info", "warning", "failure"]
_LOG = logging.getLogger(__name__)
_LOG_LEVELS = {"ok": logging.INFO, "info": logging.INFO, "warning": logging.WARNING, "failure": logging.ERROR}
_LOCK_WAIT_S = 60.0
# Addresses of our own webhooks, in Apprise's words.
_WEBHOOKS = {"http://": "json://", "https://": "jsons://"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A state that somebody should know of.

    Attributes:
        key: What it is the state of, such as `traffic/volume/performance`.
        state: The state, in few words; while it stays the same, it is told once.
        level: `ok` ends an earlier state, and is told only after one; `info` is told once, without reminders.
        title: One line.
        text: The rest.
    """

    key: str
    state: str
    level: Level
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told last of a key.

    Attributes:
        alert: The state.
        told_s: When it was told last [s since 1970].
        pending: Fingerprints of the addresses that have not taken it yet.
    """

    alert: Alert
    told_s: float
    pending: tuple[str, ...] = ()


_BOOK = TypeAdapter(dict[str, Told])


class AlertDesk:
    """Tells states to people.

    Args:
        urls: Where to; see `ScheduleSettings.alert_urls`.
        path: File that knows what was told.
        reminder_s: After how long a state that lasts is told again [s].
    """

    def __init__(self, urls: str, path: Path, *, reminder_s: float) -> None:
        self._urls = {_fingerprint(url): url for url in urls.split()}
        self._path = path
        self._reminder_s = reminder_s

    def tell(self, alerts: Iterable[Alert], *, now_s: float | None = None) -> int:
        """Tell what is new, what lasts for long, and what an address has not taken before; never raises for that.

        Args:
            alerts: The states as they are now.
            now_s: Now [s since 1970], by default this machine's clock.

        Returns:
            How many states were told, or tried to be.
        """
        now = time.time() if now_s is None else now_s
        try:
            make_folder(self._path.parent)
            with FileLock(f"{self._path}.lock", timeout=_LOCK_WAIT_S):
                return self._tell({alert.key: alert for alert in alerts}, now)
        except (OSError, TowncastError) as error:
            # A job is not to fail because nobody can be told; the log is what is left.
            _LOG.error("Alerts cannot be kept: %s", error)
            for alert in alerts:
                _LOG.log(_LOG_LEVELS[alert.level], "%s: %s", alert.title, alert.text)
            return 0

    def _tell(self, alerts: dict[str, Alert], now_s: float) -> int:
        book = self._read()
        due = {key: told for key, told in book.items() if told.pending}
        for key, alert in alerts.items():
            before = book.get(key)
            if self._is_due(alert, before, now_s):
                due[key] = Told(alert=alert, told_s=now_s, pending=tuple(self._urls))
                _LOG.log(_LOG_LEVELS[alert.level], "%s: %s", alert.title, alert.text)
        if due:
            self._write(book | due)  # what is killed while it sends sends again: twice is better than never
            book |= {key: self._send(told) for key, told in due.items()}
            self._write(book)
        return len(due)

    def _is_due(self, alert: Alert, before: Told | None, now_s: float) -> bool:
        if before is None or (before.alert.state, before.alert.level) != (alert.state, alert.level):
            return before is not None or alert.level != "ok"
        lasts = alert.level in ("warning", "failure") and now_s - before.told_s >= self._reminder_s
        return lasts and not before.pending

    def _send(self, told: Told) -> Told:
        left = tuple(mark for mark in told.pending if mark in self._urls and not _deliver(self._urls[mark], told.alert))
        return replace(told, pending=left)

    def _read(self) -> dict[str, Told]:
        try:
            return _BOOK.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            _LOG.warning("What was told cannot be read, all is told again: %s: %s", self._path, error)
            return {}

    def _write(self, book: dict[str, Told]) -> None:
        with whole_file(self._path) as temporary:
            temporary.write_bytes(_BOOK.dump_json(book))


def open_desk(settings: ScheduleSettings) -> AlertDesk:
    """The desk that the settings describe."""
    return AlertDesk(
        settings.alert_urls, settings.data_dir / "alerts.json", reminder_s=settings.alert_reminder_h * 3600
    )


def _fingerprint(url: str) -> str:
    # An address may hold a password, and what was told is kept in a file.
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def _deliver(url: str, alert: Alert) -> bool:
    """Whether an address took it; its trouble is logged, without the address."""
    from apprise import Apprise, NotifyType

    kinds = {
        "ok": NotifyType.SUCCESS,
        "info": NotifyType.INFO,
        "warning": NotifyType.WARNING,
        "failure": NotifyType.FAILURE,
    }
    scheme = url.partition("://")[0]
    # It would log addresses, passwords in them too.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    try:
        messenger = Apprise()
        took = messenger.add(_in_words_of_apprise(url)) and messenger.notify(
            title=alert.title, body=alert.text, notify_type=kinds[alert.level]
        )
    except Exception as error:  # whatever a plug-in of a hundred raises, the job goes on
        _LOG.warning("An alert could not be sent by %s: %s", scheme, type(error).__name__)
        return False
    if not took:
        _LOG.warning("An alert could not be sent by %s; it is tried again with the next", scheme)
    return bool(took)


def _in_words_of_apprise(url: str) -> str:
    """A plain web address is a webhook that takes JSON, unless Apprise knows whose it is."""
    from apprise import Apprise

    for scheme, ours in _WEBHOOKS.items():
        if url.startswith(scheme):
            known = Apprise.instantiate(url, suppress_exceptions=True)
            return url if known is not None else ours + url.removeprefix(scheme)
    return url
