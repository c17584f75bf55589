"""The monitoring job: forecasts beside what came, a look at each champion, a report that is kept, and alerts."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from features.card import CHAMPION, TRAINED_UNTIL, Card
from features.domains import DOMAINS
from features.errors import TowncastError
from features.final_values import final_values
from features.store import ReadingStore
from features.vocabulary import Domain, Quantity
from pipelines.alerts import Alert, open_desk
from pipelines.retraining_release import go_on_with_shadow
from pipelines.schedule_settings import ScheduleSettings
from pipelines.steps import Steps
from serving.monitoring.actuals import join_actuals
from serving.monitoring.detection_settings import DetectionSettings
from serving.monitoring.drift import VALUE_COLUMNS
from serving.monitoring.look import look_at
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.report import Assessment, MonitoringReport
from serving.monitoring.report_store import ReportStore, new_report_id
from serving.monitoring.settings import MonitoringSettings
from serving.prediction_log.settings import PredictionLogSettings
from serving.prediction_log.store import PredictionStore
from serving.releases.plans import Standing
from serving.releases.registry import ReleaseRegistry
from training.registry import ModelRegistry, model_name
from training.tracking import Tracking

_LOG = logging.getLogger(__name__)
_DAY_S = 86400.0
_WEEK_S = 7 * _DAY_S
# Inputs of how long are compared: a whole week at least, so that each hour of it is there.
_RECENT_S = 2 * _WEEK_S
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Champion:
    """Who answers for a target.

    Attributes:
        target: What it forecasts.
        version: In the registry.
        card: Of it.
    """

    target: Quantity
    version: int
    card: Card

    @property
    def model_version(self) -> str:
        """As the prediction log names it."""
        return f"{self.card.model}-v{self.version}"

    @property
    def trained_until_s(self) -> float | None:
        """End of what its weights were fitted to, None where its card does not tell [s since 1970]."""
        until = self.card.trained.get(TRAINED_UNTIL)
        return None if until is None else float(until)


def monitor_domain(
    name: str,
    *,
    settings: ScheduleSettings,
    console: Console,
    now_s: float | None = None,
    detection: DetectionSettings | None = None,
    page: bool = False,
    tracked: bool = True,
) -> tuple[MonitoringReport, ...]:
    """Look at a domain's champions: a report for each target that has one.

    What MLflow or an alert's address does not take is said, and stops nothing: the report is on disk by then.

    Args:
        name: Of the domain.
        settings: Folders, addresses, alerts.
        console: Where progress is shown.
        now_s: Now, on the clock of the readings [s since 1970], by default this machine's.
        detection: Thresholds; by default of the environment.
        page: Whether Evidently's page is made too, which takes half a minute.
        tracked: Whether MLflow keeps each report.

    Raises:
        TowncastError: The registry, the log or the readings cannot be read.
    """
    domain, now = DOMAINS[name], time.time() if now_s is None else now_s
    job = _Look(domain, settings, detection or DetectionSettings(), Steps(console), now)
    try:
        reports = job.run(page=page, tracked=tracked)
    except TowncastError as error:
        open_desk(settings).tell([_failed(name, error)], now_s=now)
        raise
    alerts = [alert for report in reports for alert in alerts_of(report)]
    open_desk(settings).tell([_works(name), *alerts, *job.decisions], now_s=now)
    return reports


class _Look:
    """One look at a domain."""

    def __init__(
        self, domain: Domain, settings: ScheduleSettings, detection: DetectionSettings, steps: Steps, now_s: float
    ) -> None:
        self._domain, self._settings, self._detection = domain, settings, detection
        self._steps, self._now_s = steps, now_s
        self._monitoring = MonitoringSettings(data_dir=settings.data_dir)
        self._readings = ReadingStore(settings.readings_dir, domain)
        self.decisions: list[Alert] = []

    def run(self, *, page: bool, tracked: bool) -> tuple[MonitoringReport, ...]:
        store = PredictionStore(PredictionLogSettings(data_dir=self._settings.data_dir).log_url)
        try:
            remarks = {target.name: self._join(store, target) for target in self._domain.targets}
        finally:
            store.close()
        with self._steps.step(f"Champions of {self._domain.name}") as say:
            champions = self._champions()
            say(", ".join(one.model_version for one in champions) or "none")
        if not champions:
            return ()
        inputs, present = self._inputs(champions)
        return tuple(
            self._report(one, inputs, present, remarks[one.target.name], page=page, tracked=tracked)
            for one in champions
        )

    def _realised(self, target: Quantity) -> RealisedStore:
        return RealisedStore(self._settings.realised_dir, self._domain, target.name, readings=self._readings)

    def _join(self, store: PredictionStore, target: Quantity) -> tuple[str, ...]:
        with self._steps.step(f"Forecasts of {target.name} beside what came") as say:
            realised, kept = self._realised(target), self._monitoring
            joined = join_actuals(store, self._readings, realised, now_s=self._now_s, settings=kept)
            realised.tidy(self._now_s, every_s=kept.compact_every_s, keep_days=kept.realised_keep_days)
            say(
                f"{joined.joined:,} new, {joined.revised:,} revised, {joined.waiting:,} wait, {joined.never:,} given up"
            )
        return joined.remarks

    def _champions(self) -> list[_Champion]:
        names = {model_name(self._domain, target): target for target in self._domain.targets}
        standings = ReleaseRegistry(self._settings.tracking_uri).standings(names)
        registry = ModelRegistry(Tracking(self._settings.tracking_uri))
        found = []
        for name, target in names.items():
            version = standings[name].versions.get(CHAMPION) if name in standings else None
            if name in standings:
                self.decisions += _decisions(standings[name], f"{self._domain.name}/{target.name}")
            if version is not None:
                card = _card(registry, name, version)
                found.append(_Champion(target=target, version=version, card=card))
        return found

    def _inputs(self, champions: list[_Champion]) -> tuple[pd.DataFrame, set[str]]:
        """Inputs since the reference of the oldest champion begins, and the sites that have readings now."""
        ends = [one.trained_until_s for one in champions]
        first_s = min(end for end in [self._now_s, *ends] if end is not None) - self._reference_s
        measured = self._readings.measured_sites()
        parts = []
        with self._steps.step("Inputs: of the training, and of now") as say:
            for quantity in self._domain.inputs:
                readings = self._readings.readings(
                    sites=measured or None,
                    quantities=[quantity.name],
                    start=_moment(first_s),
                    end=_moment(self._now_s),
                    columns=("value",),
                )
                values = final_values(quantity, readings, step_s=self._domain.step_s)
                values = values.rename(columns={"moment_s": "valid_s"}).assign(name=quantity.name)
                parts.append(values[list(VALUE_COLUMNS)])
            table = pd.concat(parts, ignore_index=True)
            targets = {target.name for target in self._domain.targets}
            recent = table[(table["valid_s"] > self._now_s - _RECENT_S) & table["name"].isin(targets)]
            present = set(recent["site"].unique())
            say(f"{len(table):,} values, {len(present)} sites")
        return table, present

    @property
    def _reference_s(self) -> float:
        return self._detection.reference_weeks * _WEEK_S

    def _report(
        self,
        one: _Champion,
        inputs: pd.DataFrame,
        present: set[str],
        remarks: tuple[str, ...],
        *,
        page: bool,
        tracked: bool,
    ) -> MonitoringReport:
        target, store = one.target, self._realised(one.target)
        weeks = self._detection.reference_weeks + self._detection.calibration_weeks + 1
        until_s = one.trained_until_s or self._now_s - _RECENT_S
        reference = inputs[(inputs["valid_s"] <= until_s) & (inputs["valid_s"] > until_s - self._reference_s)]
        recent = inputs[inputs["valid_s"] > self._now_s - _RECENT_S]
        own = inputs[inputs["name"] == target.name]
        with self._steps.step(f"A look at {one.model_version}") as say:
            report = look_at(
                id=new_report_id(self._now_s),
                domain=self._domain.name,
                target=target.name,
                unit=target.unit,
                model_version=one.model_version,
                now_s=self._now_s,
                realised=store.tables(since_s=self._now_s - weeks * _WEEK_S, roles=(CHAMPION,)),
                waiting=store.waiting(since_s=self._now_s - _WEEK_S),
                reference_inputs=reference,
                recent_inputs=recent,
                trained_sites=tuple(site.name for site in one.card.sites),
                present_sites=tuple(sorted(present)),
                trained_until_s=one.trained_until_s,
                readings_until_s=float(own["valid_s"].max()) if len(own) else None,
                nominal_coverage=one.card.levels[-1] - one.card.levels[0],
                settings=self._detection,
                remarks=remarks,
            )
            said = self._shadow(target, store)
            report = replace(report, remarks=(*report.remarks, *said))
            reports = ReportStore(self._settings.reports_dir)
            path = reports.add(report)
            reports.expire(self._now_s - self._settings.report_keep_days * _DAY_S)
            say(_counted(report))
        html = self._page(path, reference, recent, store) if page else None
        if tracked:
            self._track(report, html)
        return report

    def _shadow(self, target: Quantity, realised: RealisedStore) -> tuple[str, ...]:
        """What became of a shadow of a retraining; its trouble spoils no report."""
        try:
            said = go_on_with_shadow(self._domain, target, realised, settings=self._settings, now_s=self._now_s)
        except TowncastError as error:
            _LOG.warning("The shadow of %s stays one: %s", target.name, error)
            return (f"The shadow stays one: {error}",)
        return (said,) if said else ()

    def _track(self, report: MonitoringReport, html: Path | None) -> None:
        from serving.monitoring.tracking import track

        with self._steps.step("MLflow: the report") as say:
            try:
                track(report, tracking_uri=self._settings.tracking_uri, html=html)
            except TowncastError as error:
                _LOG.warning("MLflow does not keep the report %s: %s", report.id, error)
                say(f"not kept there: {error.fact}")

    def _page(self, report: Path, reference: pd.DataFrame, recent: pd.DataFrame, store: RealisedStore) -> Path | None:
        from serving.monitoring.evidently_report import write_report

        nearest = self._monitoring.steps_of(self._domain)[0]
        realised = store.read(
            since_s=float(pd.concat([reference["valid_s"], recent["valid_s"]]).min()),
            roles=(CHAMPION,),
            steps=(nearest,),
            columns=("site", "valid_s", "made_s", "median", "actual"),
        )
        usual, now = _wide(reference, realised), _wide(recent, realised)
        with self._steps.step("Evidently: a page") as say:
            try:
                return write_report(usual, now, report.with_suffix(".html"), rng=np.random.default_rng(0))
            except TowncastError as error:
                _LOG.warning("No page of Evidently: %s", error)
                say(f"none: {error.fact}")
                return None


def _card(registry: ModelRegistry, name: str, version: int) -> Card:
    from features.card import load_card

    with tempfile.TemporaryDirectory() as temporary:
        return load_card(registry.fetch(registry.version(name, version), Path(temporary)))


def _moment(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(seconds, unit="s", tz="UTC")


def _wide(inputs: pd.DataFrame, realised: pd.DataFrame) -> pd.DataFrame:
    """A row for each moment and site: the inputs, and the last forecast of it beside its actual."""
    wide = inputs.pivot_table(index=["valid_s", "site"], columns="name", values="value", aggfunc="last").reset_index()
    last = realised.sort_values("made_s", kind="stable").drop_duplicates(["site", "valid_s"], keep="last")
    return wide.merge(last.drop(columns="made_s"), on=["site", "valid_s"], how="left").drop(columns="valid_s")


def _counted(report: MonitoringReport) -> str:
    states = [line.state for line in report.assessments]
    counts = [f"{states.count(state)} {state}" for state in ("harmed", "suspect", "healthy", "no data")]
    return ", ".join(count for count in counts if not count.startswith("0 "))


def alerts_of(report: MonitoringReport) -> tuple[Alert, ...]:
    """What is told of a report: which sites are harmed; that they are well again."""
    harmed = [line for line in report.assessments if line.state == "harmed"]
    key = f"{report.domain}/{report.target}/performance"
    if not harmed:
        title = f"towncast: forecasts of {report.domain} {report.target} are well again"
        return (Alert(key=key, state="healthy", level="ok", title=title, text=_counted(report)),)
    names = ", ".join(line.site for line in harmed)
    return (
        Alert(
            key=key,
            state=f"harmed: {names}",
            level="warning",
            title=f"towncast: forecasts of {report.domain} {report.target} are harmed at {len(harmed)} sites",
            text="\n".join([*map(_site_line, harmed[:_MOST_NAMED]), *(one.reason for one in report.triggers)]),
        ),
    )


def _site_line(line: Assessment) -> str:
    return f"{line.site}: {line.reason}"


def _decisions(standing: Standing, what: str) -> list[Alert]:
    """How the last canary ended, told once; nothing of one that ended before anybody was told anything."""
    ended = [line for line in standing.decisions if line.outcome != "advanced"]
    if not ended or time.time() - datetime.fromisoformat(ended[-1].at).timestamp() > 2 * _DAY_S:
        return []
    last = ended[-1]
    title = f"towncast: version {last.version} of {standing.name} was {last.outcome}"
    return [Alert(key=f"{what}/canary", state=f"{last.at} {last.outcome}", level="info", title=title, text=last.reason)]


def _failed(domain: str, error: TowncastError) -> Alert:
    first = str(error).splitlines()[0]
    return Alert(
        key=f"{domain}/monitoring",
        state=f"failed: {error.fact}",
        level="failure",
        title=f"towncast: {domain} cannot be monitored",
        text=first,
    )


def _works(domain: str) -> Alert:
    title = f"towncast: {domain} is monitored again"
    return Alert(key=f"{domain}/monitoring", state="works", level="ok", title=title, text="The last look was whole.")
