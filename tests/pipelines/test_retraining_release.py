"""What becomes of a version that passed, or failed, at the end of a retraining; in a real registry."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from features.domains import DOMAINS
from pipelines.promote import keep_verdict
from pipelines.retraining_release import Released, go_on_with_shadow, release_version, rules_of
from pipelines.retraining_state import RetrainingStore, TargetState, new_state
from pipelines.schedule_settings import ReleaseWay, ScheduleSettings
from pipelines.settings import Settings
from serving.monitoring.realised_store import RealisedStore
from serving.monitoring.report import Trigger
from serving.releases.board import Board, BoardEntry
from serving.releases.registry import ReleaseRegistry
from training.gate import Candidate, Champion, HeldOut, judge_candidate
from training.registry import CANDIDATE, ModelRegistry

TRAFFIC = DOMAINS["traffic"]
NAME = "towncast-traffic"
QUIET = Console(quiet=True)
Enter = Callable[..., object]
DAY_S = 86_400


def as_set(settings: Settings, way: ReleaseWay = "auto", **facts: object) -> ScheduleSettings:
    return ScheduleSettings(
        data_dir=settings.data_dir,
        tracking_uri=settings.tracking_uri,
        retrain_release=way,
        **facts,  # type: ignore[arg-type]
    )


def release(settings: ScheduleSettings, version: int = 2) -> Released:
    return release_version(
        TRAFFIC, TRAFFIC.target, version, settings=settings, console=QUIET, reason="performance, errors have doubled"
    )


def answer(settings: Settings) -> None:
    """An API is there, and tells its figures."""
    Board(settings.data_dir / "releases" / NAME).write(BoardEntry(at_s=time.time()))


def roles(settings: Settings) -> dict[str, int]:
    return dict(ReleaseRegistry(settings.tracking_uri).standing(NAME).versions)


def test_the_first_version_is_champion_whatever_is_set(settings: Settings, enter: Enter) -> None:
    enter(settler=keep_verdict)
    assert roles(settings) == {}
    assert release(as_set(settings, "shadow"), version=1).release == "champion"
    assert roles(settings) == {"champion": 1}


def test_where_nobody_answers_it_is_champion_and_where_an_api_does_canary(settings: Settings, enter: Enter) -> None:
    enter(offset=12.0)
    enter(settler=keep_verdict)
    own = as_set(settings)
    found = release(own)
    assert (found.release, found.note) == ("champion", "no API answers that could compare them")
    assert release(own).release == "champion"
    (line, *_) = reversed(registry_of(settings).history(NAME))
    assert line.reason.startswith("retraining: performance, errors have doubled")
    assert line.verdict_run_id


def registry_of(settings: Settings) -> ModelRegistry:
    from training.tracking import Tracking

    return ModelRegistry(Tracking(settings.tracking_uri))


def test_a_canary_is_begun_once_and_gives_way_to_a_newer_one(settings: Settings, enter: Enter) -> None:
    enter(offset=12.0)
    enter(offset=2.0, settler=keep_verdict)
    enter(settler=keep_verdict)
    answer(settings)
    own = as_set(settings, canary_steps="10,100", canary_minutes=1.0)
    assert release(own).release == "canary"
    plan = ReleaseRegistry(settings.tracking_uri).standing(NAME).canary
    assert plan is not None
    assert (plan.steps_percent, plan.minimum_s, plan.version) == ((10.0, 100.0), 60.0, 2)
    assert release(own).note == "it has this role already"
    assert release(own, version=3).release == "canary"
    assert roles(settings) == {"champion": 1, "canary": 3}


def test_a_persons_canary_is_left_alone(settings: Settings, enter: Enter) -> None:
    enter(offset=12.0)
    enter(offset=2.0, settler=keep_verdict)
    enter(settler=keep_verdict)
    ReleaseRegistry(settings.tracking_uri).start_canary(NAME, 2, reason="the new network")
    answer(settings)
    found = release(as_set(settings), version=3)
    assert (found.release, "which a person began" in found.note) == ("awaiting approval", True)
    assert roles(settings) == {"champion": 1, "canary": 2}
    holder = registry_of(settings).holder(NAME, CANDIDATE)
    assert holder is not None
    assert holder.version == 3


def test_what_fails_the_gate_changes_nothing(settings: Settings, enter: Enter) -> None:
    enter()
    enter(offset=60.0, settler=keep_verdict)
    found = release(as_set(settings, "champion"))
    assert found.release == "refused"
    assert not found.verdict.passed
    assert found.note == found.verdict.reason
    assert roles(settings) == {"champion": 1}


def test_where_a_person_must_approve_it_waits(settings: Settings, enter: Enter) -> None:
    enter(offset=12.0)
    enter(settler=keep_verdict)
    assert release(as_set(settings, require_approval=True)).release == "awaiting approval"
    assert roles(settings) == {"champion": 1}


def realised(folder: Path, *, shadow_error: float, days: int = 3) -> RealisedStore:
    store, valid_s = RealisedStore(folder, TRAFFIC, "volume"), np.arange(0, days * DAY_S, 3600) + DAY_S
    for role, error in (("champion", 10.0), ("shadow", shadow_error)):
        rows = {"site": "R1", "role": role, "origin_s": valid_s - 3600, "steps": 1, "valid_s": valid_s}
        said = {"actual": 100.0, "median": 100.0 + error, "lower": 50.0, "upper": 150.0}
        store.add(pd.DataFrame({**rows, **said, "model_version": role, "made_s": valid_s, "joined_s": valid_s}))
    return store


@pytest.mark.parametrize(
    ("error", "watched", "becomes"),
    [(9.0, False, "champion"), (9.0, True, "canary"), (12.0, True, "refused")],
)
def test_a_shadow_goes_on_by_what_both_forecast(
    settings: Settings, enter: Enter, tmp_path: Path, error: float, watched: bool, becomes: str
) -> None:
    enter(offset=12.0)
    enter(settler=keep_verdict)
    own = as_set(settings, "shadow")
    assert release(own).release == "shadow"
    assert roles(settings) == {"champion": 1, "shadow": 2}
    store = RetrainingStore(own.retraining_dir)
    target = TargetState(target="volume", recipe="quick", version=2, release="shadow")
    trigger = Trigger(kind="schedule", sites=(), reason="weekly")
    state = new_state("traffic", (target,), trigger, now_s=DAY_S / 2, data="", recipe="", trials=0)
    store.save(replace(state, step="done"))
    if watched:
        answer(settings)
    rows = realised(tmp_path / "both", shadow_error=error)

    def look(now_s: float, forecasts: RealisedStore) -> str:
        return go_on_with_shadow(TRAFFIC, TRAFFIC.target, forecasts, settings=own, now_s=now_s)

    assert look(DAY_S, rows) == ""  # too early
    assert look(4 * DAY_S, RealisedStore(tmp_path / "nothing", TRAFFIC, "volume")) == ""  # nothing is known of it
    said = look(4 * DAY_S, rows)
    assert becomes in said
    expected = {"champion": {"champion": 2}, "canary": {"champion": 1, "canary": 2}, "refused": {"champion": 1}}
    assert roles(settings) == expected[becomes]
    latest = store.latest("traffic")
    assert latest is not None
    assert latest.targets[0].release == becomes
    assert look(5 * DAY_S, rows) == ""


@pytest.mark.parametrize(
    ("naive", "champion", "passes"),
    [(12.0, 10.0, True), (12.0, 9.6, True), (12.0, 9.0, False), (10.0, 10.0, False), (9.0, None, False)],
)
def test_on_the_newest_days_it_must_beat_the_profile_and_lose_little_to_the_champion(
    settings: Settings, naive: float, champion: float | None, passes: bool
) -> None:
    hours, levels = 48, (0.05, 0.5, 0.95)
    target = np.full((hours, 24), 100.0, dtype=np.float32)
    held_out = HeldOut(
        target_BH=target,
        naive_BH=target + np.float32(naive),
        origin_B=np.arange(hours),
        site_index_B=np.zeros(hours, dtype=np.int64),
        sites=("R1",),
        season_steps=168,
        unit="veh/h",
    )
    median = target + np.float32(10)
    quantiles = np.stack([median - 20, median, median + 20], axis=2)
    candidate = Candidate(version=2, quantiles_BHQ=quantiles, levels=levels, parity=1e-7, latency_ms=1.0, measured=True)
    rival = None if champion is None else Champion(version=1, median_BH=target + np.float32(champion), measured=True)
    verdict = judge_candidate(candidate, rival, held_out, model=NAME, rules=rules_of(as_set(settings)))
    assert verdict.passed is passes, verdict.reason
