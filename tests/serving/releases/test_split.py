"""Who answers for a site: always the same, a share of them, and at least one."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.card import CHAMPION
from serving.releases.plans import (
    CANARY,
    CANARY_TAG,
    CHALLENGER,
    CHALLENGER_TAG,
    CanaryPlan,
    ChallengerPlan,
    Standing,
    standing_of,
)
from serving.releases.split import Split, position, share_of, split_of

CANARY_ID, TEST_ID = "00000000000000aa", "00000000000000bb"


def canary(step: int = 0) -> CanaryPlan:
    return CanaryPlan(id=CANARY_ID, version=2, champion=1, step=step, step_since_s=0.0, since_s=0.0)


def challenger(share: float) -> ChallengerPlan:
    return ChallengerPlan(id=TEST_ID, version=3, share_percent=share, since_s=0.0)


def chosen(split: Split, role: str, sites: list[str]) -> set[str]:
    return {site for site in sites if split.role(site) == role}


SITES = [f"R{number:04d}" for number in range(2000)]


@pytest.mark.parametrize("percent", [5, 20, 50, 100])
def test_a_share_of_the_sites_is_chosen(percent: float) -> None:
    split = Split(shares=(share_of(CANARY, salt=CANARY_ID, percent=percent, sites=SITES),))
    assert len(chosen(split, CANARY, SITES)) / len(SITES) == pytest.approx(percent / 100, abs=0.02)


def test_the_sites_of_a_step_stay_in_the_next_and_another_canary_begins_elsewhere() -> None:
    steps = [
        chosen(split_of(Standing(name="m", made_ms=0, canary=canary(step)), {CANARY: 1}, SITES), CANARY, SITES)
        for step in range(4)
    ]
    assert steps[0] < steps[1] < steps[2] < steps[3] == set(SITES)
    other = Split(shares=(share_of(CANARY, salt=TEST_ID, percent=5, sites=SITES),))
    assert chosen(other, CANARY, SITES) != steps[0]


def test_in_a_small_town_one_site_is_chosen() -> None:
    for count in (1, 2, 7):
        split = split_of(Standing(name="m", made_ms=0, canary=canary()), {CANARY: 1}, SITES[:count])
        assert len(chosen(split, CANARY, SITES[:count])) == 1


def test_a_site_of_both_is_the_canarys_and_a_version_that_is_not_loaded_answers_nobody() -> None:
    standing = Standing(name="m", made_ms=0, canary=canary(2), challenger=challenger(50))
    both = split_of(standing, {CANARY: 1, CHALLENGER: 1}, SITES)
    assert len(chosen(both, CANARY, SITES)) / 2000 == pytest.approx(0.5, abs=0.03)
    assert len(chosen(both, CHALLENGER, SITES)) / 2000 == pytest.approx(0.25, abs=0.03)
    assert both.without(CANARY) == split_of(standing, {CHALLENGER: 1}, SITES)
    assert split_of(standing, {}, SITES).role("R0001") == CHAMPION


@given(st.text(), st.sampled_from([CANARY_ID, TEST_ID]))
def test_every_name_has_a_position(site: str, salt: str) -> None:
    assert 0 <= position(salt, site) < 1
    assert position(salt, site) == position(salt, site)


def model(tags: dict[str, str], **aliases: int) -> Any:
    return SimpleNamespace(name="m", creation_timestamp=1, tags=tags, aliases={"champion": 1, **aliases})


def test_plans_are_read_back() -> None:
    tags = {CANARY_TAG: canary(1).model_dump_json(), CHALLENGER_TAG: challenger(20).model_dump_json()}
    standing = standing_of(model(tags, canary=2, challenger=3, shadow=4))
    assert (standing.canary, standing.challenger, standing.faults) == (canary(1), challenger(20), ())
    assert standing.versions == {"champion": 1, "canary": 2, "challenger": 3, "shadow": 4}


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(canary().model_dump_json()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        changed(steps_percent=[5, 4, 100]),
        changed(steps_percent=[5, 25]),
        changed(steps_percent=[]),
        changed(steps_percent=[float("nan"), 100]),
        changed(steps_percent=[0, 100]),
        changed(steps_percent=["5", 100]),
        changed(step=4),
        changed(step=-1),
        changed(version="2"),
        changed(version=7),
        changed(id="../../etc"),
        changed(extra=1),
        changed(minimum_s=-1),
    ],
)
def test_a_broken_tag_leaves_the_champion_alone_and_is_told(text: str) -> None:
    standing = standing_of(model({CANARY_TAG: text}, canary=2))
    assert standing.canary is None
    assert CANARY_TAG in standing.faults[0]
    assert split_of(standing, {CANARY: 1}, SITES) == Split()


def test_an_alias_without_a_plan_answers_nobody_and_a_plan_without_an_alias_is_nobodys() -> None:
    alone = standing_of(model({}, canary=2))
    assert alone.canary is None
    assert "no plan" in alone.faults[0]
    left = standing_of(model({CANARY_TAG: canary().model_dump_json()}))
    assert (left.canary, left.faults) == (None, ())
