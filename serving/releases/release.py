"""All versions of one target's model that answer, and which of them answers for whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from features.card import CHAMPION
from features.errors import InvalidParameterError, NotEnoughDataError, TowncastError, UnknownNameError
from serving.places import locate
from serving.releases.figures import Beside, Counts, Matched, Tally
from serving.releases.plans import ROLES, SHADOW
from serving.releases.settings import ReleaseSettings
from serving.releases.side_runs import ShadowListener, SideRuns
from serving.releases.split import Split
from serving.service import ForecastResult, ForecastService, Outcome, Question

_LOG = logging.getLogger(__name__)
# Sites whose version is remembered; names come from requests only after they were found among the known sites.
_MOST_ROUTED = 100_000
_DRAIN_LOOK_S = 0.05
# Errors that every version would answer with: they say nothing about the one that did.
_OF_THE_REQUEST = (InvalidParameterError, UnknownNameError, NotEnoughDataError)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFigures:
    """What one role's version did in this process.

    Attributes:
        role: Champion, challenger, canary or shadow.
        version: In the registry.
        model_version: Name and version as replies give them.
        counts: Its answers; of a shadow its runs.
        matched: Its errors and the champion's on the same steps.
        beside: How its forecasts differ from the champion's.
    """

    role: str
    version: str
    model_version: str
    counts: Counts
    matched: Matched
    beside: Beside


class Release:
    """The services of one target: the champion, and what is released beside it.

    `take` replaces them in one step. A service that has no role any more answers what it has begun, and is closed when
    nothing runs on it; whoever asks one past `forecast` and `forecast_many` has it held by `hold` meanwhile.

    Args:
        champion: Answers for every site that is not another version's.
        settings: Limits.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        champion: ForecastService,
        *,
        settings: ReleaseSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Without the environment: only `create_app` reads that.
        self._settings = settings or ReleaseSettings.model_construct()
        self._clock = clock
        self.champion = champion
        self.faults: dict[str, str] = {}
        self.alarm: Callable[[], None] = lambda: None
        self._roles: dict[str, ForecastService] = {CHAMPION: champion}
        self._split = Split()
        self._routed: dict[str, ForecastService] = {}
        self._tallies: dict[ForecastService, Tally] = {champion: Tally()}
        self._running: dict[ForecastService, int] = {}
        self._said: dict[ForecastService, str] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self.sides = SideRuns(
            queue=self._settings.shadow_queue, pairs=self._settings.realised_pairs, observe=self.observe, hold=self.hold
        )
        self._shadow: ForecastService | None = None

    def services(self) -> tuple[ForecastService, ...]:
        """Every service that is loaded, the champion first."""
        return tuple(dict.fromkeys(self._roles.values()))

    def roles(self) -> dict[str, ForecastService]:
        """The service of each role that is loaded, the champion first."""
        return dict(self._roles)

    def role_of(self, service: ForecastService) -> str:
        """The role of a service, "" where it has none any more."""
        return next((role for role, held in self._roles.items() if held is service), "")

    @property
    def split(self) -> Split:
        """Who answers for which part of the sites."""
        return self._split

    def route(self, site: str) -> ForecastService:
        """The service that answers for a site; the same one as long as the split stays."""
        if not self._split.shares:
            return self.champion
        return self._routed.get(site) or self._place(site)

    def _place(self, site: str) -> ForecastService:
        service = self._roles.get(self._split.role(site), self.champion)
        if len(self._routed) < _MOST_ROUTED:
            self._routed[site] = service
        return service

    def take(self, roles: Mapping[str, ForecastService], split: Split) -> None:
        """Have other services answer from now on, all at once; those that have no role any more are let go.

        Args:
            roles: Started services by role; the champion is among them.
            split: Who answers for which part of the sites.
        """
        before = self._roles
        after = {role: roles[role] for role in ROLES if role in roles}
        for service in after.values():
            self._tallies.setdefault(service, Tally())
        for role in {*before, *after} - {CHAMPION}:
            if before.get(role) is not after.get(role) or before[CHAMPION] is not after[CHAMPION]:
                self.sides.forget(role)
        self._roles, self.champion = after, after[CHAMPION]
        self._split, self._routed, self._shadow = split, {}, after.get(SHADOW)
        for service in {*before.values()} - {*after.values()}:
            self._retire(service)

    def drop(self, role: str) -> None:
        """Have a role answer for nobody, at once and until the next `take`."""
        self._split, self._routed = self._split.without(role), {}

    def _retire(self, service: ForecastService) -> None:
        task = asyncio.get_running_loop().create_task(self._let_go(service))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _let_go(self, service: ForecastService) -> None:
        """Close a service when nothing runs on it any more, and nobody can be about to ask it."""
        retired = self._clock()
        while self._running.get(service) or self._clock() - retired < self._settings.release_grace_s:
            await asyncio.sleep(_DRAIN_LOOK_S)
        self._running.pop(service, None)
        if service in self._roles.values():
            return
        self._tallies.pop(service, None)
        self._said.pop(service, None)
        await service.close()
        _LOG.info("%s is closed: nothing runs on it any more", service.artifact.model_version)

    @contextlib.contextmanager
    def hold(self, service: ForecastService) -> Iterator[ForecastService]:
        """Keep a service from being closed while the block runs."""
        self._running[service] = self._running.get(service, 0) + 1
        try:
            yield service
        finally:
            self._running[service] -= 1

    def observe(
        self, service: ForecastService, seconds: float | None, failed: bool, result: ForecastResult | None = None
    ) -> None:
        """Count an answer; cheap. `forecast` and `forecast_many` do it by themselves.

        Args:
            service: Gave it.
            seconds: Time that it took; None for one that was kept, or that explains, or that was one of many: only
                times of the same work can be compared [s].
            failed: Whether it could not be given.
            result: The answer, to be compared with other versions' off the request path.
        """
        tally = self._tallies.get(service)
        if tally is None:
            return
        tally.enter(seconds, failed=failed)
        if service is not self.champion:
            role = self.role_of(service)
            if failed:
                self.alarm()
            elif result is not None and role not in ("", SHADOW):
                self.sides.compare(role, self.champion, result)
        if self._shadow is not None and result is not None and service is not self._shadow:
            self.sides.compare(SHADOW, self._shadow, result)

    async def forecast(self, question: Question) -> ForecastResult:
        """The forecast of the version that answers for the place; where a challenger or canary fails, the champion's.

        Raises:
            TowncastError: As `ForecastService.forecast`, of the champion.
        """
        service = self._asked(question)
        if service is not self.champion:
            deadline = asyncio.timeout(self._settings.release_timeout_s)
            try:
                async with deadline:
                    return await self._counted(service, question)
            except _OF_THE_REQUEST:
                raise
            except Exception as error:  # whatever a new version does, the caller must not see it
                if deadline.expired():
                    self.observe(service, None, True)
                self._say(service, error)
        return await self._counted(self.champion, question)

    def _say(self, service: ForecastService, error: Exception) -> None:
        """Log why a version failed; not again while the reason stays, for it may be asked a thousand times a second."""
        if self._said.get(service) != repr(error):
            self._said[service] = repr(error)
            _LOG.warning("%s failed, the champion answers: %r", service.artifact.model_version, error)

    def _asked(self, question: Question) -> ForecastService:
        if not self._split.shares:
            return self.champion
        service = self.champion
        try:
            site, _ = locate(service.windows.memory, question.place, within_km=service.nearest_within_km)
        except TowncastError:
            return service  # which finds the same error, and answers with it
        return self.route(site.name)

    async def _counted(self, service: ForecastService, question: Question) -> ForecastResult:
        began = time.perf_counter()
        try:
            with self.hold(service):
                result = await service.forecast(question)
        except _OF_THE_REQUEST:
            raise
        except Exception:
            self.observe(service, None, True)
            raise
        timed = result.came == "made" and not question.explain
        self.observe(service, time.perf_counter() - began if timed else None, False, result)
        return result

    async def forecast_many(self, questions: Sequence[Question]) -> list[Outcome]:
        """The forecasts of several places, in their order, those of one version together.

        Returns:
            For each question its forecast, or the error that `forecast` would raise.
        """
        if not self._split.shares:
            return await self._counted_many(self.champion, questions)
        asked: dict[ForecastService, list[int]] = {}
        for index, question in enumerate(questions):
            asked.setdefault(self._asked(question), []).append(index)
        outcomes: dict[int, Outcome] = {}
        for service, indices in asked.items():
            if service is not self.champion:
                outcomes |= await self._tried_many(service, questions, indices)
        left = [index for index in range(len(questions)) if index not in outcomes]
        found = await self._counted_many(self.champion, [questions[index] for index in left]) if left else []
        outcomes |= dict(zip(left, found, strict=True))
        return [outcomes[index] for index in range(len(questions))]

    async def _tried_many(
        self, service: ForecastService, questions: Sequence[Question], indices: Sequence[int]
    ) -> dict[int, Outcome]:
        """What a rival answers; what it fails to is left to the champion."""
        chosen = [questions[index] for index in indices]
        try:
            async with asyncio.timeout(self._settings.release_timeout_s):
                found = await self._counted_many(service, chosen)
        except Exception as error:  # whatever a new version does, the caller must not see it
            self._say(service, error)
            for _ in chosen:
                self.observe(service, None, True)
            return {}
        return {index: one for index, one in zip(indices, found, strict=True) if not _is_fault(one)}

    async def _counted_many(self, service: ForecastService, questions: Sequence[Question]) -> list[Outcome]:
        with self.hold(service):
            found = await service.forecast_many(questions)
        for one in found:
            if _is_fault(one):
                self.observe(service, None, True)
            elif isinstance(one, ForecastResult):
                self.observe(service, None, False, one)
        return found

    def tally(self, role: str) -> Counts:
        """What a role's version answered in this process since it was loaded."""
        service = self._roles.get(role)
        return Counts() if service is None else self._tallies[service].counts()

    def figures(self) -> tuple[RoleFigures, ...]:
        """What each role's version did in this process since it was loaded."""
        return tuple(
            RoleFigures(
                role=role,
                version=service.artifact.version,
                model_version=service.artifact.model_version,
                counts=self.tally(role),
                matched=Matched() if role == CHAMPION else self.sides.realised(role).matched,
                beside=self.sides.beside(role),
            )
            for role, service in self._roles.items()
        )

    def readings_came(self, sites: frozenset[str]) -> None:
        """Compare forecasts of some sites with their new readings, off the request path."""
        self.sides.readings_came(sites, self.champion)

    def on_shadow(self, listener: ShadowListener) -> None:
        """Have `listener(site, champion_result, shadow_result)` called with each forecast of the shadow."""
        self.sides.listeners.append(listener)

    async def close(self) -> None:
        """Close every service's runtime, of those that are being let go too."""
        await self.sides.close()
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        # Every loaded service has a tally, whether it has a role or is on its way out.
        for service in list(self._tallies):
            await service.close()


def _is_fault(outcome: Outcome) -> bool:
    """Whether an outcome is the version's fault."""
    return isinstance(outcome, TowncastError) and not isinstance(outcome, _OF_THE_REQUEST)
