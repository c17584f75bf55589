"""Requests and replies of `/monitoring/...`. Figures that are not there are null."""

from __future__ import annotations

from pydantic import Field, computed_field

from features.alias_history import AliasChange
from serving.monitoring.report import DriftOf, Measure, MonitoringReport, SiteState, TriggerKind
from serving.schemas import Reply, ShortName, StrictRequest

_UNIT = "In the target's unit."
_SHARE = "Share of the actuals inside the interval (0 to 1)."


class ReportsQuery(StrictRequest):
    """Takes no parameters."""


class HistoryQuery(StrictRequest):
    """Which reports."""

    target: ShortName | None = Field(default=None, description="What is forecast; the domain's first by default.")
    limit: int = Field(default=50, ge=1, le=200, description="Most reports, the newest.")


class SiteQuery(StrictRequest):
    """Which weeks of a site."""

    target: ShortName | None = Field(default=None, description="What is forecast; the domain's first by default.")
    weeks: int = Field(default=26, ge=1, le=156, description="So many weeks up to the last actual.")


class AssessmentReply(Reply):
    """How one site does, by its realised errors alone."""

    site: str
    state: SiteState = Field(description="`suspect` has evidence that is not confirmed yet.")
    since_s: int = Field(description="Begin of what was looked at [s since 1970].")
    until_s: int = Field(description="Its end [s since 1970].")
    steps: int = Field(description="Forecast steps with an actual in it.")
    error: float | None = Field(description=f"Mean absolute error. {_UNIT}")
    usual_error: float | None = Field(description=f"Its median over the weeks of the reference. {_UNIT}")
    mape_percent: float | None = Field(description="Mean absolute percentage error; null where actuals are zero.")
    usual_mape_percent: float | None = Field(description="Of the reference.")
    coverage: float | None = Field(description=_SHARE)
    nominal_coverage: float | None = Field(description="What the interval promises (0 to 1).")
    score: float | None = Field(description="Evidence of harm.")
    limit: float | None = Field(description="From which score on a look counts as evidence.")
    reason: str


class DriftReply(Reply):
    """How far one distribution has moved, hour of the week by hour of the week; explains, and triggers nothing."""

    of: DriftOf
    site: str
    name: str = Field(description="The channel, or the target for forecasts.", examples=["temperature"])
    measure: Measure
    value: float | None
    threshold: float

    @computed_field(description="Whether the threshold is passed.")  # type: ignore[prop-decorator]
    @property
    def drifted(self) -> bool:
        """Whether the threshold is passed."""
        return self.value is not None and self.value > self.threshold


class EstimateReply(Reply):
    """What the error will probably be, said before actuals come."""

    site: str
    error: float | None = Field(description=f"Expected mean absolute error. {_UNIT}")
    usual_error: float | None = Field(description=f"Of the reference. {_UNIT}")
    steps: int = Field(description="Forecast steps that it is of.")


class TriggerReply(Reply):
    """What asks for a retraining."""

    kind: TriggerKind
    sites: list[str] = Field(description="Because of which; empty for all.")
    reason: str


class ReportReply(Reply):
    """One look at one target's champion."""

    id: str = Field(description="Ascends with time.", examples=["20260206T090000-018d7f0000000000"])
    domain: str
    target: str
    unit: str = Field(description="Of errors.")
    model_version: str = Field(examples=["traffic-lstm-v3"])
    at_s: float = Field(description="When it was made [s since 1970].")
    since_s: int = Field(description="Begin of the actuals that were looked at [s since 1970].")
    until_s: int = Field(description="Their end [s since 1970].")
    assessments: list[AssessmentReply]
    drift: list[DriftReply]
    estimates: list[EstimateReply]
    triggers: list[TriggerReply] = Field(description="Empty where nothing asks for a retraining.")
    remarks: list[str]


class MissingReply(Reply):
    """A target that has no report."""

    target: str
    reason: str = Field(description="Why, and what to do.")


