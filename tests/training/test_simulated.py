"""Simulated rows may train, never evaluate."""

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.errors import InvalidParameterError, NotEnoughDataError
from features.readings import join_readings, make_readings
from features.vocabulary import Site
from features.windows import build_panel
from training.simulated import mix_simulated, simulated_share
from training.window_set import Splits, WindowSet, split_windows

TRAFFIC = DOMAINS["traffic"]
MEASURED = ("M1",)


@pytest.fixture(scope="module")
def splits() -> Splits:
    """A measured road over 34 weeks, and three simulated ones in the first 24 of them."""
    parts = []
    for name, weeks in (("M1", 34), ("S1", 24), ("S2", 24), ("S3", 24)):
        moments = pd.date_range("2025-01-06", periods=weeks * 168, freq="h", tz="UTC")
        value = 1000 + 500 * np.sin(moments.hour / 24 * 2 * np.pi)
        source = "sensor:counter" if name in MEASURED else "sim:sumo:usual@01234567"
        parts.append(make_readings(site=name, quantity="volume", valid_at=moments, value=value, source=source))
    sites = [Site(name=name) for name in ("M1", "S1", "S2", "S3")]
    first_s = int(pd.Timestamp("2025-01-06", tz="UTC").timestamp())
    last_s = first_s + (34 * 168 - 25) * 3600
    return split_windows(
        build_panel(TRAFFIC, sites, join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)
    )


def sites_of(windows: WindowSet) -> set[str]:
    return {windows.panel.sites[index].name for index in np.unique(windows.site_index_B)}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_kept_and_nothing_simulated_is_judged(splits: Splits, share: float) -> None:
    mixed = mix_simulated(splits, MEASURED, share=share, seed=0)
    assert simulated_share(mixed.train, MEASURED) == pytest.approx(share, abs=1e-3)
    assert sites_of(mixed.validation) == sites_of(mixed.test) == set(MEASURED)
    measured = splits.train.subset(splits.train.site_index_B == 0)
    if share < 1:
        chosen = mixed.train.subset(mixed.train.site_index_B == 0)
        np.testing.assert_array_equal(chosen.origin_B, measured.origin_B)
    else:
        assert sites_of(mixed.train) == {"S1", "S2", "S3"}


def test_the_draw_is_that_of_its_seed(splits: Splits) -> None:
    first, again, other = (mix_simulated(splits, MEASURED, share=0.25, seed=seed).train for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.origin_B, again.origin_B)
    assert not np.array_equal(first.origin_B, other.origin_B)


def test_a_share_that_cannot_be_is_refused(splits: Splits) -> None:
    with pytest.raises(InvalidParameterError, match="share"):
        mix_simulated(splits, MEASURED, share=1.5, seed=0)
    with pytest.raises(NotEnoughDataError, match="towncast simulate"):
        mix_simulated(splits, ("M1", "S1", "S2", "S3"), share=0.5, seed=0)
