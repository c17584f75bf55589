"""Joins forecasts with what came while an API runs: in a thread, now and then, in one of its workers at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from filelock import FileLock, Timeout

from features.errors import TowncastError
from features.files import age_s, make_folder, storage_errors
from features.store import ReadingStore
from features.vocabulary import Domain
from serving.metrics import Metrics
from serving.monitoring.actuals import STATE_FILE, JoinReport, join_actuals
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.settings import MonitoringSettings
from serving.news import Event, News, WindowsChanged
from serving.prediction_log.store import PredictionStore

_LOG = logging.getLogger(__name__)
_JOIN_S = 10.0
_DAY_S = 86_400
# Of workers that wake at nearly the same time the first one joins for all.
_RECENTLY = 0.5
_UNKNOWN = {"mae": math.nan, "bias": math.nan, "mape_percent": math.nan, "coverage": math.nan}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of a target's join.

    Attributes:
        domain: Of the target.
        target: What is forecast.
        report: What the join did, None where it failed.
        figures: By horizon `mae`, `bias`, `mape_percent` and `coverage` of the champion's last days; None where
            nothing changed.
    """

    domain: str
    target: str
    report: JoinReport | None
    figures: Mapping[str, Mapping[str, float]] | None


class ActualsKeeper:
    """Joins the forecasts of every domain whose readings changed, no more often than settings say.

    A join that fails is logged, counted, and tried again after the same time.

    Args:
        domains: That are served.
        store: The prediction log.
        metrics: Are told what joins did, and how the champions do.
        settings: The environment.
        now: The present [s since 1970].
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        store: PredictionStore,
        metrics: Metrics,
        settings: MonitoringSettings,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self.store = settings, store
        self._metrics, self._now = metrics, now
        self._readings = {domain.name: ReadingStore(settings.readings_dir, domain) for domain in domains}
        self._realised = {
            (domain.name, target.name): RealisedStore(
                settings.realised_dir, domain, target.name, readings=self._readings[domain.name]
            )
            for domain in domains
            for target in domain.targets
        }
        self._changed = set(self._realised)
        self._changing = threading.Lock()
        self._told: dict[tuple[str, str], set[str]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._unlisten: Callable[[], None] = lambda: None

    def start(self, news: News) -> None:
        """Join from now on, if settings say so; at first all that came while nothing was running."""
        if not self.settings.monitoring:
            return
        loop = asyncio.get_running_loop()

        def tell(kept: Kept) -> None:
            try:
                loop.call_soon_threadsafe(self._tell, kept)
            except RuntimeError:
                self._ended.set()  # the loop is closed

        self._unlisten = news.listen(self._hear)
        # A daemon: a join of years must not hold the process at its end; what it wrote by then is whole.
        self._thread = threading.Thread(target=self._keep_joining, args=(tell,), name="actuals", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Stop; a join that takes longer is left behind."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._unlisten()
            self._ended.set()
            await asyncio.to_thread(thread.join, _JOIN_S)

    def _hear(self, event: Event) -> None:
        if isinstance(event, WindowsChanged):
            with self._changing:
                self._changed.update(key for key in self._realised if key[0] == event.domain)

    def _keep_joining(self, tell: Callable[[Kept], None]) -> None:
        while not self._ended.wait(self.settings.join_every_s):
            with self._changing:
                changed, self._changed = self._changed, set()
            for key in sorted(changed):
                if not self._ended.is_set():
                    self._join(key, tell)

    def _join(self, key: tuple[str, str], tell: Callable[[Kept], None]) -> None:
        """Join one target, unless another worker does; that it changed is forgotten only once it is joined."""
        try:
            kept = self.join(key)
        except Exception as error:  # one fault must not end this for all others
            if isinstance(error, TowncastError):
                _LOG.error("Forecasts of %s %s cannot be joined with what came: %s", *key, error)
            else:
                _LOG.exception("Forecasts of %s %s cannot be joined with what came", *key)
            tell(Kept(domain=key[0], target=key[1], report=None, figures=None))
            kept = None
        if kept is not None:
            tell(kept)
        else:
            with self._changing:
                self._changed.add(key)

    def join(self, key: tuple[str, str]) -> Kept | None:
        """Join the forecasts of a domain's target; None where another process does, or did a moment ago.

        Raises:
            StorageError: Something cannot be written, or the log cannot be reached.
            DataError: A stored file is damaged.
        """
        realised, now_s = self._realised[key], self._now()
        make_folder(realised.folder)
        try:
            with storage_errors(realised.folder), FileLock(realised.folder / ".keeper.lock", timeout=0):
                if age_s(realised.folder / STATE_FILE) < _RECENTLY * self.settings.join_every_s:
                    return None
                report = join_actuals(self.store, self._readings[key[0]], realised, now_s=now_s, settings=self.settings)
                keep_days, every_s = self.settings.realised_keep_days, self.settings.compact_every_s
                realised.tidy(now_s, every_s=every_s, keep_days=keep_days)
                changed = report.joined or report.revised or report.remade or key not in self._told
                figures = self._figures(realised, now_s) if changed else None
                return Kept(domain=key[0], target=key[1], report=report, figures=figures)
        except Timeout:
            return None

    def _figures(self, realised: RealisedStore, now_s: float) -> dict[str, dict[str, float]]:
        since_s = now_s - self.settings.realised_figures_days * _DAY_S
        found = realised.summary(by=("horizon",), since_s=since_s)
        return {
            str(line["horizon"]): {name: float(line[name]) for name in _UNKNOWN} for line in found.to_dict("records")
        }

    def _tell(self, kept: Kept) -> None:
        """On the event loop: counters are not for several threads."""
        key, report = (kept.domain, kept.target), kept.report
        if report is None:
            self._metrics.count_join_failure(*key)
            return
        for remark in report.remarks:
            _LOG.info("%s %s: %s", *key, remark)
        outcomes = {
            "joined": report.joined,
            "revised": report.revised,
            "remade": report.remade,
            "late": report.late,
            "never": report.never,
        }
        self._metrics.count_realised(*key, outcomes, waiting=report.waiting)
        if kept.figures is None:
            return
        before = self._told.get(key, set())
        for horizon in before | set(kept.figures):
            figures = kept.figures.get(horizon, _UNKNOWN)
            self._metrics.set_realised(
                *key,
                horizon,
                mae=figures["mae"],
                bias=figures["bias"],
                mape_percent=figures["mape_percent"],
                coverage=figures["coverage"],
            )
        self._told[key] = before | set(kept.figures)
