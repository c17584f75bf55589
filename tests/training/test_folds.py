"""Folds in time: no judged hour is trained on, an embargo lies between, and nothing touches the last fifth."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.domains import DOMAINS
from features.errors import InvalidParameterError, NotEnoughDataError
from features.vocabulary import Domain, Quantity, Site
from features.windows import Panel, panel_from_blocks
from training.data_module import WindowDataModule
from training.folds import cross_validation, walk_forward
from training.window_set import Splits, WindowSet, split_windows

TOWN = Domain(
    name="town",
    entity="road",
    targets=(
        Quantity(name="flow", unit="veh/h", aggregation="mean"),
        Quantity(name="speed", unit="km/h", aggregation="mean"),
    ),
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


def target_hours(part: WindowSet) -> set[int]:
    """Grid index of all hours that a part's targets cover, at any site."""
    ahead = np.arange(1, part.panel.domain.horizon_steps + 1)
    return set((np.unique(part.origin_B)[:, None] + ahead).ravel().tolist())


def origins(part: WindowSet) -> list[tuple[int, int]]:
    return list(zip(part.site_index_B.tolist(), part.origin_B.tolist(), strict=True))


panels = st.fixed_dictionaries(
    {
        "weeks": st.integers(30, 60),
        "extra": st.integers(0, 167),
        "horizon": st.sampled_from([1, 6, 24, 48, 168]),
        "missing": st.sampled_from([0.0, 0.2]),
        "seed": st.integers(0, 99),
        "sites": st.integers(1, 2),
    }
)


def made(drawn: dict[str, int]) -> Panel:
    domain = dataclasses.replace(TOWN, horizon_steps=drawn["horizon"])
    hours = drawn["weeks"] * 168 + drawn["extra"]
    return panel_over(domain, hours, sites=drawn["sites"], seed=drawn["seed"], missing=drawn["missing"])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=panels, count=st.integers(2, 5), beyond=st.sampled_from([None, 0, 100]))
def test_folds_are_honest(drawn: dict[str, int], count: int, beyond: int | None) -> None:
    panel = made(drawn)
    horizon = panel.domain.horizon_steps
    embargo = None if beyond is None else horizon + beyond
    try:
        folds = cross_validation(panel, folds=count, embargo_steps=embargo)
    except NotEnoughDataError:
        # Enough for any horizon up to a week, unless readings are missing or the embargo is long.
        assert drawn["weeks"] < 40 or drawn["missing"]
        return
    kept = max(168, horizon) if embargo is None else embargo
    test_from = int(split_windows(panel).test.origin_B.min()) if not drawn["missing"] else panel.last_origin + 1
    assert len(folds) == count
    judged_before: set[int] = set()
    trained_before = 0
    for fold in folds:
        train, validation, judged = (target_hours(part) for part in (fold.train, fold.validation, fold.test))
        assert not train & validation
        # No target hour of the judged block trains or calibrates, and the embargo is kept, at every site.
        assert max(train | validation) <= int(fold.test.origin_B.min()) - kept
        # Blocks are disjoint and ordered.
        assert not judged & judged_before
        assert max(judged_before, default=-1) < min(judged)
        # Expanding: each trains on at least what the fold before trained on.
        assert max(train) > trained_before
        assert min(train) == panel.first_origin + 1 or drawn["missing"]
        # No window touches the last fifth.
        assert max(judged) < test_from
        judged_before |= judged
        trained_before = max(train)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=panels, every=st.sampled_from([100, 168, 700]), embargo=st.sampled_from([0, 50]))
def test_walking_forward_judges_each_window_of_the_test_once(drawn: dict[str, int], every: int, embargo: int) -> None:
    panel = made(drawn)
    try:
        test = split_windows(panel).test
        walked = list(walk_forward(panel, every_steps=every, embargo_steps=embargo))
    except NotEnoughDataError:
        assert drawn["weeks"] < 40 or drawn["missing"]
        return
    assert sorted(pair for fold in walked for pair in origins(fold.test)) == sorted(origins(test))
    for fold in walked:
        first = int(fold.test.origin_B.min())
        # Known when the block begins, and never a target of it.
        assert max(target_hours(fold.train) | target_hours(fold.validation)) <= first - embargo
        assert int(fold.test.origin_B.max()) - first < every
    ends = [int(fold.train.origin_B.max()) for fold in walked]
    assert ends == sorted(ends)


