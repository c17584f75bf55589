"""Traffic: volume, speed and congestion of a road for each hour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from features.card import Card, SpeedRelation
from features.domains.traffic import TRAFFIC, VOLUME
from features.vocabulary import Site
from serving.places import Place
from serving.predictions.api import Content, PredictionApi, found, rounded, stamps, top_features
from serving.schemas import (
    Coordinates,
    PredictionRequest,
    PredictionResponse,
    QualityReply,
    Reply,
    ShortName,
    SiteName,
    StrictRequest,
    horizon_field,
)
from serving.service import ForecastResult, Outcome
from serving.speed import congestion_level, default_relation, speed_km_per_h


class Location(StrictRequest):
    """Where: a road's name, or a point. The name decides if both are given."""

    road_id: SiteName | None = Field(default=None, description="Name of a road.", examples=["R001"])
    coordinates: Coordinates | None = Field(
        default=None, description="Latitude and longitude; the nearest road answers.", examples=[[23.0225, 72.5714]]
    )


class TrafficRequest(PredictionRequest):
    """A question about a road's traffic."""

    location: Location
    forecast_horizon: ShortName = horizon_field("traffic")

    def place(self) -> Place:
        """The road, or the point."""
        return Place(name=self.location.road_id, coordinates=self.location.coordinates)


class VolumeInterval(Reply):
    """The interval that holds the volume with a given probability."""

    lower: int = Field(description="[veh/h]")
    upper: int = Field(description="[veh/h]")
    confidence: float


class TrafficPrediction(Reply):
    """One hour."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    traffic_volume: int = Field(description="Median volume [veh/h].")
    average_speed: float = Field(description="Speed that goes with that volume [km/h].")
    congestion_level: int = Field(ge=0, le=100, description="Volume as a share of capacity [percent].")
    confidence_interval: VolumeInterval | None = Field(default=None, description="Left out if not asked for.")


class TrafficQuality(QualityReply):
    """What to know before trusting the forecast."""

    road_id: str = Field(description="The road that the forecast is for.")
    speed: str = Field(
        description="Speed is derived from volume, by a relation `fitted` to measured speeds or `assumed`.",
        examples=["derived, fitted", "derived, assumed"],
    )


class TrafficResponse(PredictionResponse):
    """A road's traffic, one entry an hour."""

    predictions: list[TrafficPrediction]
    quality: TrafficQuality


def speed_relation(card: Card, site: Site) -> SpeedRelation:
    """The road's volume-speed relation: the card's, or else an assumption."""
    if site.name in card.speed:
        return card.speed[site.name]
    highest = card.input_range.get(card.target, (math.nan, math.nan))[1]
    return default_relation(site, highest_veh_per_h=highest)


def _content(request: TrafficRequest, outcomes: Mapping[str, Outcome]) -> Content:
    result = found(outcomes, VOLUME.name)
    relation = speed_relation(result.card, result.site)
    return Content(
        results=(result,),
        quality=result.quality,
        place=("road_id", result.site.name),
        body={"predictions": _predictions(result, relation, with_interval=request.include_confidence)},
        explanation=top_features(result),
        more_quality={"speed": "derived, fitted" if relation.measured else "derived, assumed"},
    )


def _predictions(result: ForecastResult, relation: SpeedRelation, *, with_interval: bool) -> list[dict[str, Any]]:
    lower_H, median_H, upper_H = result.forecast.value_BHQ[0].T
    predictions: list[dict[str, Any]] = [
        {"timestamp": stamp, "traffic_volume": round(volume), "average_speed": speed, "congestion_level": level}
        for stamp, volume, speed, level in zip(
            stamps(result),
            median_H.tolist(),
            rounded(speed_km_per_h(median_H, relation), 1),
            congestion_level(median_H, relation).tolist(),
            strict=True,
        )
    ]
    if with_interval:
        # Outwards, so that whole vehicles never narrow the interval.
        for entry, lower, upper in zip(predictions, lower_H.tolist(), upper_H.tolist(), strict=True):
            ends = {"lower": math.floor(lower), "upper": math.ceil(upper), "confidence": result.confidence}
            entry["confidence_interval"] = ends
    return predictions


TRAFFIC_API = PredictionApi(
    domain=TRAFFIC.name,
    path=TRAFFIC.api_path,
    summary="Forecast a road's traffic",
    description="Volume, speed and congestion of a road for each hour from the first to the horizon, with intervals.",
    request=TrafficRequest,
    response=TrafficResponse,
    targets=lambda request: (VOLUME.name,),
    content=_content,
    examples={
        "road": {
            "summary": "A road by its name, a day ahead",
            "value": {"location": {"road_id": "R001"}, "forecast_horizon": "24h", "include_explanation": True},
        },
        "point": {
            "summary": "The road nearest to a point",
            "value": {
                "request_id": "7f1c0d5e-3b0a-4f0e-9a55-0f6f1f0f3c55",
                "location": {"coordinates": [23.0225, 72.5714]},
                "forecast_horizon": "2h",
                "include_confidence": True,
            },
        },
    },
)
