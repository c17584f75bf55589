"""Supply zones: the water balance, pumps between their marks, and GEKKO as the reference."""

from dataclasses import replace

import numpy as np
import pytest

from sim_env.process.zone_tanks import TOWN_ZONES, ZonesScenario, ZoneTanksSimulator, run_zones


def test_water_is_neither_made_nor_lost_and_towers_stay_between_the_pumps_marks() -> None:
    scenario = ZonesScenario(hours=72)
    run = run_zones(scenario, rng=np.random.default_rng(0))
    assert ZoneTanksSimulator().imbalance(scenario, rng=np.random.default_rng(0)) < 1e-10
    brim = np.array([zone.tank_height_m for zone in TOWN_ZONES])[:, None]
    assert (run.level_ZT > 0.4 * brim).all()
    assert (run.level_ZT < 0.9 * brim).all()
    # Towers breathe: they are emptied and filled within a day.
    assert (np.ptp(run.level_ZT, axis=1) > 0.2 * brim[:, 0]).all()


def test_zones_draw_what_they_usually_draw_and_more_when_a_pipe_bursts() -> None:
    usual = ZonesScenario(hours=168, bursts_per_week=0.0)
    run = run_zones(usual, rng=np.random.default_rng(1))
    mean = np.array([zone.mean_draw_l_per_s for zone in TOWN_ZONES])
    assert run.drawn_ZT.mean(axis=1) == pytest.approx(mean, rel=0.2)
    burst = run_zones(replace(usual, bursts_per_week=10.0), rng=np.random.default_rng(1))
    assert burst.drawn_ZT.sum() > 1.08 * run.drawn_ZT.sum()


def test_gekko_gives_the_same_week_within_what_is_stated() -> None:
    short = ZonesScenario(hours=1, zones=TOWN_ZONES[:1])
    native = run_zones(short, rng=np.random.default_rng(2))
    gekko = run_zones(replace(short, integrator="gekko"), rng=np.random.default_rng(2))
    np.testing.assert_allclose(gekko.level_ZT, native.level_ZT, atol=2e-3)
    np.testing.assert_allclose(gekko.drawn_ZT, native.drawn_ZT, rtol=2e-3)
