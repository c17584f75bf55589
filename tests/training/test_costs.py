"""What errors cost, against sums worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from features.domains import DOMAINS
from training.costs import ASSUMED_COSTS, CostOfError, assumed_cost, business_figure
from training.train import Judgement

MakeJudgement = Callable[[dict[str, float]], Judgement]

PRICES = CostOfError(under_per_unit=3.0, over_per_unit=1.0, currency="EUR", because="a test")


def test_too_little_and_too_much_have_their_own_price() -> None:
    # 5 too few at 3, nothing, 4 too many at 1.
    assert PRICES.of([10.0, 20.0, 30.0], [5.0, 20.0, 34.0]).tolist() == [15.0, 0.0, 4.0]


def test_the_figure_of_a_judgement_is_the_mean_over_its_measured_hours(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    figure = business_figure(judgement, PRICES)
    costs, naive_costs = [], []
    for target_H, median_H, naive_H in zip(
        judgement.target_BH.tolist(),
        judgement.quantiles_BHQ[:, :, 3].tolist(),
        judgement.naive_BH.tolist(),
        strict=True,
    ):
        for target, median, naive in zip(target_H, median_H, naive_H, strict=True):
            if not np.isnan(target):
                costs.append(3 * (target - median) if target > median else median - target)
                naive_costs.append(3 * (target - naive) if target > naive else naive - target)
    assert figure.hours == len(costs)
    assert figure.median == pytest.approx(np.mean(costs))
    assert figure.naive == pytest.approx(np.mean(naive_costs))
    assert figure.saved_share == pytest.approx(1 - np.mean(costs) / np.mean(naive_costs))


def test_equal_prices_of_one_make_it_the_mean_absolute_error(judgement_of: MakeJudgement) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    even = CostOfError(under_per_unit=1.0, over_per_unit=1.0, currency="EUR", because="a test")
    error = judgement.target_BH.astype(np.float64) - judgement.quantiles_BHQ[:, :, 3]
    figure = business_figure(judgement, even)
    assert figure.median == pytest.approx(np.nanmean(np.abs(error)))
    assert figure.best == pytest.approx(figure.median)


def test_the_quantile_that_the_prices_ask_for_is_the_cheapest(judgement_of: MakeJudgement) -> None:
    # Errors of 10 % and quantiles that fit them: the level 3 / (3 + 1) costs less than the median.
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    assert PRICES.best_level == 0.75
    known = np.isfinite(judgement.target_BH)
    by_level = [
        PRICES.of(judgement.target_BH[known], judgement.quantiles_BHQ[:, :, index][known]).mean()
        for index in range(len(judgement.levels))
    ]
    assert int(np.argmin(by_level)) == judgement.levels.index(0.75)
    assert business_figure(judgement, PRICES).best == pytest.approx(min(by_level))


def test_a_level_between_two_quantiles_is_taken_between_them_and_one_beyond_is_the_outermost(
    judgement_of: MakeJudgement,
) -> None:
    judgement = judgement_of({"A": 0.1, "B": 0.1, "C": 0.1})
    known = np.isfinite(judgement.target_BH)
    target = judgement.target_BH[known].astype(np.float64)
    quantiles = judgement.quantiles_BHQ[known].astype(np.float64)
    between = CostOfError(under_per_unit=5.0, over_per_unit=3.0, currency="EUR", because="a test")
    halfway = (quantiles[:, 3] + quantiles[:, 4]) / 2
    assert between.best_level == 0.625
    assert business_figure(judgement, between).best == pytest.approx(between.of(target, halfway).mean())
    only_under = CostOfError(under_per_unit=1.0, over_per_unit=0.0, currency="EUR", because="a test")
    assert business_figure(judgement, only_under).best == pytest.approx(only_under.of(target, quantiles[:, -1]).mean())


def test_every_target_has_assumed_prices_that_say_why() -> None:
    for domain in DOMAINS.values():
        for target in domain.targets:
            assert target.name in ASSUMED_COSTS, f"{domain.name}: no price of {target.name} is assumed"
            assert assumed_cost(target).because.startswith("assumed: ")


def test_an_unknown_target_weighs_both_directions_alike() -> None:
    assert assumed_cost(DOMAINS["traffic"].covariates[0]).best_level == 0.5


@pytest.mark.parametrize(("under", "over"), [(-1.0, 1.0), (1.0, -1.0), (0.0, 0.0)])
def test_prices_that_make_no_sense_are_our_own_bug(under: float, over: float) -> None:
    with pytest.raises(AssertionError):
        CostOfError(under_per_unit=under, over_per_unit=over, currency="EUR", because="a test")
