"""What the latest monitoring reports say, told to the API's metrics."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import get_args

from features.errors import TowncastError
from features.vocabulary import Domain
from serving.metrics import Metrics
from serving.monitoring.report import DriftOf, MonitoringReport, TriggerKind
from serving.monitoring.report_store import ReportStore

_LOG = logging.getLogger(__name__)
_EVERY_S = 15.0


async def keep_report_figures(
    store: ReportStore, domains: tuple[Domain, ...], metrics: Metrics, *, every_s: float = _EVERY_S
) -> None:
    """Tell again and again what the latest report of each target says; never ends.

    Args:
        store: The reports.
        domains: Whose targets.
        metrics: Are told.
        every_s: Time between two looks [s].
    """
    told: dict[tuple[str, str], str] = {}
    while True:
        for domain in domains:
            for target in domain.targets:
                key = (domain.name, target.name)
                try:
                    # A large town's report is megabytes: it is read in a thread, and only once.
                    report, written_s = await asyncio.to_thread(_newest, store, *key, told.get(key, ""))
                except (OSError, TowncastError):
                    _LOG.exception("The report of %s %s cannot be told", *key)
                    continue
                if report is not None:
                    tell_report(report, written_s, metrics)
                    told[key] = report.id
        await asyncio.sleep(every_s)


def _newest(store: ReportStore, domain: str, target: str, told: str) -> tuple[MonitoringReport | None, float]:
    """The newest report and when it was written; None where that was told already, or there is none."""
    for report_id in store.ids(domain, target):
        if report_id == told:
            break
        report = store.read(domain, target, report_id)
        if report is not None:
            return report, store.path(report).stat().st_mtime
    return None, 0.0


def tell_report(report: MonitoringReport, written_s: float, metrics: Metrics) -> None:
    """Say what a report says.

    Args:
        report: The newest of its target.
        written_s: When it was written [s since 1970]; its own moment may be of a replay.
        metrics: Are told.
    """
    target = (report.domain, report.target)
    metrics.set_site_states(*target, Counter(assessment.state for assessment in report.assessments))
    for of in get_args(DriftOf):
        metrics.set_drifted(*target, of, sum(line.drifted for line in report.drift if line.of == of))
    asked = {trigger.kind for trigger in report.triggers}
    for kind in get_args(TriggerKind):
        metrics.set_asks_retraining(*target, kind, asks=kind in asked)
    metrics.set_reported(*target, written_s)
