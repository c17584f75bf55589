"""The traffic reply: volume, speed and congestion of each hour."""

from __future__ import annotations

import functools
import math
import uuid
from datetime import UTC, datetime
from typing import Any

import numpy as np

from features.card import Card, SpeedRelation
from features.vocabulary import Site
from serving.schemas import TrafficRequest
from serving.service import ForecastResult
from serving.speed import congestion_level, default_relation, speed_km_per_h


@functools.lru_cache(maxsize=4096)
def utc_text(moment_s: float) -> str:
    """A moment [s since 1970] as the API writes it, such as `2026-02-06T10:00:00Z`."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_id(prefix: str) -> str:
    """An identifier such as `pred-20260206-0a1b2c3d`."""
    return f"{prefix}-{datetime.now(UTC):%Y%m%d}-{uuid.uuid4().hex[:8]}"


def speed_relation(card: Card, site: Site) -> SpeedRelation:
    """The road's volume-speed relation: the card's, or else an assumption."""
    if site.name in card.speed:
        return card.speed[site.name]
    highest = card.input_range.get(card.target, (math.nan, math.nan))[1]
    return default_relation(site, highest_veh_per_h=highest)


def traffic_reply(
    request: TrafficRequest, result: ForecastResult, relation: SpeedRelation, *, inference_time_ms: float
) -> dict[str, Any]:
    """The reply to a request, of the layout of `serving.schemas.TrafficResponse`.

    Plain dictionaries: making fifty models of an answer that is right by construction took as long as the forecast.

    Args:
        request: What was asked.
        result: What the service found.
        relation: The road's volume-speed relation.
        inference_time_ms: How long it took [ms].
    """
    reply: dict[str, Any] = {
        "request_id": request.request_id or new_id("pred"),
        "predictions": _predictions(result, relation, with_interval=request.include_confidence),
        "model_version": result.forecast.model,
    }
    if result.explanation is not None:
        top = [{"feature": item.feature, "importance": round(item.importance, 4)} for item in result.explanation]
        reply["explanation"] = {"top_features": top}
    reply["inference_time_ms"] = round(inference_time_ms, 2)
    reply["quality"] = _quality(result, relation)
    return reply


def _predictions(result: ForecastResult, relation: SpeedRelation, *, with_interval: bool) -> list[dict[str, Any]]:
    forecast = result.forecast
    lower_H, median_H, upper_H = forecast.value_BHQ[0].T
    predictions: list[dict[str, Any]] = [
        {"timestamp": utc_text(moment), "traffic_volume": volume, "average_speed": speed, "congestion_level": level}
        for moment, volume, speed, level in zip(
            forecast.valid_at()[0].tolist(),
            np.rint(median_H).astype(int).tolist(),
            np.round(speed_km_per_h(median_H, relation), 1).tolist(),
            congestion_level(median_H, relation).tolist(),
            strict=True,
        )
    ]
    if with_interval:
        # Outwards, so that whole vehicles never narrow the interval.
        lowers, uppers = np.floor(lower_H).astype(int).tolist(), np.ceil(upper_H).astype(int).tolist()
        for entry, lower, upper in zip(predictions, lowers, uppers, strict=True):
            entry["confidence_interval"] = {"lower": lower, "upper": upper, "confidence": result.confidence}
    return predictions


def _quality(result: ForecastResult, relation: SpeedRelation) -> dict[str, Any]:
    quality = result.quality
    reply: dict[str, Any] = {"runtime": quality.runtime, "road_id": result.site.name}
    if quality.distance_km is not None:
        reply["distance_km"] = round(quality.distance_km, 3)
    reply |= {
        "origin": utc_text(quality.origin_s),
        "last_reading": utc_text(quality.last_reading_s),
        "reading_age_h": round(quality.reading_age_h, 2),
        "stale": quality.stale,
        "missing_share": round(quality.missing_share, 4),
        "out_of_range": quality.out_of_range,
        "unseen_site": quality.unseen_site,
    }
    if quality.memory_age_s is not None:
        reply["memory_age_s"] = round(quality.memory_age_s, 1)
    reply["speed"] = "derived, fitted" if relation.measured else "derived, assumed"
    return reply
