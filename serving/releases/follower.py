"""Keeps one target's release in step with the registry.

New versions are loaded beside the old ones, then all change at once. A version that cannot be loaded leaves what was
there serving; that it cannot is said in the log and in `faults`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from features.card import CHAMPION
from features.errors import TowncastError
from features.vocabulary import Domain
from serving.releases.plans import CANARY, ROLES, Standing
from serving.releases.release import Release
from serving.releases.split import Split, split_of
from serving.service import ForecastService

_LOG = logging.getLogger(__name__)
# A registry that was made anew counts its versions from 1 again: when it was made is part of what names one.
_Key = tuple[int, int]
Tell = Callable[[str, str], None]


class Follower:
    """Follows the registry for one target.

    Args:
        domain: Of the target.
        target: Its name.
        load: Fetches a version, and starts its service.
        tell: Is told the role and the version that has it now, "" for none.
        retry_s: Time until a version that could not be loaded is tried again [s].
    """

    def __init__(
        self,
        domain: Domain,
        target: str,
        *,
        load: Callable[[Domain, str, int], Awaitable[ForecastService]],
        tell: Tell,
        retry_s: float,
    ) -> None:
        self.domain = domain
        self.target = target
        self.release: Release | None = None
        self.error: Exception | None = None
        self.is_stopped: Callable[[Standing], bool] = lambda standing: False
        self._load = load
        self._tell = tell
        self._retry_s = retry_s
        self._loaded: dict[_Key, ForecastService] = {}
        self._failed: dict[_Key, tuple[float, Exception]] = {}
        self._standing: Standing | None = None

    @property
    def is_behind(self) -> bool:
        """Whether a version waits to be tried again."""
        return bool(self._failed)

    async def follow(self, standing: Standing, make: Callable[[ForecastService], Release]) -> None:
        """Bring the release in step.

        Args:
            standing: What the registry says.
            make: Makes the release of the first champion.
        """
        if standing == self._standing and not self._is_due():
            return
        wanted = {role: (standing.made_ms, number) for role, number in standing.versions.items()}
        faults: dict[str, str] = {}
        services: dict[str, ForecastService] = {}
        self._failed = {key: failed for key, failed in self._failed.items() if key in wanted.values()}
        for role in ROLES:
            if role in wanted:
                service = await self._service(wanted[role], role, faults)
                if service is not None:
                    services[role] = service
        self._standing = standing
        self.error = None
        if CHAMPION not in services:
            if self.release is None:
                failed = self._failed.get(wanted[CHAMPION]) if CHAMPION in wanted else None
                self.error = failed[1] if failed is not None else None
                return
            services[CHAMPION] = self.release.champion
            faults.setdefault(CHAMPION, "no version has the alias champion: the last one serves on")
        split = split_of(standing, self._released(standing, services), services[CHAMPION].windows.memory.sites)
        self._take(services, split, make)
        assert self.release is not None
        self.release.faults = faults | {f"plan {number}": text for number, text in enumerate(standing.faults, start=1)}

    def _released(self, standing: Standing, services: dict[str, ForecastService]) -> dict[str, ForecastService]:
        """The services that may answer: not a canary that was rolled back and still has its alias."""
        if standing.canary is not None and self.is_stopped(standing):
            return {role: service for role, service in services.items() if role != CANARY}
        return services

    def _is_due(self) -> bool:
        return any(at <= time.monotonic() for at, _ in self._failed.values())

    async def _service(self, key: _Key, role: str, faults: dict[str, str]) -> ForecastService | None:
        if key in self._loaded:
            return self._loaded[key]
        failed = self._failed.get(key)
        if failed is None or failed[0] <= time.monotonic():
            try:
                self._loaded[key] = await self._load(self.domain, self.target, key[1])
            except Exception as error:  # one version's fault must not keep the others from serving
                failed = (time.monotonic() + self._retry_s, error)
                self._say(key, role, error)
                self._failed[key] = failed
            else:
                self._failed.pop(key, None)
                return self._loaded[key]
        why = failed[1]
        text = f"{why.fact}. {why.remedy}" if isinstance(why, TowncastError) else "See the log for the reason."
        faults[role] = f"version {key[1]} cannot be loaded: {text}"
        return None

    def _say(self, key: _Key, role: str, error: Exception) -> None:
        """Log why a version cannot be loaded, once for each reason."""
        before = self._failed.get(key)
        if before is not None and str(before[1]) == str(error):
            return
        what = f"Version {key[1]} of {self.target} of {self.domain.name}, {role}, cannot be loaded"
        if isinstance(error, TowncastError):
            # Without any champion the town says it, at the level that it deserves.
            if self.release is not None:
                _LOG.error("%s: %s", what, error)
        else:
            _LOG.error(what, exc_info=error)

    def _take(
        self, services: dict[str, ForecastService], split: Split, make: Callable[[ForecastService], Release]
    ) -> None:
        before: dict[str, ForecastService] = {}
        shares: dict[str, float] = {}
        if self.release is None:
            self.release = make(services[CHAMPION])
        else:
            before = self.release.roles()
            shares = {share.role: share.below for share in self.release.split.shares}
        self.release.take(services, split)
        held = set(services.values())
        self._loaded = {key: service for key, service in self._loaded.items() if service in held}
        now = {share.role: share.below for share in split.shares}
        for role in ROLES:
            service = services.get(role)
            # Who answers for a site changes with the share, too.
            if service is not before.get(role) or shares.get(role) != now.get(role):
                self._tell(role, "" if service is None else service.artifact.model_version)
                if service is not None and service is not before.get(role):
                    _LOG.info("%s is %s of %s", service.artifact.model_version, role, self.domain.name)
