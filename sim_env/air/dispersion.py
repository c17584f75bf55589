"""From traffic to the air at a station: what vehicles give off, how the wind carries it, and what was there before.

Steady Gaussian plumes from points along every road, hour by hour, over a background that comes with the air mass. Of
chemistry there is none but a fixed share of NO2 in NOx; secondary particles are in the background.

Array names carry their axes: E roads, I points along roads, M stations, T hours.

Sources:
    Plume and its reflection at the ground: Turner (1970), Workbook of Atmospheric Dispersion Estimates, EPA AP-26.
    Spread over a town, stable by night: Briggs (1973), Diffusion Estimation for Small Emissions, NOAA ATDL 79.
    Emission of exhaust, tyres, brakes and road: orders of magnitude of the EMEP/EEA air pollutant emission inventory
    guidebook 2019, 1.A.3.b, taken from the upper end: an old fleet on dusty roads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_env.traffic.shapes import Array

# What a vehicle gives off at 50 km/h [g/km].
EMISSION_G_PER_KM: dict[str, float] = {"pm2_5": 0.12, "pm10": 0.40, "no2": 0.25, "co": 3.0, "so2": 0.01}
# Rain washes particles out; gases hardly.
_WASHED_OUT_PER_MM: dict[str, float] = {"pm2_5": 0.05, "pm10": 0.08, "no2": 0.01, "co": 0.0, "so2": 0.03}
# Traffic stirs the air above a road: nothing is thinner than this plume [m], nor nearer than this [m].
_STIRRED_M, _NEAREST_M = 4.0, 15.0
_POINT_EVERY_M = 100.0
_FARTHEST_M = 6_000.0
# Briggs' urban curves: sigma_y = a x / sqrt(1 + b x), sigma_z = c x (1 + d x)^p, for daylight (C), wind (D), night (E).
_SPREAD_Y = {"C": (0.22, 0.0004), "D": (0.16, 0.0004), "E": (0.11, 0.0004)}
_SPREAD_Z = {"C": (0.20, 0.0, 1.0), "D": (0.14, 0.0003, -0.5), "E": (0.08, 0.0015, -0.5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadPoints:
    """Points along roads that stand for them.

    Attributes:
        place_I2: x eastward, y northward [m].
        edge_I: Road of each.
        length_I_km: Length that it stands for [km].
    """

    place_I2: Array
    edge_I: npt.NDArray[np.int64]
    length_I_km: Array


def road_points(shapes: list[Array]) -> RoadPoints:
    """Points along roads whose middles are given as lines, each of shape (points, 2) [m]."""
    places, edges, lengths = [], [], []
    for index, line in enumerate(shapes):
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
        count = max(1, round(along[-1] / _POINT_EVERY_M))
        at = (np.arange(count) + 0.5) * along[-1] / count
        places.append(np.stack([np.interp(at, along, line[:, axis]) for axis in (0, 1)], axis=1))
        edges.append(np.full(count, index))
        lengths.append(np.full(count, along[-1] / count / 1000.0))
    return RoadPoints(
        place_I2=np.concatenate(places), edge_I=np.concatenate(edges), length_I_km=np.concatenate(lengths)
    )


def emission(name: str, volume_ET: Array, speed_ET_km_per_h: Array) -> Array:
    """What the vehicles on a kilometre of each road give off, (E, T) [g/(km s)].

    Stop and go costs: the emission of a vehicle is u-shaped in its speed, lowest at 65 km/h, twice that at 15 km/h.
    """
    speed = np.clip(speed_ET_km_per_h, 5.0, 130.0)
    at_speed = 0.35 + 18.0 / speed + 7.0e-5 * speed**2
    given: Array = EMISSION_G_PER_KM[name] * at_speed * volume_ET / 3600.0
    return given


def stability(hour_T: Array, wind_speed_T: Array, cloud_cover_T: Array) -> npt.NDArray[np.str_]:
    """Pasquill's class of each hour, C, D or E: by sun, by wind, by a calm clear night (Turner 1970)."""
    day = (hour_T > 7.0) & (hour_T < 18.0)
    sunny = day & (cloud_cover_T < 60.0) & (wind_speed_T < 5.0)
    calm_night = ~day & (cloud_cover_T < 60.0) & (wind_speed_T < 3.0)
    return np.where(sunny, "C", np.where(calm_night, "E", "D"))


def transfer(points: RoadPoints, station_M2: Array, weather: dict[str, Array], hour_T: Array) -> Array:
    """Concentration at each station from one gram a second and kilometre on each road, (M, E, T) [s km/m3].

    Args:
        points: Of all roads.
        station_M2: Where the stations are [m].
        weather: With `wind_speed` [m/s], `wind_direction` [degree, where it comes from], `cloud_cover` [percent] (T).
        hour_T: Local hour of the day.
    """
    edges = int(points.edge_I.max()) + 1
    blows_to = np.deg2rad(weather["wind_direction"] + 180.0)
    east_T, north_T = np.sin(blows_to), np.cos(blows_to)
    wind_T = np.maximum(weather["wind_speed"], 0.5)
    classes = stability(hour_T, weather["wind_speed"], weather["cloud_cover"])
    out = np.zeros((len(station_M2), edges, len(wind_T)))
    for index, station in enumerate(station_M2):
        away_I2 = station - points.place_I2
        down_IT = np.outer(away_I2[:, 0], east_T) + np.outer(away_I2[:, 1], north_T)
        across_IT = np.outer(away_I2[:, 0], north_T) - np.outer(away_I2[:, 1], east_T)
        share_IT = _plume(down_IT, across_IT, classes) / wind_T * points.length_I_km[:, None]
        np.add.at(out[index], points.edge_I, share_IT)
    return out


def _plume(down_IT: Array, across_IT: Array, classes: npt.NDArray[np.str_]) -> Array:
    """Concentration at the ground times wind speed, from one gram a second at the ground [1/m2]."""
    x = np.clip(down_IT, _NEAREST_M, _FARTHEST_M)
    share = np.zeros_like(x)
    for name in _SPREAD_Y:
        (a, b), (c, d, power) = _SPREAD_Y[name], _SPREAD_Z[name]
        sigma_y = _STIRRED_M + a * x / np.sqrt(1.0 + b * x)
        sigma_z = _STIRRED_M + c * x * (1.0 + d * x) ** power
        here = np.exp(-0.5 * (across_IT / sigma_y) ** 2) / (np.pi * sigma_y * sigma_z)
        share = np.where(classes == name, here, share)
    # Vehicles stir what they give off some metres upwind as well.
    inside: Array = share * ((down_IT > -_NEAREST_M) & (down_IT < _FARTHEST_M))
    return inside


def washed(name: str, concentration: Array, rainfall_T: Array) -> Array:
    """What rain leaves in the air [as given]."""
    left: Array = concentration * np.exp(-_WASHED_OUT_PER_MM[name] * rainfall_T)
    return left
