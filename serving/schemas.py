"""Requests and replies, exactly as the API's document has them, plus `quality`. Strict: nothing is coerced."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

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


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Location(_Request):
    """Where: a road's name, or a point. The name decides if both are given."""

    road_id: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        default=None, description="Name of a road.", examples=["R001"]
    )
    coordinates: tuple[Latitude, Longitude] | None = Field(
        default=None, description="Latitude and longitude; the nearest road answers.", examples=[[23.0225, 72.5714]]
    )


class TrafficRequest(_Request):
    """A question about a road's traffic."""

    request_id: RequestId | None = None
    location: Location
    forecast_horizon: Annotated[str, Field(max_length=64)] = Field(
        description="How far ahead.", examples=["24h"], json_schema_extra={"enum": ["2h", "6h", "12h", "24h"]}
    )
    include_confidence: bool = Field(default=True, description="Whether each hour gets its interval.")
    include_explanation: bool = Field(default=False, description="Whether to name the most important inputs.")


class ConfidenceInterval(_Reply):
    """The interval that holds the volume with a given probability."""

    lower: int = Field(description="[veh/h]")
    upper: int = Field(description="[veh/h]")
    confidence: float


class TrafficPrediction(_Reply):
    """One hour."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    traffic_volume: int = Field(description="Median volume [veh/h].")
    average_speed: float = Field(description="Speed that goes with that volume [km/h].")
    congestion_level: int = Field(ge=0, le=100, description="Volume as a share of capacity [percent].")
    confidence_interval: ConfidenceInterval | None = Field(default=None, description="Left out if not asked for.")


class Importance(_Reply):
    """An input, and its share of what moves the forecast."""

    feature: str
    importance: float = Field(ge=0, le=1)


class Explanation(_Reply):
    """The most important inputs, by occlusion."""

    top_features: list[Importance]


class QualityReply(_Reply):
    """What to know before trusting the forecast; nothing is degraded without a word here."""

    runtime: str = Field(description="What ran the model.", examples=["torchserve", "in_process"])
    road_id: str = Field(description="The road that the forecast is for.")
    distance_km: float | None = Field(default=None, description="Its distance from the coordinates, if they decided.")
    origin: str = Field(description="The forecast starts here, UTC.", examples=["2026-02-06T09:00:00Z"])
    last_reading: str = Field(description="Moment of the road's last reading, UTC.")
    reading_age_h: float = Field(description="Its age [h].")
    stale: bool = Field(description="Whether that is too old: then the forecast starts from that reading.")
    missing_share: float = Field(ge=0, le=1, description="Share of the last day's volumes that are missing.")
    out_of_range: list[str] = Field(description="Inputs of the last day outside the range of the training data.")
    unseen_site: bool = Field(description="Whether the model was trained without this road.")
    memory_age_s: float | None = Field(default=None, description="Age of the features, only if too old [s].")
    speed: str = Field(
        description="Speed is derived from volume, by a relation `fitted` to measured speeds or `assumed`.",
        examples=["derived, fitted", "derived, assumed"],
    )


class TrafficResponse(_Reply):
    """A road's traffic, one entry an hour."""

    request_id: str = Field(examples=["pred-20260206-0a1b2c3d"])
    predictions: list[TrafficPrediction]
    model_version: str = Field(examples=["traffic-lstm-v3"])
    explanation: Explanation | None = Field(default=None, description="Left out if not asked for.")
    inference_time_ms: float = Field(description="Time from the parsed request to the forecast [ms].")
    quality: QualityReply


class ErrorContent(_Reply):
    """What went wrong."""

    code: str = Field(examples=["INVALID_PARAMETER"])
    message: str = Field(examples=["Invalid forecast_horizon. Must be one of: 2h, 6h, 12h, 24h"])
    details: dict[str, Any] = Field(
        examples=[{"parameter": "forecast_horizon", "provided": "48h", "allowed": ["2h", "6h", "12h", "24h"]}]
    )
    request_id: str = Field(examples=["req-20260206-0a1b2c3d"])
    timestamp: str = Field(examples=["2026-02-06T08:00:00Z"])


class ErrorReply(_Reply):
    """The envelope of every error."""

    error: ErrorContent


class Live(_Reply):
    """The process answers."""

    status: str = Field(examples=["alive"])


class Ready(_Reply):
    """The model is loaded and a runtime is up."""

    status: str = Field(examples=["ready"])
    model_version: str = Field(examples=["traffic-lstm-v3"])
    runtimes: dict[str, bool] = Field(examples=[{"torchserve": True, "in_process": True}])
    sites: int = Field(description="Number of known roads.")
