"""The WebSocket on a real server: who follows what, what comes when, and what is said of what is wrong."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from features.online_history import OnlineHistory
from serving.live.channels import CHANNELS
from serving.memory import WindowMemory
from serving.news import ForecastsMade, VersionChanged, WindowsChanged
from serving.predictions import APIS
from serving.service import ForecastService

Run = Callable[[Any], Any]


def test_every_prediction_api_has_a_channel() -> None:
    assert set(CHANNELS) == set(APIS)


def test_a_follower_gets_the_present_forecast_and_each_new_one(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, live.connect("/v1/ws") as socket:
            client = talk(socket)
            filters = {"roads": ["R001"]}
            answer = await client.say("subscribe", "traffic", filters=filters, request_id="q-1")
            assert answer == {
                "event": "subscribed",
                "channel": "traffic",
                "sites": ["R001"],
                "update_frequency": None,
                "request_id": "q-1",
            }
            first = await client.update()
            assert list(first) == ["channel", "timestamp", "data"]
            assert (first["channel"], first["timestamp"]) == ("traffic", "2026-02-06T09:20:00Z")
            data = first["data"]
            # The document's three fields come first.
            assert list(data)[:3] == ["road_id", "congestion_level", "change_from_previous"]
            assert (data["road_id"], data["change_from_previous"]) == ("R001", None)
            assert (data["model_version"], data["role"]) == ("traffic-lstm-v3", "champion")
            assert (len(data["forecast"]), data["valid_at"]) == (24, "2026-02-06T10:00:00Z")
            hour = data["forecast"][0]
            assert hour["traffic_volume"] == data["traffic_volume"]
            assert hour["confidence_interval"]["lower"] < hour["traffic_volume"] < hour["confidence_interval"]["upper"]
            assert data["quality"]["road_id"] == "R001"

            # The graph adds a tenth of the last reading: 605 before.
            await changing.push(live, R001=1605.0, R002=1605.5)
            second = (await client.update())["data"]
            assert second["traffic_volume"] == data["traffic_volume"] + 100
            assert second["change_from_previous"] == second["congestion_level"] - data["congestion_level"] > 0
            assert await client.silent(0.2), "nothing was asked of R002"

            assert (await client.say("unsubscribe", "traffic"))["sites"] == ["R001"]
            await changing.push(live, R001=605.0)
            assert await client.silent(0.2)

    run(work())


def test_readings_come_with_those_of_two_days(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, live.connect() as socket:
            client = talk(socket)
            assert (await client.say("subscribe", "readings", filters={"sites": ["R002"]}))["sites"] == ["R002"]
            data = (await client.update())["data"]
            assert (data["domain"], data["road_id"], data["value"]) == ("traffic", "R002", 1605.0)
            assert (data["quantity"], data["unit"], data["valid_at"]) == ("volume", "veh/h", "2026-02-06T09:00:00Z")
            recent = data["recent"]
            assert (recent["until"], recent["step_s"]) == ("2026-02-06T09:00:00Z", 3600)
            np.testing.assert_allclose(recent["values"]["volume"], np.arange(1558.0, 1606.0))
            await changing.push(live, R002=1700.0)
            data = (await client.update())["data"]
            assert (data["value"], data["change_from_previous"]) == (1700.0, 95.0)
            # What says the same is not sent again.
            live.town.news.tell(WindowsChanged(domain="traffic", sites=frozenset(["R002"])))
            assert await client.silent(0.2)

    run(work())


def test_updates_come_no_more_often_than_asked_and_the_last_one_counts(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, live.connect() as socket:
            client, loop = talk(socket), asyncio.get_running_loop()
            filters = {"roads": ["R001"], "update_frequency": "1s"}
            began = loop.time()
            assert (await client.say("subscribe", "readings", filters=filters))["update_frequency"] == "1s"
            await client.update()
            for value in (700.0, 800.0, 900.0):
                await changing.push(live, R001=value)
            values, changes = [605.0], []
            while values[-1] != 900.0:
                data = (await client.update())["data"]
                values.append(data["value"])
                changes.append(data["change_from_previous"])
            assert len(changes) <= loop.time() - began, "more than one in a second"
            assert changes == [after - before for before, after in itertools.pairwise(values)]

    run(work())


def test_all_domains_are_followed_and_errors_are_said_by_site(
    run: Run,
    serve_live: Any,
    talk: Any,
    make_service: Callable[..., ForecastService],
    make_pollution: Callable[..., list[ForecastService]],
    make_water: Callable[[], list[ForecastService]],
    make_demand: Callable[[], list[ForecastService]],
) -> None:
    async def work() -> None:
        services = [make_service(), *make_pollution(), *make_water(), *make_demand()]
        async with serve_live(services) as live, live.connect() as socket:
            client = talk(socket)
            named = {"stations": ["P001", "P002"], "zones": ["Z001"], "control_points": ["ramp_1"]}
            for channel, name in (("pollution", "stations"), ("water", "zones"), ("demand", "control_points")):
                await client.say("subscribe", channel, filters={name: named[name]})
            updates = [await client.update() for _ in range(4)]
            by_site = {next(iter(update["data"].values())): update["data"] for update in updates}
            air, other = by_site["P001"], by_site["P002"]
            assert list(air)[:3] == ["station_id", "aqi", "change_from_previous"]
            assert (air["category"], air["parameter"]) == ("Moderate", "PM2.5")
            assert air["value"] == air["forecast"]["PM2.5"][0]["value"]
            assert (list(air["forecast"]), list(other["forecast"])) == (["PM2.5", "PM10", "AQI"], ["PM2.5", "AQI"])
            assert by_site["Z001"]["water_demand"] == by_site["Z001"]["forecast"][0]["water_demand"]
            assert by_site["ramp_1"]["multiplier"] > 1
            # Readings of all of them, on one channel.
            answer = await client.say("subscribe", "readings", filters=named)
            assert sorted(answer["sites"]) == ["P001", "P002", "Z001", "ramp_1"]
            readings = [(await client.update())["data"] for _ in range(4)]
            assert {one["domain"] for one in readings} == {"pollution", "water", "demand"}
            air = next(one for one in readings if one.get("station_id") == "P002")
            assert (air["value"], set(air["recent"]["values"]["pm10"])) == (55.0, {None})

            overview = await client.say("list")
            channels = {channel["channel"]: channel for channel in overview["channels"]}
            assert channels["demand"]["sites"] == ["dock_2", "dock_3", "ramp_1"]
            assert channels["traffic"]["models"] == [{"target": "volume", "model_version": "traffic-lstm-v3"}]

    run(work())


def test_a_site_without_a_forecast_gets_its_error_and_then_its_forecast(
    run: Run, serve_live: Any, talk: Any, make_service: Callable[..., ForecastService], changing: Any
) -> None:
    async def work() -> None:
        silent = {"R001", "R002"}
        original = changing.online

        def online(names: list[str]) -> dict[str, OnlineHistory]:
            empty = {}
            for name, history in original(names).items():
                values = np.where(name in silent, np.float32(np.nan), history.value_TK)
                empty[name] = OnlineHistory(valid_until_s=history.valid_until_s, value_TK=values)
            return empty

        changing.online = online  # type: ignore[method-assign]
        memory: Any = WindowMemory(changing)  # type: ignore[arg-type]
        async with serve_live([make_service(memory=memory)]) as live, live.connect() as socket:
            client = talk(socket)
            for channel in ("traffic", "readings"):
                await client.say("subscribe", channel, filters={"roads": ["R001"]})
                update = await client.update()
                assert (update["channel"], update["data"]["road_id"]) == (channel, "R001")
                assert update["error"]["code"] == "NOT_ENOUGH_DATA"
                assert "Ingest its readings" in update["error"]["message"]
            silent.clear()
            await changing.push(live, R001=605.0)
            updates = {update["channel"]: update for update in [await client.update(), await client.update()]}
            assert updates["traffic"]["data"]["congestion_level"] == 28
            assert "error" not in updates["readings"]

    run(work())


def test_another_version_and_kept_forecasts_are_news(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, live.connect() as socket:
            client = talk(socket)
            await client.say("subscribe", "traffic", filters={"roads": ["R001"]})
            assert (await client.update())["data"]["role"] == "champion"
            news = live.town.news
            news.tell(ForecastsMade(domain="traffic", target="volume", sites=frozenset(["R001"])))
            assert await client.silent(0.2), "the same forecast is no news"
            news.tell(VersionChanged(domain="traffic", target="volume", role="canary", model_version="traffic-lstm-v3"))
            assert (await client.update())["data"]["role"] == "champion, canary"

    run(work())


def test_who_follows_everything_follows_new_sites_too(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, live.connect() as socket:
            client = talk(socket)
            sites = live.town.windows("traffic").memory.sites
            later = sites.pop("R002")
            assert (await client.say("subscribe", "traffic"))["sites"] == ["R001"]
            await client.update()
            sites["R002"] = later
            await changing.push(live, R002=1610.0)
            assert {(await client.update())["data"]["road_id"] for _ in range(1)} == {"R002"}

    run(work())


def test_work_is_done_once_for_all_followers(
    run: Run, serve_live: Any, talk: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live:
            made: list[int] = []
            original = live.hub._maker.make

            async def counted(topics: Any) -> Any:
                made.append(len(topics))
                return await original(topics)

            live.hub._maker.make = counted
            sockets = [await live.connect() for _ in range(5)]
            clients = [talk(socket) for socket in sockets]
            for client in clients:
                await client.say("subscribe", "traffic", filters={"roads": ["R001"]})
                await client.update()
            assert sum(made) == 1
            await changing.push(live, R001=700.0)
            for client in clients:
                await client.update()
            assert sum(made) == 2
            for socket in sockets:
                await socket.close()
            while live.hub.clients:
                await asyncio.sleep(0.01)
            await changing.push(live, R001=800.0)
            await asyncio.sleep(0.05)
            assert sum(made) == 2, "nobody follows"

    run(work())
