"""What each domain's data API answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from features.air_quality import aqi_from_hourly, category
from features.air_quality_standards import STANDARDS as INDEX_STANDARDS
from features.card import SpeedRelation
from features.domains.demand import DEMAND, TRIPS
from features.domains.pollution import POLLUTION
from features.domains.traffic import SPEED, TRAFFIC, VOLUME
from features.domains.water import INFLOW, TANK_LEVEL, WATER
from features.vocabulary import Domain, Site
from serving.data.lookup import Found, Span, StoredReadings, coordinates_of, read_span, statistics_of
from serving.data.schemas import (
    POLLUTANTS,
    DataQuery,
    DemandData,
    DemandDataQuery,
    PollutionData,
    PollutionDataQuery,
    TrafficData,
    TrafficDataQuery,
    WaterData,
    WaterDataQuery,
)
from serving.places import Place
from serving.predictions.pollution import STANDARDS
from serving.speed import congestion_level, default_relation, speed_km_per_h
from serving.text import utc_text

RelationOf = Callable[[Site], SpeedRelation]
_LONGEST_MEAN_H = 24


def assumed_relation(site: Site) -> SpeedRelation:
    """The volume-speed relation of a road without a model."""
    return default_relation(site)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAnswers:
    """Answers to the data API, from the reading stores; they block.

    Attributes:
        readings: The stores.
        relation_of: The volume-speed relation of a road, the champion's where there is one.
        now: The present.
    """

    readings: StoredReadings
    now: Callable[[], datetime]
    relation_of: RelationOf = assumed_relation

    def traffic(self, query: TrafficDataQuery) -> TrafficData:
        """A road's volume, speed and congestion.

        Raises:
            TowncastError: The query cannot be answered; see `StoredReadings.find`.
        """
        found = self._found(TRAFFIC, query, query.location, "location", (VOLUME.name, SPEED.name))
        page = _page(found.moments, query)
        relation = self.relation_of(found.site)
        location = _location("road_id", found.site)
        data = [
            {"timestamp": stamp, "location": location, "metrics": _traffic_metrics(volume, speed, relation)}
            for stamp, volume, speed in zip(_stamps(page), page[VOLUME.name], page[SPEED.name], strict=True)
        ]
        return TrafficData.model_validate({"data": data, "pagination": _pagination(found.moments, query)})

    def pollution(self, query: PollutionDataQuery) -> PollutionData:
        """A station's concentrations of one pollutant, each with its sub-index.

        Raises:
            TowncastError: The query cannot be answered; see `StoredReadings.find`.
        """
        quantity, standard = POLLUTANTS[query.parameter], STANDARDS[query.aqi_standard]
        span = self._span(query)
        # The means of the first moments look back on what was before them.
        wider = replace(span, start=span.start - timedelta(hours=_LONGEST_MEAN_H))
        before = self.readings.find(POLLUTION, _place(query, query.station, "station"), wider, quantities=(quantity,))
        index = _sub_index(before.moments[quantity], quantity, standard)
        found = replace(before, moments=before.moments[before.moments.index >= pd.Timestamp(span.start)])
        page = _page(found.moments, query)
        levels = index.reindex(_hour_ends(page.index)).to_numpy()
        return PollutionData.model_validate(
            {
                "station_id": found.site.name,
                **_known("location", coordinates_of(found.site)),
                "parameter": query.parameter,
                "unit": "μg/m³",
                "aqi_standard": query.aqi_standard,
                "data": [
                    {
                        "timestamp": stamp,
                        "value": round(float(value), 4),
                        "aqi": None if math.isnan(level) else int(level),
                        "category": category(float(level), standard=standard) or None,
                    }
                    for stamp, value, level in zip(_stamps(page), page[quantity], levels, strict=True)
                ],
                **_known("statistics", statistics_of(found.moments[quantity])),
                "pagination": _pagination(found.moments, query),
            }
        )

    def water(self, query: WaterDataQuery) -> WaterData:
        """A zone's inflow and tank level.

        Raises:
            TowncastError: The query cannot be answered; see `StoredReadings.find`.
        """
        found = self._found(WATER, query, query.zone, "zone", (INFLOW.name, TANK_LEVEL.name))
        return WaterData.model_validate(_series(found, query, place="zone_id"))

    def demand(self, query: DemandDataQuery) -> DemandData:
        """A control point's trips.

        Raises:
            TowncastError: The query cannot be answered; see `StoredReadings.find`.
        """
        found = self._found(DEMAND, query, query.control_point, "control_point", (TRIPS.name,))
        return DemandData.model_validate(_series(found, query, place="control_point_id"))

    def _span(self, query: DataQuery) -> Span:
        return read_span(start=query.start, end=query.end, hours=query.hours, now=self.now())

    def _found(
        self, domain: Domain, query: DataQuery, name: str | None, parameter: str, quantities: tuple[str, ...]
    ) -> Found:
        return self.readings.find(domain, _place(query, name, parameter), self._span(query), quantities=quantities)


def _place(query: DataQuery, name: str | None, parameter: str) -> Place:
    point = None
    if query.coordinates is not None:
        latitude, longitude = query.coordinates.split(",")
        point = (float(latitude), float(longitude))
    return Place(name=name, coordinates=point, parameter=parameter, coordinates_parameter="coordinates")


def _page(moments: pd.DataFrame, query: DataQuery) -> pd.DataFrame:
    first = (query.page - 1) * query.per_page
    return moments.iloc[first : first + query.per_page]


def _pagination(moments: pd.DataFrame, query: DataQuery) -> dict[str, int]:
    return {"total": len(moments), "page": query.page, "per_page": query.per_page}


def _stamps(page: pd.DataFrame) -> list[str]:
    return [utc_text(moment.timestamp()) for moment in page.index]


def _location(place: str, site: Site) -> dict[str, Any]:
    return {place: site.name, **_known("coordinates", coordinates_of(site))}


def _known(name: str, value: object) -> dict[str, Any]:
    """An entry, left out where there is no value."""
    return {} if value is None else {name: value}


def _traffic_metrics(volume: float, speed: float, relation: SpeedRelation) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if not math.isnan(volume):
        told["vehicle_count"] = round(volume)
        told["congestion_level"] = int(congestion_level(volume, relation))
    if not math.isnan(speed):
        return {**told, "average_speed": round(speed, 1), "speed": "measured"}
    derived = "derived, fitted" if relation.measured else "derived, assumed"
    return {**told, "average_speed": round(float(speed_km_per_h(volume, relation)), 1), "speed": derived}


def _sub_index(values: pd.Series, quantity: str, standard: str) -> pd.Series:
    """Sub-index of each hour, by the moment of its end."""
    known = any(scale.quantity == quantity for scale in INDEX_STANDARDS[standard].scales)
    if values.empty or not known:
        return pd.Series(dtype=np.float64)
    hourly = values.groupby(_hour_ends(pd.DatetimeIndex(values.index))).mean()
    hours = pd.date_range(hourly.index[0], hourly.index[-1], freq="h")
    quality = aqi_from_hourly({quantity: hourly.reindex(hours).to_numpy()}, standard=standard)
    return pd.Series(quality.index, index=hours)


def _hour_ends(moments: pd.DatetimeIndex | pd.Index) -> pd.DatetimeIndex:
    """The end of the hour that each moment lies in, as a panel's steps have it."""
    return pd.DatetimeIndex(moments).ceil("h")


def _series(found: Found, query: DataQuery, *, place: str) -> dict[str, Any]:
    """The reply of a domain whose metrics are its quantities."""
    page = _page(found.moments, query)
    location = _location(place, found.site)
    return {
        "data": [
            {
                "timestamp": stamp,
                "location": location,
                "metrics": {name: round(float(value), 4) for name, value in row.items() if not math.isnan(value)},
            }
            for stamp, row in zip(_stamps(page), page.to_dict("records"), strict=True)
        ],
        "pagination": _pagination(found.moments, query),
        "statistics": {
            name: statistics
            for name in found.moments.columns
            if (statistics := statistics_of(found.moments[name])) is not None
        },
    }
