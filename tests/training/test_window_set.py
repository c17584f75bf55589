"""Splits share no target hour, whatever the panel."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.errors import NotEnoughDataError
from features.vocabulary import Domain, Quantity, Site
from features.windows import Panel, panel_from_blocks
from training.window_set import Splits, WindowSet, split_windows

DAY_S = 86400
TOWN = Domain(
    name="town",
    entity="road",
    targets=(Quantity(name="flow", unit="veh/h", aggregation="mean"),),
    covariates=(),
    step_s=3600,
    history_steps=24,
    horizon_steps=24,
)


def panel_over(domain: Domain, hours: int, *, sites: int = 1, seed: int = 0, missing: float = 0.0) -> Panel:
    """A panel with `hours` origins; some of its values are missing, in stretches."""
    rng = np.random.default_rng(seed)
    steps = domain.history_steps + hours + domain.horizon_steps - 1
    values = rng.uniform(1, 9, (sites, steps, len(domain.inputs))).astype(np.float32)
    for site in range(sites):
        for begin in np.flatnonzero(rng.random(steps) < missing / 40):
            values[site, begin : begin + 40] = np.nan
    whole = dataclasses.replace(domain, history_steps=steps - domain.horizon_steps)
    names = [Site(name=f"R{number}") for number in range(sites)]
    made = panel_from_blocks(whole, names, values[:, : whole.history_steps], origin_s=1_700_002_800)
    grid = made.value_STK.copy()
    grid[:, :, : len(domain.inputs)] = values
    return dataclasses.replace(made, domain=domain, value_STK=grid)


def target_hours(part: WindowSet) -> set[tuple[int, int]]:
    """Site and grid index of all hours that a part's targets cover."""
    ahead = np.arange(1, part.panel.domain.horizon_steps + 1)
    return {
        (int(site), int(hour))
        for site, origin in zip(part.site_index_B, part.origin_B, strict=True)
        for hour in origin + ahead
    }


def parts_of(splits: Splits) -> list[WindowSet]:
    return [splits.train, splits.validation, splits.test]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    weeks=st.integers(15, 30),
    extra=st.integers(0, 167),
    horizon=st.sampled_from([1, 6, 24, 48, 167, 168]),
    missing=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
    sites=st.integers(1, 2),
)
def test_parts_share_no_target_hour(
    weeks: int, extra: int, horizon: int, missing: float, seed: int, sites: int
) -> None:
    domain = dataclasses.replace(TOWN, horizon_steps=horizon)
    panel = panel_over(domain, weeks * 168 + extra, sites=sites, seed=seed, missing=missing)
    try:
        splits = split_windows(panel)
    except NotEnoughDataError:
        # Enough for any horizon up to a week, unless readings are missing.
        assert missing or weeks < 21
        return
    train, validation, test = (target_hours(part) for part in parts_of(splits))
    assert not train & validation
    assert not train & test
    assert not validation & test
    # Nothing of the test comes before anything else, not even at another site.
    assert max(hour for _, hour in train | validation) < min(hour for _, hour in test)


@settings(max_examples=20, deadline=None)
@given(weeks=st.integers(14, 40), extra=st.integers(0, 167), share=st.sampled_from([0.1, 0.2, 0.3]))
def test_the_test_is_the_last_share_of_the_time(weeks: int, extra: int, share: float) -> None:
    panel = panel_over(TOWN, weeks * 168 + extra)
    origins = np.unique(split_windows(panel, test_share=share).test.origin_B)
    everything = panel.last_origin - panel.first_origin + 1
    assert origins[-1] == panel.last_origin
    assert np.array_equal(origins, np.arange(origins[0], origins[-1] + 1))
    # Rounded up; a share such as 0.3 is a little more than it says.
    assert -1e-6 < len(origins) - share * everything < 1 + 1e-6


def test_the_share_may_be_counted_from_a_later_moment() -> None:
    panel = panel_over(TOWN, 20 * 168)
    reliable_s = int(panel.moments_s[panel.first_origin + 10 * 168])
    splits = split_windows(panel, counted_from_s=reliable_s)
    assert len(splits.test) == 2 * 168
    # What lies before it still trains.
    assert splits.train.origin_B.min() == panel.first_origin
    assert len(split_windows(panel, counted_from_s=0).test) == 4 * 168


