"""All that an API serves: the services of every domain, as far as they are loaded, and why the others are not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence

from features.card import CHAMPION, registered_name
from features.domains import DOMAINS
from features.errors import TowncastError
from features.vocabulary import Domain
from serving.errors import NotReadyError
from serving.loading import artifact_of, build_service, open_windows, served_domains
from serving.news import Event, News, VersionChanged, WindowsChanged
from serving.releases.board import Board
from serving.releases.canary import CanaryJudge, DecisionListener
from serving.releases.decision import Advance, RollBack
from serving.releases.follower import Follower
from serving.releases.registry import RegistryMissingError, ReleaseRegistry
from serving.releases.release import Release
from serving.releases.settings import ReleaseSettings
from serving.releases.side_runs import ShadowListener
from serving.releases.watch import AliasWatch
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.window_source import WindowSource

_LOG = logging.getLogger(__name__)
# Time between two looks for what is not loaded, while there is nothing [s].
_RETRY_S = 5.0
_LATER = "Try again in some seconds; GET /health/ready says when."


class Town:
    """Forecast services by domain and target.

    Models and histories load in the background, again and again until that succeeds: a model that is trained, or
    readings that are ingested, while the API runs are found. So are versions that get an alias: they are loaded beside
    what serves and take its place in one step. While the registry is away, what is loaded serves on.

    `settled` is set when each target was loaded, or found to be missing, for the first time.

    Args:
        settings: The environment.
        services: Services to use in place of those that the settings describe; started and closed with the town.
        releases: The environment of releases; read from it by default.
    """

    def __init__(
        self,
        settings: ServingSettings,
        services: Sequence[ForecastService] | None = None,
        *,
        releases: ReleaseSettings | None = None,
    ) -> None:
        self.settings = settings
        self.release_settings = releases or ReleaseSettings()
        self.domains: tuple[Domain, ...] = served_domains(settings)
        self.loaded_once = threading.Event()
        self.settled = asyncio.Event()
        self.news = News()
        self._given = services
        self._releases: dict[tuple[str, str], Release] = {}
        self._waiting: dict[tuple[str, str], NotReadyError] = {}
        self._windows: dict[str, WindowSource] = {}
        self._opened: list[WindowSource] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._changed, self._alarm = asyncio.Event(), asyncio.Event()
        self._registry = ReleaseRegistry(settings.tracking_uri)
        self._followers = {
            _registered(domain, target.name): self._follower(domain, target.name)
            for domain in self.domains
            for target in domain.targets
        }
        self._judges: dict[str, CanaryJudge] = {}
        self._unjudged: dict[str, str] = {}
        self._watch = AliasWatch(self._registry, tuple(self._followers), every_s=self.release_settings.alias_refresh_s)
        self._shadow_listeners: list[ShadowListener] = []
        self._decision_listeners: list[DecisionListener] = []

    def _follower(self, domain: Domain, target: str) -> Follower:
        def tell(role: str, version: str) -> None:
            self.news.tell(VersionChanged(domain=domain.name, target=target, role=role, model_version=version))

        return Follower(domain, target, load=self._load, tell=tell, retry_s=self.release_settings.release_retry_s)

    async def start(self) -> None:
        """Start the services that were given, or begin to load those that the settings describe."""
        self.news.listen(self._hear)
        if self._given is None:
            self._watch.start(self._changed.set)
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._keep_in_step()), loop.create_task(self._keep_judging())]
            return
        for service in self._given:
            await self._start_given(service)
        self.loaded_once.set()
        self.settled.set()

    async def close(self) -> None:
        """Close all services."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._watch.close()
        for release in self._releases.values():
            await release.close()
        for windows in {*self._opened, *self._windows.values()}:
            await windows.close()

    def releases(self, domain: str | None = None) -> list[Release]:
        """The releases that are loaded, of one domain or of all."""
        return [release for (name, _), release in self._releases.items() if domain in (None, name)]

    def release(self, domain: str, target: str) -> Release:
        """The release of a target.

        Raises:
            NotReadyError: It is not loaded; the message says why.
        """
        release = self._releases.get((domain, target))
        if release is None:
            raise self.why_not(domain, target)
        return release

    def services(self, domain: str | None = None) -> list[ForecastService]:
        """The champions' services that are loaded, of one domain or of all."""
        return [release.champion for release in self.releases(domain)]

    def service(self, domain: str, target: str) -> ForecastService:
        """The champion's service of a target.

        Raises:
            NotReadyError: It is not loaded; the message says why.
        """
        return self.release(domain, target).champion

    def windows(self, domain: str) -> WindowSource | None:
        """The windows of a domain; None where none of its models is loaded."""
        return self._windows.get(domain)

    @property
    def watch(self) -> AliasWatch:
        """What the registry says, as far as it could be asked last."""
        return self._watch

    def on_shadow(self, listener: ShadowListener) -> None:
        """Have `listener(site, champion_result, shadow_result)` called with every forecast of a shadow."""
        self._shadow_listeners.append(listener)
        for release in self.releases():
            release.on_shadow(listener)

    def on_decision(self, listener: DecisionListener) -> None:
        """Have `listener(model, plan, decision)` called with every canary that advances or is rolled back here."""
        self._decision_listeners.append(listener)

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

    def _hear(self, event: Event) -> None:
        if isinstance(event, WindowsChanged):
            for release in self.releases(event.domain):
                release.readings_came(event.sites)

    async def _keep_in_step(self) -> None:
        while True:
            if self._watch.looks:
                for name, follower in self._followers.items():
                    try:
                        await self._follow(name, follower)
                    except Exception:  # one target's fault must not keep the others from following
                        _LOG.exception("%s does not follow the registry", name)
                if self._releases:
                    self.loaded_once.set()
                self.settled.set()
            wait_s = self.release_settings.release_retry_s if self._releases else _RETRY_S
            await _wait(self._changed, wait_s)

    async def _follow(self, name: str, follower: Follower) -> None:
        standing = self._watch.standings.get(name)
        if standing is not None:
            await follower.follow(standing, lambda champion: self._make(name, follower, champion))
        if follower.release is None:
            self._explain(name, follower)

    def _make(self, name: str, follower: Follower, champion: ForecastService) -> Release:
        release = Release(champion, settings=self.release_settings)
        release.alarm = self._alarm.set
        for listener in self._shadow_listeners:
            release.on_shadow(listener)
        judge = CanaryJudge(
            release, name=name, registry=self._registry, board=Board(self.settings.data_dir / "releases" / name)
        )
        judge.listeners = self._decision_listeners
        follower.is_stopped = lambda standing: standing.canary is not None and judge.is_stopped(standing.canary)
        self._judges[name] = judge
        key = (follower.domain.name, follower.target)
        self._releases[key] = release
        self._waiting.pop(key, None)
        return release

    def _explain(self, name: str, follower: Follower) -> None:
        """Say why a target is not served."""
        domain, target, error = follower.domain.name, follower.target, follower.error
        away = self._watch.away
        usual = False
        if error is None and away is not None and not isinstance(away, RegistryMissingError):
            error = away
        if error is None:
            # That a domain is not trained is no fault where none was asked for by name and others are served.
            usual = bool(self._releases) and not self.settings.domains
            train = f"Train and register one: `make train DOMAIN={domain}`, which is `towncast train {domain}`."
            reason = NotReadyError(f"The registry has no champion of {name}", remedy=train)
        elif isinstance(error, TowncastError):
            reason = NotReadyError(error.fact, remedy=error.remedy)
        else:
            reason = NotReadyError(f"The model of {domain} cannot be loaded", remedy="See the log for the reason.")
        before = self._waiting.get((domain, target))
        if before is None or str(before) != str(reason):
            _LOG.log(logging.INFO if usual else logging.WARNING, "Not ready: %s", error or reason)
        self._waiting[domain, target] = reason

    async def _keep_judging(self) -> None:
        while True:
            await _wait(self._alarm, self.release_settings.alias_refresh_s)
            for name, judge in tuple(self._judges.items()):
                await self._judge(name, judge)

    async def _judge(self, name: str, judge: CanaryJudge) -> None:
        standing = self._watch.standings.get(name)
        if standing is None:
            return
        try:
            decision = await judge.look(standing)
        except TowncastError as error:
            if self._unjudged.get(name) != str(error):
                _LOG.warning("The canary of %s cannot be judged: %s", name, error)
            self._unjudged[name] = str(error)
            return
        except Exception:  # one canary's fault must not keep the others from being judged
            _LOG.exception("The canary of %s cannot be judged", name)
            return
        self._unjudged.pop(name, None)
        if isinstance(decision, Advance | RollBack):
            self._watch.look_now()

    async def _load(self, domain: Domain, target: str, version: int) -> ForecastService:
        """Fetch a version and start its service beside what serves."""
        artifact = await asyncio.to_thread(artifact_of, self.settings, domain.name, target, version)
        if domain.name not in self._windows:
            self._windows[domain.name] = open_windows(self.settings, domain)
        service = build_service(self.settings, artifact, self._windows[domain.name])
        await self._start(service)
        return service

    async def _start(self, service: ForecastService) -> None:
        try:
            await service.start()
        except BaseException:
            # The windows may be another service's too; they are closed with the town.
            await service.close()
            raise
        domain, windows = service.domain.name, service.windows
        self._windows.setdefault(domain, windows)
        if windows not in self._opened:
            self._opened.append(windows)
            windows.listen(lambda sites: self.news.tell(WindowsChanged(domain=domain, sites=sites)))

    async def _start_given(self, service: ForecastService) -> None:
        await self._start(service)
        domain, target = service.domain.name, service.target.name
        release = Release(service, settings=self.release_settings)
        for listener in self._shadow_listeners:
            release.on_shadow(listener)
        self._releases[domain, target] = release
        version = service.artifact.model_version
        self.news.tell(VersionChanged(domain=domain, target=target, role=CHAMPION, model_version=version))


def _registered(domain: Domain, target: str) -> str:
    return registered_name(domain.name, "" if target == domain.target.name else target)


async def _wait(event: asyncio.Event, most_s: float) -> None:
    """Wait for an event for some time, and clear it."""
    # Not `asyncio.wait_for`: before Python 3.12 it loses a cancellation that comes together with the event.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await event.wait()
    event.clear()