def test_a_month_passes_between_refits_and_the_span_is_free() -> None:
    panel = panel_over(TOWN, 60 * 168)
    begin = panel.first_origin + 20 * 168
    walked = list(walk_forward(panel, first_origin=begin, last_origin=begin + 12 * 168 - 1))
    assert [int(fold.test.origin_B.min()) - begin for fold in walked] == [0, 4 * 168, 8 * 168]
    assert {len(fold.test) for fold in walked} == {4 * 168}
    # What a refit at the first origin of a block knows: targets up to that very hour.
    assert int(walked[0].train.origin_B.max()) == begin - TOWN.horizon_steps


def test_nothing_before_a_block_is_refused() -> None:
    panel = panel_over(TOWN, 60 * 168)
    with pytest.raises(NotEnoughDataError, match="too few readings for folds"):
        list(walk_forward(panel, first_origin=panel.first_origin + 168))


def test_blocks_are_whole_weeks_up_to_the_test() -> None:
    panel = panel_over(TOWN, 100 * 168)
    folds = cross_validation(panel)
    test_from = panel.first_origin + 80 * 168
    begins = [int(fold.test.origin_B.min()) for fold in folds]
    assert begins == [test_from - weeks * 168 for weeks in (65, 52, 39, 26, 13)]
    # The last window of a block ends with it.
    assert {len(fold.test) for fold in folds} == {13 * 168 - TOWN.horizon_steps}
    assert int(folds[-1].test.origin_B.max()) + TOWN.horizon_steps == test_from - 1
    assert len(folds[0].validation) > 0


def test_every_family_gets_identical_folds_from_one_data_module() -> None:
    panel = panel_over(TOWN, 60 * 168, sites=2, missing=0.1)
    data = WindowDataModule(split_windows(panel), folds=cross_validation(panel))
    again = cross_validation(panel)
    for number, fold in enumerate(again):
        module = data.fold(number)
        for part in ("train", "validation", "test"):
            ours, theirs = getattr(module.splits, part), getattr(fold, part)
            np.testing.assert_array_equal(ours.origin_B, theirs.origin_B)
            np.testing.assert_array_equal(ours.site_index_B, theirs.site_index_B)
        # The loaders judge on the fold's block, in order of time.
        first = next(iter(module.test_dataloader()))
        np.testing.assert_array_equal(first["target"].numpy(), fold.test.targets(np.arange(len(first["target"]))))
    assert data.fold(0).batch_size == data.batch_size


def test_each_target_has_folds_of_its_own_windows() -> None:
    panel = panel_over(TOWN, 60 * 168)
    values = panel.value_STK.copy()
    values[0, panel.first_origin + 200 : panel.first_origin + 400, 1] = np.nan
    holed = dataclasses.replace(panel, value_STK=values)
    flow, speed = (cross_validation(holed, target=target) for target in TOWN.targets)
    assert [fold.test.target.name for fold in speed] == ["speed"] * 5
    assert len(speed[-1].train) < len(flow[-1].train)
    np.testing.assert_array_equal(speed[-1].test.origin_B, flow[-1].test.origin_B)


def test_what_lies_before_the_counted_moment_trains_and_is_not_judged() -> None:
    panel = panel_over(TOWN, 100 * 168)
    begin = panel.first_origin + 40 * 168
    folds = cross_validation(panel, counted_from_s=int(panel.moments_s[begin]))
    assert int(folds[0].test.origin_B.min()) == begin + 8 * 168
    assert int(folds[0].train.origin_B.min()) == panel.first_origin


def test_an_embargo_shorter_than_the_horizon_is_refused() -> None:
    panel = panel_over(TOWN, 60 * 168)
    with pytest.raises(InvalidParameterError, match="shorter than the horizon") as caught:
        cross_validation(panel, embargo_steps=23)
    assert "24 steps" in caught.value.remedy
    with pytest.raises(InvalidParameterError, match="several folds"):
        cross_validation(panel, folds=1)


@pytest.mark.parametrize("weeks", [2, 5, 8])
def test_too_few_readings(weeks: int) -> None:
    with pytest.raises(NotEnoughDataError, match="folds in time") as caught:
        cross_validation(panel_over(TOWN, weeks * 168))
    assert "fewer folds than 5" in caught.value.remedy


@pytest.mark.parametrize("name", list(DOMAINS))
def test_every_domain_has_five_folds(name: str) -> None:
    domain = dataclasses.replace(DOMAINS[name], history_steps=24)
    folds: tuple[Splits, ...] = cross_validation(panel_over(domain, 40 * 168))
    assert len(folds) == 5
    assert min(len(part) for fold in folds for part in (fold.train, fold.validation, fold.test)) >= 24
