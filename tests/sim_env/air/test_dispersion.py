"""The dispersion model against what the physics says, and against the formula that it is made of."""

import numpy as np
import pytest

from sim_env.air.dispersion import emission, road_points, stability, transfer, washed

_NOON = np.array([12.0])


def weather(*, speed: float = 3.0, direction: float = 270.0, cloud: float = 90.0) -> dict[str, np.ndarray]:
    return {
        "wind_speed": np.array([speed]),
        "wind_direction": np.array([direction]),
        "cloud_cover": np.array([cloud]),
    }


def at(east: float, north: float = 0.0, **air: float) -> float:
    """Concentration from a short road through the origin, at a place [m]."""
    points = road_points([np.array([[0.0, -50.0], [0.0, 50.0]])])
    return float(transfer(points, np.array([[east, north]]), weather(**air), _NOON)[0, 0, 0])


def test_a_plume_is_turners_formula_downwind_of_a_point() -> None:
    x = 1000.0
    sigma_y = 4.0 + 0.16 * x / np.sqrt(1 + 0.0004 * x)
    sigma_z = 4.0 + 0.14 * x / np.sqrt(1 + 0.0003 * x)
    # One gram a second and kilometre on a tenth of a kilometre, in a wind of 3 m/s under an overcast sky (class D).
    assert at(x) == pytest.approx(0.1 / (np.pi * 3.0 * sigma_y * sigma_z), rel=1e-9)


def test_the_wind_carries_it_and_thins_it() -> None:
    assert at(200.0) > at(800.0) > 0
    assert at(-200.0) == 0
    assert at(200.0, direction=90.0) == 0
    assert at(200.0, speed=6.0) == pytest.approx(at(200.0) / 2)
    assert at(400.0, north=400.0) < 0.01 * at(400.0)
    calm_night = transfer(
        road_points([np.array([[0.0, -50.0], [0.0, 50.0]])]), np.array([[400.0, 0.0]]), weather(cloud=10.0, speed=2.0),
        np.array([2.0]),
    )  # fmt: skip
    sunny = at(400.0, cloud=10.0, speed=2.0)
    assert calm_night[0, 0, 0] > 2 * sunny


def test_a_long_road_is_the_sum_of_its_parts() -> None:
    line = np.array([[0.0, -2000.0], [0.0, 2000.0]])
    halves = [np.array([[0.0, -2000.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 2000.0]])]
    place = np.array([[300.0, 20.0]])
    whole = transfer(road_points([line]), place, weather(), _NOON).sum()
    assert transfer(road_points(halves), place, weather(), _NOON).sum() == pytest.approx(whole, rel=1e-9)
    # Near an endless line across the wind: sqrt(2 / pi) q / (u sigma_z), Turner 1970, eq. 5.13.
    sigma_z = 4.0 + 0.14 * 300.0 / np.sqrt(1 + 0.0003 * 300.0)
    assert whole == pytest.approx(np.sqrt(2 / np.pi) / 1000.0 / (3.0 * sigma_z), rel=0.06)


def test_stop_and_go_gives_off_more_and_rain_washes_particles() -> None:
    crawling, flowing = (emission("pm2_5", np.array([[600.0]]), np.array([[speed]])) for speed in (8.0, 60.0))
    assert crawling > 2 * flowing
    assert emission("pm2_5", np.array([[1200.0]]), np.array([[60.0]])) == pytest.approx(2 * flowing)
    assert washed("pm10", np.array([100.0]), np.array([5.0])) < 70.0
    assert washed("co", np.array([100.0]), np.array([5.0])) == 100.0


def test_stability_follows_sun_wind_and_clouds() -> None:
    hours, winds, clouds = np.array([13.0, 2.0, 13.0, 2.0]), np.array([2.0, 1.5, 7.0, 1.5]), np.array([10, 10, 10, 95])
    assert stability(hours, winds, clouds).tolist() == ["C", "E", "D", "D"]
