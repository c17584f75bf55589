"""The schedule without a server: looks and retrainings when they are due, or when a look or a person asks."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from rich.console import Console

from features.domains import DOMAINS
from features.errors import StorageError, TowncastError
from features.files import make_folder, storage_errors, whole_file
from pipelines.retraining_state import RetrainingStore
from pipelines.schedule_requests import Asked, asked_for
from pipelines.schedule_rules import in_cooldown, joined, next_time
from pipelines.schedule_settings import ScheduleSettings
from serving.monitoring.report import MonitoringReport, Trigger

Job = Literal["monitor", "retrain"]
_LOG = logging.getLogger(__name__)
_DAY_S = 86400.0
_STATE = "state.json"
_LOCK = ".lock"
# A job that failed is tried again after so long, and after twice as long each time, up to a day [s].
_RETRY_S = 300.0
_DOMAINS_EVERY_S = 60.0


class ScheduleRunningError(TowncastError):
    """Another schedule looks after this folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """What outlives the loop.

    Attributes:
        done_s: When each job was begun last, by `job/domain` [s since 1970].
        failed: How often in a row each has failed.
        page_s: When each domain's page was made last [s since 1970].
    """

    done_s: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    page_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A job that is to be run now.

    Attributes:
        job: Which.
        domain: Whose.
        trigger: Of a retraining.
        asked: The requests of those who asked for it, which are removed when it is done.
    """

    job: Job
    domain: str
    trigger: Trigger | None = None
    asked: Asked | None = None


_KEPT = TypeAdapter(ScheduleState)
Monitor = Callable[[str, bool], tuple[MonitoringReport, ...]]
Retrain = Callable[[str, Trigger], Any]


def is_running(settings: ScheduleSettings) -> bool:
    """Whether a schedule looks after the folder of these settings."""
    lock = settings.schedule_dir / _LOCK
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def schedule_lock(settings: ScheduleSettings) -> Iterator[None]:
    """Let one schedule look after the folder of these settings.

    Raises:
        ScheduleRunningError: Another one does.
        StorageError: The folder cannot be written.
    """
    folder = make_folder(settings.schedule_dir)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        with storage_errors(folder):
            lock.acquire()
    except Timeout as error:
        raise ScheduleRunningError(
            "A schedule is running already",
            found=str(folder),
            remedy="End the other one; for a single retraining use `towncast retrain --now`.",
        ) from error
    try:
        yield
    finally:
        lock.release()


class Schedule:
    """Runs what is due, one job at a time.

    A run that was missed, because nothing ran, is caught up once, whatever number of times it was due. What is known
    of the past is on disk: whoever starts again goes on.

    Args:
        settings: When jobs are due.
        domains: Which are looked after; asked again every minute.
        monitor: Looks at a domain; the second argument asks for a page.
        retrain: Retrains it.
        console: Where progress is shown.
        clock: Now [s since 1970].
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        domains: Callable[[], tuple[str, ...]],
        *,
        monitor: Monitor,
        retrain: Retrain,
        console: Console,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._ask_domains = settings, domains
        self._domains: tuple[str, ...] = ()
        self._asked_s = -math.inf
        self._begins = True
        self._monitor, self._retrain = monitor, retrain
        self._console, self._clock = console, clock
        self._path = settings.schedule_dir / _STATE
        self._state = self._read()
        for cron in (settings.monitor_cron, settings.retrain_cron, *settings.retrain_cron_of.values()):
            if cron:
                next_time(cron, clock(), timezone=settings.schedule_timezone)

    def run(self, stop: threading.Event) -> None:
        """Run what is due until it is told to stop; a job that runs then comes to its end first.

        Raises:
            ScheduleRunningError: Another schedule looks after this folder.
            StorageError: The folder cannot be written.
        """
        with schedule_lock(self._settings):
            while not stop.is_set():
                self.turn(stop)
                stop.wait(self._settings.schedule_poll_s)

    def once(self) -> int:
        """Run what is due now, and what that asks for; how many jobs were run.

        Raises:
            ScheduleRunningError: Another schedule looks after this folder.
            StorageError: The folder cannot be written.
        """
        with schedule_lock(self._settings):
            return self.turn(threading.Event())

    def turn(self, stop: threading.Event) -> int:
        """Run what is due now, and what that asks for; how many jobs were run."""
        self._renew_domains()
        count = 0
        waiting = self._due()
        while waiting and not stop.is_set():
            due = waiting.pop(0)
            waiting += [one for one in self._run(due) if one.domain not in {other.domain for other in waiting}]
            count += 1
        return count

    def _renew_domains(self) -> None:
        now = time.monotonic()
        if now - self._asked_s < _DOMAINS_EVERY_S:
            return
        first, self._asked_s = self._asked_s == -math.inf, now
        try:
            found = self._ask_domains()
        except TowncastError as error:
            _LOG.warning("Which domains there are cannot be asked: %s", error)
            found = ()
        # A registry that is gone has no models: looks at those of before say so, and tell people.
        found = found or tuple(key.partition("/")[2] for key in self._state.done_s if key.startswith("monitor/"))
        if first or found != self._domains:
            self._console.print(f"Looks after: {', '.join(found) or 'no domain, as none has a champion yet'}")
        self._domains = found

    def _due(self) -> list[Due]:
        """What is due: what was asked for or left first, then by domain."""
        found = self._requested()
        asked = {one.domain for one in found}
        found += [one for one in self._unfinished() if one.domain not in asked]
        asked |= {one.domain for one in found}
        self._begins = False
        for domain in self._domains:
            if domain not in asked and self._is_due("retrain", domain, self._settings.retrain_cron_for(domain)):
                found.append(Due(job="retrain", domain=domain, trigger=self._scheduled(domain)))
            if self._is_due("monitor", domain, self._settings.monitor_cron):
                found.append(Due(job="monitor", domain=domain))
        return found

    def _scheduled(self, domain: str) -> Trigger:
        cron = self._settings.retrain_cron_for(domain)
        reason = f"due by `{cron}` {self._settings.schedule_timezone}" if cron else "the last one failed"
        return Trigger(kind="schedule", sites=(), reason=reason)

    def _unfinished(self) -> Iterator[Due]:
        """Retrainings that ended with the schedule before this one."""
        store = RetrainingStore(self._settings.retraining_dir)
        for domain in self._domains if self._begins else ():
            state = store.latest(domain)
            if state is not None and state.unfinished and not self._state.failed.get(f"retrain/{domain}"):
                yield Due(job="retrain", domain=domain, trigger=state.trigger)

    def _is_due(self, job: Job, domain: str, cron: str) -> bool:
        key, now = f"{job}/{domain}", self._clock()
        if key not in self._state.done_s:
            # From now on: what was due before anybody looked is nobody's. A look is due at once.
            self._note(key, now if job == "retrain" else 0.0)
        last = self._state.done_s[key]
        if last > now:
            _LOG.warning("The clock went back: %s was run last at %s", key, _stamp(last))
            self._note(key, now)
            return False
        if self._state.failed.get(key):
            return now >= self._retry_at(key)
        return bool(cron) and now >= next_time(cron, last, timezone=self._settings.schedule_timezone)

    def _retry_at(self, key: str) -> float:
        """From when on a job that failed is tried again, 0 for one that did not."""
        failed = self._state.failed.get(key, 0)
        waits_s = min(_RETRY_S * 2.0 ** min(failed - 1, 20), _DAY_S)
        return self._state.done_s.get(key, 0.0) + waits_s if failed else 0.0

    def _requested(self) -> list[Due]:
        """One retraining for each domain, however many ask for it."""
        return [
            Due(
                job="retrain",
                domain=one.domain,
                trigger=Trigger(kind="manual", sites=(), reason=one.reason),
                asked=one,
            )
            for one in asked_for(self._settings)
            if self._clock() >= self._retry_at(f"retrain/{one.domain}")
        ]

    def _run(self, due: Due) -> list[Due]:
        """Run a job; what it asks for."""
        key, now = f"{due.job}/{due.domain}", self._clock()
        # Noted first: a job that takes the process with it is not begun again and again.
        self._note(key, now)
        try:
            if due.job == "retrain":
                assert due.trigger is not None
                self._console.rule(f"{_stamp(now)} retrain {due.domain}: {due.trigger.reason}")
                self._retrain(due.domain, due.trigger)
                reports: tuple[MonitoringReport, ...] = ()
            else:
                self._console.rule(f"{_stamp(now)} monitor {due.domain}")
                reports = self._look(due.domain, now)
        except TowncastError as error:
            self._fail(key, due, error)
            return []
        except Exception as error:
            _LOG.exception("%s failed", key)
            self._fail(key, due, error)
            return []
        self._succeed(key, due)
        return self._asked_by(due.domain, reports)

    def _look(self, domain: str, now_s: float) -> tuple[MonitoringReport, ...]:
        page = now_s - self._state.page_s.get(domain, 0.0) >= _DAY_S
        reports = self._monitor(domain, page)
        if page and reports:
            self._write(replace(self._state, page_s={**self._state.page_s, domain: now_s}))
        return reports

    def _asked_by(self, domain: str, reports: tuple[MonitoringReport, ...]) -> list[Due]:
        triggers = [trigger for report in reports for trigger in report.triggers]
        if not triggers:
            return []
        left_s = in_cooldown(domain, self._clock(), settings=self._settings)
        if left_s > 0:
            self._console.print(f"{domain}: {triggers[0].reason}; not retrained again for {left_s / 3600:.1f} h")
            return []
        return [Due(job="retrain", domain=domain, trigger=joined(triggers))]

    def _fail(self, key: str, due: Due, error: Exception) -> None:
        self._console.print(f"[red]{key} failed:[/] {error}")
        failed = self._state.failed.get(key, 0) + 1
        self._write(replace(self._state, failed={**self._state.failed, key: failed}))
        if failed >= self._settings.retrain_attempts and due.asked is not None:
            due.asked.remove()

    def _succeed(self, key: str, due: Due) -> None:
        left = {name: count for name, count in self._state.failed.items() if name != key}
        if left != self._state.failed:
            self._write(replace(self._state, failed=left))
        if due.asked is not None:
            due.asked.remove()

    def _note(self, key: str, at_s: float) -> None:
        self._write(replace(self._state, done_s={**self._state.done_s, key: at_s}))

    def _read(self) -> ScheduleState:
        try:
            return _KEPT.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return ScheduleState()
        except ValueError as error:
            _LOG.warning("The schedule's state cannot be read, it begins anew: %s: %s", self._path, error)
            return ScheduleState()

    def _write(self, state: ScheduleState) -> None:
        self._state = state
        try:
            with whole_file(self._path) as temporary:
                temporary.write_bytes(_KEPT.dump_json(state))
        except StorageError as error:
            # It goes on with what it knows; after a restart a run may come once more.
            _LOG.error("The schedule's state cannot be kept: %s", error)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the second SIGINT interrupts at once."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def domains_of(settings: ScheduleSettings) -> tuple[str, ...]:
    """Domains that are looked after: those that the settings name, else those with a champion.

    Raises:
        UnknownNameError: The settings name one that there is not.
        StorageError: The registry cannot be asked.
    """
    from features.card import CHAMPION
    from serving.releases.registry import RegistryMissingError, ReleaseRegistry
    from training.registry import model_name

    if settings.schedule_domains:
        return tuple(DOMAINS[name].name for name in settings.schedule_domains)
    names = {model_name(domain, target): domain.name for domain in DOMAINS.values() for target in domain.targets}
    try:
        standings = ReleaseRegistry(settings.tracking_uri).standings(names)
    except RegistryMissingError:
        return ()
    found = [domain for name, domain in names.items() if name in standings and CHAMPION in standings[name].versions]
    return tuple(dict.fromkeys(found))


def _stamp(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
