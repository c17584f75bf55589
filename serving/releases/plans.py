"""What was planned for a version: the share of a challenger, the steps of a canary. Kept as tags of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from features.alias_history import AliasChange, read_history
from features.card import CHAMPION

# Aliases of a registered model beside `champion`.
CHALLENGER, CANARY, SHADOW = "challenger", "canary", "shadow"
ROLES = (CHAMPION, CHALLENGER, CANARY, SHADOW)
# Keys of the registered model's tags.
CHALLENGER_TAG, CANARY_TAG, DECISION_TAG = "release_challenger", "release_canary", "release_decision."
DecisionOutcome = Literal["advanced", "promoted", "rolled back"]
Percent = Annotated[float, Field(gt=0, le=100)]
_Id = Annotated[str, Field(pattern=r"^[0-9a-f]{8,32}$")]


class _Kept(BaseModel):
    """Frozen, and strict to the letter: what is in a tag decides who answers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ChallengerPlan(_Kept):
    """An A/B test: a version answers for a fixed share of the sites.

    Attributes:
        id: Of the test; decides which sites are chosen.
        version: In the registry.
        share_percent: Of the sites [%].
        since_s: When it began [s since 1970].
    """

    id: _Id
    version: int = Field(ge=1)
    share_percent: Percent
    since_s: float


class CanaryLimits(_Kept):
    """Beyond which difference from the champion a canary is rolled back.

    Attributes:
        error_margin: How much larger its share of failed answers may be (0 to 1).
        latency_ratio: How many times as slow its 95th percentile may be.
        latency_floor_s: A difference in that percentile that never matters [s].
        error_ratio: How many times as large its mean absolute error may be.
        coverage_margin: How much smaller the share of readings inside its interval may be (0 to 1).
        matched_steps: Fewest forecast steps with a reading before error and coverage are judged.
    """

    error_margin: float = Field(default=0.02, ge=0, le=1)
    latency_ratio: float = Field(default=1.5, ge=1)
    latency_floor_s: float = Field(default=0.01, ge=0)
    error_ratio: float = Field(default=1.1, ge=1)
    coverage_margin: float = Field(default=0.1, ge=0, le=1)
    matched_steps: int = Field(default=48, ge=1)


class CanaryPlan(_Kept):
    """A version that answers for more and more sites, until it is champion or is rolled back.

    Attributes:
        id: Of the release; decides which sites are first.
        version: In the registry.
        champion: Version that it is compared with.
        steps_percent: Share of the sites at each step, ascending to 100 [%].
        step: Index of the present one.
        step_since_s: When it began [s since 1970].
        since_s: When the first began [s since 1970].
        minimum_s: Shortest duration of a step [s].
        minimum_requests: Fewest answers of the canary in a step.
        limits: Beyond which it is rolled back.
        reason: Why it is released.
        approved_by: Person who approved that it becomes champion; empty for nobody.
    """

    id: _Id
    version: int = Field(ge=1)
    champion: int = Field(ge=1)
    steps_percent: tuple[Percent, ...] = Field(default=(5.0, 25.0, 50.0, 100.0), min_length=1, max_length=20)
    step: int = Field(default=0, ge=0)
    step_since_s: float
    since_s: float
    minimum_s: float = Field(default=1800.0, ge=0)
    minimum_requests: int = Field(default=200, ge=0)
    limits: CanaryLimits = CanaryLimits()
    reason: str = Field(default="", max_length=500)
    approved_by: str = Field(default="", max_length=200)

    @field_validator("steps_percent")
    @classmethod
    def _ascend(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(steps)) or steps[-1] != 100:
            raise ValueError("the steps must ascend, and end with 100")
        return steps

    @model_validator(mode="after")
    def _within(self) -> CanaryPlan:
        if self.step >= len(self.steps_percent):
            raise ValueError(f"there is no step {self.step}")
        return self

    @property
    def share_percent(self) -> float:
        """Of the sites, at the present step [%]."""
        return self.steps_percent[self.step]


