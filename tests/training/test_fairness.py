"""The fairness check: it sees a neglected site, lets equal ones be, and says what it cannot compare."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from training.fairness import FairnessLimits, check_fairness
from training.train import Judgement, judge_quantiles

MakeJudgement = Callable[[dict[str, float]], Judgement]

EVEN = {"A": 0.1, "B": 0.1, "C": 0.1}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def only_sites(judgement: Judgement, *indices: int) -> Judgement:
    chosen = np.isin(judgement.windows.site_index_B, indices)
    return judge_quantiles(judgement.quantiles_BHQ[chosen], judgement.windows.subset(chosen), levels=judgement.levels)


def test_sites_that_are_served_alike_raise_no_flag_whatever_their_size(judgement_of: MakeJudgement) -> None:
    fairness = check_fairness(judgement_of(EVEN), rng=rng())
    assert fairness.flags == ()
    assert fairness.sites is not None
    assert fairness.sites.error_ratio == pytest.approx(1.0, abs=0.05)
    levels = {group.name: group.level for group in fairness.sites.groups}
    assert levels["B"] > 5 * levels["A"]


def test_a_neglected_site_is_named_with_its_ratio_and_its_coverage(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})
    fairness = check_fairness(judgement, rng=rng())
    part = fairness.sites
    assert part is not None
    assert part.groups[0].name == part.least_covered == "C"
    low, high = part.error_ratio_90
    assert low < 3.0 < high
    assert part.error_ratio == pytest.approx(3.0, rel=0.1)
    assert len([flag for flag in fairness.flags if flag.startswith("site C")]) == 2
    of_c = judgement.windows.site_index_B == 2
    error = np.abs(judgement.target_BH - judgement.quantiles_BHQ[:, :, 3])[of_c].astype(np.float64)
    assert part.groups[0].relative_error == pytest.approx(np.nanmean(error) / np.nanmean(judgement.target_BH[of_c]))


def test_zones_are_taken_from_the_sites_or_from_whoever_asks(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})
    by_attribute = check_fairness(judgement, rng=rng()).zones
    assert by_attribute is not None
    assert [group.name for group in by_attribute.groups] == ["2", "1"]
    assert by_attribute.groups[1].hours == sum(
        int(np.isfinite(judgement.target_BH[judgement.windows.site_index_B == index]).sum()) for index in (0, 1)
    )
    named = check_fairness(judgement, rng=rng(), zones={"A": "old town", "C": "harbour"}).zones
    assert named is not None
    assert {group.name for group in named.groups} == {"old town", "harbour"}


def test_one_site_is_said_to_be_alone(judgement_of: MakeJudgement) -> None:
    judgement = only_sites(judgement_of(EVEN), 1)
    panel = dataclasses.replace(judgement.windows.panel, sites=judgement.windows.panel.sites[1:2])
    windows = dataclasses.replace(
        judgement.windows,
        panel=dataclasses.replace(
            panel,
            value_STK=panel.value_STK[1:2],
            delay_STM=panel.delay_STM[1:2],
            static_SS=panel.static_SS[1:2],
        ),
        target_ST=judgement.windows.target_ST[1:2],
        site_index_B=np.zeros(len(judgement.windows), dtype=np.int64),
    )
    alone = judge_quantiles(judgement.quantiles_BHQ, windows, levels=judgement.levels)
    fairness = check_fairness(alone, rng=rng())
    assert fairness.sites is None
    assert fairness.flags == ()
    assert "There is one site: nothing to compare it with." in fairness.remarks


def test_sites_with_too_few_hours_are_left_out_and_named(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})
    index = judgement.windows.site_index_B
    chosen = (index != 2) | (np.cumsum(index == 2) <= 168)
    few = judge_quantiles(judgement.quantiles_BHQ[chosen], judgement.windows.subset(chosen), levels=judgement.levels)
    fairness = check_fairness(few, rng=rng())
    assert fairness.sites is not None
    assert fairness.sites.left_out == ("C",)
    assert fairness.flags == ()
    assert fairness.zones is None
    assert "Fewer than two zones were measured for long enough to compare them." in fairness.remarks
    lone = check_fairness(only_sites(judgement, 0), rng=rng())
    assert "Fewer than two sites were measured for long enough to compare them." in lone.remarks


def test_a_difference_within_the_limit_is_no_flag(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.3})
    lenient = check_fairness(judgement, rng=rng(), limits=FairnessLimits(error_ratio=4.0, coverage_gap=0.9))
    assert lenient.flags == ()


def test_the_same_generator_gives_the_same_check(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of(EVEN)
    assert check_fairness(judgement, rng=rng()) == check_fairness(judgement, rng=rng())
