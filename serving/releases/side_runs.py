"""Second forecasts off the request path: the shadow's of what was answered, the champion's of what a rival answered.

A forecast depends on its site, its window and its model alone: each is compared once, however often it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from features.errors import TowncastError
from features.vocabulary import Forecast
from serving.places import Place
from serving.releases.figures import Beside
from serving.releases.plans import SHADOW
from serving.releases.realised import RealisedErrors
from serving.service import ForecastResult, ForecastService, Question

_LOG = logging.getLogger(__name__)
ShadowListener = Callable[[str, ForecastResult, ForecastResult], None]
Observe = Callable[[ForecastService, float | None, bool], None]
Hold = Callable[[ForecastService], AbstractContextManager[ForecastService]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is to be forecast a second time."""

    role: str
    other: ForecastService
    answered: ForecastResult


class SideRuns:
    """Runs second forecasts one after the other, and compares each with what was answered.

    Args:
        queue: Most that wait; more are dropped and counted, so that no answer ever waits for them.
        pairs: Most pairs of forecasts that wait for their readings, for each role.
        observe: Is told of each run of the shadow: its time, and whether it failed.
        hold: Keeps a service from being closed while it runs.
    """

    def __init__(self, *, queue: int, pairs: int, observe: Observe, hold: Hold) -> None:
        self.queue = queue
        self.pairs = pairs
        self.listeners: list[ShadowListener] = []
        self._observe = observe
        self._hold = hold
        self._jobs: deque[_Job] = deque()
        self._last: dict[tuple[str, str], tuple[str, ForecastService]] = {}
        self._beside: dict[str, Beside] = {}
        self._realised: dict[str, RealisedErrors] = {}
        self._working: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._changed: set[str] = set()

    def beside(self, role: str) -> Beside:
        """How a role's forecasts differ from the champion's."""
        return self._beside.get(role, Beside())

    def realised(self, role: str) -> RealisedErrors:
        """How a role's forecasts and the champion's differ from the readings."""
        return self._realised.setdefault(role, RealisedErrors(limit=self.pairs))

    def forget(self, role: str) -> None:
        """Begin anew: another version has the role, or another champion is compared with."""
        self._beside.pop(role, None)
        self._realised.pop(role, None)
        self._last = {key: last for key, last in self._last.items() if key[0] != role}
        self._jobs = deque(job for job in self._jobs if job.role != role)

    def compare(self, role: str, other: ForecastService, answered: ForecastResult) -> None:
        """Have `other` forecast what was answered, later; cheap, and nothing where that was done already.

        Args:
            role: Of the version that is compared with the champion: the one that answered, or `other` as a shadow.
            other: Forecasts the second time.
            answered: What was answered.
        """
        key, mark = (role, answered.site.name), (answered.run.name, other)
        if self._last.get(key) == mark:
            return
        self._last[key] = mark
        if len(self._jobs) >= self.queue:
            self._drop(role)
            return
        self._jobs.append(_Job(role=role, other=other, answered=answered))
        if self._working is None or self._working.done():
            self._working = asyncio.get_running_loop().create_task(self._work())

    def _drop(self, role: str) -> None:
        beside = self.beside(role)
        self._beside[role] = replace(beside, dropped=beside.dropped + 1)

    async def _work(self) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            try:
                await self._run(job)
            except Exception:  # whatever a second forecast does, the answers go on
                _LOG.exception("A comparison of the %s failed", job.role)
            # A fast graph runs on the event loop: requests come first.
            await asyncio.sleep(0)

    async def _run(self, job: _Job) -> None:
        domain, shadow = job.other.domain, job.role == SHADOW
        whole = max(domain.horizons, key=lambda name: domain.horizons[name])
        began = time.perf_counter()
        try:
            with self._hold(job.other):
                made = await job.other.forecast(Question(place=Place(name=job.answered.site.name), horizon=whole))
        except TowncastError as error:
            if shadow:
                self._observe(job.other, None, True)
            _LOG.info("The %s has no forecast to compare with: %s", job.role, error)
            return
        if shadow:
            self._observe(job.other, time.perf_counter() - began if made.came == "made" else None, False)
        if made.run.prepared.version != job.answered.run.prepared.version:
            self._drop(job.role)
            return
        champion, rival = (job.answered, made) if shadow else (made, job.answered)
        self._enter(job.role, champion.run.forecast, rival.run.forecast)
        if shadow:
            for listener in self.listeners:
                listener(job.answered.site.name, champion, rival)

    def _enter(self, role: str, champion: Forecast, rival: Forecast) -> None:
        self.realised(role).enter(champion.sites[0], champion, rival)
        beside, difference = self.beside(role), rival.at_level(0.5) - champion.at_level(0.5)
        self._beside[role] = replace(
            beside,
            pairs=beside.pairs + 1,
            difference=beside.difference + float(difference.mean()),
            distance=beside.distance + float(np.abs(difference).mean()),
            overlap=beside.overlap + _overlap(champion, rival),
        )

    def readings_came(self, sites: frozenset[str], service: ForecastService) -> None:
        """Compare what waited for readings of some sites, soon; the windows of `service` hold them."""
        for realised in self._realised.values():
            self._changed.update(realised.waiting(sites))
        if self._changed and (self._settling is None or self._settling.done()):
            self._settling = asyncio.get_running_loop().create_task(self._settle(service))

    async def _settle(self, service: ForecastService) -> None:
        channel = [quantity.name for quantity in service.domain.inputs].index(service.target.name)
        while self._changed:
            site = self._changed.pop()
            try:
                prepared = await service.windows.prepared(site)
            except TowncastError as error:
                _LOG.info("No readings of %s to compare with: %s", site, error)
                continue
            value_L = prepared.window.history_BLK[0, :, channel]
            back_L = np.arange(len(value_L), dtype=np.int64)[::-1]
            for realised in self._realised.values():
                realised.settle(site, prepared.origin_s - back_L * service.domain.step_s, value_L)

    async def close(self) -> None:
        """Stop; what waits is left."""
        self._jobs.clear()
        tasks = [task for task in (self._working, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _overlap(first: Forecast, second: Forecast) -> float:
    """Share of what either interval covers that both cover, mean over the steps (0 to 1)."""
    lows = [one.value_BHQ[0, :, 0] for one in (first, second)]
    highs = [one.value_BHQ[0, :, -1] for one in (first, second)]
    both = np.maximum(np.minimum(*highs) - np.maximum(*lows), 0)
    either = np.maximum(*highs) - np.minimum(*lows)
    return float(np.where(either > 0, both / np.where(either > 0, either, 1), 1.0).mean())
