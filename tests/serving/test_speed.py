"""The volume-speed relation: its published points, its limits, and what is assumed where nothing was measured."""

import math

import numpy as np
import pytest

from features.card import SpeedRelation
from features.vocabulary import Site
from serving.speed import congestion_level, default_relation, speed_km_per_h

RELATION = SpeedRelation(free_flow_km_per_h=100.0, capacity_veh_per_h=2000.0, measured=True)


def test_travel_time_at_capacity_is_longer_by_fifteen_percent() -> None:
    assert speed_km_per_h(2000.0, RELATION) == pytest.approx(100 / 1.15)
    assert speed_km_per_h(0.0, RELATION) == 100.0
    assert speed_km_per_h(4000.0, RELATION) == pytest.approx(100 / (1 + 0.15 * 16))


def test_more_volume_is_never_faster_and_never_above_free_flow() -> None:
    speed = speed_km_per_h(np.linspace(-100, 10_000, 500), RELATION)
    assert (np.diff(speed) <= 0).all()
    assert speed.max() == 100.0
    assert speed.min() > 0


def test_congestion_is_the_share_of_capacity_in_whole_percent() -> None:
    levels = congestion_level(np.array([-5.0, 0.0, 500.0, 1300.0, 2000.0, 9000.0]), RELATION)
    assert levels.tolist() == [0, 0, 25, 65, 100, 100]


@pytest.mark.parametrize(
    ("attributes", "highest", "free_flow", "capacity"),
    [
        ({}, math.nan, 60.0, 3600.0),
        ({"lanes": 3.0}, math.nan, 60.0, 5400.0),
        ({"lanes": math.nan, "free_flow_km_per_h": 110.0}, math.nan, 110.0, 3600.0),
        ({"lanes": 2.0}, 7000.0, 60.0, 7000.0),
    ],
)
def test_an_assumed_relation_says_so(
    attributes: dict[str, float], highest: float, free_flow: float, capacity: float
) -> None:
    relation = default_relation(Site(name="R", attributes=attributes), highest_veh_per_h=highest)
    assert relation == SpeedRelation(free_flow_km_per_h=free_flow, capacity_veh_per_h=capacity, measured=False)
