"""The windows of a domain's sites now: cut off the event loop, from a memory that is kept fresh."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from features.vocabulary import Domain
from serving.memory import Prepared, WindowMemory

_LOG = logging.getLogger(__name__)
_HOUR_S = 3600.0
Result = TypeVar("Result")


class WindowSource:
    """Windows of one domain, shared by the services of its targets.

    Args:
        memory: What they are cut from.
        refresh_s: Time between two reads of the online store [s].
        stale_after_h: Oldest last reading that a forecast from now may build on [h].
        now: The moment of a request [s since 1970].
    """

    def __init__(
        self,
        memory: WindowMemory,
        *,
        refresh_s: float = 5.0,
        stale_after_h: float = 6.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.memory = memory
        self.refresh_s = refresh_s
        self.stale_after_s = stale_after_h * _HOUR_S
        self.now = now
        # One window per site: the key says at which origin and from which read of the online store.
        self._windows: dict[str, tuple[tuple[int, str], asyncio.Future[Prepared]]] = {}
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        self._step = 0
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="window-memory")
        self._refreshing: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def domain(self) -> Domain:
        """Whose windows these are."""
        return self.memory.domain

    @property
    def overdue_s(self) -> float | None:
        """Age of the memory if the online store should have been read again by now [s]."""
        # Two missed reads are a fault; one late read is not.
        return self.memory.age_s if self.memory.age_s > 3 * self.refresh_s else None

    async def start(self) -> None:
        """Read the histories, and keep them fresh from now on; a second call does nothing.

        Raises:
            NotEnoughDataError: The online store was never filled.
        """
        async with self._starting:
            if self._refreshing is None:
                await self._in_reader(self.memory.refresh)
                await self._in_reader(self.memory.warm)
                self._step = int(self.now()) // self.domain.step_s
                self._refreshing = asyncio.get_running_loop().create_task(self._keep_fresh())

    async def _in_reader(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    def listen(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Have `listener` called, on the event loop, with the sites whose windows change from now on.

        Windows change with a reading, and all of them with the beginning of a step. Listeners must be quick.
        """
        self._listeners.append(listener)

    async def notice(self, names: Iterable[str]) -> None:
        """Read some sites again at once: readings of them have just been pushed to the online store."""
        chosen = tuple(names)
        self._tell(await self._in_reader(lambda: self.memory.refresh_sites(chosen)))

    def _tell(self, changed: frozenset[str]) -> None:
        step = int(self.now()) // self.domain.step_s
        if step != self._step:
            self._step, changed = step, frozenset(self.memory.sites)
        if changed:
            for listener in self._listeners:
                listener(changed)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self.refresh_s)
            try:
                self._tell(await self._in_reader(self.memory.refresh))
            except Exception:  # Feast raises unrelated types; the old histories serve on, and `quality` gives their age
                _LOG.exception("The online store of %s cannot be read", self.domain.name)

    async def close(self) -> None:
        """Stop reading; a second call does nothing."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        self._reader.shutdown(wait=True)

    def key(self, name: str) -> tuple[int, str]:
        """Changes with the window of a site: the present step, and the version of its readings."""
        return int(self.now()) // self.domain.step_s, self.memory.version(name)

    async def prepared(self, name: str) -> Prepared:
        """The window of a site, cut once per step and per news; equal requests share the cut.

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: The site has no reading of any target.
        """
        now_s = self.now()
        key = (int(now_s) // self.domain.step_s, self.memory.version(name))
        held = self._windows.get(name)
        if held is not None and held[0] == key:
            return held[1].result() if held[1].done() else await asyncio.shield(held[1])
        cut = asyncio.get_running_loop().run_in_executor(
            self._reader, lambda: self.memory.prepare(name, now_s=now_s, stale_after_s=self.stale_after_s)
        )
        self._windows[name] = (key, cut)
        try:
            return await asyncio.shield(cut)
        except Exception:
            self._windows.pop(name, None)
            raise
