"""The volume-speed relation of a road, fitted where speed is measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.card import BPR_FACTOR, BPR_POWER, SpeedRelation
from features.vocabulary import Site

# Assumed where nothing is measured or given: a posted limit of 55 mph, as on urban interstates.
ASSUMED_FREE_FLOW_KM_PER_H = 88.5
_ENOUGH_PAIRS = 200


def fit_speed_relation(
    site: Site, volume: npt.NDArray[np.float64], speed: npt.NDArray[np.float64] | None
) -> SpeedRelation:
    """Free-flow speed and practical capacity of a road.

    With measured speeds, free flow is their 85th percentile in the emptiest third of the hours (the percentile that
    speed limits are set by), and capacity is the median of what the Bureau of Public Roads' relation gives in the
    fullest third. Without, free flow is the site's attribute `free_flow_km_per_h` or an assumption, and capacity is the
    99.5th percentile of the volume: a lower bound, so that congestion is rather over- than understated.

    Args:
        site: May carry `free_flow_km_per_h` and `capacity_veh_per_h`.
        volume: Hourly volumes [veh/h], NaN where unmeasured.
        speed: Mean speeds at the same hours [km/h], or None.
    """
    known = volume[np.isfinite(volume)]
    free_flow = site.attributes.get("free_flow_km_per_h", ASSUMED_FREE_FLOW_KM_PER_H)
    capacity = site.attributes.get("capacity_veh_per_h", float(np.quantile(known, 0.995)))
    assumed = SpeedRelation(free_flow_km_per_h=free_flow, capacity_veh_per_h=max(capacity, 1.0), measured=False)
    if speed is None:
        return assumed
    both = np.isfinite(volume) & np.isfinite(speed) & (speed > 0)
    if both.sum() < _ENOUGH_PAIRS:
        return assumed
    volume, speed = volume[both], speed[both]
    empty, full = np.quantile(volume, [1 / 3, 2 / 3])
    free_flow = float(np.quantile(speed[volume <= empty], 0.85))
    delayed = (volume >= full) & (speed < 0.98 * free_flow)
    if delayed.sum() < _ENOUGH_PAIRS // 4:
        return assumed
    delay = free_flow / speed[delayed] - 1
    capacity = float(np.median(volume[delayed] * (BPR_FACTOR / delay) ** (1 / BPR_POWER)))
    return SpeedRelation(free_flow_km_per_h=free_flow, capacity_veh_per_h=max(capacity, 1.0), measured=True)
