"""Figures about serving, for Prometheus: a registry of our own, so that two apps in a process do not mix.

Several workers share theirs through the files of a folder, in the client library's multiprocess mode: whichever worker
is asked, `text` is about all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Metric, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from serving.monitoring.report import SiteState
from serving.news import Event, VersionChanged
from serving.service import ForecastResult, ForecastService
from serving.tallies import CounterTallies, HistogramTallies

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Stages of a request: cutting the window, waiting for a batch, running it, all the rest, and all of it.
STAGES = ("features", "queue", "inference", "reply", "total")
BREAKER_STATES = ("closed", "half_open", "open")
RETRAINING_STATES = ("under way", "failed", "given up", "done")
SITE_STATES: tuple[SiteState, ...] = ("healthy", "suspect", "harmed", "no data")
_LOG = logging.getLogger(__name__)
_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_ARRIVAL_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DELAY_BUCKETS_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 7200.0, 21600.0, 86400.0, 604800.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_TOLD_EVERY_S = 1.0
# How the gauges of several workers are put together; those of workers that have ended are left out.
_Together = Literal["livesum", "livemax", "livemin", "livemostrecent"]
# One where it holds and nothing where not: what has never held, or does no more, is left out.
_NAMED_ONLY_WHILE_TRUE = ("towncast_model_info",)


class Metrics:
    """Counters, histograms and gauges of one app. `text` may run in a thread.

    Args:
        shared: Where the figures of several workers are, see `serving.metrics_folder`; None for one alone.
    """

    def __init__(self, shared: Path | None = None) -> None:
        assert shared is None or values.ValueClass._multiprocess, "the folder was not known at the library's import"
        self._registry = CollectorRegistry()
        self._shared = shared
        self._counters: list[CounterTallies] = []
        self._histograms: list[HistogramTallies] = []
        self._looks: list[Callable[[], None]] = []
        self._roles: dict[tuple[str, str, str], str] = {}
        self._versions: dict[tuple[str, str, str], str] = {}
        self._process = psutil.Process()
        # `text` may run in a thread while the event loop hands on.
        self._entering = threading.Lock()
        self._add_requests()
        self._add_forecasts()
        self._add_feeds()
        self._add_reports()
        self._add_workers()

    def _counter(self, name: str, meaning: str, *labels: str) -> CounterTallies:
        self._counters.append(CounterTallies(f"towncast_{name}", meaning, labels, self._registry))
        return self._counters[-1]

    def _histogram(self, name: str, meaning: str, *labels: str, bounds: tuple[float, ...]) -> HistogramTallies:
        self._histograms.append(HistogramTallies(f"towncast_{name}", meaning, labels, bounds, self._registry))
        return self._histograms[-1]

    def _gauge(self, name: str, meaning: str, *labels: str, together: _Together) -> Gauge:
        return Gauge(f"towncast_{name}", meaning, labels, multiprocess_mode=together, registry=self._registry)

    def _add_requests(self) -> None:
        self._requests = self._counter("requests", "Requests by method, route and status", "method", "route", "status")
        self._refusals = self._counter("refusals", "Requests refused before they were answered", "reason")
        self._latency = self._histogram(
            "latency_seconds",
            "Time by stage: window (features), wait for a batch (queue), its run (inference), the rest (reply), total",
            "route",
            "stage",
            bounds=_BUCKETS_S,
        )

    def _add_forecasts(self) -> None:
        target, gauge = ("domain", "target"), self._gauge
        self._forecasts = self._counter(
            "forecasts", "Forecasts by the model and the runtime that made them", *target, "version", "role", "runtime"
        )
        self._flags = self._counter("quality_flags", "Forecasts by what is said in `quality`", *target, "flag")
        self._kept = self._counter(
            "kept_forecasts", "Forecasts by whether they were kept, joined or made", *target, "outcome"
        )
        self._batch = self._histogram("run_windows", "Windows that a runtime ran as one", "runtime", bounds=_BATCHES)
        self._rollbacks = self._counter("rollbacks", "Releases that were rolled back, and why", *target, "reason")
        self._model = gauge("model_info", "Versions that answer", *target, "role", "version", together="livemax")
        self._share = gauge("release_share_ratio", "Share of a role's sites", *target, "role", together="livemax")
        self._up = gauge("runtime_up", "Whether a runtime is up", *target, "runtime", together="livemin")
        self._breaker = gauge(
            "breaker_state",
            "Workers whose circuit breaker is in a state",
            *target,
            "runtime",
            "state",
            together="livesum",
        )

    def _add_feeds(self) -> None:
        gauge = self._gauge
        self._readings = self._counter("readings", "Readings that came in", "transport", "domain", "outcome")
        self._delay = self._histogram(
            "reading_delay_seconds",
            "Age of a reading when it came in",
            "transport",
            "domain",
            bounds=_DELAY_BUCKETS_S,
        )
        self._arrival = self._histogram(
            "reading_arrival_seconds",
            "Time from the arrival of readings until forecasts see them",
            "transport",
            bounds=_ARRIVAL_BUCKETS_S,
        )
        self._age = gauge(
            "reading_age_seconds", "Age of the sites' last readings", "domain", "statistic", together="livemax"
        )
        self._clients = gauge("websocket_clients", "Clients of /ws", together="livesum")
        self._updates = self._counter("websocket_updates", "Updates sent over /ws", "channel")
        self._dropped = self._counter("websocket_dropped", "Clients of /ws that were dropped", "reason")
        self._log_waiting = gauge("prediction_log_waiting", "Answers not yet in the prediction log", together="livesum")
        self._log_written = self._counter("prediction_log_written", "Answers written to the prediction log")
        self._log_lost = self._counter("prediction_log_lost", "Answers that the prediction log had no room for")

    def _add_reports(self) -> None:
        target, gauge = ("domain", "target"), self._gauge
        self._realised = gauge(
            "realised_error",
            "The champion's error over its last days: mae and bias [unit], mape [%]",
            *target,
            "horizon",
            "statistic",
            together="livemostrecent",
        )
        self._coverage = gauge(
            "realised_coverage_ratio",
            "Share of the actuals inside the champion's interval over its last days",
            *target,
            "horizon",
            together="livemostrecent",
        )
        self._waiting = gauge(
            "realised_waiting_steps", "Forecast steps that wait for an actual", *target, together="livemostrecent"
        )
        self._joined_at = gauge(
            "realised_joined_timestamp_seconds", "When forecasts were joined last", *target, together="livemax"
        )
        self._joined = self._counter("realised_steps", "Forecast steps by what a join did", *target, "outcome")
        self._join_failures = self._counter("realised_join_failures", "Joins that failed", *target)
        self._site_states = gauge(
            "monitoring_sites", "Sites by what the latest report says of them", *target, "state", together="livemax"
        )
        self._drifted = gauge(
            "monitoring_drifted", "Lines of drift beyond their threshold in it", *target, "of", together="livemax"
        )
        self._asks = gauge(
            "monitoring_asks_retraining", "Whether it asks for a retraining", *target, "kind", together="livemax"
        )
        self._reported = gauge(
            "monitoring_report_timestamp_seconds", "When it was written", *target, together="livemax"
        )
        self._retraining = gauge(
            "retraining_state",
            "Whether a domain's last retraining is in a state",
            "domain",
            "state",
            together="livemax",
        )
        self._retrained = gauge(
            "retraining_timestamp_seconds", "When the last retraining ended well", "domain", together="livemax"
        )

    def _add_workers(self) -> None:
        self._workers = self._gauge("workers", "Processes that answer", together="livesum")
        self._memory = self._gauge("resident_memory_bytes", "Memory of all workers", together="livesum")
        self._late = self._gauge(
            "event_loop_delay_seconds", "How late the event loop was at its last check", together="livemax"
        )
        self._cpu = self._counter("cpu_seconds", "Processor time of all workers")
        self._cpu_before_s = 0.0

    def count_request(self, route: str, status: int, method: str = "POST") -> None:
        """Count a request by its route's template, the status of its reply, and its method."""
        self._requests.add((method, route, str(status)))

    def observe(self, route: str, timing_s: dict[str, float]) -> None:
        """Enter the time of each stage, see `STAGES` [s]."""
        for stage, seconds in timing_s.items():
            self._latency.observe((route, stage), seconds)

    def count_forecast(self, result: ForecastResult, number: int = 1) -> None:
        """Count forecasts that are alike in their model, their runtime and what lowers their quality."""
        quality, domain, target = result.quality, result.card.domain, result.card.target
        version = result.forecast.model
        role = self._roles.get((domain, target, version), "unknown")
        self._forecasts.add((domain, target, version, role, quality.runtime), number)
        for reason in quality.lowered_by:
            self._flags.add((domain, target, reason), number)

    def count_kept(self, domain: str, target: str, outcome: str, number: int = 1) -> None:
        """Count forecasts by whether they were `kept`, `joined` (made for another request) or `made`."""
        self._kept.add((domain, target, outcome), number)

    def observe_run(self, runtime: str, windows: int) -> None:
        """Enter how many windows a runtime ran as one."""
        self._batch.observe((runtime,), windows)

    def count_readings(self, transport: str, domain: str, outcome: str, number: int = 1) -> None:
        """Count readings that came in by `http`, `mqtt` or `nats`, by `stored`, `known` or `quarantined`."""
        self._readings.add((transport, domain, outcome), number)

    def observe_reading_delay(self, transport: str, domain: str, seconds: float) -> None:
        """Enter how old a reading was when it came in [s]; one of the future counts as new."""
        self._delay.observe((transport, domain), max(0.0, seconds))

    def observe_arrival(self, transport: str, seconds: float) -> None:
        """Enter how long readings took from their arrival until forecasts see them [s]."""
        self._arrival.observe((transport,), seconds)

    def count_refusal(self, reason: str) -> None:
        """Count a request that was refused before it was answered: `unauthorized`, `forbidden`, `rate`, `body`."""
        self._refusals.add((reason,))

    def set_version(self, domain: str, target: str, role: str, version: str) -> None:
        """Say which version has a role from now on; "" for none."""
        before = self._versions.pop((domain, target, role), "")
        if before and before != version:
            self._model.labels(domain, target, role, before).set(0)
        if version:
            self._versions[domain, target, role] = version
            self._model.labels(domain, target, role, version).set(1)
            # A shadow answers nobody: where it is champion as well, its answers are the champion's.
            if role != "shadow":
                self._roles[domain, target, version] = role

    def hear(self, event: Event) -> None:
        """Take a version's role from the town's news."""
        if isinstance(event, VersionChanged):
            self.set_version(event.domain, event.target, event.role, event.model_version)

    def set_share(self, domain: str, target: str, role: str, share: float) -> None:
        """Say which share of the sites a role answers for (0 to 1)."""
        self._share.labels(domain, target, role).set(share)

    def count_rollback(self, domain: str, target: str, reason: str) -> None:
        """Count a release that was rolled back, by the check that it failed."""
        self._rollbacks.add((domain, target, reason))

    def set_runtime(self, domain: str, target: str, runtime: str, *, up: bool) -> None:
        """Say whether a runtime is up."""
        self._up.labels(domain, target, runtime).set(up)

    def set_breaker(self, domain: str, target: str, runtime: str, state: str) -> None:
        """Say in which of `BREAKER_STATES` the circuit breaker before a runtime is."""
        for known in BREAKER_STATES:
            self._breaker.labels(domain, target, runtime, known).set(known == state)

    def set_reading_age(self, domain: str, *, newest_s: float, median_s: float, oldest_s: float) -> None:
        """Say how old the last readings of a domain's sites are [s]."""
        for statistic, age_s in (("newest", newest_s), ("median", median_s), ("oldest", oldest_s)):
            self._age.labels(domain, statistic).set(age_s)

    def set_realised(
        self, domain: str, target: str, horizon: str, *, mae: float, bias: float, mape_percent: float, coverage: float
    ) -> None:
        """Say how the champion's last forecasts did: errors [unit], [%], and coverage (0 to 1); NaN for unknown."""
        for statistic, value in (("mae", mae), ("bias", bias), ("mape", mape_percent)):
            self._realised.labels(domain, target, horizon, statistic).set(value)
        self._coverage.labels(domain, target, horizon).set(coverage)

    def count_realised(self, domain: str, target: str, outcomes: Mapping[str, int], *, waiting: int) -> None:
        """Count forecast steps by what a join did with them, such as `joined` or `never`, and say how many wait."""
        for outcome, number in outcomes.items():
            self._joined.add((domain, target, outcome), number)
        self._waiting.labels(domain, target).set(waiting)
        self._joined_at.labels(domain, target).set(time.time())

    def count_join_failure(self, domain: str, target: str) -> None:
        """Count a join that failed."""
        self._join_failures.add((domain, target))

    def set_site_states(self, domain: str, target: str, sites: Mapping[str, int]) -> None:
        """Say how many sites are in each state, see `SITE_STATES`, by the latest monitoring report."""
        for state in SITE_STATES:
            self._site_states.labels(domain, target, state).set(sites.get(state, 0))

    def set_drifted(self, domain: str, target: str, of: str, lines: int) -> None:
        """Say how many lines of drift of a `feature` or a `prediction` are beyond their threshold."""
        self._drifted.labels(domain, target, of).set(lines)

    def set_asks_retraining(self, domain: str, target: str, kind: str, *, asks: bool) -> None:
        """Say whether the latest monitoring report asks for a retraining, by the trigger's kind."""
        self._asks.labels(domain, target, kind).set(asks)

    def set_reported(self, domain: str, target: str, at_s: float) -> None:
        """Say when the latest monitoring report was written [s since 1970]."""
        self._reported.labels(domain, target).set(at_s)

    def set_retraining(self, domain: str, state: str, ended_s: float | None) -> None:
        """Say in which of `RETRAINING_STATES` a domain's last retraining is.

        Args:
            domain: Of the models.
            state: Which.
            ended_s: When the last one ended that ended well [s since 1970], None where there is none.
        """
        for known in RETRAINING_STATES:
            self._retraining.labels(domain, known).set(known == state)
        if ended_s is not None:
            self._retrained.labels(domain).set(ended_s)

    def set_websocket_clients(self, number: int) -> None:
        """Say how many clients /ws has in this process."""
        self._clients.set(number)

    def count_update(self, channel: str, number: int = 1) -> None:
        """Count updates that were sent over /ws."""
        self._updates.add((channel,), number)

    def count_dropped_client(self, reason: str) -> None:
        """Count a client of /ws that was dropped: `slow`, `silent`, `rate`."""
        self._dropped.add((reason,))

    def set_log_waiting(self, number: int) -> None:
        """Say how many answers wait to be written to the prediction log."""
        self._log_waiting.set(number)

    def count_logged(self, written: int, lost: int = 0) -> None:
        """Count answers that were written to the prediction log, and those that were lost."""
        self._log_written.add((), written)
        self._log_lost.add((), lost)

    def look_first(self, look: Callable[[], None]) -> None:
        """Have `look` called, on the event loop, every second: to set what is not told by itself."""
        self._looks.append(look)

    async def keep_told(self, *, every_s: float = _TOLD_EVERY_S) -> None:
        """Hand on the figures of this process again and again, so that another worker can tell them. Never ends."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(every_s)
            self._late.set(max(0.0, time.monotonic() - began - every_s))
            for look in self._looks:
                try:
                    look()
                except Exception:  # one fault must not end all figures
                    _LOG.exception("A figure cannot be told")
            self._enter()

    def _enter(self) -> None:
        with self._entering:
            self._workers.set(1)
            self._memory.set(self._process.memory_info().rss)
            spent = self._process.cpu_times()
            before_s, self._cpu_before_s = self._cpu_before_s, spent.user + spent.system
            self._cpu.add((), max(0.0, self._cpu_before_s - before_s))
            for counter in self._counters:
                counter.enter()
            for histogram in self._histograms:
                histogram.enter()

    def text(self, services: Iterable[ForecastService] = ()) -> bytes:
        """All figures as Prometheus reads them, of all workers."""
        for service in services:
            for name, up in service.runtime.states().items():
                self.set_runtime(service.domain.name, service.target.name, name, up=up)
        self._enter()
        told = CollectorRegistry(auto_describe=False)
        if self._shared is None:
            told.register(_Told(self._registry))
        else:
            forget_ended_workers(self._shared)
            told.register(_Told(MultiProcessCollector(None, path=str(self._shared))))  # type: ignore[no-untyped-call]
        return generate_latest(told)


class _Told(Collector):
    """Our figures (Feast's are in the shared folder too), without what does not hold any more."""

    def __init__(self, figures: Collector) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for metric in self._figures.collect():
            if not metric.name.startswith("towncast_"):
                continue
            # When a series began doubles their number, and nobody asks.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            if metric.name in _NAMED_ONLY_WHILE_TRUE:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


def forget_ended_workers(folder: Path) -> None:
    """Remove the gauges of workers that have ended from a shared folder; their counters stay, as they must."""
    for file in folder.glob("gauge_live*_*.db"):
        process_id = int(file.stem.rpartition("_")[2])
        if not psutil.pid_exists(process_id):
            # Another worker may do the same at this moment.
            with contextlib.suppress(FileNotFoundError):
                mark_process_dead(process_id, path=str(folder))  # type: ignore[no-untyped-call]
