"""Canaries that are good, fail, are slow, are wrong: in a town of one process, and in one of two workers."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from features.alias_history import read_history
from serving.places import Place
from serving.releases.board import Board
from serving.releases.plans import CanaryLimits, CheckLine
from serving.releases.registry import ReleaseRegistry
from serving.releases.release import Release
from serving.security.audit import AuditLog
from serving.service import Question

NAME = "towncast-traffic"
SITES = ("R001", "R002")
HOUR_S = 3600
# A share that of two roads is one, whichever the plan's id makes it.
ONE_ROAD = 0.001


def question(site: str, horizon: str = "24h") -> Question:
    return Question(place=Place(name=site), horizon=horizon)


async def ask(release: Release, times: int) -> list[str]:
    """The versions that answered; an error is the test's."""
    return [(await release.forecast(question(SITES[index % 2]))).forecast.model for index in range(times)]


def history(models: Any) -> list[tuple[str, str, int | None]]:
    model = models.client.get_registered_model(NAME)
    aliases = {alias: int(version) for alias, version in model.aliases.items()}
    return [(change.alias, change.action, change.to_version) for change in read_history(model.tags, aliases)]


def outcomes(models: Any) -> list[str]:
    return [line.outcome for line in models.releases.standing(NAME).decisions]


def test_a_good_canary_takes_its_steps_and_is_champion(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))
    second = models.put("good")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            first = release.champion
            models.releases.start_canary(
                NAME,
                second,
                steps_percent=(ONE_ROAD, 2 * ONE_ROAD, 100.0),
                minimum_s=0.2,
                minimum_requests=6,
                reason="better",
            )
            await eventually(lambda: "canary" in release.roles())
            # The smallest share is still one road.
            assert len({release.route(site) for site in SITES}) == 2
            answered: set[str] = set()
            while release.champion is first:
                answered |= set(await ask(release, 4))
                await asyncio.sleep(0.01)
            assert answered == {"traffic-lstm-v1", "traffic-lstm-v2"}
            assert set(await ask(release, 4)) == {"traffic-lstm-v2"}
            await eventually(lambda: set(release.roles()) == {"champion"})

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert outcomes(models) == ["advanced", "advanced", "promoted"]
    assert history(models) == [
        ("canary", "release", 2),
        ("champion", "promote", 2),
        ("canary", "withdraw", None),
    ]
    model = models.client.get_registered_model(NAME)
    assert {alias: int(version) for alias, version in model.aliases.items()} == {"champion": 2}
    assert not [key for key in model.tags if key == "release_canary"]


def test_a_canary_that_fails_is_rolled_back_and_no_caller_sees_it(
    models: Any, open_town: Any, eventually: Any, settings: Any, tmp_path: Path
) -> None:
    models.crown(models.put("good"))
    second = models.put("failing")

    async def follow() -> None:
        async with open_town() as town:
            decisions: list[str] = []
            town.on_decision(lambda name, plan, decision: decisions.append(type(decision).__name__))
            release = town.release("traffic", "volume")
            plan = models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0)
            await eventually(lambda: release.split.shares)
            tried = next(site for site in SITES if release.route(site) is not release.champion)
            many = await release.forecast_many([question(site) for site in SITES])
            assert [one.forecast.model for one in many if not isinstance(one, Exception)] == ["traffic-lstm-v1"] * 2
            while release.route(tried) is not release.champion:
                assert set(await ask(release, 2)) == {"traffic-lstm-v1"}
                await asyncio.sleep(0.01)
            await eventually(lambda: set(release.roles()) == {"champion"})
            assert decisions == ["RollBack"]
            assert (settings.data_dir / "releases" / NAME / f"stopped-{plan.id}").exists()

    with AuditLog(tmp_path / "audit.log"):
        asyncio.run(asyncio.wait_for(follow(), 60))
    (event,) = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert (event["event"], event["model"], event["version"]) == ("canary_rolled_back", NAME, 2)
    assert history(models)[-1] == ("canary", "rollback", None)
    (line,) = models.releases.standing(NAME).decisions
    assert line.outcome == "rolled back"
    assert line.reason.startswith("failed answers: 100.00%")


def test_a_slow_canary_is_rolled_back(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))
    second = models.put("slow")
    limits = CanaryLimits(latency_floor_s=0.001)

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0, limits=limits)
            await eventually(lambda: release.split.shares)
            while release.split.shares:
                assert len(await ask(release, 4)) == 4

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert models.releases.standing(NAME).decisions[-1].reason.startswith("latency, 95th percentile")


@pytest.mark.parametrize(("kind", "state"), [("wrong", "fails"), ("other", "holds")])
def test_a_wrong_canary_is_rolled_back_as_readings_arrive(
    models: Any, open_town: Any, eventually: Any, clock: Any, kind: str, state: str
) -> None:
    models.crown(models.put("good"))
    second = models.put(kind)
    limits = CanaryLimits(matched_steps=12, coverage_margin=1.0)
    end_s = clock.now_s
    clock.now_s = end_s - 30 * HOUR_S

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0, limits=limits)
            await eventually(lambda: release.split.shares)
            while clock.now_s < end_s:
                await ask(release, 2)
                if not release.split.shares:
                    break
                await eventually(lambda: not release.sides._jobs and release.sides._working.done())
                clock.now_s += 6 * HOUR_S
                # As the windows tell it at the beginning of a step.
                release.readings_came(frozenset(SITES))
                await eventually(lambda: release.sides._settling is None or release.sides._settling.done())
                await asyncio.sleep(0.2)
            matched = release.sides.realised("canary").matched
            if kind == "other":
                assert matched.steps >= 48
                assert matched.rival_error / matched.steps == pytest.approx(
                    matched.champion_error / matched.steps + 1.0, abs=1e-2
                )
                assert release.split.shares
            else:
                await eventually(lambda: set(release.roles()) == {"champion"})

    asyncio.run(asyncio.wait_for(follow(), 60))
    if state == "fails":
        (line,) = models.releases.standing(NAME).decisions
        assert line.reason.startswith("mean absolute error")
    else:
        assert outcomes(models) == []


