"""What a town's state is, told to its metrics: versions, runtimes, and how old the readings are."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from statistics import median
from typing import Any

from features.card import CHAMPION
from features.domains import DOMAINS
from features.errors import TowncastError
from serving.metrics import Metrics
from serving.releases.decision import Decision, RollBack
from serving.releases.plans import CANARY, CHALLENGER
from serving.town import Town
from serving.window_source import WindowSource

_AGES_EVERY_S = 15.0


def keep_figures(
    town: Town, metrics: Metrics, *, every_s: float = 1.0, ages_every_s: float = _AGES_EVERY_S
) -> Coroutine[Any, Any, None]:
    """What tells again and again what is to be told of a town and of this process; never ends.

    To be called before the town starts: what happens is listened to from this call on.
    """
    stop = town.news.listen(metrics.hear)
    town.on_decision(lambda model, plan, decision: tell_decision(model, decision, metrics))
    metrics.look_first(lambda: tell_releases(town, metrics))

    async def keep() -> None:
        try:
            await asyncio.gather(metrics.keep_told(every_s=every_s), _keep_ages(town, metrics, ages_every_s))
        finally:
            stop()

    return keep()


def tell_releases(town: Town, metrics: Metrics) -> None:
    """Say which versions answer for which share of the sites, and how their runtimes are."""
    for release in town.releases():
        domain, target = release.champion.domain.name, release.champion.target.name
        for name, breaker in release.champion.runtime.breakers().items():
            metrics.set_runtime(domain, target, name, up=breaker.state == "closed")
            metrics.set_breaker(domain, target, name, breaker.state)
        # In the order of precedence each share takes its part of what those before it have left.
        left, shares = 1.0, {CANARY: 0.0, CHALLENGER: 0.0}
        for share in release.split.shares:
            shares[share.role], left = left * share.below, left * (1 - share.below)
        for role, part in (shares | {CHAMPION: left}).items():
            metrics.set_share(domain, target, role, part)


def tell_decision(model: str, decision: Decision, metrics: Metrics) -> None:
    """Count a canary that is rolled back by the first check that it failed."""
    if isinstance(decision, RollBack):
        domain, _, target = model.removeprefix("towncast-").partition("-")
        failed = [re.sub(r"\W+", "_", line.name) for line in decision.table if line.state == "fails"]
        reason = failed[0] if failed else "champion_changed"
        metrics.count_rollback(domain, target or DOMAINS[domain].target.name, reason)


async def _keep_ages(town: Town, metrics: Metrics, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        for domain in town.domains:
            windows = town.windows(domain.name)
            if windows is not None:
                await tell_ages(windows, metrics)


async def tell_ages(windows: WindowSource, metrics: Metrics) -> None:
    """Say how old the last readings of a domain's sites are; sites without any are left out."""
    last_s = []
    for name in tuple(windows.memory.sites):
        try:
            prepared = await windows.prepared(name)
        except TowncastError:
            continue  # a site without readings has no age; a request for it gets this error
        last_s.append(max(record.last_reading_s for record in prepared.records.values()))
    if last_s:
        now_s = windows.now()
        metrics.set_reading_age(
            windows.domain.name,
            newest_s=now_s - max(last_s),
            median_s=now_s - median(last_s),
            oldest_s=now_s - min(last_s),
        )
