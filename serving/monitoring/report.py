"""What a look at a served model says: how each site does, what drifted, and what asks for a retraining."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, TypeAdapter
from pydantic_core import from_json

SiteState = Literal["healthy", "suspect", "harmed", "no data"]
TriggerKind = Literal["performance", "data", "schedule", "manual"]
Measure = Literal["psi", "ks", "wasserstein"]
DriftOf = Literal["feature", "prediction"]


def _figure(value: Any) -> Any:
    return math.nan if value is None else value


# JSON has no NaN: what is not there is null.
Figure = Annotated[float, BeforeValidator(_figure)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """How one site does, by its realised errors alone.

    Attributes:
        site: Which.
        state: `suspect` has evidence that hysteresis does not confirm yet; `no data` has too few actuals to say.
        since_s: Begin of what was looked at [s since 1970].
        until_s: Its end: the last actual that counts [s since 1970].
        steps: Forecast steps with an actual in it.
        error: Mean absolute error [unit].
        usual_error: Its median over the weeks of the reference [unit].
        mape_percent: Mean absolute percentage error, NaN where actuals are zero.
        usual_mape_percent: Of the reference.
        coverage: Share of the actuals inside the interval (0 to 1).
        nominal_coverage: What the interval promises (0 to 1).
        score: Evidence of harm; calibrated so that `limit` is passed in few healthy weeks.
        limit: From which score on a look counts as evidence.
        reason: One sentence for people.
    """

    site: str
    state: SiteState
    since_s: int
    until_s: int
    steps: int
    error: Figure = math.nan
    usual_error: Figure = math.nan
    mape_percent: Figure = math.nan
    usual_mape_percent: Figure = math.nan
    coverage: Figure = math.nan
    nominal_coverage: Figure = math.nan
    score: Figure = math.nan
    limit: Figure = math.nan
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLine:
    """How far one distribution has moved, hour of the week by hour of the week; explains, and triggers nothing.

    Attributes:
        of: A measured input, or the forecasts themselves.
        site: Which.
        name: The channel, or the target for forecasts.
        measure: How it is measured; Wasserstein distances are divided by the reference's standard deviation.
        value: The distance.
        threshold: From which on it is said.
    """

    of: DriftOf
    site: str
    name: str
    measure: Measure
    value: Figure
    threshold: float

    @property
    def drifted(self) -> bool:
        """Whether the threshold is passed."""
        return self.value > self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEstimate:
    """What the error will probably be, said before actuals come.

    Attributes:
        site: Which.
        error: Expected mean absolute error of the forecasts without actuals [unit].
        usual_error: Of the reference [unit].
        steps: Forecast steps that it is of.
    """

    site: str
    error: Figure
    usual_error: Figure
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What asks for a retraining.

    Attributes:
        kind: `performance` (error or coverage), `data` (new sites, or as many new readings as settings say),
            `schedule` or `manual`.
        sites: Because of which; empty for all.
        reason: One sentence for people, with its figures.
    """

    kind: TriggerKind
    sites: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringReport:
    """One look at one target's champion.

    Attributes:
        id: Unique; ascends with time.
        domain: Of the target.
        target: What is forecast.
        unit: Of errors.
        model_version: The champion's, such as `traffic-lstm-v3`.
        at_s: When it was made, on the clock of the readings' arrival [s since 1970].
        since_s: Begin of the actuals that were looked at [s since 1970].
        until_s: Their end [s since 1970].
        assessments: A line for each site.
        drift: Lines of features and forecasts.
        estimates: Where forecasts wait for actuals.
        triggers: What asks for a retraining; empty for nothing.
        remarks: What else is to be known: clocks that jumped, sites that vanished, actuals that never came.
    """

    id: str
    domain: str
    target: str
    unit: str
    model_version: str
    at_s: float
    since_s: int
    until_s: int
    assessments: tuple[Assessment, ...] = ()
    drift: tuple[DriftLine, ...] = ()
    estimates: tuple[ErrorEstimate, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def as_json(self) -> bytes:
        """As it is kept; figures that are not there are null."""
        return _REPORT.dump_json(self)


_REPORT = TypeAdapter(MonitoringReport)


def report_from_json(text: bytes | str) -> MonitoringReport:
    """A report as it was kept.

    Raises:
        ValueError: It is none.
    """
    return _REPORT.validate_json(text)


def report_of_site(text: bytes, site: str) -> MonitoringReport:
    """A report as it was kept, with what it says of one site alone; triggers and remarks are of all.

    Raises:
        ValueError: It is none.
    """
    kept = from_json(text)
    if not isinstance(kept, dict):
        raise ValueError("it is no JSON object")
    for name in ("assessments", "drift", "estimates"):
        kept[name] = [line for line in kept.get(name, ()) if isinstance(line, dict) and line.get("site") == site]
    return _REPORT.validate_python(kept)