def test_validation_is_every_eighth_week() -> None:
    panel = panel_over(TOWN, 30 * 168)
    splits = split_windows(panel)
    weeks = (splits.validation.origin_B - panel.first_origin) // 168
    assert set(weeks.tolist()) == {7, 15, 23}
    hours = {hour for _, hour in target_hours(splits.validation)}
    assert len(hours) == 3 * 167
    trained = set(((splits.train.origin_B - panel.first_origin) // 168).tolist())
    assert trained == set(range(24)) - {7, 15, 23}


def test_a_domain_that_forecasts_a_week_ahead_can_be_split() -> None:
    # Targets of a window span more than what is left of any one week.
    splits = split_windows(panel_over(dataclasses.replace(TOWN, horizon_steps=168), 30 * 168))
    assert len(splits.validation) >= 168
    assert len(splits.train) > len(splits.validation)


@pytest.mark.parametrize("name", list(DOMAINS))
def test_every_domain_can_be_split(name: str) -> None:
    domain = dataclasses.replace(DOMAINS[name], history_steps=24)
    splits = split_windows(panel_over(domain, 30 * 168))
    assert min(len(part) for part in parts_of(splits)) >= 100


@pytest.mark.parametrize("weeks", [1, 7, 8])
def test_too_few_readings(weeks: int) -> None:
    with pytest.raises(NotEnoughDataError, match="twenty weeks") as caught:
        split_windows(panel_over(TOWN, weeks * 168))
    assert f"{weeks} weeks of origins" in str(caught.value)


def test_windows_without_targets_or_recent_history_are_left_out() -> None:
    panel = panel_over(TOWN, 20 * 168)
    values = panel.value_STK.copy()
    gap = panel.first_origin + 500
    values[0, gap : gap + 60, 0] = np.nan
    part = split_windows(dataclasses.replace(panel, value_STK=values)).train
    targets = np.isfinite(part.targets())
    assert (targets.sum(axis=1) >= TOWN.horizon_steps // 2).all()
    near = np.abs(part.origin_B - gap) < 100
    expected = []
    for origin in range(gap - 99, gap + 100):
        ahead = np.isfinite(values[0, origin + 1 : origin + 25, 0]).sum()
        behind = np.isfinite(values[0, origin - 23 : origin + 1, 0]).sum()
        if ahead >= 12 and behind >= 8:
            expected.append(origin)
    assert part.origin_B[near].tolist() == expected
    assert 0 < len(expected) < 199


def test_targets_are_what_came_after_the_origin() -> None:
    panel = panel_over(TOWN, 20 * 168, sites=2)
    part = split_windows(panel).train
    chosen = [0, 100, len(part) - 1]
    targets = part.targets(chosen)
    windows = part.windows(chosen)
    for row, position in enumerate(chosen):
        site, origin = int(part.site_index_B[position]), int(part.origin_B[position])
        np.testing.assert_array_equal(targets[row], panel.value_STK[site, origin + 1 : origin + 25, 0])
        assert windows.sites[row] == panel.sites[site].name
        assert windows.history_BLK[row, -1, 0] == panel.value_STK[site, origin, 0]
    assert part.targets().shape == (len(part), 24)
    assert len(part.windows()) == len(part)


def test_a_subset_by_mask_or_by_positions() -> None:
    part = split_windows(panel_over(TOWN, 20 * 168)).test
    mask = part.origin_B % 7 == 0
    by_mask, by_position = part.subset(mask), part.subset(np.flatnonzero(mask))
    np.testing.assert_array_equal(by_mask.origin_B, part.origin_B[mask])
    np.testing.assert_array_equal(by_mask.origin_B, by_position.origin_B)
    assert by_mask.span() == by_position.span()


def test_a_span_names_first_and_last_origin() -> None:
    panel = panel_over(TOWN, 20 * 168)
    part = split_windows(panel).test
    first, last = (str(np.datetime64(int(panel.moments_s[index]), "s"))[:13] for index in part.origin_B[[0, -1]])
    assert part.span() == f"{first} to {last} UTC"
    assert part.span().startswith("2023-10-18T00 to ")
