"""From settings to forecast services: fetch the artifacts, open the features, choose the runtimes."""

from __future__ import annotations

from features.domains import DOMAINS
from features.errors import ArtifactError
from features.feast_repository import open_repository
from features.vocabulary import Domain
from serving.artifacts import Artifact, fetch_champion, fetch_version
from serving.memory import WindowMemory
from serving.precision import at_precision
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
    fetched = fetch_champion(domain, target, tracking_uri=settings.tracking_uri, cache=settings.artifacts_dir)
    return at_precision(fetched, settings.precision)


def artifact_of(settings: ServingSettings, domain: str, target: str, version: int) -> Artifact:
    """A version of the model of a domain's target, in the cache that the settings name.

    Raises:
        ArtifactError: There is no such version, or it is damaged or without its certificate.
    """
    fetched = fetch_version(
        domain, target, version=version, tracking_uri=settings.tracking_uri, cache=settings.artifacts_dir
    )
    return at_precision(fetched, settings.precision)


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
    runtimes: list[Runtime] = [InProcessRuntime(artifact, device=settings.device, threads=settings.onnx_threads)]
    if settings.runtime != "in_process" and settings.torchserve_url:
        asked = TorchServeRuntime(
            artifact,
            url=settings.torchserve_url,
            timeout_s=settings.torchserve_timeout_s,
            keys=settings.torchserve_keys,
        )
        runtimes.insert(0, asked)
    return FailoverRuntime(
        runtimes,
        retry_s=settings.runtime_retry_s,
        retry_most_s=settings.runtime_retry_most_s,
        check_s=settings.runtime_check_s,
        patience_s=settings.torchserve_patience_s,
        slow_calls=settings.torchserve_slow_calls,
    )


def open_windows(settings: ServingSettings, domain: Domain) -> WindowSource:
    """The windows of a domain, for the services of all its targets; not started yet."""
    repository = open_repository(settings, domain)
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
        keep_s=settings.keep_forecasts_s,
    )