class AliasChangeReply(Reply):
    """One line of a registered model's history."""

    at: str = Field(description="UTC.", examples=["2026-02-06T09:00:00+00:00"])
    alias: str = Field(examples=["champion"])
    action: str = Field(examples=["promote", "rollback", "release", "withdraw", "nominate"])
    by: str = Field(description="Who ran it.")
    from_version: int | None
    to_version: int | None
    reason: str
    approved_by: str
    took: bool = Field(description="Whether the alias followed.")


class ModelHistoryReply(Reply):
    """Who made which version of a target's model champion when, and why."""

    target: str
    model: str = Field(description="In the registry.", examples=["towncast-traffic"])
    versions: dict[str, int] = Field(description="Version by role.", examples=[{"champion": 3}])
    changes: list[AliasChangeReply] = Field(description="Newest first; at most 100.")


class MonitoringReply(Reply):
    """The newest report of each target of a domain."""

    domain: str
    entity: str = Field(description="What a site is called.", examples=["road"])
    registry: str = Field(description="Whether the registry of models answers.", examples=["answers", "away"])
    reports: list[ReportReply]
    missing: list[MissingReply] = Field(description="Targets without a report.")
    models: list[ModelHistoryReply] = Field(description="Of the targets that the registry knows.")


class HistoryLineReply(Reply):
    """A report in one line."""

    id: str
    at_s: float = Field(description="When it was made [s since 1970].")
    since_s: int
    until_s: int
    model_version: str
    states: dict[SiteState, int] = Field(description="Number of sites by state.")
    drifted: int = Field(description="Lines of drift that passed their threshold.")
    triggers: list[TriggerReply]


class ReportHistoryReply(Reply):
    """Earlier reports, newest first."""

    domain: str
    target: str
    reports: list[HistoryLineReply]


class WeekReply(Reply):
    """A site's realised forecasts of one week."""

    begin: str = Field(description="The week's Monday, by the site's calendar.", examples=["2026-02-02"])
    begin_s: int = Field(description="Its begin [s since 1970].")
    steps: int = Field(description="Forecast steps with an actual.")
    error: float | None = Field(description=f"Mean absolute error. {_UNIT}")
    bias: float | None = Field(description=f"Mean of forecast minus actual. {_UNIT}")
    mape_percent: float | None = Field(description="Mean absolute percentage error; null where actuals are zero.")
    coverage: float | None = Field(description=_SHARE)
    model_versions: list[str] = Field(description="That made the forecasts, in order of time.")


class SiteLookReply(Reply):
    """What one report, the last of its week, said of a site."""

    at_s: float
    model_version: str
    assessment: AssessmentReply | None = Field(description="Null where the site is not in it.")
    drift: list[DriftReply]


class SiteVersionReply(Reply):
    """How one version of the model did at a site."""

    model_version: str
    since_s: int = Field(description="Begin of its first forecast with an actual [s since 1970].")
    until_s: int = Field(description="Begin of its last one [s since 1970].")
    steps: int
    error: float | None = Field(description=f"Mean absolute error. {_UNIT}")
    coverage: float | None = Field(description=_SHARE)


class SiteHistoryReply(Reply):
    """A site, week by week."""

    domain: str
    target: str
    site: str
    unit: str = Field(description="Of errors.")
    timezone: str = Field(description="Whose weeks these are.", examples=["Asia/Kolkata"])
    weeks: list[WeekReply] = Field(description="Oldest first; weeks without an actual are left out.")
    looks: list[SiteLookReply] = Field(description="Oldest first; one for each week with a report.")
    versions: list[SiteVersionReply] = Field(description="In order of time.")


def report_reply(report: MonitoringReport) -> ReportReply:
    """A report as it is answered."""
    return ReportReply.model_validate_json(report.as_json())


def change_reply(change: AliasChange) -> AliasChangeReply:
    """A line of a registered model's history as it is answered."""
    return AliasChangeReply(
        at=change.at,
        alias=change.alias,
        action=change.action,
        by=change.by,
        from_version=change.from_version,
        to_version=change.to_version,
        reason=change.reason,
        approved_by=change.approved_by,
        took=change.took,
    )
