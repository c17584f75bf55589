"""`towncast release`, on a real registry: what it changes, what it refuses, and what it shows."""

import asyncio
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from features.domains import DOMAINS
from features.errors import InvalidParameterError, PromotionError, StorageError, TowncastError, UnknownNameError
from pipelines.cli import app
from serving.places import Place
from serving.releases.registry import ReleaseRegistry
from serving.service import Question
from serving.settings import ServingSettings
from training.gate import Check, Verdict
from training.registry import ModelRegistry, Registered
from training.tracking import Tracking

NAME = "towncast-traffic"


@pytest.fixture
def run(models: Any, settings: ServingSettings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `towncast release` and gives what it printed; an expected error is raised."""
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("TOWNCAST_TRACKING_URI", models.uri)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["release", *arguments])
        if isinstance(result.exception, TowncastError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


def judged(models: Any, version: int, *, passed: bool) -> None:
    """Keep a verdict on a version, as a training does."""
    registry = ModelRegistry(Tracking(models.uri))
    checks = (Check(name="worst site", found="9%", allowed="5%", passed=passed),)
    verdict = Verdict(model=NAME, candidate=version, champion=1, windows=9, checks=checks)
    with registry.tracking.run(DOMAINS["traffic"], name="judged", tags={}) as run_id:
        registry.keep_verdict(verdict, Registered(name=NAME, version=version, run_id=run_id), run_id=run_id)


def roles(models: Any) -> dict[str, int]:
    return dict(models.releases.standing(NAME).versions)


def test_roles_are_given_and_taken(models: Any, run: Any, settings: ServingSettings) -> None:
    models.crown(models.put("good"))
    for _ in range(3):
        models.put("other")
    judged(models, 4, passed=True)
    run("shadow", "traffic", "2")
    run("challenger", "traffic", "3", "--share", "20")
    printed = run("canary", "traffic", "4", "--steps", "10,100", "--minutes", "5", "--requests", "50")
    assert "version 4, 10, 100 % of the sites" in printed
    assert roles(models) == {"champion": 1, "shadow": 2, "challenger": 3, "canary": 4}
    plan = models.releases.standing(NAME).canary
    assert (plan.steps_percent, plan.minimum_s, plan.minimum_requests) == ((10.0, 100.0), 300.0, 50)
    before = models.releases.standing(NAME).challenger
    run("challenger", "traffic", "3", "--share", "30")
    after = models.releases.standing(NAME).challenger
    assert (after.id, after.share_percent) == (before.id, 30.0)
    shown = run("status", "traffic")
    for part in ("champion", "10 %", "30 %", "the rest", "not loaded here", "Step 1 of 2"):
        assert part in shown
    for role in ("canary", "challenger", "shadow"):
        assert "no more" in run("stop", "traffic", role)
    assert roles(models) == {"champion": 1}
    events = [json.loads(line)["event"] for line in (settings.data_dir / "audit.log").read_text().splitlines()]
    assert events[:3] == ["shadow_released", "challenger_released", "canary_released"]
    assert events[-1] == "shadow_stopped"


def test_what_a_promotion_would_ask_a_canary_is_asked(models: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models.crown(models.put("good"))
    second, third = models.put("other"), models.put("other")
    with pytest.raises(PromotionError, match="never judged"):
        run("canary", "traffic", str(second))
    judged(models, second, passed=False)
    with pytest.raises(PromotionError, match="did not pass the gate"):
        run("canary", "traffic", str(second))
    with pytest.raises(InvalidParameterError, match="needs a reason"):
        run("canary", "traffic", str(second), "--force")
    run("canary", "traffic", str(second), "--force", "--reason", "the bridge is closed")
    assert models.releases.standing(NAME).canary.reason == "forced: the bridge is closed"
    plan = models.releases.standing(NAME).canary
    assert models.releases.roll_back(NAME, plan, reason="too slow", table=())
    with pytest.raises(PromotionError, match="rolled back before"):
        run("canary", "traffic", str(second), "--force", "--reason", "again")
    judged(models, third, passed=True)
    monkeypatch.setenv("TOWNCAST_REQUIRE_APPROVAL", "true")
    with pytest.raises(PromotionError, match="REQUIRE_APPROVAL"):
        run("canary", "traffic", str(third))
    run("canary", "traffic", str(third), "--approved-by", "Asha")
    assert models.releases.standing(NAME).canary.approved_by == "Asha"


def test_what_cannot_be_is_refused_with_what_can(models: Any, run: Any) -> None:
    models.put("good")
    with pytest.raises(PromotionError, match="no champion"):
        run("shadow", "traffic", "1")
    models.crown(1)
    models.put("other")
    judged(models, 2, passed=True)
    refused: list[tuple[tuple[str, ...], type[Exception], str]] = [
        (("shadow", "trafic", "2"), UnknownNameError, "traffic"),
        (("shadow", "traffic", "2", "--target", "volumes"), UnknownNameError, "volume"),
        (("shadow", "traffic", "9"), UnknownNameError, "Known are: 2, 1"),
        (("shadow", "water", "1"), UnknownNameError, "towncast-water"),
        (("challenger", "traffic", "1"), PromotionError, "champion already"),
        (("stop", "traffic", "canari"), UnknownNameError, "Did you mean: canary"),
        (("stop", "traffic", "canary"), PromotionError, "No version"),
        (("canary", "traffic", "2", "--steps", "5,4,100"), InvalidParameterError, "cannot be followed"),
        (("canary", "traffic", "2", "--steps", "5,50"), InvalidParameterError, "cannot be followed"),
        (("canary", "traffic", "2", "--steps", "a lot"), InvalidParameterError, "5,25,50,100"),
    ]
    for arguments, kind, text in refused:
        with pytest.raises(kind, match=text):
            run(*arguments)
    assert roles(models) == {"champion": 1}
    run("canary", "traffic", "2")
    with pytest.raises(PromotionError, match="is canary already"):
        run("canary", "traffic", "2")


def test_status_shows_the_figures_of_an_api_that_runs(models: Any, run: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))

    async def follow() -> str:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            for _ in range(7):
                await release.forecast(Question(place=Place(name="R001"), horizon="2h"))
            town._judges[NAME]._told_s = 0.0
            await eventually(lambda: town._judges[NAME]._told_s)
            await asyncio.sleep(0.1)
            shown: str = await asyncio.to_thread(run, "status")
            return shown

    shown = asyncio.run(follow())
    row = next(line for line in shown.splitlines() if "champion" in line and "traffic-lstm" in line)
    assert [cell.strip() for cell in row.split("│")][1:5] == ["champion", "1 (traffic-lstm-v1)", "all", "7"]


def test_without_a_registry_status_says_what_to_do(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TOWNCAST_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    result = CliRunner().invoke(app, ["release", "status"])
    assert "make train" in result.output
    with pytest.raises(StorageError, match="no file"):
        ReleaseRegistry(f"sqlite:///{tmp_path}/none.db").standings([NAME])
    assert not (tmp_path / "none.db").exists()