class CheckLine(_Kept):
    """One line of a decision's table.

    Attributes:
        name: What was looked at.
        canary: The canary's figure.
        champion: The champion's.
        allowed: What is allowed.
        state: Whether that holds.
    """

    name: str
    canary: str
    champion: str
    allowed: str
    state: Literal["holds", "fails", "not judged"]


class DecisionLine(_Kept):
    """One line of the history of decisions.

    Attributes:
        at: When [ISO 8601, UTC].
        plan: Id of the canary's plan.
        version: The canary's.
        outcome: What was done.
        share_percent: Share of the sites that it had [%].
        reason: Why.
        table: What the decision rests on.
    """

    at: str
    plan: _Id
    version: int
    outcome: DecisionOutcome
    share_percent: float
    reason: str
    table: tuple[CheckLine, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the registry says of one model.

    Attributes:
        name: Of the registered model.
        made_ms: When it was registered [ms since 1970]: a registry that was made anew counts versions from 1 again.
        versions: Version by alias, of the four roles.
        challenger: Plan of the version with this alias, None where there is none that holds.
        canary: Likewise.
        decisions: About canaries, oldest first.
        faults: What its tags say that cannot be followed; the champion answers alone then.
        history: Changes of its aliases, oldest first.
    """

    name: str
    made_ms: int
    versions: Mapping[str, int] = field(default_factory=dict)
    challenger: ChallengerPlan | None = None
    canary: CanaryPlan | None = None
    decisions: tuple[DecisionLine, ...] = ()
    faults: tuple[str, ...] = ()
    history: tuple[AliasChange, ...] = ()


Plan = TypeVar("Plan", ChallengerPlan, CanaryPlan)


def standing_of(model: Any) -> Standing:
    """What a registered model's aliases and tags say; what cannot be followed is told in `faults`.

    Args:
        model: A `RegisteredModel` of MLflow.
    """
    aliases = {alias: int(number) for alias, number in model.aliases.items()}
    versions = {alias: number for alias, number in aliases.items() if alias in ROLES}
    faults: list[str] = []
    challenger = _plan(ChallengerPlan, CHALLENGER_TAG, model.tags, versions.get(CHALLENGER), faults)
    canary = _plan(CanaryPlan, CANARY_TAG, model.tags, versions.get(CANARY), faults)
    return Standing(
        name=model.name,
        made_ms=int(model.creation_timestamp or 0),
        versions=versions,
        challenger=challenger,
        canary=canary,
        decisions=_decisions(model.tags, faults),
        history=_history(model.tags, aliases, faults),
        faults=tuple(faults),
    )


def _plan(kind: type[Plan], key: str, tags: Mapping[str, str], version: int | None, faults: list[str]) -> Plan | None:
    """The plan of the version that has the alias; the alias alone, or a plan of another version, gives no share."""
    if version is None:
        return None
    text = tags.get(key)
    if text is None:
        faults.append(f"version {version} has an alias and no plan in the tag {key}: it answers for no site")
        return None
    try:
        plan = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        faults.append(f"the tag {key} cannot be read ({first['msg']}): the champion answers alone")
        return None
    if plan.version != version:
        faults.append(f"the tag {key} plans version {plan.version}, and the alias is version {version}'s")
        return None
    return plan


def _history(tags: Mapping[str, str], aliases: Mapping[str, int], faults: list[str]) -> tuple[AliasChange, ...]:
    try:
        return read_history(tags, aliases)
    except (ValueError, TypeError):
        faults.append("the history of its aliases cannot be read")
        return ()


def _decisions(tags: Mapping[str, str], faults: list[str]) -> tuple[DecisionLine, ...]:
    lines = []
    for key in sorted(key for key in tags if key.startswith(DECISION_TAG)):
        try:
            lines.append(DecisionLine.model_validate_json(tags[key]))
        except ValidationError:
            faults.append(f"the tag {key} cannot be read")
    return tuple(sorted(lines, key=lambda line: line.at))
