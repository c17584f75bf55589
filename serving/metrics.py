"""Figures about serving, for Prometheus: a registry of our own, so that two apps in a process do not mix."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.service import ForecastResult, ForecastService

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """Counters and histograms of one app."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "towncast_requests", "Requests by route and status", ("route", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "towncast_latency_seconds",
            "Time by stage: cutting the window, running the model, reading and writing (reply), and all of it",
            ("route", "stage"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._forecasts = Counter(
            "towncast_forecasts",
            "Forecasts by the runtime that made them",
            ("domain", "target", "runtime"),
            registry=self._registry,
        )
        self._flags = Counter(
            "towncast_quality_flags",
            "Forecasts by what is said in `quality`",
            ("domain", "target", "flag"),
            registry=self._registry,
        )
        self._up = Gauge(
            "towncast_runtime_up", "Whether a runtime is up", ("domain", "target", "runtime"), registry=self._registry
        )

    def count_request(self, route: str, status: int) -> None:
        """Count a request by the status of its reply."""
        self._requests.labels(route, str(status)).inc()

    def observe(self, route: str, timing_s: dict[str, float]) -> None:
        """Enter the time of each stage [s]."""
        for stage, seconds in timing_s.items():
            self._latency.labels(route, stage).observe(seconds)

    def count_forecast(self, result: ForecastResult) -> None:
        """Count a forecast by its runtime and by what lowers its quality."""
        quality, labels = result.quality, (result.card.domain, result.card.target)
        self._forecasts.labels(*labels, quality.runtime).inc()
        for reason in quality.lowered_by:
            self._flags.labels(*labels, reason).inc()

    def text(self, services: Iterable[ForecastService]) -> bytes:
        """All figures as Prometheus reads them."""
        for service in services:
            for name, up in service.runtime.states().items():
                self._up.labels(service.domain.name, service.target.name, name).set(up)
        return generate_latest(self._registry)
