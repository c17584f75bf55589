"""Figures about serving, for Prometheus: a registry of our own, so that two apps in a process do not mix."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.service import Quality

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STAGES = ("window", "run", "reply", "total")


class Metrics:
    """Counters and histograms of one app.

    Args:
        route: Path that requests are counted under.
    """

    def __init__(self, route: str) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "towncast_requests", "Requests by route and status", ("route", "status"), registry=self._registry
        )
        latency = Histogram(
            "towncast_latency_seconds",
            "Time by stage: cutting the window, running the model, writing the reply, and all of it",
            ("route", "stage"),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._requests, self._route = requests, route
        self._stages = {stage: latency.labels(route, stage) for stage in STAGES}
        self._runtimes = Counter(
            "towncast_forecasts", "Forecasts by the runtime that made them", ("runtime",), registry=self._registry
        )
        self._flags = Counter(
            "towncast_quality_flags", "Forecasts by what is said in `quality`", ("flag",), registry=self._registry
        )
        self._up = Gauge("towncast_runtime_up", "Whether a runtime is up", ("runtime",), registry=self._registry)

    def count_request(self, status: int) -> None:
        """Count a request by the status of its reply."""
        self._requests.labels(self._route, str(status)).inc()

    def observe(self, timing_s: dict[str, float]) -> None:
        """Enter the time of each stage [s]."""
        for stage, seconds in timing_s.items():
            self._stages[stage].observe(seconds)

    def count_forecast(self, quality: Quality) -> None:
        """Count a forecast by its runtime and its flags."""
        self._runtimes.labels(quality.runtime).inc()
        flags = {
            "stale": quality.stale,
            "missing": quality.missing_share > 0,
            "out_of_range": bool(quality.out_of_range),
            "unseen_site": quality.unseen_site,
            "old_features": quality.memory_age_s is not None,
        }
        for flag, raised in flags.items():
            if raised:
                self._flags.labels(flag).inc()

    def text(self, runtimes: dict[str, bool]) -> bytes:
        """All figures as Prometheus reads them."""
        for name, up in runtimes.items():
            self._up.labels(name).set(up)
        return generate_latest(self._registry)
