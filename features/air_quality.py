"""Air quality index, category and advisory from concentrations: computed, never learned.

The standards with their sources are in `features.air_quality_standards`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from features.air_quality_standards import STANDARDS, AirQualityStandard
from features.errors import InvalidParameterError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AirQuality:
    """Index by the hour, each array of shape (..., T).

    Attributes:
        index: Largest sub-index, as a whole number; NaN where there is none.
        official: Whether enough pollutants went into it for the standard.
        pollutant: Name of the pollutant that decides; empty where there is no index.
        sub_indices: Sub-index of each pollutant that was given, not rounded; NaN where hours are missing.
    """

    index: FloatArray
    official: npt.NDArray[np.bool_]
    pollutant: npt.NDArray[np.str_]
    sub_indices: dict[str, FloatArray]


def sub_index(concentration: npt.ArrayLike, quantity: str, *, standard: str = "india_2014") -> FloatArray:
    """Sub-index of mean concentrations of one pollutant, by linear interpolation between breakpoints.

    Args:
        concentration: Means over the pollutant's averaging time [ug/m3], any shape; below 0 counts as 0.
        quantity: Name of the pollutant.
        standard: Name of the standard.

    Returns:
        Sub-indices of the same shape, not rounded; NaN where the concentration is NaN.

    Raises:
        UnknownNameError: There is no such standard, or it has no such pollutant.
    """
    chosen = STANDARDS[standard]
    scale = chosen.scale(quantity)
    mean = np.asarray(concentration, dtype=np.float64)
    if scale.resolution:
        # The thousandth of a step keeps 55.3 in single precision, which is a little less, at 55.3.
        mean = np.round(np.floor(mean / scale.resolution + 1e-3) * scale.resolution, 6)
    inside = np.interp(mean, scale.concentrations, scale.indices)
    (x1, x2), (y1, y2) = scale.concentrations[-2:], scale.indices[-2:]
    beyond = y2 + (mean - x2) * (y2 - y1) / (x2 - x1)
    index: FloatArray = np.minimum(np.where(mean > x2, beyond, inside), chosen.largest)
    return index


def trailing_mean(values: npt.ArrayLike, *, hours: int, needed: int) -> FloatArray:
    """Mean over the hours up to and with each hour.

    Args:
        values: Shape (..., T), NaN where missing.
        hours: How many hours a mean is over.
        needed: How many of them must be there.

    Returns:
        Shape (..., T), NaN where too few hours are there.
    """
    array = np.asarray(values, dtype=np.float64)
    there = np.isfinite(array)
    sums = _trailing_sum(np.where(there, array, 0.0), hours)
    counts = _trailing_sum(there.astype(np.float64), hours)
    mean: FloatArray = np.where(counts >= needed, sums / np.maximum(counts, 1.0), np.nan)
    return mean


def _trailing_sum(array: FloatArray, hours: int) -> FloatArray:
    padded = np.concatenate([np.zeros((*array.shape[:-1], hours)), array], axis=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, hours, axis=-1)
    result: FloatArray = windows[..., 1:, :].sum(axis=-1)
    return result


def aqi_from_hourly(
    concentrations: Mapping[str, npt.ArrayLike],
    *,
    history: Mapping[str, npt.ArrayLike] | None = None,
    standard: str = "india_2014",
) -> AirQuality:
    """Air quality index of each hour, from trailing means over hourly concentrations.

    A forecast's first hours look back on measured ones: give those as `history`. The levels of a forecast can be given
    as a leading axis; they bound the index only as far as the hours of a forecast err together.

    Args:
        concentrations: Hourly means by pollutant, each of shape (..., T) [ug/m3], NaN where missing.
        history: Hourly means before them, each of shape (..., L) or (L,), the last being the hour before the first.
            Of other pollutants it is not used: an index that they leave half-way would seem to fall.
        standard: Name of the standard.

    Returns:
        Index, whether it is official, the pollutant that decides, and sub-indices, for the T hours.

    Raises:
        UnknownNameError: There is no such standard, or it has no such pollutant.
        InvalidParameterError: No pollutant is given, or their shapes differ.
    """
    chosen = STANDARDS[standard]
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in concentrations.items()}
    shape = _common_shape(arrays)
    sub_indices = {}
    for name, hours in arrays.items():
        scale = chosen.scale(name)
        before = np.asarray((history or {}).get(name, ()), dtype=np.float64)[..., -scale.averaging_h :]
        before = np.broadcast_to(before, (*shape[:-1], before.shape[-1]))
        joined = np.concatenate([before, hours], axis=-1)
        mean = trailing_mean(joined, hours=scale.averaging_h, needed=scale.needed_h)
        sub_indices[name] = sub_index(mean[..., before.shape[-1] :], name, standard=standard)
    return _worst(sub_indices, chosen)


def _common_shape(arrays: Mapping[str, FloatArray]) -> tuple[int, ...]:
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or () in shapes:
        raise InvalidParameterError(
            parameter="concentrations",
            provided={name: array.shape for name, array in arrays.items()},
            allowed="arrays of one shape, hours last",
            fact="The concentrations have no shape in common",
            remedy="Give at least one pollutant, and each for the same hours.",
        )
    return shapes.pop()


def _worst(sub_indices: dict[str, FloatArray], standard: AirQualityStandard) -> AirQuality:
    stacked = np.stack(list(sub_indices.values()))
    known = np.isfinite(stacked)
    some = known.any(axis=0)
    filled = np.where(known, stacked, -np.inf)
    names = np.array([*sub_indices, ""])
    particles = [place for place, name in enumerate(sub_indices) if name in standard.needed_any]
    return AirQuality(
        index=np.where(some, _whole(filled.max(axis=0)), np.nan),
        official=(known.sum(axis=0) >= standard.needed_pollutants) & known[particles].any(axis=0),
        pollutant=names[np.where(some, filled.argmax(axis=0), len(sub_indices))],
        sub_indices=sub_indices,
    )


def _whole(index: FloatArray) -> FloatArray:
    """Rounded half up, as people round."""
    rounded: FloatArray = np.floor(index + 0.5)
    return rounded


@overload
def category(index: float, *, standard: str = ...) -> str: ...
@overload
def category(index: FloatArray, *, standard: str = ...) -> npt.NDArray[np.str_]: ...
def category(index: float | FloatArray, *, standard: str = "india_2014") -> str | npt.NDArray[np.str_]:
    """Name of the category that an index lies in once it is rounded; empty for NaN.

    Raises:
        UnknownNameError: There is no such standard.
    """
    return _told([entry.name for entry in STANDARDS[standard].categories], index, standard)


@overload
def advisory(index: float, *, standard: str = ...) -> str: ...
@overload
def advisory(index: FloatArray, *, standard: str = ...) -> npt.NDArray[np.str_]: ...
def advisory(index: float | FloatArray, *, standard: str = "india_2014") -> str | npt.NDArray[np.str_]:
    """What people should do at an index; empty for NaN.

    Raises:
        UnknownNameError: There is no such standard.
    """
    return _told([entry.advisory for entry in STANDARDS[standard].categories], index, standard)


@overload
def health_effect(index: float, *, standard: str = ...) -> str: ...
@overload
def health_effect(index: FloatArray, *, standard: str = ...) -> npt.NDArray[np.str_]: ...
def health_effect(index: float | FloatArray, *, standard: str = "india_2014") -> str | npt.NDArray[np.str_]:
    """Who may feel what at an index; empty for NaN.

    Raises:
        UnknownNameError: There is no such standard.
    """
    return _told([entry.effect for entry in STANDARDS[standard].categories], index, standard)


def _told(texts: list[str], index: float | FloatArray, standard: str) -> str | npt.NDArray[np.str_]:
    uppers = [entry.upper for entry in STANDARDS[standard].categories]
    values = np.asarray(index, dtype=np.float64)
    places = np.where(np.isnan(values), len(texts), np.searchsorted(uppers, _whole(values), side="left"))
    told: npt.NDArray[np.str_] = np.array([*texts, ""])[places]
    return str(told) if told.ndim == 0 else told
