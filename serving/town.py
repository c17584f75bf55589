"""All that an API serves: the services of every domain, as far as they are loaded, and why the others are not."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from features.domains import DOMAINS
from features.errors import TowncastError
from features.vocabulary import Domain
from serving.artifacts import NoChampionError
from serving.errors import NotReadyError
from serving.loading import build_service, champion, open_windows, served_domains
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.window_source import WindowSource

_LOG = logging.getLogger(__name__)
# Time between two looks for what is not loaded [s]: while there is nothing, and once something is served.
_RETRY_S = 5.0
_LOOK_AGAIN_S = 60.0
_LATER = "Try again in some seconds; GET /health/ready says when."


class Town:
    """Forecast services by domain and target.

    Models and histories load in the background, again and again until that succeeds: a model that is trained, or
    readings that are ingested, while the API runs are found.

    Args:
        settings: The environment.
        services: Services to use in place of those that the settings describe; started and closed with the town.
    """

    def __init__(self, settings: ServingSettings, services: Sequence[ForecastService] | None = None) -> None:
        self.settings = settings
        self.domains: tuple[Domain, ...] = served_domains(settings)
        self.loaded_once = threading.Event()
        self._given = services
        self._services: dict[tuple[str, str], ForecastService] = {}
        self._waiting: dict[tuple[str, str], NotReadyError] = {}
        self._windows: dict[str, WindowSource] = {}
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the services that were given, or begin to load those that the settings describe."""
        if self._given is None:
            self._loading = asyncio.get_running_loop().create_task(self._keep_loading())
            return
        for service in self._given:
            await self._add(service)
        self.loaded_once.set()

    async def close(self) -> None:
        """Close all services."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        for service in self._services.values():
            await service.close()
        for windows in self._windows.values():
            await windows.close()

    def services(self, domain: str | None = None) -> list[ForecastService]:
        """The services that are loaded, of one domain or of all."""
        return [service for (name, _), service in self._services.items() if domain in (None, name)]

    def service(self, domain: str, target: str) -> ForecastService:
        """The service of a target.

        Raises:
            NotReadyError: It is not loaded; the message says why.
        """
        service = self._services.get((domain, target))
        if service is None:
            raise self.why_not(domain, target)
        return service

    def why_not(self, domain: str, target: str = "") -> NotReadyError:
        """Why a domain's target, by default its first, is not loaded."""
        target = target or DOMAINS[domain].target.name
        if all(served.name != domain for served in self.domains):
            names = ", ".join(served.name for served in self.domains)
            return NotReadyError(
                f"Forecasts of {domain} are not served here", remedy=f"Served are {names}: see TOWNCAST_DOMAINS."
            )
        return self._waiting.get((domain, target)) or NotReadyError(
            f"The model of {domain} is not loaded yet", remedy=_LATER
        )

    async def _keep_loading(self) -> None:
        wanted = [(domain, target.name) for domain in self.domains for target in domain.targets]
        while True:
            for domain, target in wanted:
                if (domain.name, target) not in self._services:
                    await self._load(domain, target)
            if self._services:
                self.loaded_once.set()
            if len(self._services) == len(wanted):
                return
            await asyncio.sleep(_LOOK_AGAIN_S if self._services else _RETRY_S)

    async def _load(self, domain: Domain, target: str) -> None:
        try:
            artifact = await asyncio.to_thread(champion, self.settings, domain.name, target)
            if domain.name not in self._windows:
                self._windows[domain.name] = open_windows(self.settings, domain)
            await self._add(build_service(self.settings, artifact, self._windows[domain.name]))
            _LOG.info("Serving %s", artifact.model_version)
        except TowncastError as error:
            # That a domain is not trained is no fault where none was asked for by name and others are served.
            usual = isinstance(error, NoChampionError) and bool(self._services) and not self.settings.domains
            reason = NotReadyError(error.fact, remedy=error.remedy)
            self._wait(domain.name, target, reason, str(error), level=logging.INFO if usual else logging.WARNING)
        except Exception as error:  # one domain's fault must not keep the others from loading
            _LOG.exception("The model of %s of %s cannot be loaded", target, domain.name)
            reason = NotReadyError(f"The model of {domain.name} cannot be loaded", remedy="See the log for the reason.")
            self._wait(domain.name, target, reason, str(error))

    def _wait(
        self, domain: str, target: str, reason: NotReadyError, found: str, *, level: int = logging.WARNING
    ) -> None:
        before = self._waiting.get((domain, target))
        if before is None or str(before) != str(reason):
            _LOG.log(level, "Not ready: %s", found)
        self._waiting[domain, target] = reason

    async def _add(self, service: ForecastService) -> None:
        try:
            await service.start()
        except BaseException:
            # The windows may be another service's too; they are closed with the town.
            await service.runtime.close()
            raise
        self._services[service.domain.name, service.target.name] = service
        self._waiting.pop((service.domain.name, service.target.name), None)
