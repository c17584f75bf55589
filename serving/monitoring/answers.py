"""What `/monitoring/...` answers, from the kept reports, the realised forecasts and the registry. Blocks. No HTTP."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from features.card import CHAMPION, registered_name
from features.domains import DOMAINS
from features.errors import UnknownNameError
from features.registry import nearest_names
from features.store import ReadingStore
from features.vocabulary import Domain, Quantity
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.report import MonitoringReport
from serving.monitoring.report_store import ReportStore
from serving.monitoring.schemas import (
    HistoryLineReply,
    HistoryQuery,
    MissingReply,
    ModelHistoryReply,
    MonitoringReply,
    ReportHistoryReply,
    SiteHistoryReply,
    SiteLookReply,
    SiteQuery,
    SiteVersionReply,
    TriggerReply,
    WeekReply,
    change_reply,
    report_reply,
)
from serving.monitoring.site_weeks import SCORED_COLUMNS, WEEK_S, Week, versions_of, weeks_of
from serving.releases.plans import Standing

_MOST_CHANGES = 100
_KEPT_LINES = 4096
_ID_STAMP = "%Y%m%dT%H%M%S"


class MonitoringAnswers:
    """Answers about how the served models do.

    Args:
        data_dir: Folder of the readings and of what monitoring keeps.
        standings: Gives what the registry says of each registered model, and whether it answers.
    """

    def __init__(self, data_dir: Path, *, standings: Callable[[], tuple[Mapping[str, Standing], bool]]) -> None:
        self.reports = ReportStore(data_dir / "monitoring" / "reports")
        self._data_dir = data_dir
        self._standings = standings
        # A report never changes, and one of a large town is megabytes.
        self._line = functools.lru_cache(maxsize=_KEPT_LINES)(self._read_line)

    def latest(self, domain_name: str) -> MonitoringReply:
        """The newest report of each target, and the history of its model.

        Raises:
            UnknownNameError: There is no such domain.
        """
        domain = DOMAINS[domain_name]
        standings, answers = self._standings()
        found = {target.name: self.reports.latest(domain.name, target.name) for target in domain.targets}
        return MonitoringReply(
            domain=domain.name,
            entity=domain.entity,
            registry="answers" if answers else "away",
            reports=[report_reply(report) for report in found.values() if report is not None],
            missing=[
                MissingReply(target=name, reason=_no_report(domain)) for name, report in found.items() if report is None
            ],
            models=[
                _model_history(target.name, standings[name])
                for target in domain.targets
                if (name := _registered(domain, target)) in standings
            ],
        )

    def history(self, domain_name: str, query: HistoryQuery) -> ReportHistoryReply:
        """Earlier reports of a target in a line each, newest first.

        Raises:
            UnknownNameError: There is no such domain or target.
        """
        domain = DOMAINS[domain_name]
        target = _target(domain, query.target)
        lines = []
        for report_id in self.reports.ids(domain.name, target.name):
            line = self._line(domain.name, target.name, report_id)
            if line is not None:
                lines.append(line)
            if len(lines) == query.limit:
                break
        return ReportHistoryReply(domain=domain.name, target=target.name, reports=lines)

    def _read_line(self, domain: str, target: str, report_id: str) -> HistoryLineReply | None:
        report = self.reports.read(domain, target, report_id)
        if report is None:
            return None
        return HistoryLineReply(
            id=report.id,
            at_s=report.at_s,
            since_s=report.since_s,
            until_s=report.until_s,
            model_version=report.model_version,
            states=dict(Counter(assessment.state for assessment in report.assessments)),
            drifted=sum(line.drifted for line in report.drift),
            triggers=[TriggerReply(kind=one.kind, sites=list(one.sites), reason=one.reason) for one in report.triggers],
        )

    def site(self, domain_name: str, site: str, query: SiteQuery) -> SiteHistoryReply:
        """A site's weeks, what reports said of it, and how each version of the model did there.

        Raises:
            UnknownNameError: There is no such domain, target or site.
            DataError: A stored file is damaged.
        """
        domain = DOMAINS[domain_name]
        target = _target(domain, query.target)
        latest = self._latest_of(domain, target, site)
        timezone = self._timezone(domain, target, site, latest)
        realised = self._realised(domain, target, site, weeks=query.weeks, latest=latest)
        weeks = weeks_of(realised, timezone=timezone)[-query.weeks :]
        versions = versions_of(realised)
        return SiteHistoryReply(
            domain=domain.name,
            target=target.name,
            site=site,
            unit=target.unit,
            timezone=timezone,
            weeks=[_week_reply(week) for week in weeks],
            looks=self._looks(domain, target, site, weeks=query.weeks, latest=latest),
            versions=[
                SiteVersionReply(
                    model_version=span.model_version,
                    since_s=span.since_s,
                    until_s=span.until_s,
                    steps=span.score.steps,
                    error=_figure(span.score.error),
                    coverage=_figure(span.score.coverage),
                )
                for span in versions
            ],
        )

    def _latest_of(self, domain: Domain, target: Quantity, site: str) -> MonitoringReport | None:
        """What the newest report says of a site."""
        ids = self.reports.ids(domain.name, target.name)
        found = (self.reports.read(domain.name, target.name, one, site=site) for one in ids)
        return next((report for report in found if report is not None), None)

    def _timezone(self, domain: Domain, target: Quantity, site: str, latest: MonitoringReport | None) -> str:
        stored = ReadingStore(self._data_dir / "readings", domain).sites()
        if site in stored:
            return stored[site].timezone
        # One that vanished from the readings is still looked at for a while.
        if latest is not None and latest.assessments:
            return "UTC"
        whole = self.reports.latest(domain.name, target.name)
        names = sorted({*stored, *(line.site for line in (whole.assessments if whole else ()))})
        raise UnknownNameError(kind=domain.entity, name=site, nearest=nearest_names(site, names), known=names)

    def _realised(
        self, domain: Domain, target: Quantity, site: str, *, weeks: int, latest: MonitoringReport | None
    ) -> pd.DataFrame:
        store = RealisedStore(self._data_dir / "monitoring" / "realised", domain, target.name)
        # One week more, which the first of a site's own calendar may reach into.
        since_s = latest.until_s - (weeks + 1) * WEEK_S if latest is not None else None
        return store.read(since_s=since_s, sites=[site], roles=[CHAMPION], columns=SCORED_COLUMNS)

    def _looks(
        self, domain: Domain, target: Quantity, site: str, *, weeks: int, latest: MonitoringReport | None
    ) -> list[SiteLookReply]:
        """The last report of each of the weeks up to the latest one; the others are not read."""
        if latest is None:
            return []
        chosen: dict[int, str] = {}
        end_s = _id_moment_s(latest.id)
        for report_id in self.reports.ids(domain.name, target.name):
            moment_s = _id_moment_s(report_id)
            if end_s is None or moment_s is None:
                continue
            if end_s - moment_s >= weeks * WEEK_S:
                break
            chosen.setdefault(int((end_s - moment_s) // WEEK_S), report_id)
        found = (self.reports.read(domain.name, target.name, one, site=site) for one in reversed(chosen.values()))
        return [_look_reply(report) for report in found if report is not None]


def _target(domain: Domain, name: str | None) -> Quantity:
    if name is None:
        return domain.target
    targets = {target.name: target for target in domain.targets}
    if name not in targets:
        known = list(targets)
        raise UnknownNameError(
            kind=f"target of {domain.name}", name=name, nearest=nearest_names(name, known), known=known
        )
    return targets[name]


def _registered(domain: Domain, target: Quantity) -> str:
    return registered_name(domain.name, "" if target == domain.target else target.name)


def _no_report(domain: Domain) -> str:
    return f"No report yet: run `towncast monitor {domain.name}`, or `towncast schedule` for one again and again."


def _model_history(target: str, standing: Standing) -> ModelHistoryReply:
    newest = sorted(standing.history, key=lambda change: change.number, reverse=True)[:_MOST_CHANGES]
    return ModelHistoryReply(
        target=target,
        model=standing.name,
        versions=dict(standing.versions),
        changes=[change_reply(change) for change in newest],
    )


def _week_reply(week: Week) -> WeekReply:
    score = week.score
    return WeekReply(
        begin=week.begin.date().isoformat(),
        begin_s=int(week.begin.timestamp()),
        steps=score.steps,
        error=_figure(score.error),
        bias=_figure(score.bias),
        mape_percent=_figure(score.mape_percent),
        coverage=_figure(score.coverage),
        model_versions=list(week.model_versions),
    )


def _look_reply(report: MonitoringReport) -> SiteLookReply:
    told = report_reply(report)
    return SiteLookReply(
        at_s=told.at_s,
        model_version=told.model_version,
        assessment=next(iter(told.assessments), None),
        drift=told.drift,
    )


def _id_moment_s(report_id: str) -> float | None:
    """When a report is of: its id begins with it. None where somebody else named the file."""
    try:
        return datetime.strptime(report_id.partition("-")[0], _ID_STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _figure(value: float) -> float | None:
    return value if math.isfinite(value) else None
