"""What happened in a rehearsal, on the replay's clock; written after each replayed day, so that it can go on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from features.errors import DataError
from features.files import whole_file
from serving.monitoring.report import Figure

EventKind = Literal["trained", "injected", "ended", "alarm", "all clear", "retrained", "refused", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        at_s: When, on the replay's clock [s since 1970].
        kind: What.
        sites: Where; empty for everywhere.
        words: For people.
        cause: The kind of injection, the trigger, or empty.
        model_version: What answers from then on, empty where that did not change.
    """

    at_s: float
    kind: EventKind
    sites: tuple[str, ...] = ()
    words: str = ""
    cause: str = ""
    model_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """An injection as it was planned.

    Attributes:
        kind: Of `pipelines.rehearsal.injections.KINDS`.
        sites: Where.
        begin_s: First moment that is changed [s since 1970].
        end_s: First moment that is not, None for never [s since 1970].
        size: How much, in the kind's own measure.
    """

    kind: str
    sites: tuple[str, ...]
    begin_s: float
    end_s: float | None
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diary:
    """State of a rehearsal.

    Attributes:
        plan: What is rehearsed, in words: another plan does not go on with this diary.
        begin_s: Where the replay begins [s since 1970].
        end_s: Where it ends [s since 1970].
        harms: What is done to the readings.
        now_s: How far it has come [s since 1970].
        events: What happened, in order.
        alarmed: Sites that are said to be harmed now.
        retrained_s: Last retraining, None for none [s since 1970].
        seconds: Wall time so far [s].
    """

    plan: str
    begin_s: float
    end_s: float
    harms: tuple[Harm, ...]
    now_s: float
    events: tuple[Event, ...] = ()
    alarmed: tuple[str, ...] = ()
    retrained_s: float | None = None
    seconds: float = 0.0

    def with_event(self, event: Event) -> Diary:
        """The diary with one more event."""
        return replace(self, events=(*self.events, event))

    @property
    def trained(self) -> bool:
        """Whether the first champion is there."""
        return any(event.kind == "trained" for event in self.events)

    @property
    def over(self) -> bool:
        """Whether all is replayed."""
        return self.now_s >= self.end_s

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            StorageError: The folder cannot be written.
        """
        with whole_file(path) as temporary:
            temporary.write_bytes(_DIARY.dump_json(self, indent=1))


_DIARY = TypeAdapter(Diary)


def read_diary(path: Path) -> Diary | None:
    """The diary in a file, None where there is none.

    Raises:
        DataError: The file holds something else.
    """
    if not path.exists():
        return None
    try:
        return _DIARY.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            "The diary of the rehearsal is damaged",
            found=f"{path}: {error.error_count()} faults",
            remedy="Begin anew with --anew.",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What became of one injection.

    Attributes:
        harm: The injection.
        detected_s: The first alarm at one of its sites within it, None for none [s since 1970].
        retrained_s: Retrainings that ended with a new champion while it lasted [s since 1970].
        before: Mean absolute error of its sites in the weeks before [unit].
        worst: Their worst week since [unit].
        last: Their error in its last weeks [unit].
        unhelped: What the first champion would have made of the same weeks, None where it was not asked [unit].
        fresh: What a model makes of them that learnt from readings after the change alone, None where none was
            fitted [unit].
    """

    harm: Harm
    detected_s: float | None
    retrained_s: tuple[float, ...]
    before: Figure
    worst: Figure
    last: Figure
    unhelped: float | None = None
    fresh: float | None = None

    @property
    def delay_days(self) -> float | None:
        """From its begin to its detection [d]."""
        return None if self.detected_s is None else (self.detected_s - self.harm.begin_s) / 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteWeek:
    """How a site was forecast in a week.

    Attributes:
        site: Which.
        begin_s: Of the week [s since 1970].
        error: Mean absolute error [unit].
        coverage: Share of the actuals inside the interval (0 to 1).
        steps: Forecast steps with an actual.
        model_versions: What answered.
    """

    site: str
    begin_s: float
    error: Figure
    coverage: Figure
    steps: int
    model_versions: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """A rehearsal that is over.

    Attributes:
        diary: What happened.
        domain: Of the readings.
        target: What was forecast.
        unit: Of errors.
        weeks: How each site was forecast in each week.
        recoveries: What became of each injection.
        false_alarms: Alarms in healthy site-weeks.
        healthy_site_weeks: Site-weeks with weeks before them to compare with, without an injection at that time or in
            the two weeks before, whose error was no harm.
        natural_alarms: Alarms in site-weeks without an injection whose error was harm all the same.
        natural_site_weeks: Such site-weeks: a holiday, a frost, a sensor that failed by itself.
        readings: Readings that were replayed.
        forecasts: Forecasts in the log.
        nominal_coverage: What the intervals promise (0 to 1).
    """

    diary: Diary
    domain: str
    target: str
    unit: str
    weeks: tuple[SiteWeek, ...]
    recoveries: tuple[Recovery, ...]
    false_alarms: int
    healthy_site_weeks: int
    natural_alarms: int
    natural_site_weeks: int
    readings: int
    forecasts: int
    nominal_coverage: Figure

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            StorageError: The folder cannot be written.
        """
        with whole_file(path) as temporary:
            temporary.write_bytes(_REHEARSED.dump_json(self, indent=1))


_REHEARSED = TypeAdapter(Rehearsed)


def read_rehearsed(path: Path) -> Rehearsed:
    """A finished rehearsal from its file.

    Raises:
        ValueError: It is none.
    """
    return _REHEARSED.validate_json(path.read_bytes())
