"""From settings to a forecast service: fetch the artifact, open the features, choose the runtimes."""

from __future__ import annotations

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.store import ReadingStore
from serving.artifacts import Artifact, fetch_champion
from serving.memory import WindowMemory
from serving.runtimes.base import Runtime
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService
from serving.settings import ServingSettings
from serving.torchserve.runtime import TorchServeRuntime


def champion(settings: ServingSettings, domain: str) -> Artifact:
    """The domain's champion, in the cache that the settings name.

    Raises:
        ArtifactError: There is none, or it is damaged or without its certificate.
    """
    return fetch_champion(domain, tracking_uri=settings.tracking_uri, cache=settings.artifacts_dir)


def choose_runtime(settings: ServingSettings, artifact: Artifact) -> FailoverRuntime:
    """TorchServe where there is one to ask, and the in-process runtime behind it."""
    runtimes: list[Runtime] = [InProcessRuntime(artifact, device=settings.device)]
    if settings.runtime != "in_process" and settings.torchserve_url:
        asked = TorchServeRuntime(artifact, url=settings.torchserve_url, timeout_s=settings.torchserve_timeout_s)
        runtimes.insert(0, asked)
    return FailoverRuntime(runtimes, retry_s=settings.runtime_retry_s)


def build_service(settings: ServingSettings, domain: str) -> ForecastService:
    """The service of one domain, not started yet; blocks while the artifact is fetched.

    Raises:
        ArtifactError: There is no champion, or it is damaged or without its certificate.
    """
    artifact = champion(settings, domain)
    repository = FeatureRepository(settings.feast_dir, ReadingStore(settings.readings_dir, DOMAINS[domain]))
    return ForecastService(
        domain=DOMAINS[domain],
        artifact=artifact,
        memory=WindowMemory(repository),
        runtime=choose_runtime(settings, artifact),
        window_refresh_s=settings.window_refresh_s,
        stale_after_h=settings.stale_after_h,
        nearest_within_km=settings.nearest_within_km,
        confidence=settings.confidence,
    )
