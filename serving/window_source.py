"""The windows of a domain's sites now: cut off the event loop, from a memory that is kept fresh."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from features.vocabulary import Domain
from serving.memory import Prepared, WindowMemory

_LOG = logging.getLogger(__name__)
_HOUR_S = 3600.0


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
        self._windows: dict[str, tuple[tuple[int, int], asyncio.Future[Prepared]]] = {}
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
                self._refreshing = asyncio.get_running_loop().create_task(self._keep_fresh())

    async def _in_reader(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._reader, work)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self.refresh_s)
            try:
                await self._in_reader(self.memory.refresh)
            except Exception:  # Feast raises unrelated types; the old histories serve on, and `quality` gives their age
                _LOG.exception("The online store of %s cannot be read", self.domain.name)

    async def close(self) -> None:
        """Stop reading; a second call does nothing."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        self._reader.shutdown(wait=True)

    async def prepared(self, name: str) -> Prepared:
        """The window of a site, cut once per step and per news; equal requests share the cut.

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: The site has no reading of any target.
        """
        now_s = self.now()
        key = (int(now_s) // self.domain.step_s, self.memory.version)
        held = self._windows.get(name)
        if held is not None and held[0] == key:
            return await asyncio.shield(held[1])
        cut = asyncio.get_running_loop().run_in_executor(
            self._reader, lambda: self.memory.prepare(name, now_s=now_s, stale_after_s=self.stale_after_s)
        )
        self._windows[name] = (key, cut)
        try:
            return await asyncio.shield(cut)
        except Exception:
            self._windows.pop(name, None)
            raise
