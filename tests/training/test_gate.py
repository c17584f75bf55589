"""The gate on errors made for the purpose: who may become champion, and what the verdict says."""

import dataclasses
import json

import numpy as np
import pytest

from training.gate import Candidate, Champion, GateRules, HeldOut, Verdict, judge_candidate, verdict_from_json

LEVELS = (0.05, 0.5, 0.95)
SEASON = 168
RULES = GateRules()


def held_out(*, seasons: float = 6, seed: int = 0) -> HeldOut:
    """Two sites over some weeks, two steps ahead; the profile is wrong by 10 on average, every other week by 15."""
    rng = np.random.default_rng(seed)
    origins = np.arange(int(seasons * SEASON))
    origin_B, site_B = np.tile(origins, 2), np.repeat([0, 1], len(origins))
    target = rng.normal(500, 100, (len(origin_B), 2)).astype(np.float32)
    size = np.where(origin_B // SEASON % 2 == 0, 5.0, 15.0)[:, None]
    naive = target + size * rng.choice([-1, 1], target.shape) * rng.uniform(0.5, 1.5, target.shape)
    return HeldOut(
        target_BH=target,
        naive_BH=naive.astype(np.float32),
        origin_B=origin_B,
        site_index_B=site_B,
        sites=("R1", "R2"),
        season_steps=SEASON,
        unit="veh/h",
    )


def wrong_by(windows: HeldOut, share: float | np.ndarray, *, seed: int = 1) -> np.ndarray:
    """Forecasts whose errors are a share of the profile's on average."""
    jitter = np.random.default_rng(seed).uniform(0.8, 1.2, windows.target_BH.shape)
    forecast: np.ndarray = windows.target_BH + share * jitter * (windows.naive_BH - windows.target_BH)
    return forecast.astype(np.float32)


def candidate(windows: HeldOut, median_BH: np.ndarray, *, holds: float = 0.9, **changes: object) -> Candidate:
    """A candidate whose 90 % interval holds a share of the hours."""
    miss = np.random.default_rng(2).random(median_BH.shape) >= holds
    half = np.where(miss, 0.0, np.abs(windows.target_BH - median_BH) + 1)
    # Where the target was not measured, the interval is just there.
    half = np.nan_to_num(half, nan=1.0)
    made = Candidate(
        version=2,
        quantiles_BHQ=np.stack([median_BH - half, median_BH, median_BH + half], axis=2).astype(np.float32),
        levels=LEVELS,
        parity=1e-7,
        latency_ms=0.4,
        measured=True,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def champion(median_BH: np.ndarray | None, *, measured: bool = True, remark: str = "") -> Champion:
    return Champion(version=1, median_BH=median_BH, measured=measured, remark=remark)


def judge(windows: HeldOut, ours: Candidate, theirs: Champion | None, rules: GateRules = RULES) -> Verdict:
    return judge_candidate(ours, theirs, windows, model="towncast-traffic", rules=rules)


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_a_better_model_passes() -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7)), champion(wrong_by(windows, 0.8, seed=5)))
    assert verdict.passed
    assert not verdict.needs_person
    assert (verdict.candidate, verdict.champion, verdict.windows) == (2, 1, len(windows.origin_B))
    assert verdict.checks[1].name == "better than champion version 1"
    assert verdict.checks[1].found.startswith("better: MAE")
    figures = verdict.checks[1].figures
    assert 0 < figures["gain_low"] < figures["rival_mae"] - figures["mae"] < figures["gain_high"]


def test_a_worse_model_fails_though_it_beats_the_profile() -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.83)), champion(wrong_by(windows, 0.8, seed=5)))
    assert failed(verdict) == ["better than champion version 1"]
    assert verdict.checks[1].found.startswith("worse:")
    assert "worse" in verdict.reason


@pytest.mark.parametrize("same", [True, False])
def test_an_equal_model_fails(same: bool) -> None:
    windows = held_out()
    theirs = wrong_by(windows, 0.8)
    ours = theirs if same else wrong_by(windows, 0.8, seed=7)
    verdict = judge(windows, candidate(windows, ours), champion(theirs))
    assert failed(verdict) == ["better than champion version 1"]
    assert verdict.checks[1].found.startswith("no clear difference")


def test_an_equal_model_passes_where_that_is_allowed_and_a_worse_one_does_not() -> None:
    windows, rules = held_out(), GateRules(allow_equal=True)
    theirs = champion(wrong_by(windows, 0.8))
    equal = judge(windows, candidate(windows, wrong_by(windows, 0.8, seed=5)), theirs, rules)
    assert equal.passed
    assert equal.checks[1].name == "not worse than champion version 1"
    worse = judge(windows, candidate(windows, wrong_by(windows, 0.83)), theirs, rules)
    assert failed(worse) == ["not worse than champion version 1"]


@pytest.mark.parametrize(("loss", "passes"), [(1.06, False), (1.04, True)])
def test_a_site_may_lose_little(loss: float, passes: bool) -> None:
    windows = held_out()
    theirs = wrong_by(windows, 0.8)
    share = np.where(windows.site_index_B == 1, loss, 0.5)[:, None]
    ours = windows.target_BH + share * (theirs - windows.target_BH)
    verdict = judge(windows, candidate(windows, ours), champion(theirs))
    assert failed(verdict) == ([] if passes else ["worst site"])
    worst = next(check for check in verdict.checks if check.name == "worst site")
    assert worst.found.startswith("R2: MAE +")
    assert worst.figures["R2"] == pytest.approx(loss - 1, abs=1e-4)


