"""Who becomes champion, with real graphs in a real MLflow store: a good one, worse ones, and the seasonal profile."""

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from features.card import CHAMPION, TRAINED_UNTIL
from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, PromotionError, UnknownNameError
from features.quality import check_readings
from features.store import ReadingStore
from features.vocabulary import Site
from features.windows import Panel
from pipelines.commands.promote import outcome_line, render_history, render_verdict
from pipelines.promote import Outcome, alias_history, promote_version, roll_back, settle
from pipelines.settings import Settings
from training.gate import Verdict
from training.models.seasonal import SeasonalForecaster
from training.registry import CANDIDATE, ModelRegistry, Registered
from training.window_set import WindowSet

TRAFFIC = DOMAINS["traffic"]
QUIET = Console(quiet=True)
Enter = Callable[..., tuple[Registered, Verdict, Outcome]]


def champion(registry: ModelRegistry) -> int | None:
    found = registry.champion("towncast-traffic")
    return None if found is None else found.version


def failed(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.checks if not check.passed]


def test_the_first_model_that_beats_the_profile_is_champion_and_its_verdict_is_kept(
    registry: ModelRegistry, enter: Enter
) -> None:
    registered, verdict, outcome = enter()
    assert verdict.passed, verdict.reason
    assert outcome == "promoted"
    assert champion(registry) == registered.version == 1
    (change,) = registry.history(registered.name)
    assert (change.verdict_run_id, change.reason) == (registered.run_id, "all 5 checks hold")
    folder = registry.tracking.artifact_folder(registered.run_id)
    assert json.loads((folder / "verdict.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(verdict.as_json())
    )
    assert "| better than the seasonal profile |" in (folder / "verdict.md").read_text(encoding="utf-8")
    assert registry.tracking.connect().get_run(registered.run_id).data.tags["gate"] == "passed"


def test_the_seasonal_profile_is_no_better_than_itself(
    registry: ModelRegistry, enter: Enter, windows: WindowSet
) -> None:
    profile = SeasonalForecaster(TRAFFIC).onnx_model(windows.windows([0, 1]))
    registered, verdict, outcome = enter(profile)
    assert outcome == "refused"
    assert failed(verdict)[0] == "better than the seasonal profile"
    assert champion(registry) is None
    assert registry.history(registered.name) == ()
    assert registry.tracking.connect().get_run(registered.run_id).data.tags["gate"] == "failed"
    # As champion its graph says what the profile says, so both comparisons find the same.
    registry.promote(registered, reason="set by the test")
    _, against, outcome = enter()
    assert outcome == "promoted"
    first, second = (check.figures["rival_mae"] for check in against.checks[:2])
    assert second == pytest.approx(first, rel=1e-6)
    assert champion(registry) == 2


@pytest.mark.parametrize(("offset", "word"), [(12.0, "worse"), (0.0, "no clear difference")])
def test_a_worse_or_equal_model_stays_out(registry: ModelRegistry, enter: Enter, offset: float, word: str) -> None:
    enter()
    _, verdict, outcome = enter(offset=offset)
    assert outcome == "refused"
    assert failed(verdict)[:1] == ["better than champion version 1"]
    assert verdict.checks[0].passed
    assert verdict.checks[1].found.startswith(word)
    assert champion(registry) == 1


def test_a_better_model_takes_over(registry: ModelRegistry, enter: Enter) -> None:
    enter(offset=12.0)
    _, verdict, outcome = enter()
    assert outcome == "promoted", verdict.reason
    assert champion(registry) == 2
    assert verdict.checks[1].figures["gain_low"] > 0


def test_intervals_that_hold_too_seldom_keep_a_better_model_out(registry: ModelRegistry, enter: Enter) -> None:
    enter(offset=12.0)
    _, verdict, outcome = enter(spread=30.0)
    assert outcome == "refused"
    assert failed(verdict) == ["90 % interval holds"]
    assert champion(registry) == 1


@pytest.mark.parametrize(
    ("trained_h", "sites", "seasons", "remark"),
    [
        (168, ("R1", "R2"), 3, "on 75% of the windows"),
        (400, ("R1", "R2"), 4, "too few windows lie after that"),
        (400, ("R8",), 4, "none of these sites"),
        (None, ("R1", "R2"), 4, "does not tell until when"),
    ],
)
def test_a_champion_is_compared_on_windows_that_it_has_not_learnt_from_where_there_are_enough(
    enter: Enter, panel: Panel, trained_h: int | None, sites: tuple[str, ...], seasons: int, remark: str
) -> None:
    trained = {"readings": "measured"}
    if trained_h is not None:
        trained[TRAINED_UNTIL] = str(panel.moments_s[panel.first_origin + trained_h])
    known = tuple(Site(name=name) for name in sites)
    enter(offset=12.0, gated=False, trained=trained, sites=known)
    _, verdict, outcome = enter()
    assert outcome == "promoted", verdict.reason
    assert verdict.checks[1].figures["seasons"] == pytest.approx(seasons)
    assert remark in " ".join(verdict.remarks)


def test_a_champion_of_another_layout_is_replaced_by_a_person_alone(
    registry: ModelRegistry, enter: Enter, settings: Settings
) -> None:
    enter(history_channels=TRAFFIC.history_channels[1:], gated=False)
    registered, verdict, outcome = enter()
    assert outcome == "awaiting approval"
    assert "history_channels" in verdict.remarks[0]
    assert champion(registry) == 1
    assert registry.holder(registered.name, CANDIDATE) == registered
    again = promote_version("traffic", settings=settings, console=QUIET)
    assert (again.registered, again.outcome) == (registered, "awaiting approval")
    done = promote_version("traffic", settings=settings, console=QUIET, approved_by="Asha")
    assert done.outcome == "promoted"
    assert champion(registry) == 2
    assert registry.history(registered.name)[-2].approved_by == "Asha"
    # The older one can be gone back to, but this code cannot serve it.
    with pytest.raises(PromotionError, match="cannot be served by this code"):
        promote_version("traffic", settings=settings, console=QUIET, version=1)
    change, warning = roll_back("traffic", settings=settings)
    assert change.to_version == 1
    assert "history_channels" in warning


def test_a_champion_whose_artifact_is_gone_is_replaced_by_a_person_alone(registry: ModelRegistry, enter: Enter) -> None:
    first, _, _ = enter()
    shutil.rmtree(registry.tracking.artifact_folder(first.run_id) / "model")
    _, verdict, outcome = enter()
    assert outcome == "awaiting approval"
    assert "cannot be compared" in verdict.remarks[0]


def test_where_approval_is_asked_for_the_gate_only_proposes(
    registry: ModelRegistry, enter: Enter, settings: Settings
) -> None:
    asking = settings.model_copy(update={"require_approval": True})
    registered, verdict, outcome = enter(approval=True)
    assert (verdict.passed, outcome) == (True, "awaiting approval")
    assert champion(registry) is None
    line = outcome_line("traffic", None, registered, verdict, outcome)
    assert "towncast promote traffic --version 1 --approved-by NAME" in line
    assert promote_version("traffic", settings=asking, console=QUIET).outcome == "awaiting approval"
    with pytest.raises(PromotionError, match="a forced one too"):
        promote_version("traffic", settings=asking, console=QUIET, force=True, reason="hurry")
    assert promote_version("traffic", settings=asking, console=QUIET, approved_by="Asha").outcome == "promoted"
    assert champion(registry) == 1
    assert [change.action for change in alias_history("traffic", settings=settings)] == [
        "nominate",
        "promote",
        "withdraw",
    ]


def test_a_refused_version_is_promoted_by_force_with_a_reason_alone(
    registry: ModelRegistry, enter: Enter, settings: Settings
) -> None:
    enter()
    _, _, outcome = enter(offset=12.0)
    assert outcome == "refused"
    decision = promote_version("traffic", settings=settings, console=QUIET)
    assert decision.outcome == "refused"
    assert champion(registry) == 1
    with pytest.raises(InvalidParameterError, match="needs a reason"):
        promote_version("traffic", settings=settings, console=QUIET, force=True)
    forced = promote_version("traffic", settings=settings, console=QUIET, force=True, reason="the bridge is closed")
    assert forced.outcome == "promoted"
    assert champion(registry) == 2
    assert registry.history("towncast-traffic")[-1].reason == "forced: the bridge is closed"


def test_rollbacks_go_back_one_champion_each(registry: ModelRegistry, enter: Enter, settings: Settings) -> None:
    for offset in (16.0, 8.0, 0.0):
        _, verdict, outcome = enter(offset=offset)
        assert outcome == "promoted", verdict.reason
    assert roll_back("traffic", settings=settings, reason="too high")[0].to_version == 2
    assert roll_back("traffic", settings=settings)[0].to_version == 1
    assert champion(registry) == 1
    with pytest.raises(PromotionError, match="no earlier champion"):
        roll_back("traffic", settings=settings)


def test_a_version_that_was_rolled_back_comes_back_by_a_person_alone(
    registry: ModelRegistry, enter: Enter, settings: Settings
) -> None:
    enter(offset=12.0)
    second, _, _ = enter()
    roll_back("traffic", settings=settings)
    assert promote_version("traffic", settings=settings, console=QUIET).outcome == "awaiting approval"
    assert champion(registry) == 1
    (registry.tracking.artifact_folder(second.run_id) / "verdict.json").write_text("{", encoding="utf-8")
    with pytest.raises(PromotionError, match="no readings to judge it on"):
        promote_version("traffic", settings=settings, console=QUIET, approved_by="Asha")
    promote_version("traffic", settings=settings, console=QUIET, force=True, reason="the counter is mended")
    assert champion(registry) == 2


def test_a_rollback_to_an_artifact_that_is_gone_leaves_the_champion(
    registry: ModelRegistry, enter: Enter, settings: Settings
) -> None:
    first, _, _ = enter(offset=12.0)
    enter()
    shutil.rmtree(registry.tracking.artifact_folder(first.run_id) / "model")
    with pytest.raises(ArtifactError):
        roll_back("traffic", settings=settings)
    assert champion(registry) == 2
    assert len(registry.history(first.name)) == 2


def test_what_is_not_there_is_answered_with_what_is(enter: Enter, settings: Settings) -> None:
    with pytest.raises(PromotionError, match="No version of towncast-traffic is registered"):
        promote_version("traffic", settings=settings, console=QUIET)
    with pytest.raises(PromotionError, match="no earlier champion"):
        roll_back("traffic", settings=settings)
    enter()
    with pytest.raises(UnknownNameError, match="Known are: 1"):
        promote_version("traffic", settings=settings, console=QUIET, version=7)
    with pytest.raises(PromotionError, match="champion already"):
        promote_version("traffic", settings=settings, console=QUIET)
    with pytest.raises(UnknownNameError, match="volume"):
        promote_version("traffic", settings=settings, console=QUIET, target="volum")


def test_a_champion_that_changed_while_a_version_was_judged_stops_its_promotion(
    registry: ModelRegistry, enter: Enter
) -> None:
    _, stale, _ = enter(offset=12.0)
    second, _, _ = enter()
    third, _, _ = enter(offset=30.0)
    with pytest.raises(PromotionError, match="changed while"):
        settle(
            registry,
            third,
            dataclasses.replace(stale, candidate=third.version),
            run_id=third.run_id,
            require_approval=False,
        )
    assert champion(registry) == second.version


def test_a_verdict_against_an_earlier_champion_is_made_anew_on_readings_that_came_since(
    registry: ModelRegistry,
    enter: Enter,
    settings: Settings,
    wave_readings: Callable[[int, list[Site]], pd.DataFrame],
) -> None:
    weeks = 32
    until = {TRAINED_UNTIL: str(int(pd.Timestamp("2025-06-25", tz="UTC").timestamp())), "readings": "measured"}
    enter(offset=16.0, trained=until)
    second, _, _ = enter(offset=30.0, trained=until)
    enter(offset=8.0, trained=until)
    candidate, verdict, outcome = enter(offset=8.0, trained=until)
    assert (outcome, verdict.champion) == ("refused", 3)
    roll_back("traffic", settings=settings)
    with pytest.raises(PromotionError, match="no readings to judge it on"):
        promote_version("traffic", settings=settings, console=QUIET)

    store, only = ReadingStore(settings.readings_dir, TRAFFIC), [Site(name="R1")]
    store.append(check_readings(wave_readings(weeks * 168, only), TRAFFIC), only)
    decision = promote_version("traffic", settings=settings, console=QUIET, reason="looked at it")
    assert decision.outcome == "promoted", decision.verdict
    assert decision.verdict is not None
    assert decision.verdict.champion == 1
    assert champion(registry) == candidate.version
    kept = registry.verdict_of(candidate)
    assert kept is not None
    assert kept[0] == decision.verdict
    assert kept[1] != candidate.run_id
    assert registry.history(candidate.name)[-1].verdict_run_id == kept[1]
    assert promote_version("traffic", settings=settings, console=QUIET, version=second.version).outcome == "refused"


def test_tables_tell_what_was_found_and_who_did_what(enter: Enter, settings: Settings) -> None:
    enter()
    _, verdict, outcome = enter()
    screen = Console(width=200, file=io.StringIO())
    with screen.capture() as captured:
        screen.print(render_verdict(verdict))
        screen.print(outcome_line("traffic", None, Registered(name="m", version=2, run_id=""), verdict, outcome))
        screen.print(render_history(alias_history("traffic", settings=settings)))
    text = captured.get()
    assert "better than champion version 1" in text
    assert "✗" in text
    assert "fails the gate (better than champion version 1)" in text
    assert "all 5 checks hold" in text
    assert CHAMPION in text


def test_the_commands_say_what_is_wrong_and_end_with_a_status(enter: Enter, settings: Settings, tmp_path: Path) -> None:
    enter()
    environment = {
        **os.environ,
        "COLUMNS": "200",
        "TOWNCAST_DATA_DIR": str(settings.data_dir),
        "TOWNCAST_TRACKING_URI": settings.tracking_uri,
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).parent / "towncast", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    told = run("promote", "traffic", "--version", "9")
    assert told.returncode == 2
    assert "There is no version of towncast-traffic of this name" in told.stderr
    assert "Traceback" not in told.stderr
    history = run("aliases", "traffic")
    assert history.returncode == 0
    assert "all 5 checks hold" in history.stdout
