"""Water: demand of a supply zone for each hour, and its total for each local day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import Field

from features.domains.water import INFLOW, WATER
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

_L_PER_M3 = 1000.0


class WaterRequest(PredictionRequest):
    """A question about a supply zone's demand."""

    zone_id: SiteName = Field(description="Name of a zone.", examples=["Z001"])
    forecast_horizon: ShortName = horizon_field("water")

    def place(self) -> Place:
        """The zone."""
        return Place(name=self.zone_id, parameter="zone_id")


class WaterPrediction(Reply):
    """One hour."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    water_demand: float = Field(description="Median of the mean flow into the zone [L/s].")
    confidence_interval: ConfidenceInterval | None = Field(default=None, description="Left out if not asked for [L/s].")


class DailyTotal(Reply):
    """One local day, as far as it is in the horizon."""

    date: str = Field(description="The day on the zone's clocks.", examples=["2026-02-07"])
    total_m3: float = Field(description="Demand over the part of the day that is in the horizon [m3].")
    complete: bool = Field(description="Whether that is the whole day.")


class WaterQuality(QualityReply):
    """What to know before trusting the forecast."""

    zone_id: str = Field(description="The zone that the forecast is for.")


class WaterResponse(PredictionResponse):
    """A zone's demand, one entry an hour, and its daily totals."""

    predictions: list[WaterPrediction]
    daily_totals: list[DailyTotal] = Field(description="Of the median, for each local day that the horizon touches.")
    quality: WaterQuality


def daily_totals(result: ForecastResult) -> list[dict[str, Any]]:
    """The forecast volume of each local day that the horizon touches.

    An hour that lies in two local days, as where clocks are half an hour off UTC, counts to each by its part.
    """
    forecast, clock = result.forecast, ZoneInfo(result.site.timezone)
    step_s, origin_s = forecast.step_s, int(forecast.origins[0])
    flow_H = forecast.at_level(0.5)[0].astype(np.float64)
    edges_s = origin_s + step_s * np.arange(len(flow_H) + 1)
    volume_m3 = np.concatenate([[0.0], np.cumsum(flow_H)]) * step_s / _L_PER_M3
    end_s = int(edges_s[-1])
    totals = []
    day = datetime.fromtimestamp(origin_s, UTC).astimezone(clock).date()
    while (starts_s := _midnight_s(day, clock)) < end_s:
        ends_s = _midnight_s(day + timedelta(days=1), clock)
        first, last = np.interp([max(starts_s, origin_s), min(ends_s, end_s)], edges_s, volume_m3)
        whole = origin_s <= starts_s and ends_s <= end_s
        totals.append({"date": day.isoformat(), "total_m3": round(float(last - first), 1), "complete": whole})
        day += timedelta(days=1)
    return totals


def _midnight_s(day: date, clock: ZoneInfo) -> float:
    """The moment at which a local day begins [s since 1970]."""
    return datetime(day.year, day.month, day.day, tzinfo=clock).timestamp()


def _content(request: WaterRequest, outcomes: Mapping[str, Outcome]) -> Content:
    result = found(outcomes, INFLOW.name)
    median_H = result.forecast.at_level(0.5)[0]
    predictions: list[dict[str, Any]] = [
        {"timestamp": stamp, "water_demand": flow}
        for stamp, flow in zip(stamps(result), rounded(median_H, 2), strict=True)
    ]
    if request.include_confidence:
        add_intervals(predictions, result, 2)
    return Content(
        results=(result,),
        quality=result.quality,
        place=("zone_id", result.site.name),
        body={"predictions": predictions, "daily_totals": daily_totals(result)},
        explanation=top_features(result),
    )


WATER_API = PredictionApi(
    domain=WATER.name,
    path=WATER.api_path,
    summary="Forecast a zone's water demand",
    description="Flow into a supply zone for each hour from the first to the horizon, with intervals, and the volume "
    "of each local day.",
    request=WaterRequest,
    response=WaterResponse,
    targets=lambda request: (INFLOW.name,),
    content=_content,
    examples={
        "zone": {
            "summary": "A zone, three days ahead",
            "value": {"zone_id": "Z001", "forecast_horizon": "72h", "include_confidence": True},
        }
    },
)
