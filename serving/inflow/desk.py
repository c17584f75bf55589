"""Where readings come in, whatever brought them: checked, stored and pushed before anybody is told so. No transport."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from features.domains import DOMAINS
from features.errors import StorageError, TowncastError
from features.feast_repository import open_repository
from features.vocabulary import Domain
from serving.inflow.items import Refused, Row, read_item
from serving.inflow.settings import InflowSettings
from serving.inflow.writing import QUARANTINED, DomainWriter, Entry, Written
from serving.metrics import Metrics
from serving.window_source import WindowSource

_LOG = logging.getLogger(__name__)
# The quarantine of what names no domain that there is.
UNKNOWN = Domain(name="unknown", entity="site", targets=(), covariates=())
_MOST_AT_ONCE = 20_000
# From so many items on they are read in a thread.
_MANY_ITEMS = 100
_WRITES_BETWEEN_MERGES = 16
_NOT_A_NUMBER = float("nan")


class ReadingsBusyError(StorageError):
    """So many readings wait to be stored that no more are taken for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an item.

    Attributes:
        outcome: `stored`, `known` (stored before) or `quarantined`.
        reason: Why it was quarantined, empty where it was not.
        malformed: Whether it was no reading at all.
    """

    outcome: str
    reason: str = ""
    malformed: bool = False


class WindowsOf(Protocol):
    """Finds the windows of a domain; None where it is not served."""

    def __call__(self, domain: str, /) -> WindowSource | None:
        """The windows."""


class _Queue:
    """What waits to be written of one domain, and the one task that writes it."""

    def __init__(self, writer: DomainWriter) -> None:
        self.writer = writer
        self.waiting: list[tuple[list[Entry], asyncio.Future[Sequence[tuple[str, str]]]]] = []
        self.number = 0
        self.writes = 0
        self.task: asyncio.Task[None] | None = None
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"readings-{writer.domain.name}")


class ReadingDesk:
    """Takes readings of any domain from any number of callers at once.

    What callers bring while a write is going on is written next, together. A caller gets the answer once its readings
    are on disk, in the online store, and seen by the windows: from then on they outlast the process.

    Args:
        settings: Folders, limits, tolerances.
        metrics: Counts what comes in.
        windows: Where the windows of a domain are.
        now: The present [s since 1970].
    """

    def __init__(
        self,
        settings: InflowSettings,
        metrics: Metrics,
        *,
        windows: WindowsOf | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._metrics = metrics
        self._windows = windows or (lambda domain: None)
        self._now = now
        self._queues: dict[str, _Queue] = {}
        self._last_came = datetime.fromtimestamp(0, UTC)
        self._finishing: asyncio.Task[None] | None = None
        self._merging: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(
        self,
        items: Sequence[Any],
        *,
        transport: str,
        feed: str | None = None,
        given: Sequence[Mapping[str, str]] | None = None,
    ) -> list[Outcome]:
        """Store items, each judged by itself.

        Args:
            items: Parsed JSON, or bytes that are none.
            transport: What brought them: `http`, `mqtt` or `nats`.
            feed: Source of those that name none; by default the transport.
            given: For each item fields that the transport says.

        Returns:
            What became of each.

        Raises:
            StorageError: They cannot be stored now. What is sent again is not stored twice.
        """
        began = time.perf_counter()
        came_at = self._came()
        source = feed or transport

        def read() -> list[tuple[str, Entry]]:
            return [
                _entry(item, came_at, read_item(item, feed=source, given=given[place] if given else None))
                for place, item in enumerate(items)
            ]

        entries = await asyncio.to_thread(read) if len(items) > _MANY_ITEMS else read()
        by_domain: dict[str, list[int]] = {}
        for place, (domain, _) in enumerate(entries):
            by_domain.setdefault(domain, []).append(place)
        answers = await asyncio.gather(
            *(self._put(domain, [entries[place][1] for place in places]) for domain, places in by_domain.items()),
            return_exceptions=True,
        )
        outcomes = [Outcome(outcome=QUARANTINED)] * len(items)
        for (domain, places), answer in zip(by_domain.items(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            self._count(transport, domain, answer, [entries[place][1] for place in places])
            for place, (outcome, reason) in zip(places, answer, strict=True):
                malformed = bool(entries[place][1].reason)
                outcomes[place] = Outcome(outcome=outcome, reason=reason, malformed=malformed)
        self._metrics.observe_arrival(transport, time.perf_counter() - began)
        return outcomes

    def _came(self) -> datetime:
        """The present, a moment of its own for each caller: of two values for one moment the later one counts."""
        now = datetime.fromtimestamp(self._now(), UTC)
        self._last_came = max(now, self._last_came + timedelta(microseconds=1))
        return self._last_came

    def _count(self, transport: str, domain: str, answer: Sequence[tuple[str, str]], entries: Sequence[Entry]) -> None:
        for outcome, number in Counter(outcome for outcome, _ in answer).items():
            self._metrics.count_readings(transport, domain, outcome, number)
        for entry in entries:
            if entry.valid_at is not None and not entry.reason:
                age_s = (entry.came_at - entry.valid_at).total_seconds()
                self._metrics.observe_reading_delay(transport, domain, age_s)

    def _put(self, domain: str, entries: list[Entry]) -> asyncio.Future[Sequence[tuple[str, str]]]:
        """Have entries written; the future tells what became of them."""
        future: asyncio.Future[Sequence[tuple[str, str]]] = asyncio.get_running_loop().create_future()
        queue = self._queue(domain)
        if self._closed:
            error = ReadingsBusyError("The API is being shut down", remedy="Send the readings again in some seconds.")
            future.set_exception(error)
        elif queue.number and queue.number + len(entries) > self.settings.readings_waiting_limit:
            error = ReadingsBusyError(
                f"Too many readings of {domain} wait to be stored",
                found=queue.number,
                remedy="Send the readings again in some seconds.",
            )
            future.set_exception(error)
        else:
            queue.waiting.append((entries, future))
            queue.number += len(entries)
            if queue.task is None or queue.task.done():
                queue.task = asyncio.get_running_loop().create_task(self._keep_writing(queue))
        return future

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            domain = DOMAINS[name] if name in DOMAINS else UNKNOWN
            repository = open_repository(self.settings, domain)
            writer = DomainWriter(
                repository,
                tolerance_s=self.settings.inflow_clock_tolerance_s,
                new_sites=self.settings.inflow_new_sites,
            )
            self._queues[name] = _Queue(writer)
        if self._finishing is None:
            self._finishing = asyncio.get_running_loop().create_task(self._keep_finishing())
        return self._queues[name]

    async def _keep_writing(self, queue: _Queue) -> None:
        """Write what waits, as much at a time as there is, until nothing does."""
        while queue.waiting:
            together, number = [], 0
            while queue.waiting and number < _MOST_AT_ONCE:
                together.append(queue.waiting.pop(0))
                number += len(together[-1][0])
            entries = [entry for part, _ in together for entry in part]
            try:
                written = await self._write(queue, entries)
            except Exception as error:  # whoever waits must be told, whatever it is
                if not isinstance(error, TowncastError):
                    _LOG.exception("Readings of %s cannot be stored", queue.writer.domain.name)
                for _, future in together:
                    if not future.done():
                        future.set_exception(error)
            else:
                place = 0
                for part, future in together:
                    if not future.done():
                        future.set_result(written.outcomes[place : place + len(part)])
                    place += len(part)
            finally:
                queue.number -= number

    async def _write(self, queue: _Queue, entries: list[Entry]) -> Written:
        loop = asyncio.get_running_loop()
        # What came in by now is known now.
        now = max(datetime.fromtimestamp(self._now(), UTC), self._last_came)
        written = await loop.run_in_executor(queue.thread, lambda: queue.writer.write(entries, now=now))
        await self._notice(queue, written.pushed)
        queue.writes += 1
        if queue.writes % _WRITES_BETWEEN_MERGES == 0:
            task = loop.create_task(self._merge(queue))
            self._merging.add(task)
            task.add_done_callback(self._merging.discard)
        return written

    async def _notice(self, queue: _Queue, sites: Sequence[str]) -> None:
        windows = self._windows(queue.writer.domain.name) if sites else None
        if windows is not None:
            await windows.notice(sites)

    async def _merge(self, queue: _Queue) -> None:
        """Beside the writes: files that are merged are never written again."""
        try:
            await asyncio.to_thread(queue.writer.merge)
        except Exception:  # nothing is lost by it, and the next write tries again
            _LOG.exception("The files of %s cannot be merged", queue.writer.domain.name)

    async def _keep_finishing(self) -> None:
        """With the end of each step, push the readings inside it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0 - self._now() % 1.0 + 0.005)
            for queue in list(self._queues.values()):
                now = datetime.fromtimestamp(self._now(), UTC)
                try:
                    pushed = await loop.run_in_executor(queue.thread, lambda: queue.writer.finish(now=now))  # noqa: B023
                    await self._notice(queue, pushed)
                except Exception:  # tried again a second later
                    _LOG.exception("Readings of %s cannot be pushed", queue.writer.domain.name)

    async def close(self) -> None:
        """Write what waits, then take no more; a second call does nothing."""
        self._closed = True
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.gather(self._finishing, return_exceptions=True)
        for queue in self._queues.values():
            if queue.task is not None:
                await asyncio.gather(queue.task, return_exceptions=True)
            queue.thread.shutdown(wait=True)
        await asyncio.gather(*self._merging, return_exceptions=True)


def _entry(item: Any, came_at: datetime, read: Row | Refused) -> tuple[str, Entry]:
    """Name of the domain, and what is to be written."""
    if isinstance(read, Refused):
        entry = Entry(
            site=read.site,
            quantity=read.quantity,
            valid_at=None,
            available_at=None,
            came_at=came_at,
            value=_NOT_A_NUMBER,
            source="",
            reason=read.reason,
            item=item,
        )
        return read.domain or UNKNOWN.name, entry
    entry = Entry(
        site=read.site,
        quantity=read.quantity,
        valid_at=read.valid_at,
        available_at=read.available_at,
        came_at=came_at,
        value=read.value,
        source=read.source,
        reason="",
        item=item,
    )
    return read.domain, entry
