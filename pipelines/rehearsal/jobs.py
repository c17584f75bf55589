"""The jobs as a rehearsal runs them: the real ones, on the replay's clock."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from features.vocabulary import Domain
from pipelines.rehearsal.diary import Diary, Event
from pipelines.rehearsal.injections import KINDS
from pipelines.settings import Settings
from serving.monitoring.report import MonitoringReport, Trigger

_LOG_WAIT_S = 30.0
_RECENT_S = 14 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a look says of the target that is rehearsed.

    Attributes:
        report: The look.
    """

    report: MonitoringReport

    @property
    def harmed(self) -> tuple[str, ...]:
        """Sites that are said to be harmed."""
        return tuple(one.site for one in self.report.assessments if one.state == "harmed")

    @property
    def trigger(self) -> Trigger | None:
        """What asks for a retraining by error or coverage, None for nothing."""
        return next((one for one in self.report.triggers if one.kind == "performance"), None)

    def events(self, diary: Diary) -> tuple[Event, ...]:
        """New alarms, and alarms that are over."""
        harmed = set(self.harmed)
        new = [one for one in self.report.assessments if one.state == "harmed" and one.site not in diary.alarmed]
        alarms = [
            Event(at_s=diary.now_s, kind="alarm", sites=(one.site,), words=one.reason, cause=cause_of(diary, one.site))
            for one in new
        ]
        over = tuple(site for site in diary.alarmed if site not in harmed)
        clear = [Event(at_s=diary.now_s, kind="all clear", sites=over, words="as usual again")] if over else []
        return (*alarms, *clear)


def cause_of(diary: Diary, site: str) -> str:
    """The injection that an alarm at a site is due to: the latest that lasts or ended within two weeks, else empty."""
    found = [
        harm
        for harm in diary.harms
        if site in harm.sites
        and harm.begin_s <= diary.now_s
        and (harm.end_s is None or diary.now_s < harm.end_s + _RECENT_S)
    ]
    return max(found, key=lambda harm: harm.begin_s).kind if found else ""


def wait_for_log(settings: Settings) -> None:
    """Wait until the log holds what was answered: the API moves its journal there several times a second.

    Where that takes too long, the look is made without the newest forecasts: the next one has them.
    """
    from serving.prediction_log.settings import PredictionLogSettings

    journal = PredictionLogSettings(data_dir=settings.data_dir).journal_dir
    end = time.monotonic() + _LOG_WAIT_S
    while time.monotonic() < end and any(_holds_lines(path) for path in journal.glob("*.jsonl")):
        time.sleep(0.02)


def _holds_lines(segment: Path) -> bool:
    """Whether a segment of the journal has lines; the room of one without is all zeros."""
    try:
        with segment.open("rb") as file:
            return file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False


def look(domain: str, *, now_s: float) -> Seen:
    """One look of the monitoring job at the domain's first target.

    Raises:
        TowncastError: The look cannot be made.
    """
    from pipelines.monitor import monitor_domain
    from pipelines.schedule_settings import ScheduleSettings

    reports = monitor_domain(domain, settings=ScheduleSettings(), console=_silent(), now_s=now_s, tracked=False)
    return Seen(report=reports[0])


def retrain_now(domain: Domain, trigger: Trigger | None, *, now_s: float, weeks: int, recipe: str) -> Event:
    """Retrain because of a trigger, or on schedule for None; what became of it.

    Raises:
        TowncastError: It failed.
    """
    from pipelines.retrain import retrain
    from pipelines.schedule_settings import ScheduleSettings

    settings = ScheduleSettings()
    scheduled = Trigger(kind="schedule", sites=(), reason=f"every {weeks} weeks")
    # Curves of a training would tear the replay's own progress.
    with contextlib.redirect_stdout(io.StringIO()):
        outcome = retrain(
            domain.name,
            trigger=trigger or scheduled,
            settings=settings,
            console=_silent(),
            recipe_name=recipe,
            now_s=now_s,
        )
    first = next(one for one in outcome.targets if one.target == domain.target.name)
    champion = first.release == "champion"
    return Event(
        at_s=now_s,
        kind="retrained" if champion else "refused",
        words=f"version {first.version} is {first.release}: {first.verdict.reason}",
        cause=outcome.trigger.kind,
        model_version=newest_version(domain, settings) if champion else "",
    )


def newest_version(domain: Domain, settings: Settings) -> str:
    """Name and version of the champion of the domain's first target, as answers give it."""
    from serving.loading import champion
    from serving.settings import ServingSettings

    serving = ServingSettings(data_dir=settings.data_dir, tracking_uri=settings.tracking_uri)
    return champion(serving, domain.name).model_version


def kinds_words(kinds: tuple[str, ...]) -> str:
    """What is done to the readings, for people."""
    return "; ".join(f"{kind}: {KINDS[kind].words}" for kind in kinds)


def _silent() -> Console:
    """The jobs' own tables would push the replay's lines off the screen."""
    return Console(file=io.StringIO())
