"""What can be followed: a channel for each domain, and one for readings. A new domain is a line at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from features.domains import DOMAINS
from features.registry import Registry
from features.vocabulary import Domain, Site
from serving.predictions.pollution import AQI, CONCENTRATIONS, STANDARDS

READINGS = "readings"
_HORIZON = "24h"
Asked = Callable[[Site, frozenset[str]], dict[str, Any]]


class Topic(NamedTuple):
    """One thing that can be followed: a site on a channel. Readings of all domains share their channel.

    A tuple, because one event has thousands of them made and looked up.
    """

    channel: str
    domain: str
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """How one quantity is called where it is read and where it is forecast.

    Attributes:
        quantity: Name of the domain's quantity.
        label: The same for people.
        unit: Its unit.
        part: Which list of `forecast` has it; "" where that is one list.
        field: What an entry of that list calls it.
    """

    quantity: str
    label: str
    unit: str
    part: str = ""
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """How the forecasts of one domain are followed.

    Attributes:
        domain: Its name, and the channel's.
        headline: The field of an update that `change_from_previous` is about.
        series: What is read and forecast.
        asked: What a request to the domain's prediction API says of a site, of which some targets have readings.
        first_hour: The fields of an update, the headline first, from the reply's predictions.
    """

    domain: str
    headline: str
    series: tuple[Series, ...]
    asked: Asked
    first_hour: Callable[[Any], dict[str, Any]]

    def request(self, site: Site, measured: frozenset[str]) -> dict[str, Any]:
        """The request for the forecast of a site."""
        return {"forecast_horizon": self.horizon, **self.asked(site, measured)}

    @property
    def horizon(self) -> str:
        """How far ahead: a day, or the domain's longest if it has no such horizon."""
        horizons = DOMAINS[self.domain].horizons
        return _HORIZON if _HORIZON in horizons else max(horizons, key=lambda name: horizons[name])


def filter_name(domain: Domain) -> str:
    """What filters call the domain's sites, such as `roads`."""
    return f"{domain.entity.replace(' ', '_')}s"


def id_name(domain: Domain) -> str:
    """What updates call a site of the domain, such as `road_id`."""
    return f"{domain.entity.replace(' ', '_')}_id"


def _series(domain: str, quantity: str, *, label: str, field: str, part: str = "") -> Series:
    unit = DOMAINS[domain].quantity(quantity).unit
    return Series(quantity=quantity, label=label, unit=unit, part=part, field=field)


def _first(*fields: str) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    return lambda predictions: {name: predictions[0][name] for name in fields}


def _air(predictions: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The index, and the concentration that comes first of those that are measured."""
    index = predictions[AQI][0]
    concentration = next(name for name in CONCENTRATIONS if name in predictions)
    value = predictions[concentration][0]["value"]
    return {"aqi": index["value"], "category": index["category"], "parameter": concentration, "value": value}


def _ask_air(site: Site, measured: frozenset[str]) -> dict[str, Any]:
    parameters = [name for name, target in CONCENTRATIONS.items() if target in measured]
    standard = site.country if site.country in STANDARDS else next(iter(STANDARDS))
    return {"station_id": site.name, "parameters": [*(parameters or CONCENTRATIONS), AQI], "aqi_standard": standard}


CHANNELS: Registry[Channel] = Registry("channel")
for _channel in (
    Channel(
        domain="traffic",
        headline="congestion_level",
        series=(_series("traffic", "volume", label="Volume", field="traffic_volume"),),
        asked=lambda site, measured: {"location": {"road_id": site.name}},
        first_hour=_first("congestion_level", "traffic_volume", "average_speed"),
    ),
    Channel(
        domain="pollution",
        headline="aqi",
        series=(
            _series("pollution", "pm2_5", label="PM2.5", part="PM2.5", field="value"),
            _series("pollution", "pm10", label="PM10", part="PM10", field="value"),
        ),
        asked=_ask_air,
        first_hour=_air,
    ),
    Channel(
        domain="water",
        headline="water_demand",
        series=(_series("water", "inflow", label="Demand", field="water_demand"),),
        asked=lambda site, measured: {"zone_id": site.name},
        first_hour=_first("water_demand"),
    ),
    Channel(
        domain="demand",
        headline="trips",
        series=(_series("demand", "trips", label="Trips", field="trips"),),
        asked=lambda site, measured: {"control_point_id": site.name},
        first_hour=_first("trips", "multiplier"),
    ),
):
    CHANNELS.register(_channel.domain, _channel)
