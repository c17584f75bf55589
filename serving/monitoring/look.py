"""One look at a served champion: errors, drift, estimates and what asks for a retraining, put together. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pandas as pd

from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import VALUE_COLUMNS, drift_lines
from serving.monitoring.estimate import estimate_errors
from serving.monitoring.realised import REALISED_COLUMNS
from serving.monitoring.report import DriftLine, ErrorEstimate, MonitoringReport, Trigger
from serving.monitoring.triggers import (
    NOMINAL_COVERAGE,
    SiteEvidence,
    champion_rows,
    gather_evidence,
    judge_sites,
    performance_trigger,
)

_WEEK_S = 7 * 86400


def look_at(
    *,
    id: str,
    domain: str,
    target: str,
    unit: str,
    model_version: str,
    now_s: float,
    realised: pd.DataFrame | Iterable[pd.DataFrame],
    waiting: pd.DataFrame,
    reference_inputs: pd.DataFrame,
    recent_inputs: pd.DataFrame,
    trained_sites: Collection[str] = (),
    present_sites: Collection[str] = (),
    trained_until_s: float | None = None,
    readings_until_s: float | None = None,
    nominal_coverage: float = NOMINAL_COVERAGE,
    settings: DetectionSettings | None = None,
    remarks: tuple[str, ...] = (),
) -> MonitoringReport:
    """A report of one target's champion.

    Args:
        id: Of the report; ascends with time.
        domain: Of the target.
        target: What is forecast.
        unit: Of the target.
        model_version: The champion's.
        now_s: The present, on the clock of the readings [s since 1970].
        realised: Columns `REALISED_COLUMNS`, a year and a half of them at best. A large town gives a table for some
            sites after the other: each is read once.
        waiting: Steps without an actual, columns `WAITING_COLUMNS` (`RealisedStore.waiting`).
        reference_inputs: Inputs of the training period, columns `VALUE_COLUMNS`; empty for no drift of inputs.
        recent_inputs: Inputs of the last week or more, the same columns.
        trained_sites: Sites that the champion was trained on.
        present_sites: Sites that have readings now.
        trained_until_s: End of the readings that the champion was trained on, None where unknown [s since 1970].
        readings_until_s: End of the readings that are there, None where unknown [s since 1970].
        nominal_coverage: What the interval from `lower` to `upper` promises (0 to 1).
        settings: Thresholds.
        remarks: What else is to be known.

    Returns:
        The report. Drift is in it to explain; only errors and coverage, and new sites or readings, are among its
        triggers. A window without any data gives a report that says so.
    """
    settings = settings or DetectionSettings()
    seen = _Seen()
    for table in [realised] if isinstance(realised, pd.DataFrame) else realised:
        seen.take(table, waiting, target, now_s=now_s, nominal_coverage=nominal_coverage, settings=settings)
    # Sites that wait for their first actuals.
    nothing = pd.DataFrame(columns=list(REALISED_COLUMNS))
    unseen = waiting[~waiting["site"].isin(seen.sites)]
    sites = sorted(set(trained_sites) & set(present_sites))
    assessments = judge_sites(seen.evidence, now_s=now_s, sites=sites, settings=settings)
    with_data = [line for line in assessments if line.steps]
    data = data_trigger(
        trained_sites=trained_sites,
        present_sites=present_sites,
        trained_until_s=trained_until_s,
        readings_until_s=readings_until_s,
        settings=settings,
    )
    return MonitoringReport(
        id=id,
        domain=domain,
        target=target,
        unit=unit,
        model_version=model_version,
        at_s=now_s,
        since_s=min((line.since_s for line in with_data), default=int(now_s)),
        until_s=max((line.until_s for line in with_data), default=int(now_s)),
        assessments=assessments,
        drift=(
            *drift_lines(reference_inputs, recent_inputs, of="feature", settings=settings),
            *seen.drift,
        ),
        estimates=(*seen.estimates, *estimate_errors(nothing, unseen, settings=settings)),
        triggers=tuple(trigger for trigger in (performance_trigger(assessments), data) if trigger),
        remarks=(*remarks, *_remarks(seen, trained_sites, present_sites)),
    )


class _Seen:
    """What is seen in tables of sites, one after the other."""

    def __init__(self) -> None:
        self.sites: set[str] = set()
        self.evidence: list[SiteEvidence] = []
        self.drift: list[DriftLine] = []
        self.estimates: list[ErrorEstimate] = []
        self.rows = self.ahead = 0

    def take(
        self,
        table: pd.DataFrame,
        waiting: pd.DataFrame,
        target: str,
        *,
        now_s: float,
        nominal_coverage: float,
        settings: DetectionSettings,
    ) -> None:
        """Look at some sites."""
        rows = champion_rows(table, now_s=now_s)
        sites = set(table["site"].unique())
        waits = waiting[waiting["site"].isin(sites)]
        self.sites |= sites
        self.rows += len(rows)
        self.ahead += int((table["valid_s"] > now_s).sum())
        self.evidence += gather_evidence(rows, now_s=now_s, nominal_coverage=nominal_coverage, settings=settings)
        self.drift += _forecast_drift(rows, waits, target, now_s, settings)
        self.estimates += estimate_errors(rows, waits, settings=settings)


def data_trigger(
    *,
    trained_sites: Collection[str],
    present_sites: Collection[str],
    trained_until_s: float | None,
    readings_until_s: float | None,
    settings: DetectionSettings | None = None,
) -> Trigger | None:
    """What asks for a retraining because of new sites, or of enough new weeks of readings; None for nothing.

    Args:
        trained_sites: Sites that the champion was trained on; without any, none is new.
        present_sites: Sites that have readings now.
        trained_until_s: End of the readings that it was trained on, None where unknown [s since 1970].
        readings_until_s: End of the readings that are there, None where unknown [s since 1970].
        settings: How many weeks; 0 for never.
    """
    settings = settings or DetectionSettings()
    if not settings.data_trigger_weeks:
        return None
    new = tuple(sorted(set(present_sites) - set(trained_sites))) if trained_sites else ()
    if new:
        named = ", ".join(new[:3]) + (f" and {len(new) - 3} more" if len(new) > 3 else "")
        return Trigger(kind="data", sites=new, reason=f"{len(new)} sites are new since the last training: {named}")
    if trained_until_s is None or readings_until_s is None:
        return None
    weeks = (readings_until_s - trained_until_s) / _WEEK_S
    if weeks < settings.data_trigger_weeks:
        return None
    reason = f"{weeks:.1f} weeks of readings are new since the last training (limit {settings.data_trigger_weeks})"
    return Trigger(kind="data", sites=(), reason=reason)


def _forecast_drift(
    rows: pd.DataFrame, waiting: pd.DataFrame, target: str, now_s: float, settings: DetectionSettings
) -> tuple[DriftLine, ...]:
    """Drift of the forecasts themselves: the last week's, and those that wait, beside the earlier ones."""
    waits = waiting[waiting["role"] == "champion"]
    columns = ["site", "valid_s", "median"]
    parts = [part[columns] for part in (rows, waits) if len(part)]
    if not parts:
        return ()
    forecasts = pd.concat(parts, ignore_index=True)
    # Several steps ahead say something of the same hour: their mean stands for them.
    means = forecasts.groupby(["site", "valid_s"])["median"].mean().rename("value").reset_index()
    values = means.assign(name=target)[list(VALUE_COLUMNS)]
    recent = values["valid_s"] > now_s - _WEEK_S
    since = now_s - (settings.reference_weeks + 1) * _WEEK_S
    before = values[~recent & (values["valid_s"] > since)]
    return drift_lines(before, values[recent], of="prediction", settings=settings)


def _remarks(seen: _Seen, trained_sites: Collection[str], present_sites: Collection[str]) -> tuple[str, ...]:
    remarks = []
    if seen.ahead:
        remarks.append(f"{seen.ahead} actuals lie in the future of this look and were passed over: a clock is wrong")
    if not seen.rows:
        remarks.append("no forecast of the champion has an actual: nothing can be said of its errors")
    gone = sorted(set(trained_sites) - set(present_sites)) if present_sites else []
    if gone:
        remarks.append(f"{len(gone)} sites of the training have no readings any more: {', '.join(gone[:5])}")
    return tuple(remarks)
