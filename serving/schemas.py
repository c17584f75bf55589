"""What all requests and replies have in common. Strict: nothing is coerced, unknown fields are refused."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from features.domains import DOMAINS
from serving.places import Place
from serving.quality import LoweredBy, WeatherAhead

REQUEST_ID_LENGTH = 128

RequestId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=REQUEST_ID_LENGTH,
        # No character that could break a log line or a header.
        pattern=r"^[ -~]+$",
        description="Echoed in the reply and in errors; made up if none is given.",
        examples=["7f1c0d5e-3b0a-4f0e-9a55-0f6f1f0f3c55"],
    ),
]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, description="[degrees north]")]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="[degrees east]")]
Coordinates = tuple[Latitude, Longitude]
SiteName = Annotated[str, Field(min_length=1, max_length=200)]
ShortName = Annotated[str, Field(max_length=64)]


def horizon_field(domain: str) -> Any:
    """The field `forecast_horizon` of a domain's requests."""
    horizons: list[JsonValue] = [*DOMAINS[domain].horizons]
    example = "24h" if "24h" in horizons else horizons[-1]
    return Field(description="How far ahead.", examples=[example], json_schema_extra={"enum": horizons})


class StrictRequest(BaseModel):
    """Any part of a request."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class PredictionRequest(StrictRequest):
    """A question about a place; each domain adds how its places are called."""

    request_id: RequestId | None = None
    forecast_horizon: ShortName
    include_confidence: bool = Field(default=True, description="Whether each hour gets its interval.")
    include_explanation: bool = Field(default=False, description="Whether to name the most important inputs.")

    def options(self) -> Hashable:
        """All that a reply depends on besides its forecasts: what it holds, and how."""
        return (self.forecast_horizon, self.include_confidence, self.include_explanation)

    @abstractmethod
    def place(self) -> Place:
        """Where the question is about.

        Raises:
            InvalidParameterError: It says so in two ways that differ.
        """


class Reply(BaseModel):
    """Any part of a reply."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ConfidenceInterval(Reply):
    """The interval that holds the value with a given probability."""

    lower: float = Field(description="In the unit of the value.")
    upper: float = Field(description="In the unit of the value.")
    confidence: float


class Importance(Reply):
    """A group of inputs, and its share of what moves the forecast."""

    feature: str
    importance: float = Field(ge=0, le=1)


class Explanation(Reply):
    """The most important groups of inputs, by their mean absolute Shapley values over the horizon."""

    top_features: list[Importance]


class QualityReply(Reply):
    """What to know before trusting the forecast; nothing is degraded without a word here."""

    lowered_by: list[LoweredBy] = Field(
        description="All that makes the forecast less sure than the model's figures say; empty where nothing does.",
        examples=[["stale", "missing_inputs"]],
    )
    runtime: str = Field(description="What ran the model.", examples=["torchserve", "in_process"])
    distance_km: float | None = Field(
        default=None, description="Distance of the place from the coordinates, if they decided."
    )
    origin: str = Field(description="The forecast starts here, UTC.", examples=["2026-02-06T09:00:00Z"])
    last_reading: str = Field(description="Moment of the place's last reading, UTC.")
    reading_age_h: float = Field(description="Its age [h].")
    stale: bool = Field(description="Whether that is too old: then the forecast starts from the last reading.")
    missing_share: float = Field(ge=0, le=1, description="Share of the last day's readings that are missing.")
    gap_h: float = Field(ge=0, description="Longest time without a reading within the last 30 days [h].")
    history_h: float = Field(
        ge=0, description="Time from the first reading that the model sees to the origin [h]; under two weeks is short."
    )
    constant: bool = Field(description="Whether all readings of the last weeks are equal, as a broken sensor's are.")
    missing_inputs: dict[str, float] = Field(
        description="Share of the last day's values that are missing, of other inputs that the model was trained with; "
        "whole ones are left out.",
        examples=[{"temperature": 0.0417}],
    )
    out_of_range: list[str] = Field(description="Inputs of the last day outside the range of the training data.")
    unseen_site: bool = Field(description="Whether the model was trained without this place.")
    weather_ahead: WeatherAhead = Field(
        description="Whether weather forecasts for the hours asked for were there; `not used` by some models."
    )
    memory_age_s: float | None = Field(default=None, description="Age of the features, only if too old [s].")


class PredictionResponse(Reply):
    """An answer; each domain adds its predictions."""

    request_id: str = Field(examples=["pred-20260206-0a1b2c3d"])
    model_version: str = Field(examples=["traffic-lstm-v3"])
    explanation: Explanation | None = Field(default=None, description="Left out if not asked for.")
    inference_time_ms: float = Field(description="Time from the parsed request to the forecast [ms].")


class ErrorContent(Reply):
    """What went wrong."""

    code: str = Field(examples=["INVALID_PARAMETER"])
    message: str = Field(examples=["Invalid forecast_horizon. Must be one of: 2h, 6h, 12h, 24h"])
    details: dict[str, Any] = Field(
        examples=[{"parameter": "forecast_horizon", "provided": "48h", "allowed": ["2h", "6h", "12h", "24h"]}]
    )
    request_id: str = Field(examples=["req-20260206-0a1b2c3d"])
    timestamp: str = Field(examples=["2026-02-06T08:00:00Z"])


class ErrorReply(Reply):
    """The envelope of every error."""

    error: ErrorContent


class Live(Reply):
    """The process answers."""

    status: str = Field(examples=["alive"])


class ModelState(Reply):
    """One target's model."""

    model_version: str | None = Field(default=None, description="Left out if not loaded.", examples=["traffic-lstm-v3"])
    runtimes: dict[str, bool] = Field(default={}, examples=[{"torchserve": True, "in_process": True}])
    intervals: str | None = Field(
        default=None,
        description="Whether its intervals follow the errors of the last weeks; left out if not loaded.",
        examples=["adaptive", "fixed"],
    )
    intervals_until: str | None = Field(
        default=None,
        description="Moment of the last reading that adaptive intervals have learnt from, UTC; left out if not known.",
        examples=["2026-02-06T09:00:00Z"],
    )
    versions: dict[str, str] = Field(
        default={},
        description="Loaded versions by role.",
        examples=[{"champion": "traffic-lstm-v3", "canary": "traffic-lstm-v4"}],
    )
    precision: str | None = Field(
        default=None, description="Of the heavy weights; left out if not loaded.", examples=["fp32", "fp16"]
    )
    parity: float | None = Field(
        default=None, description="Largest relative difference between this graph and the model that was trained."
    )
    faults: dict[str, str] = Field(default={}, description="Roles whose version cannot be loaded, and why.")
    reason: str | None = Field(default=None, description="Why it is not loaded, and what to do.")


class DomainState(Reply):
    """One domain."""

    status: str = Field(examples=["ready", "not ready"])
    sites: int = Field(description="Number of known places.")
    models: dict[str, ModelState] = Field(description="By target.")


class Ready(Reply):
    """Models are loaded and a runtime is up."""

    status: str = Field(examples=["ready"])
    domains: dict[str, DomainState]
    parts: dict[str, str] = Field(
        default={},
        description="What else the API leans on, as far as it is switched on; without it the API goes on as it can.",
        examples=[{"mqtt": "following", "keys": "up", "limits": "away"}],
    )
