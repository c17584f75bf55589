"""Where a question is about: a site by its name, or the one nearest to a point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from features.errors import InvalidParameterError, UnknownNameError
from features.registry import nearest_names
from features.vocabulary import Domain, Site
from serving.memory import WindowMemory

_EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a question says about its place.

    Attributes:
        name: Name of a site; decides where both are given.
        coordinates: Latitude and longitude [degrees]; the nearest site answers.
        parameter: What the request calls the place, for errors.
        coordinates_parameter: What it calls the coordinates.
    """

    name: str | None = None
    coordinates: tuple[float, float] | None = None
    parameter: str = "location"
    coordinates_parameter: str = "location.coordinates"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSites:
    """The sites of a domain, where no model's memory of them is loaded.

    Attributes:
        domain: Whose sites these are.
        sites: By name.
    """

    domain: Domain
    sites: dict[str, Site]

    def site(self, name: str) -> Site:
        """The site called `name`.

        Raises:
            UnknownNameError: It is not known; near names are in the message.
        """
        if name not in self.sites:
            known = list(self.sites)
            raise UnknownNameError(kind=self.domain.entity, name=name, nearest=nearest_names(name, known), known=known)
        return self.sites[name]


def locate(memory: WindowMemory | KnownSites, place: Place, *, within_km: float) -> tuple[Site, float | None]:
    """The site, and its distance from the coordinates where these decided [km].

    Args:
        memory: Knows the sites.
        place: What the question says.
        within_km: How far the site may be from the coordinates [km].

    Raises:
        InvalidParameterError: The coordinates are off the globe or far from every site, or there is neither name nor
            coordinates.
        UnknownNameError: There is no site of this name.
    """
    if place.coordinates is not None:
        _check_globe(place, place.coordinates)
    if place.name is not None:
        return memory.site(place.name), None
    entity = memory.domain.entity
    if place.coordinates is None:
        raise InvalidParameterError(
            parameter=place.parameter,
            provided=None,
            allowed=f"the name of a {entity}, or coordinates",
            fact="The request names no place",
            remedy=f"Give the name of a {entity}, or coordinates.",
        )
    distances_km = {site.name: distance_km(place.coordinates, site) for site in memory.sites.values()}
    near = min(distances_km, key=lambda name: distances_km[name], default=None)
    if near is None or not distances_km[near] <= within_km:
        raise InvalidParameterError(
            parameter=place.coordinates_parameter,
            provided=list(place.coordinates),
            allowed=f"a point within {within_km:g} km of a known {entity}",
            fact=f"There is no {entity} near these coordinates",
            remedy=f"Name a {entity}, or give a point nearer to one.",
        )
    return memory.sites[near], distances_km[near]


def _check_globe(place: Place, coordinates: tuple[float, float]) -> None:
    latitude, longitude = coordinates
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise InvalidParameterError(
            parameter=place.coordinates_parameter,
            provided=list(coordinates),
            allowed="latitude -90 to 90 and longitude -180 to 180, in degrees, in this order",
            fact="The coordinates are off the globe",
            remedy="Give latitude first, then longitude.",
        )


def distance_km(coordinates: tuple[float, float], site: Site) -> float:
    """Great-circle distance by the haversine formula (Sinnott 1984), infinite where the site's place is unknown."""
    if math.isnan(site.latitude) or math.isnan(site.longitude):
        return math.inf
    first, second = np.radians(coordinates), np.radians((site.latitude, site.longitude))
    half = np.sin((second - first) / 2) ** 2
    chord = half[0] + math.cos(first[0]) * math.cos(second[0]) * half[1]
    return float(2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(chord))))
