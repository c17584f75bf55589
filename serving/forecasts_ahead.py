"""Forecasts on arrival: made in batches as soon as a reading, a step or a version changes them, before anybody asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from serving.kept import Run
from serving.news import Event, ForecastsMade, VersionChanged
from serving.releases.release import Release
from serving.service import ForecastService
from serving.town import Town

_LOG = logging.getLogger(__name__)
Tell = Callable[[ForecastService, str, Collection[Run]], None]


class ForecastsAhead:
    """Makes the forecasts of sites whose windows or models changed, and tells that they are made.

    Whatever changes while some are being made is taken together in the next turn.

    Args:
        town: Has the models and the news.
        tell: Is told what a service in a role has made; by default nobody is.
    """

    def __init__(self, town: Town, *, tell: Tell = lambda service, role, runs: None) -> None:
        self.town = town
        self._tell = tell
        self._wanted: dict[str, set[str]] = {}
        self._changed = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen to the town's news, and work on what they bring."""
        self._unlisten = self.town.news.listen(self._heard)
        self._working = asyncio.get_running_loop().create_task(self._keep_working())

    async def close(self) -> None:
        """Stop; what is being made is not finished."""
        if self._working is not None:
            self._unlisten()
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
            self._working = None

    def _heard(self, event: Event) -> None:
        if isinstance(event, ForecastsMade):
            return
        windows = self.town.windows(event.domain)
        sites = event.sites if not isinstance(event, VersionChanged) else windows.memory.sites if windows else ()
        self._wanted.setdefault(event.domain, set()).update(sites)
        self._changed.set()

    async def _keep_working(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted, self._wanted = self._wanted, {}
            for domain, sites in wanted.items():
                for release in self.town.releases(domain):
                    await self._make(release, sites)

    async def _make(self, release: Release, sites: set[str]) -> None:
        """Each site's forecast by the version that answers for it."""
        by_service: dict[int, list[str]] = {}
        services = {id(service): service for service in release.services()}
        for site in sorted(sites):
            by_service.setdefault(id(release.route(site)), []).append(site)
        for chosen, names in by_service.items():
            service = services.get(chosen)
            if service is None:  # a version that was taken away this moment
                continue
            try:
                with release.hold(service):
                    made = await service.make_ahead(names)
            except Exception:  # a request makes its own; one fault must not end this for all others
                _LOG.exception("Forecasts of %s cannot be made ahead", service.domain.name)
                continue
            if made:
                domain, target = service.domain.name, service.target.name
                self.town.news.tell(ForecastsMade(domain=domain, target=target, sites=frozenset(made)))
                self._tell(service, release.role_of(service), made.values())