def test_a_rollback_holds_while_the_registry_is_away_and_is_told_when_it_is_back(
    models: Any, open_town: Any, eventually: Any
) -> None:
    models.crown(models.put("good"))
    second = models.put("failing")
    database = Path(models.uri.removeprefix("sqlite:///"))

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0)
            await eventually(lambda: release.split.shares)
            database.rename(database.with_suffix(".away"))
            while release.split.shares:
                assert set(await ask(release, 2)) == {"traffic-lstm-v1"}
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert not release.split.shares
            database.with_suffix(".away").rename(database)
            await eventually(lambda: set(release.roles()) == {"champion"})

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert outcomes(models) == ["rolled back"]


def test_a_champion_that_is_changed_by_hand_ends_the_canary(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))
    second, third = models.put("good"), models.put("other")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0)
            await eventually(lambda: release.split.shares)
            models.crown(third)
            await eventually(lambda: set(release.roles()) == {"champion"} and release.champion.artifact.version == "3")

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert "champion changed" in models.releases.standing(NAME).decisions[-1].reason


@pytest.mark.parametrize("kind", ["good", "failing"])
def test_two_workers_judge_together(models: Any, open_town: Any, eventually: Any, kind: str) -> None:
    """Each has too few answers alone; one step is taken once, and a rollback by one is one by both."""
    models.crown(models.put("good"))
    second = models.put(kind)

    async def follow() -> None:
        async with contextlib.AsyncExitStack() as stack:
            towns = [await stack.enter_async_context(open_town()) for _ in range(2)]
            releases = [town.release("traffic", "volume") for town in towns]
            models.releases.start_canary(
                NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=0.0, minimum_requests=20
            )
            for town, release in zip(towns, releases, strict=True):
                await eventually(lambda release=release: release.split.shares)
                # Answers count from the judge's first look at a step on.
                await eventually(lambda town=town: town._judges[NAME]._since.step == 0)
            assert [releases[0].route(site).artifact.version for site in SITES] == [
                releases[1].route(site).artifact.version for site in SITES
            ]
            if kind == "failing":
                while releases[1].split.shares:
                    # The second worker never asks: it hears of it.
                    await ask(releases[0], 2)
                    await asyncio.sleep(0.01)
            else:
                for release in releases:
                    await ask(release, 24)  # 12 by the canary
                await eventually(lambda: outcomes(models) == ["advanced"])
                await asyncio.sleep(0.3)
                assert outcomes(models) == ["advanced"]
                for release in releases:
                    await eventually(lambda release=release: release.split.shares[0].below >= 1.0)
                    await ask(release, 12)
            for release in releases:
                await eventually(lambda release=release: set(release.roles()) == {"champion"})

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert outcomes(models) == (["rolled back"] if kind == "failing" else ["advanced", "promoted"])


def test_two_workers_that_roll_back_at_once_are_one_rollback(
    models: Any, open_town: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have decided, and have read that the canary is there, before either has ended it."""
    models.crown(models.put("good"))
    second = models.put("failing")
    read, stop = ReleaseRegistry.standing, Board.stop

    def slowly_read(registry: ReleaseRegistry, name: str) -> Any:
        standing = read(registry, name)
        time.sleep(0.3)
        return standing

    def slowly_stop(board: Board, plan: str) -> None:
        time.sleep(0.3)
        stop(board, plan)

    async def follow() -> None:
        async with open_town() as first_town, open_town() as second_town:
            releases = [town.release("traffic", "volume") for town in (first_town, second_town)]
            models.releases.start_canary(NAME, second, steps_percent=(ONE_ROAD, 100.0), minimum_s=60.0)
            monkeypatch.setattr(ReleaseRegistry, "standing", slowly_read)
            monkeypatch.setattr(Board, "stop", slowly_stop)
            for release in releases:
                await eventually(lambda release=release: release.split.shares)
            while any(release.split.shares for release in releases):
                await asyncio.gather(*(ask(release, 2) for release in releases))
                await asyncio.sleep(0.01)
            for release in releases:
                await eventually(lambda release=release: set(release.roles()) == {"champion"})

    asyncio.run(asyncio.wait_for(follow(), 60))
    assert outcomes(models) == ["rolled back"]


def test_a_tag_of_a_decision_fits_where_mlflow_keeps_it(models: Any, open_town: Any) -> None:
    """A tag's value holds 5,000 characters."""
    models.crown(models.put("good"))
    plan = models.releases.start_canary(NAME, models.put("good"))
    line = {"name": "n" * 40, "canary": "c" * 40, "champion": "c" * 40, "allowed": "a" * 40, "state": "not judged"}
    assert models.releases.roll_back(NAME, plan, reason="r" * 5000, table=(CheckLine(**line),) * 6)
    tags = models.client.get_registered_model(NAME).tags
    assert max(len(value) for value in tags.values()) < 5000
    assert all(json.loads(value) for key, value in tags.items() if key.startswith("release"))