def test_a_site_with_less_than_a_season_of_windows_is_not_judged_alone() -> None:
    windows = held_out()
    kept = (windows.site_index_B == 0) | (windows.origin_B < 20)
    fewer = dataclasses.replace(
        windows,
        **{name: getattr(windows, name)[kept] for name in ("target_BH", "naive_BH", "origin_B", "site_index_B")},
    )
    theirs = wrong_by(fewer, 0.8)
    share = np.where(fewer.site_index_B == 1, 3.0, 0.5)[:, None]
    ours = fewer.target_BH + share * (theirs - fewer.target_BH)
    verdict = judge(fewer, candidate(fewer, ours), champion(theirs))
    assert verdict.passed
    assert any("not judged alone: R2" in remark for remark in verdict.remarks)


@pytest.mark.parametrize(("holds", "passes"), [(0.80, False), (0.88, True), (0.95, True), (1.0, False)])
def test_the_interval_must_hold_about_as_often_as_it_promises(holds: float, passes: bool) -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7), holds=holds), None)
    assert failed(verdict) == ([] if passes else ["90 % interval holds"])


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_graph_that_says_something_else_fails(difference: float) -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7), parity=difference), None)
    assert failed(verdict) == ["ONNX parity"]
    assert "NaN" not in json.dumps(verdict.as_json()), "no reader of JSON but Python's takes NaN"


def test_a_slow_graph_fails() -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7), latency_ms=25.0), None)
    assert failed(verdict) == ["latency of a forecast"]


def test_the_first_model_need_only_beat_the_profile() -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.97)), None)
    assert verdict.passed
    assert verdict.champion is None
    assert not any("champion" in check.name for check in verdict.checks)
    assert "no champion before" in verdict.title
    same = judge(windows, candidate(windows, windows.naive_BH), None)
    assert failed(same) == ["better than the seasonal profile"]


def test_too_few_weeks_say_nothing() -> None:
    windows = held_out(seasons=2)
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.5)), None)
    assert failed(verdict) == ["better than the seasonal profile"]
    assert "2.0 seasons" in verdict.reason


def test_hours_without_a_reading_and_windows_that_the_champion_learnt_from_do_not_count() -> None:
    windows = held_out()
    holed = windows.target_BH.copy()
    holed[: len(holed) // 2 : 7] = np.nan
    windows = dataclasses.replace(windows, target_BH=holed)
    theirs = wrong_by(windows, 0.8, seed=5)
    learnt = windows.origin_B < 2 * SEASON
    theirs[learnt] = np.nan
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7)), champion(theirs))
    assert verdict.passed
    known = np.isfinite(holed) & ~learnt[:, None]
    expected = np.abs(holed - wrong_by(windows, 0.7))[known].mean()
    assert verdict.checks[1].figures["mae"] == pytest.approx(expected, rel=1e-4)
    assert verdict.checks[1].figures["seasons"] == pytest.approx(4, abs=0.2)
    assert verdict.checks[0].figures["seasons"] == pytest.approx(6, abs=0.2)


def test_a_champion_that_cannot_be_compared_leaves_it_to_the_profile_and_a_person() -> None:
    windows = held_out()
    verdict = judge(windows, candidate(windows, wrong_by(windows, 0.7)), champion(None, remark="It is of old."))
    assert verdict.passed
    assert verdict.needs_person
    assert verdict.remarks == ("It is of old.",)
    assert verdict.champion == 1


def test_generated_readings_do_not_unseat_a_champion_of_measured_ones() -> None:
    windows = held_out()
    ours = candidate(windows, wrong_by(windows, 0.7), measured=False)
    assert failed(judge(windows, ours, champion(wrong_by(windows, 0.8)))) == ["readings of the test"]


def test_chance_seldom_makes_a_champion() -> None:
    promoted = 0
    for seed in range(100):
        windows = held_out(seasons=8, seed=seed)
        rng = np.random.default_rng(seed)
        # Both are wrong by as much on average, one or the other more for a day at a time.
        day = rng.normal(0, 0.2, len(windows.origin_B) // 24)[windows.origin_B // 24][:, None]
        ours, theirs = (windows.target_BH + (0.8 + sign * day) * (windows.naive_BH - windows.target_BH)
                        for sign in (1, -1))  # fmt: skip
        verdict = judge(windows, candidate(windows, ours), champion(theirs))
        promoted += verdict.checks[1].passed
    assert promoted <= 10


def test_a_verdict_survives_json_and_is_a_table() -> None:
    windows = held_out()
    ours = candidate(windows, wrong_by(windows, 0.83))
    verdict = judge(windows, ours, champion(wrong_by(windows, 0.8), remark="Only | the last weeks."))
    content = json.loads(json.dumps(verdict.as_json()))
    assert content["passed"] is False
    assert verdict_from_json(content) == verdict
    assert judge(windows, ours, champion(wrong_by(windows, 0.8), remark="Only | the last weeks.")) == verdict
    lines = verdict.as_markdown().splitlines()
    assert lines[0] == "# towncast-traffic: version 2, champion version 1"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(verdict.checks)
    assert sum(line.endswith("**no** |") for line in table) == 1
    assert "- Only | the last weeks." in lines


@pytest.mark.parametrize("missing", ["checks", "model"])
def test_a_damaged_verdict_is_not_read(missing: str) -> None:
    windows = held_out()
    content = judge(windows, candidate(windows, wrong_by(windows, 0.7)), None).as_json()
    del content[missing]
    with pytest.raises((KeyError, TypeError)):
        verdict_from_json(content)
