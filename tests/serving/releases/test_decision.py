"""What becomes of a canary: every reason to roll back, and none where there is none."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.releases.decision import Advance, CanaryFigures, Hold, RollBack, decide
from serving.releases.figures import Counts, Matched, Tally
from serving.releases.plans import CanaryLimits, CanaryPlan

PLAN = CanaryPlan(
    id="0123456789abcdef",
    version=2,
    champion=1,
    step_since_s=1000.0,
    since_s=1000.0,
    minimum_s=60.0,
    minimum_requests=100,
)


def counts(requests: int, *, failures: int = 0, seconds: float = 0.005) -> Counts:
    tally = Tally()
    for index in range(requests):
        tally.enter(seconds, failed=index < failures)
    return tally.counts()


def matched(steps: int, *, champion: float = 10.0, canary: float = 10.0, inside: float = 0.95) -> Matched:
    return Matched(
        steps=steps,
        champion_error=champion * steps,
        rival_error=canary * steps,
        champion_inside=round(0.95 * steps),
        rival_inside=round(inside * steps),
    )


GOOD = CanaryFigures(canary=counts(100), champion=counts(1000), matched=matched(48), champion_version=1)


def test_a_step_that_went_well_is_over_after_its_time_and_its_answers() -> None:
    assert isinstance(decide(GOOD, PLAN, 1060.0), Advance)
    assert isinstance(decide(GOOD, PLAN, 1059.0), Hold)
    assert isinstance(decide(dataclasses.replace(GOOD, canary=counts(99)), PLAN, 2000.0), Hold)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"canary": counts(3, failures=3)}, "failed answers"),
        ({"canary": counts(100, failures=4)}, "failed answers"),
        ({"canary": counts(100, seconds=0.1)}, "latency"),
        ({"matched": matched(48, canary=11.5)}, "mean absolute error"),
        ({"matched": matched(100, inside=0.8)}, "inside the interval"),
        ({"champion_version": 3}, "champion changed from version 1 to 3"),
    ],
    ids=["fails at once", "fails now and then", "slow", "wrong", "too sure", "champion changed"],
)
def test_what_is_worse_is_rolled_back(change: dict[str, Any], reason: str) -> None:
    decision = decide(dataclasses.replace(GOOD, **change), PLAN, 1060.0)
    assert isinstance(decision, RollBack)
    assert reason in decision.reason


@pytest.mark.parametrize(
    "change",
    [
        {"canary": counts(100, failures=2)},
        {"canary": counts(100, seconds=0.014)},
        {"matched": matched(47, canary=100.0, inside=0.0)},
        {"matched": matched(48, champion=0.0, canary=0.0)},
        {"champion": counts(49), "canary": counts(100, seconds=9.0)},
        {"champion": counts(1000, failures=50), "canary": counts(100, failures=6)},
        {"champion_version": None},
    ],
    ids=["two failures", "a little slower", "too few steps", "both exact", "too few times", "both fail", "not known"],
)
def test_what_is_no_worse_or_not_known_yet_goes_on(change: dict[str, Any]) -> None:
    assert isinstance(decide(dataclasses.replace(GOOD, **change), PLAN, 1060.0), Advance)


def test_an_early_failure_or_two_is_no_verdict_and_the_same_share_later_is() -> None:
    early = dataclasses.replace(GOOD, canary=counts(40, failures=3))
    assert isinstance(decide(early, PLAN, 1001.0), Hold)
    assert isinstance(decide(dataclasses.replace(GOOD, canary=counts(120, failures=5)), PLAN, 1001.0), Hold)
    assert isinstance(decide(dataclasses.replace(GOOD, canary=counts(120, failures=5)), PLAN, 1060.0), RollBack)


def test_the_table_says_what_could_not_be_judged() -> None:
    table = {line.name: line for line in decide(CanaryFigures(), PLAN, 1000.0).table}
    assert {line.state for line in table.values()} == {"not judged"}
    assert table["answers at 5 %"].allowed == "at least 100"


COUNTS = st.builds(
    lambda requests, share, seconds: counts(requests, failures=int(share * requests), seconds=seconds),
    st.integers(0, 300),
    st.floats(0, 1),
    st.floats(1e-6, 100),
)
FIGURES = st.builds(
    CanaryFigures,
    canary=COUNTS,
    champion=COUNTS,
    matched=st.builds(
        matched, st.integers(0, 500), champion=st.floats(0, 1e6), canary=st.floats(0, 1e6), inside=st.floats(0, 1)
    ),
    champion_version=st.sampled_from([None, 1, 2]),
)


@given(figures=FIGURES, now_s=st.floats(0, 1e10))
def test_any_figures_give_a_decision_with_its_table(figures: CanaryFigures, now_s: float) -> None:
    decision = decide(figures, PLAN, now_s)
    assert decision.reason
    assert len(decision.table) == 6
    failed = any(line.state == "fails" for line in decision.table)
    assert isinstance(decision, RollBack) == (failed or figures.champion_version == 2)
    if isinstance(decision, Advance):
        assert now_s - PLAN.step_since_s >= PLAN.minimum_s
        assert figures.canary.requests >= PLAN.minimum_requests


@given(figures=FIGURES, now_s=st.floats(1060, 1e6), more=st.integers(1, 50))
def test_more_failures_never_help(figures: CanaryFigures, now_s: float, more: int) -> None:
    before = decide(figures, PLAN, now_s)
    worse = dataclasses.replace(figures, canary=figures.canary + counts(more, failures=more))
    # At the moment when enough answers are there, the judgement turns from a lower bound to the share itself.
    if isinstance(before, RollBack) and "failed answers" in before.reason:
        assert isinstance(decide(worse, PLAN, now_s), RollBack)


@given(st.lists(st.floats(1e-6, 200), min_size=1, max_size=60), st.floats(0.01, 1))
def test_a_percentile_is_at_most_a_tenth_too_large(times_s: list[float], share: float) -> None:
    tally = Tally()
    for seconds in times_s:
        tally.enter(seconds, failed=False)
    exact = sorted(times_s)[max(0, -int(-share * len(times_s) // 1) - 1)]
    found = tally.counts().percentile_s(share)
    assert found >= min(exact, 160) * 0.999
    assert found <= max(exact, 1e-5) * 1.1


def test_counts_are_added_over_workers_and_subtracted_over_time() -> None:
    first, second = counts(5, seconds=0.001), counts(7, failures=2, seconds=0.1)
    assert (first + second) - first == dataclasses.replace(second, latency=((first + second) - first).latency)
    assert ((first + second) - first).percentile_s(0.95) == second.percentile_s(0.95)
    assert (first + second).requests == 12
    assert (first + second).timed == 10


def test_limits_are_bounded() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        CanaryLimits(latency_ratio=0.5)
