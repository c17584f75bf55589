"""Judges a canary while it answers, and acts: the next step, the champion's alias, or back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from features.card import CHAMPION
from features.errors import StorageError
from serving.releases.board import Board, BoardEntry, RoleEntry
from serving.releases.decision import Advance, CanaryFigures, Decision, RollBack, decide
from serving.releases.figures import Counts, Matched
from serving.releases.plans import CANARY, CanaryPlan, Standing
from serving.releases.registry import ReleaseRegistry
from serving.releases.release import Release
from serving.security.audit import audit

_LOG = logging.getLogger(__name__)
_TOLD_EVERY_S = 10.0
DecisionListener = Callable[[str, CanaryPlan, Decision], None]


@dataclass(slots=True, kw_only=True)
class _Since:
    """What was counted before a canary, and before its present step."""

    plan: str = ""
    step: int = -1
    canary: Counts = field(default_factory=Counts)
    champion: Counts = field(default_factory=Counts)
    matched: Matched = field(default_factory=Matched)


class CanaryJudge:
    """Judges the canary of one release, by the figures of all workers that share the data folder.

    Any worker rolls back at once, by what it knows: its own figures as they are, the others' as they wrote them last.
    Only the one that holds the lock advances; those that roll back take it in turn, and the first is in the history.
    A rollback that the registry cannot be told, because it is away, holds for the workers of this machine, and is told
    when it is back.

    Args:
        release: Whose canary.
        name: Of the registered model.
        registry: Keeps the plan and the history.
        board: Figures of the workers of this machine.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        release: Release,
        *,
        name: str,
        registry: ReleaseRegistry,
        board: Board,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.release = release
        self.name = name
        self.listeners: list[DecisionListener] = []
        self._registry = registry
        self._board = board
        self._clock = clock
        self._since = _Since()
        self._stopped: dict[str, RollBack | None] = {}
        self._told_s = 0.0

    def is_stopped(self, plan: CanaryPlan) -> bool:
        """Whether a canary is rolled back, as far as this process knows."""
        return plan.id in self._stopped

    async def look(self, standing: Standing) -> Decision | None:
        """Judge once; what was decided, None where there is nothing to judge.

        Raises:
            StorageError: The registry is away, or the data folder cannot be written; the next look tries again.
        """
        plan = standing.canary
        # A canary that cannot be loaded here answers nobody: there is nothing to judge.
        if plan is None or CANARY not in self.release.roles():
            await self._tell()
            return None
        self._begin(plan)
        own = self._entry(plan)
        others, stopped = await asyncio.to_thread(self._exchange, own, plan)
        if stopped and plan.id not in self._stopped:
            self._stopped[plan.id] = None
            self.release.drop(CANARY)
            _LOG.warning("Another worker rolled version %s of %s back", plan.version, self.name)
        if plan.id in self._stopped:
            return await self._tell_registry(plan)
        figures = _summed(own, others, plan, standing.versions.get(CHAMPION))
        decision = decide(figures, plan, self._clock())
        if isinstance(decision, RollBack):
            await self._roll_back(plan, decision)
        elif isinstance(decision, Advance):
            await self._advance(plan, decision)
        return decision

    def _begin(self, plan: CanaryPlan) -> None:
        """Count from now on, where the canary or its step is new."""
        if self._since.plan != plan.id:
            self._since = _Since(
                plan=plan.id,
                champion=self.release.tally(CHAMPION),
                matched=self.release.sides.realised(CANARY).matched,
            )
        if self._since.step != plan.step:
            self._since.step, self._since.canary = plan.step, self.release.tally(CANARY)

    def _entry(self, plan: CanaryPlan | None) -> BoardEntry:
        roles = {
            one.role: RoleEntry(
                version=one.version,
                model_version=one.model_version,
                counts=one.counts,
                matched=one.matched,
                beside=one.beside,
            )
            for one in self.release.figures()
        }
        if plan is None:
            return BoardEntry(at_s=time.time(), roles=roles)
        return BoardEntry(
            at_s=time.time(),
            plan=plan.id,
            step=plan.step,
            canary=self.release.tally(CANARY) - self._since.canary,
            champion=self.release.tally(CHAMPION) - self._since.champion,
            matched=self.release.sides.realised(CANARY).matched - self._since.matched,
            roles=roles,
        )

    def _exchange(self, own: BoardEntry, plan: CanaryPlan) -> tuple[list[BoardEntry], bool]:
        self._board.write(own)
        return self._board.others(), self._board.is_stopped(plan.id)

    async def _tell(self) -> None:
        """Write the figures for those who look at them, now and then."""
        if time.monotonic() - self._told_s >= _TOLD_EVERY_S:
            self._told_s = time.monotonic()
            try:
                await asyncio.to_thread(self._board.write, self._entry(None))
            except StorageError as error:
                _LOG.info("The figures of %s are not shown to others: %s", self.name, error)

    async def _roll_back(self, plan: CanaryPlan, decision: RollBack) -> None:
        self._stopped[plan.id] = decision
        self.release.drop(CANARY)
        _LOG.warning("Version %s of %s is rolled back: %s", plan.version, self.name, decision.reason)
        self._report("canary_rolled_back", plan, decision)
        await asyncio.to_thread(self._board.stop, plan.id)
        await self._tell_registry(plan)

    async def _tell_registry(self, plan: CanaryPlan) -> Decision | None:
        """Have the registry know of a rollback that was decided here; once more at each look until it does."""
        decision = self._stopped[plan.id]
        if decision is not None:
            await asyncio.to_thread(self._withdraw, plan, decision)
        return decision

    def _withdraw(self, plan: CanaryPlan, decision: RollBack) -> None:
        # Two workers that decide at once would both find the canary there, and both write into the history.
        with self._board.leading(wait=True):
            self._registry.roll_back(self.name, plan, reason=decision.reason, table=decision.table)

    async def _advance(self, plan: CanaryPlan, decision: Advance) -> None:
        if await asyncio.to_thread(self._lead, plan, decision):
            last = plan.step == len(plan.steps_percent) - 1
            _LOG.info("Version %s of %s %s", plan.version, self.name, "is champion" if last else "has its next step")
            self._report("canary_promoted" if last else "canary_advanced", plan, decision)

    def _lead(self, plan: CanaryPlan, decision: Advance) -> bool:
        with self._board.leading() as leading:
            return leading and self._registry.advance(self.name, plan, reason=decision.reason, table=decision.table)

    def _report(self, event: str, plan: CanaryPlan, decision: Decision) -> None:
        for line in decision.table:
            _LOG.info("  %s: %s, champion %s (%s): %s", line.name, line.canary, line.champion, line.allowed, line.state)
        audit(
            event,
            model=self.name,
            version=plan.version,
            champion=plan.champion,
            share_percent=plan.share_percent,
            reason=decision.reason,
        )
        for listener in self.listeners:
            listener(self.name, plan, decision)


def _summed(own: BoardEntry, others: list[BoardEntry], plan: CanaryPlan, champion: int | None) -> CanaryFigures:
    entries = [own, *(entry for entry in others if entry.plan == plan.id)]
    canary, former, matched = Counts(), Counts(), Matched()
    for entry in entries:
        former, matched = former + entry.champion, matched + entry.matched
        if entry.step == plan.step:
            canary += entry.canary
    return CanaryFigures(canary=canary, champion=former, matched=matched, champion_version=champion)
