"""Requests and replies of the data API, as the document shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from features.air_quality_standards import STANDARDS as INDEX_STANDARDS
from serving.data.lookup import DEFAULT_HOURS, MOST_HOURS
from serving.predictions.pollution import STANDARDS
from serving.schemas import Reply, SiteName, StrictRequest

# Names of the API, and the quantities behind them.
POLLUTANTS: dict[str, str] = {
    "PM2.5": "pm2_5",
    "PM10": "pm10",
    "SO2": "so2",
    "NO2": "no2",
    "CO": "co",
    "O3": "o3",
}
Parameter = Literal["PM2.5", "PM10", "SO2", "NO2", "CO", "O3"]
AqiStandard = Literal["IN", "US"]
assert set(STANDARDS.values()) <= set(INDEX_STANDARDS)

_NUMBER = r"-?[0-9]{1,3}(\.[0-9]{1,12})?"
Point = Annotated[
    str,
    Field(
        pattern=rf"^{_NUMBER},{_NUMBER}$",
        description="Latitude and longitude in degrees, with a comma between; the nearest place answers.",
        examples=["23.0225,72.5714"],
    ),
]
Stamp = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]


class DataQuery(StrictRequest):
    """The parameters that all have: which time, and which page."""

    coordinates: Point | None = None
    start: Stamp | None = Field(default=None, description="First moment, ISO 8601 with a time zone.")
    end: Stamp | None = Field(default=None, description="Last moment; now by default.")
    hours: int | None = Field(
        default=None,
        ge=1,
        le=MOST_HOURS,
        description=f"In place of `start`: so many hours up to `end`; {DEFAULT_HOURS} by default.",
    )
    page: int = Field(default=1, ge=1, le=1_000_000, description="Which page, from 1 on.")
    per_page: int = Field(default=100, ge=1, le=1000, description="Moments on a page.")


class TrafficDataQuery(DataQuery):
    """Which road."""

    location: SiteName | None = Field(default=None, description="Name of a road.", examples=["R001"])


class PollutionDataQuery(DataQuery):
    """Which station, and which pollutant."""

    station: SiteName | None = Field(default=None, description="Name of a station.", examples=["P001"])
    parameter: Parameter = "PM2.5"
    aqi_standard: AqiStandard = Field(default="IN", description="Whose index: India's or the United States'.")


class WaterDataQuery(DataQuery):
    """Which zone."""

    zone: SiteName | None = Field(default=None, description="Name of a supply zone.", examples=["Z001"])


class DemandDataQuery(DataQuery):
    """Which control point."""

    control_point: SiteName | None = Field(default=None, description="Name of a control point.", examples=["ramp_1"])


class Pagination(Reply):
    """Which part of all moments this is."""

    total: int = Field(description="Moments in the time that was asked for.")
    page: int
    per_page: int


class Statistics(Reply):
    """Of all values in the time that was asked for, not of the page alone."""

    min: float
    max: float
    mean: float
    std: float = Field(description="Standard deviation, of the values themselves.")


class RoadLocation(Reply):
    """Where."""

    road_id: str
    coordinates: tuple[float, float] | None = Field(
        default=None, description="Latitude and longitude; left out if not known.", examples=[[23.0225, 72.5714]]
    )


class TrafficMetrics(Reply):
    """What was measured, and what follows from it."""

    vehicle_count: int | None = Field(default=None, description="Volume [veh/h]; left out if not measured.")
    average_speed: float = Field(description="[km/h]")
    congestion_level: int | None = Field(
        default=None, ge=0, le=100, description="Volume as a share of capacity [percent]; left out without a volume."
    )
    speed: str = Field(
        description="Whether the speed was measured, or derived from volume by a relation `fitted` to measured speeds "
        "or `assumed`; capacity is that relation's.",
        examples=["measured", "derived, fitted", "derived, assumed"],
    )


class TrafficMoment(Reply):
    """One moment."""

    timestamp: str = Field(description="End of the interval, UTC.", examples=["2026-02-06T08:00:00Z"])
    location: RoadLocation
    metrics: TrafficMetrics


class TrafficData(Reply):
    """A road's traffic as it was measured."""

    data: list[TrafficMoment]
    pagination: Pagination


class PollutionMoment(Reply):
    """One moment."""

    timestamp: str = Field(description="End of the interval, UTC.", examples=["2026-02-06T08:00:00Z"])
    value: float
    aqi: int | None = Field(
        description="Sub-index of this pollutant, from its mean over the hours that the standard names, up to the hour "
        "that ends at or after this moment; null where too many of them are missing, or where the standard's scale of "
        "this pollutant is not known here."
    )
    category: str | None = Field(examples=["Moderate"])


class PollutionData(Reply):
    """A station's concentrations as they were measured."""

    station_id: str
    location: tuple[float, float] | None = Field(
        default=None, description="Latitude and longitude; left out if not known.", examples=[[23.0225, 72.5714]]
    )
    parameter: Parameter
    unit: str = Field(examples=["μg/m³"])
    aqi_standard: AqiStandard
    data: list[PollutionMoment]
    statistics: Statistics | None = Field(default=None, description="Left out where there is no value.")
    pagination: Pagination


class ZoneLocation(Reply):
    """Where."""

    zone_id: str
    coordinates: tuple[float, float] | None = Field(default=None, description="Left out if not known.")


class WaterMetrics(Reply):
    """What was measured; what was not is left out."""

    inflow: float | None = Field(default=None, description="Net inflow [L/s].")
    tank_level: float | None = Field(default=None, description="Water in the zone's tower [m].")


class WaterMoment(Reply):
    """One moment."""

    timestamp: str = Field(description="End of the interval, UTC.", examples=["2026-02-06T08:00:00Z"])
    location: ZoneLocation
    metrics: WaterMetrics


class WaterData(Reply):
    """A zone's water as it was measured."""

    data: list[WaterMoment]
    pagination: Pagination
    statistics: dict[str, Statistics] = Field(description="By metric; those without a value are left out.")


class PointLocation(Reply):
    """Where."""

    control_point_id: str
    coordinates: tuple[float, float] | None = Field(default=None, description="Left out if not known.")


class DemandMetrics(Reply):
    """What was measured."""

    trips: float = Field(description="Trips begun [trip/h].")


class DemandMoment(Reply):
    """One moment."""

    timestamp: str = Field(description="End of the interval, UTC.", examples=["2026-02-06T08:00:00Z"])
    location: PointLocation
    metrics: DemandMetrics


class DemandData(Reply):
    """A control point's trips as they were counted."""

    data: list[DemandMoment]
    pagination: Pagination
    statistics: dict[str, Statistics] = Field(description="By metric; those without a value are left out.")
