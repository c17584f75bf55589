"""From settings to forecast services: fetch the artifacts, open the features, choose the runtimes."""

from __future__ import annotations

from features.domains import DOMAINS
from features.errors import ArtifactError
from features.feast_repository import FeatureRepository
from features.store import ReadingStore
from features.vocabulary import Domain
from serving.artifacts import Artifact, fetch_champion
from serving.memory import WindowMemory
from serving.runtimes.base import Runtime
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.torchserve.runtime import TorchServeRuntime
from serving.window_source import WindowSource


def served_domains(settings: ServingSettings) -> tuple[Domain, ...]:
    """The domains that the settings name, or all.

    Raises:
        UnknownNameError: There is no domain of a name; near ones are in the message.
    """
    return tuple(DOMAINS[name] for name in settings.domains) or tuple(DOMAINS.values())


def champion(settings: ServingSettings, domain: str, target: str = "") -> Artifact:
    """The champion of a domain's target, by default its first, in the cache that the settings name.

    Raises:
        ArtifactError: There is none, or it is damaged or without its certificate.
    """
    return fetch_champion(domain, target, tracking_uri=settings.tracking_uri, cache=settings.artifacts_dir)


def champions(settings: ServingSettings) -> tuple[list[Artifact], list[ArtifactError]]:
    """The champion of each target of each served domain, and why others are not there."""
    found: list[Artifact] = []
    missing: list[ArtifactError] = []
    for domain in served_domains(settings):
        for target in domain.targets:
            try:
                found.append(champion(settings, domain.name, target.name))
            except ArtifactError as error:
                missing.append(error)
    return found, missing


def choose_runtime(settings: ServingSettings, artifact: Artifact) -> FailoverRuntime:
    """TorchServe where there is one to ask, and the in-process runtime behind it."""
    runtimes: list[Runtime] = [InProcessRuntime(artifact, device=settings.device)]
    if settings.runtime != "in_process" and settings.torchserve_url:
        asked = TorchServeRuntime(artifact, url=settings.torchserve_url, timeout_s=settings.torchserve_timeout_s)
        runtimes.insert(0, asked)
    return FailoverRuntime(runtimes, retry_s=settings.runtime_retry_s)


def open_windows(settings: ServingSettings, domain: Domain) -> WindowSource:
    """The windows of a domain, for the services of all its targets; not started yet."""
    repository = FeatureRepository(settings.feast_dir, ReadingStore(settings.readings_dir, domain))
    return WindowSource(
        WindowMemory(repository), refresh_s=settings.window_refresh_s, stale_after_h=settings.stale_after_h
    )


def build_service(settings: ServingSettings, artifact: Artifact, windows: WindowSource) -> ForecastService:
    """The service of an artifact, not started yet."""
    return ForecastService(
        artifact=artifact,
        windows=windows,
        runtime=choose_runtime(settings, artifact),
        nearest_within_km=settings.nearest_within_km,
        confidence=settings.confidence,
    )
