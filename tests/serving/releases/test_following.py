"""A town follows the registry's aliases: new versions beside the old, nothing lost, whatever the registry does."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from serving.news import VersionChanged
from serving.places import Place
from serving.releases.release import Release
from serving.releases.watch import at_rest
from serving.service import Question

R001 = Question(place=Place(name="R001"), horizon="24h")
R002 = Question(place=Place(name="R002"), horizon="2h")


def versions(release: Release) -> dict[str, str]:
    return {role: service.artifact.version for role, service in release.roles().items()}


def test_a_new_champion_takes_over_and_the_old_one_is_closed_when_nothing_runs_on_it(
    models: Any, open_town: Any, eventually: Any
) -> None:
    models.crown(models.put("good"))
    second = models.put("other")

    async def follow() -> None:
        async with open_town() as town:
            told: list[VersionChanged] = []
            town.news.listen(lambda event: told.append(event) if isinstance(event, VersionChanged) else None)
            release = town.release("traffic", "volume")
            first = release.champion
            before = await release.forecast(R001)
            with release.hold(first):
                models.crown(second)
                await eventually(lambda: release.champion is not first)
                # What had begun is answered by the old one, which stays as long as it is held.
                await asyncio.sleep(0.3)
                assert (await first.forecast(R001)).card == before.card
            after = await release.forecast(R001)
            assert after.forecast.model == "traffic-lstm-v2"
            assert after.forecast.value_BHQ[0, 0, 1] == pytest.approx(before.forecast.value_BHQ[0, 0, 1] + 1.0)
            assert versions(release) == {"champion": "2"}
            assert [(event.role, event.model_version) for event in told] == [("champion", "traffic-lstm-v2")]
            await eventually(lambda: first not in release._tallies)

    asyncio.run(follow())


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving_until_it_can(
    models: Any, open_town: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    models.crown(models.put("good"))
    damaged = models.put("other", damaged=True)

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.crown(damaged)
            await eventually(lambda: release.faults)
            assert "version 2 cannot be loaded" in release.faults["champion"]
            assert (await release.forecast(R001)).forecast.model == "traffic-lstm-v1"
            said = [record for record in caplog.records if "cannot be loaded" in record.message]
            await asyncio.sleep(0.4)
            assert len(said) == 1
            models.crown(models.put("good"))
            await eventually(lambda: release.champion.artifact.version == "3")
            assert release.faults == {}

    asyncio.run(follow())


def test_the_registry_may_go_and_come_back_while_it_serves(
    models: Any, open_town: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    models.crown(models.put("good"))
    second = models.put("other")
    database = Path(models.uri.removeprefix("sqlite:///"))

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            database.rename(database.with_suffix(".away"))
            await eventually(lambda: town.watch.away is not None)
            await asyncio.sleep(0.3)
            assert (await release.forecast(R001)).forecast.model == "traffic-lstm-v1"
            assert not database.exists()
            database.with_suffix(".away").rename(database)
            models.crown(second)
            await eventually(lambda: release.champion.artifact.version == "2")
            assert town.watch.away is None

    asyncio.run(follow())
    assert len([one for one in caplog.records if "cannot be asked" in one.message]) == 1


def test_no_champion_any_more_leaves_the_last_one_serving(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.client.delete_registered_model_alias("towncast-traffic", "champion")
            await eventually(lambda: "no version has the alias" in release.faults.get("champion", ""))
            assert (await release.forecast(R001)).forecast.model == "traffic-lstm-v1"

    asyncio.run(follow())


def test_a_challenger_has_its_share_and_each_site_keeps_its_version(
    models: Any, open_town: Any, eventually: Any
) -> None:
    models.crown(models.put("good"))
    second = models.put("other")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.set_challenger("towncast-traffic", second, share_percent=50)
            await eventually(lambda: "challenger" in versions(release))
            names = [f"site {number}" for number in range(1000)]
            routed = {name: release.route(name).artifact.version for name in names}
            # Half of the sites, or as many more as it takes for one of the two roads to be among them.
            (share,) = release.split.shares
            assert share.below >= 0.5
            chosen = sum(version == "2" for version in routed.values())
            assert chosen / 1000 == pytest.approx(share.below, abs=0.06)
            assert routed == {name: release.route(name).artifact.version for name in names}
            asked = [R001, R002, Question(place=Place(name="nowhere"), horizon="2h"), R002, R001]
            found = await release.forecast_many(asked)
            assert isinstance(found[2], Exception)
            for question, outcome in zip(asked, found, strict=True):
                if not isinstance(outcome, Exception):
                    name = question.place.name or ""
                    assert outcome.site.name == name
                    expected = release.route(name).artifact.model_version
                    assert outcome.forecast.model == expected == (await release.forecast(question)).forecast.model
            models.releases.stop("towncast-traffic", "challenger")
            await eventually(lambda: versions(release) == {"champion": "1"})
            assert release.route("site 1") is release.champion

    asyncio.run(follow())


def test_a_shadow_forecasts_what_is_answered_and_answers_nobody(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("good"))
    second = models.put("other")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            heard: list[tuple[str, str, str]] = []
            town.on_shadow(lambda site, *both: heard.append((site, *(one.forecast.model for one in both))))
            models.releases.set_shadow("towncast-traffic", second)
            await eventually(lambda: "shadow" in versions(release))
            for _ in range(3):
                for question in (R001, R002):
                    assert (await release.forecast(question)).forecast.model == "traffic-lstm-v1"
            await eventually(lambda: len(heard) == 2)
            assert sorted(heard) == [
                ("R001", "traffic-lstm-v1", "traffic-lstm-v2"),
                ("R002", "traffic-lstm-v1", "traffic-lstm-v2"),
            ]
            figures = {one.role: one for one in release.figures()}
            beside = figures["shadow"].beside
            assert (beside.pairs, beside.difference / 2) == (2, pytest.approx(1.0, abs=1e-3))
            assert beside.overlap / 2 == pytest.approx(99 / 101, abs=1e-3)
            assert (figures["shadow"].counts.requests, figures["champion"].counts.requests) == (2, 6)

    asyncio.run(follow())


@pytest.mark.parametrize("kind", ["failing", "good"])
def test_a_shadow_that_fails_or_falls_behind_slows_nobody(
    models: Any, open_town: Any, eventually: Any, kind: str
) -> None:
    models.crown(models.put("good"))
    second = models.put(kind)

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.set_shadow("towncast-traffic", second)
            await eventually(lambda: "shadow" in versions(release))
            release.sides.queue = 128 if kind == "failing" else 0
            assert (await release.forecast(R001)).forecast.model == "traffic-lstm-v1"
            if kind == "failing":
                await eventually(lambda: release.tally("shadow").failures == 1)
            else:
                assert release.sides.beside("shadow").dropped == 1

    asyncio.run(follow())


def test_a_broken_tag_leaves_the_champion_alone_and_is_said(
    models: Any, open_town: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    models.crown(models.put("good"))
    second = models.put("other")

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            models.releases.set_challenger("towncast-traffic", second, share_percent=100)
            await eventually(lambda: release.route("R001") is not release.champion)
            models.client.set_registered_model_tag("towncast-traffic", "release_challenger", '{"share": 1}')
            await eventually(lambda: release.route("R001") is release.champion)
            assert "cannot be read" in release.faults["plan 1"]

    asyncio.run(follow())
    assert len([one for one in caplog.records if "release_challenger cannot be read" in one.message]) == 1


def test_the_caller_who_hangs_up_is_no_failure(models: Any, open_town: Any, eventually: Any) -> None:
    models.crown(models.put("slow"))

    async def follow() -> None:
        async with open_town() as town:
            release = town.release("traffic", "volume")
            task = asyncio.create_task(release.forecast(R001))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert release.tally("champion").requests == 0
            assert not any(release._running.values())

    asyncio.run(follow())


def test_files_that_were_written_a_moment_ago_are_read_again() -> None:
    """Two writes within one tick of the file system's clock leave the same stamp."""
    second = 1_000_000_000
    assert at_rest(((1, 10 * second, 4096),), 13 * second)
    assert not at_rest(((1, 10 * second, 4096), (2, 12 * second, 10)), 13 * second)
    assert not at_rest(None, 13 * second)
