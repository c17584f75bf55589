"""The volume-speed relation is found again in speeds that were made from one."""

import numpy as np
import pytest

from features.vocabulary import Site
from training.speed_relation import ASSUMED_FREE_FLOW_KM_PER_H, fit_speed_relation

ROAD = Site(name="A")


def volumes(hours: int = 4000) -> np.ndarray:
    """Quiet nights and full days [veh/h]."""
    rng = np.random.default_rng(0)
    return rng.choice([200.0, 1500.0, 3000.0], hours) * rng.uniform(0.8, 1.2, hours)


def speeds(volume: np.ndarray, *, free_flow: float, capacity: float, noise: float = 0.0) -> np.ndarray:
    """Bureau of Public Roads, 1964 [km/h]."""
    rng = np.random.default_rng(1)
    return free_flow / (1 + 0.15 * (volume / capacity) ** 4) * np.exp(noise * rng.normal(size=len(volume)))


@pytest.mark.parametrize(("free_flow", "capacity"), [(50.0, 2500.0), (100.0, 3000.0)])
def test_a_relation_is_found_again(free_flow: float, capacity: float) -> None:
    volume = volumes()
    found = fit_speed_relation(ROAD, volume, speeds(volume, free_flow=free_flow, capacity=capacity))
    assert found.measured
    assert found.free_flow_km_per_h == pytest.approx(free_flow, rel=0.01)
    assert found.capacity_veh_per_h == pytest.approx(capacity, rel=0.03)


def test_noise_and_gaps_do_little_harm() -> None:
    volume = volumes()
    speed = speeds(volume, free_flow=80.0, capacity=2500.0, noise=0.03)
    speed[::7], volume[::11], speed[::13] = np.nan, np.nan, 0.0
    found = fit_speed_relation(ROAD, volume, speed)
    assert found.measured
    assert found.free_flow_km_per_h == pytest.approx(80.0, rel=0.05)
    assert found.capacity_veh_per_h == pytest.approx(2500.0, rel=0.1)


def test_without_speeds_the_relation_is_an_assumption() -> None:
    volume = volumes()
    volume[5] = np.nan
    assumed = fit_speed_relation(ROAD, volume, None)
    assert not assumed.measured
    assert assumed.free_flow_km_per_h == ASSUMED_FREE_FLOW_KM_PER_H
    assert assumed.capacity_veh_per_h == pytest.approx(np.nanquantile(volume, 0.995))


def test_what_is_known_of_the_road_goes_before_the_assumption() -> None:
    road = Site(name="A", attributes={"free_flow_km_per_h": 40.0, "capacity_veh_per_h": 1800.0})
    assumed = fit_speed_relation(road, volumes(), None)
    assert (assumed.free_flow_km_per_h, assumed.capacity_veh_per_h, assumed.measured) == (40.0, 1800.0, False)


def test_a_few_speeds_are_not_enough() -> None:
    volume = volumes()
    speed = speeds(volume, free_flow=50.0, capacity=2500.0)
    speed[199:] = np.nan
    assert not fit_speed_relation(ROAD, volume, speed).measured


def test_a_road_that_is_never_slow_tells_nothing_of_its_capacity() -> None:
    volume = volumes()
    assert not fit_speed_relation(ROAD, volume, np.full(len(volume), 50.0)).measured


def test_an_empty_road_has_a_capacity_above_zero() -> None:
    assert fit_speed_relation(ROAD, np.zeros(500), None).capacity_veh_per_h == 1.0
