"""What the latest monitoring reports and retrainings say, told to the API's metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from features.errors import TowncastError
from features.vocabulary import Domain
from serving.metrics import Metrics
from serving.monitoring.report import DriftOf, MonitoringReport, TriggerKind
from serving.monitoring.report_store import ReportStore

_LOG = logging.getLogger(__name__)
_EVERY_S = 15.0


async def keep_report_figures(
    data_dir: Path, domains: tuple[Domain, ...], metrics: Metrics, *, every_s: float = _EVERY_S
) -> None:
    """Tell again and again what the latest report of each target, and the latest retraining, says; never ends.

    Args:
        data_dir: Folder of the reports and of the states of retrainings.
        domains: Whose targets.
        metrics: Are told.
        every_s: Time between two looks [s].
    """
    store = ReportStore(data_dir / "monitoring" / "reports")
    told: dict[tuple[str, str], str] = {}
    while True:
        for domain in domains:
            state, ended_s = await asyncio.to_thread(last_retraining, data_dir / "retraining", domain.name)
            if state:
                metrics.set_retraining(domain.name, state, ended_s)
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


def last_retraining(folder: Path, domain: str) -> tuple[str, float | None]:
    """State of a domain's last retraining, "" where there was none; and when the last one ended that ended well.

    Args:
        folder: Of the states, a JSON file each, whose names ascend with time.
        domain: Whose.
    """
    latest = ""
    for path in sorted(folder.glob(f"{domain}-[0-9]*.json"), reverse=True):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            state, updated_s = _retraining_state(kept), float(kept["updated_s"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # the job that reads them to go on says so
        latest = latest or state
        if state == "done":
            return latest, updated_s
    return latest, None


def _retraining_state(kept: dict[str, Any]) -> str:
    if kept["step"] == "done":
        return "done"
    if kept["given_up"]:
        return "given up"
    return "failed" if kept["error"] else "under way"
