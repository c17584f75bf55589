"""From volume to speed and congestion: the volume-delay relation of the Bureau of Public Roads.

t = t0 (1 + 0.15 (v / c)^4), Bureau of Public Roads, Traffic Assignment Manual, U.S. Department of Commerce, 1964.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from features.card import BPR_FACTOR, BPR_POWER, SpeedRelation
from features.vocabulary import Site

# Assumed where nothing was measured: an urban arterial with two lanes. 1,800 veh/h is the saturation flow of a lane of
# the Highway Capacity Manual (1,900) less the share of heavy vehicles; 60 km/h is a common urban limit.
DEFAULT_FREE_FLOW_KM_PER_H = 60.0
DEFAULT_LANE_CAPACITY_VEH_PER_H = 1800.0
DEFAULT_LANES = 2.0

Volume = float | npt.NDArray[np.floating]


def speed_km_per_h(volume_veh_per_h: Volume, relation: SpeedRelation) -> npt.NDArray[np.float64]:
    """Mean speed at a volume [km/h]; never above the free-flow speed.

    Args:
        volume_veh_per_h: Volume [veh/h]; less than none counts as none.
        relation: Free-flow speed and capacity of the road.
    """
    delay = 1.0 + BPR_FACTOR * _load(volume_veh_per_h, relation) ** BPR_POWER
    speed: npt.NDArray[np.float64] = relation.free_flow_km_per_h / delay
    return speed


def congestion_level(volume_veh_per_h: Volume, relation: SpeedRelation) -> npt.NDArray[np.int64]:
    """Volume as a share of capacity, 0 (empty) to 100 (at capacity or beyond) [percent].

    Args:
        volume_veh_per_h: Volume [veh/h].
        relation: Free-flow speed and capacity of the road.
    """
    level: npt.NDArray[np.int64] = np.rint(100.0 * np.minimum(_load(volume_veh_per_h, relation), 1.0)).astype(np.int64)
    return level


def _load(volume_veh_per_h: Volume, relation: SpeedRelation) -> npt.NDArray[np.float64]:
    load: npt.NDArray[np.float64] = np.maximum(np.asarray(volume_veh_per_h, dtype=np.float64), 0.0)
    return load / relation.capacity_veh_per_h


def default_relation(site: Site, *, highest_veh_per_h: float = math.nan) -> SpeedRelation:
    """The relation of a road whose card has none: an assumption, marked as not measured.

    Args:
        site: Its attributes `lanes` and `free_flow_km_per_h` are used where they are known.
        highest_veh_per_h: Largest volume ever seen there [veh/h], NaN where unknown: a road that carried it has at
            least that capacity.
    """
    lanes = site.attributes.get("lanes", math.nan)
    lanes = lanes if lanes > 0 else DEFAULT_LANES
    free_flow = site.attributes.get("free_flow_km_per_h", math.nan)
    return SpeedRelation(
        free_flow_km_per_h=free_flow if free_flow > 0 else DEFAULT_FREE_FLOW_KM_PER_H,
        capacity_veh_per_h=float(np.fmax(lanes * DEFAULT_LANE_CAPACITY_VEH_PER_H, highest_veh_per_h)),
        measured=False,
    )
