"""Demand: trips from a control point for each hour, and the multiplier that drives a simulation there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from features.domains.demand import DEMAND, TRIPS
from features.errors import InvalidParameterError
from serving.places import Place
from serving.predictions.api import (
    Content,
    PredictionApi,
    add_intervals,
    found,
    rounded,
    stamps,
    top_features,
)
from serving.schemas import (
    ConfidenceInterval,
    PredictionRequest,
    PredictionResponse,
    QualityReply,
    Reply,
    ShortName,
    SiteName,
    horizon_field,
)
from serving.service import ForecastResult, Outcome

# A site's attribute, as the control points of a simulation have it.
_BASELINE = "baseline_veh_per_hour"


class DemandRequest(PredictionRequest):
    """A question about the trips from a control point."""

    control_point_id: SiteName | None = Field(
        default=None, description="Name of a control point: an on-ramp, a dock.", examples=["ramp_1"]
    )
    site_id: SiteName | None = Field(default=None, description="The same by another name; one of both is needed.")
    forecast_horizon: ShortName = horizon_field("demand")

    def place(self) -> Place:
        """The control point.

        Raises:
            InvalidParameterError: Both names are given and differ, or none is.
        """
        names = {name for name in (self.control_point_id, self.site_id) if name is not None}
        if len(names) != 1:
            raise InvalidParameterError(
                parameter="control_point_id",
                provided=sorted(names) or None,
                allowed="the name of one control point",
                fact="The request does not name one control point",
                remedy="Give control_point_id, or site_id, which means the same.",
            )
        return Place(name=names.pop(), parameter="control_point_id")


class DemandPrediction(Reply):
    """One hour."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    trips: float = Field(description="Median of the trips begun in the hour.")
    multiplier: float | None = Field(
        description="Those trips as a multiple of `baseline_trips`: 1.0 is the baseline flow. None if that is 0."
    )
    confidence_interval: ConfidenceInterval | None = Field(
        default=None, description="Left out if not asked for [trips]."
    )


class DemandQuality(QualityReply):
    """What to know before trusting the forecast."""

    control_point_id: str = Field(description="The control point that the forecast is for.")


class DemandResponse(PredictionResponse):
    """Trips from a control point, one entry an hour."""

    predictions: list[DemandPrediction]
    baseline_trips: float = Field(
        description="Baseline flow of the control point, or else its mean over the last nine weeks [trip/h]."
    )
    quality: DemandQuality


def baseline_trips(result: ForecastResult) -> float:
    """The baseline flow of a control point [trip/h]: its own, or else the mean of its readings over the window.

    The multipliers of a simulation are relative to the former; a window of nine whole weeks holds each hour of the week
    equally often.
    """
    own = result.site.attributes.get(_BASELINE, 0.0)
    if own > 0:
        return own
    history_L = result.window.history_BLK[0, :, DEMAND.targets.index(TRIPS)].astype(np.float64)
    known = history_L[np.isfinite(history_L)]
    return float(known.mean()) if len(known) else 0.0


def _content(request: DemandRequest, outcomes: Mapping[str, Outcome]) -> Content:
    result = found(outcomes, TRIPS.name)
    median_H, baseline = result.forecast.at_level(0.5)[0], baseline_trips(result)
    multipliers: list[float] | list[None] = [None] * len(median_H)
    if baseline > 0:
        multipliers = rounded(median_H / baseline, 3)
    predictions: list[dict[str, Any]] = [
        {"timestamp": stamp, "trips": trips, "multiplier": multiplier}
        for stamp, trips, multiplier in zip(stamps(result), rounded(median_H, 1), multipliers, strict=True)
    ]
    if request.include_confidence:
        add_intervals(predictions, result, 1)
    return Content(
        results=(result,),
        quality=result.quality,
        place=("control_point_id", result.site.name),
        body={"predictions": predictions, "baseline_trips": round(baseline, 1)},
        explanation=top_features(result),
    )


DEMAND_API = PredictionApi(
    domain=DEMAND.name,
    path=DEMAND.api_path,
    summary="Forecast the trips from a control point",
    description="Trips from a control point for each hour from the first to the horizon, with intervals, and as "
    "multiples of its baseline flow: what drives a simulation there.",
    request=DemandRequest,
    response=DemandResponse,
    targets=lambda request: (TRIPS.name,),
    content=_content,
    examples={
        "point": {
            "summary": "A control point, six hours ahead",
            "value": {"control_point_id": "ramp_1", "forecast_horizon": "6h"},
        }
    },
)
