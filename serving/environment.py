"""The whole environment of an API: the settings of all its parts, read once."""

from __future__ import annotations

from dataclasses import dataclass

from serving.inference_protocol.settings import InferenceProtocolSettings
from serving.inflow.settings import InflowSettings
from serving.live.settings import LiveSettings
from serving.monitoring.settings import MonitoringSettings
from serving.observability_settings import ObservabilitySettings
from serving.prediction_log.settings import PredictionLogSettings
from serving.releases.settings import ReleaseSettings
from serving.security.settings import SecuritySettings
from serving.settings import ServingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Settings by part.

    Attributes:
        serving: Addresses, folders, runtimes, limits.
        releases: How versions are followed, and judged.
        prediction_log: What is logged, and where.
        monitoring: How forecasts are joined with what came.
        inflow: Brokers of readings.
        live: The WebSocket.
        inference: The Open Inference Protocol.
        security: Keys, tokens, rate limits.
        observability: Logs and traces.
    """

    serving: ServingSettings
    releases: ReleaseSettings
    prediction_log: PredictionLogSettings
    monitoring: MonitoringSettings
    inflow: InflowSettings
    live: LiveSettings
    inference: InferenceProtocolSettings
    security: SecuritySettings
    observability: ObservabilitySettings


def read_environment(serving: ServingSettings | None = None) -> Environment:
    """The environment; where `serving` is given, all parts use its folders.

    Raises:
        ValidationError: A variable has a value that cannot be.
    """
    serving = serving or ServingSettings()
    return Environment(
        serving=serving,
        releases=ReleaseSettings(),
        prediction_log=PredictionLogSettings(data_dir=serving.data_dir),
        monitoring=MonitoringSettings(data_dir=serving.data_dir),
        inflow=InflowSettings(data_dir=serving.data_dir, online_store_url=serving.online_store_url),
        live=LiveSettings(),
        inference=InferenceProtocolSettings(),
        security=SecuritySettings(data_dir=serving.data_dir, workers=serving.workers),
        observability=ObservabilitySettings(),
    )
