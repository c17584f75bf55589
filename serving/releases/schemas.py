"""What `GET /releases` answers."""

from __future__ import annotations

from pydantic import Field

from serving.schemas import Reply


class RoleFiguresReply(Reply):
    """What a version did in this process since it was loaded."""

    requests: int = Field(ge=0, description="Its answers, failed ones too; of a shadow its runs.")
    failures: int = Field(ge=0, description="Failed ones; the champion answered in their place.")
    p95_ms: float | None = Field(
        default=None, description="95th percentile of the time of forecasts that were made, not kept ones [ms]."
    )
    compared: int = Field(ge=0, description="Windows that the champion forecast as well.")
    mean_difference: float | None = Field(
        default=None, description="Mean difference of its medians from the champion's, in the target's unit."
    )
    interval_overlap: float | None = Field(
        default=None, ge=0, le=1, description="Share of either interval that both cover."
    )
    not_compared: int = Field(ge=0, description="Answers that were not compared: too many waited.")
    matched_steps: int = Field(ge=0, description="Steps that both forecast and whose reading has come.")
    mean_absolute_error: float | None = Field(default=None, description="Over these steps, in the target's unit.")
    champion_mean_absolute_error: float | None = Field(default=None, description="The champion's, over the same steps.")
    coverage: float | None = Field(default=None, ge=0, le=1, description="Share of these readings in its interval.")
    champion_coverage: float | None = Field(default=None, ge=0, le=1, description="In the champion's interval.")


class RoleReply(Reply):
    """A version that has a role."""

    role: str = Field(examples=["champion", "challenger", "canary", "shadow"])
    version: str = Field(description="In the registry.", examples=["3"])
    model_version: str = Field(examples=["traffic-lstm-v3"])
    share: float = Field(ge=0, le=1, description="Share of the sites that it answers for; 0 for a shadow.")
    figures: RoleFiguresReply


class CheckReply(Reply):
    """One line of a decision's table."""

    name: str = Field(examples=["failed answers"])
    canary: str
    champion: str
    allowed: str
    state: str = Field(examples=["holds", "fails", "not judged"])


class DecisionReply(Reply):
    """What was decided about a canary."""

    at: str = Field(description="UTC.", examples=["2026-02-06T09:00:00+00:00"])
    version: int
    outcome: str = Field(examples=["advanced", "promoted", "rolled back"])
    share_percent: float = Field(description="Share of the sites that it had [%].")
    reason: str
    table: list[CheckReply]


class CanaryReply(Reply):
    """A canary's plan."""

    version: int
    step: int = Field(description="Index of the present step.")
    steps_percent: list[float] = Field(description="Share of the sites at each step [%].")
    step_since: str = Field(description="When the present step began, UTC.")
    minimum_minutes: float = Field(description="Shortest duration of a step [min].")
    minimum_requests: int = Field(description="Fewest answers in a step.")


class ReleaseReply(Reply):
    """The release of one target."""

    domain: str
    target: str
    model: str = Field(description="In the registry.", examples=["towncast-traffic"])
    roles: list[RoleReply]
    canary: CanaryReply | None = Field(default=None, description="Left out without one.")
    decisions: list[DecisionReply] = Field(description="About canaries, the last ones, oldest first.")
    faults: dict[str, str] = Field(description="What cannot be loaded or followed, and why, by role.")


class ReleasesReply(Reply):
    """All releases of this process."""

    registry: str = Field(description="Whether the registry of models answers.", examples=["answers", "away"])
    releases: list[ReleaseReply]
