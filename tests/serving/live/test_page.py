"""The dashboard in a browser: live, with intervals and versions, found, locked, empty, and large."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.online_history import OnlineHistory
from features.vocabulary import Site
from serving.live.pages import read_page
from serving.memory import WindowMemory
from serving.news import VersionChanged
from serving.security.keys import KeyStore
from serving.security.security import Security
from serving.security.settings import SecuritySettings
from serving.service import ForecastService

Run = Callable[[Any], Any]
READY = "count => document.querySelectorAll('.card[data-ready]').length >= count"
CARD = "#sites .card >> nth={}"


async def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in await page.locator(selector).all_inner_texts()]


def test_a_site_shows_readings_forecast_interval_and_version_live(
    run: Run, serve_live: Any, open_page: Any, roads: ForecastService, changing: Any
) -> None:
    async def work() -> None:
        async with serve_live([roads]) as live, open_page(live.address) as page:
            await page.wait_for_function(READY, arg=2)
            await page.wait_for_selector(".version:has-text('traffic-lstm-v3')")
            assert await page.get_attribute("body", "data-state") == "live"
            card = page.locator("#sites .card").first
            assert await card.locator("h3").inner_text() == "R001"
            assert await texts(page, ".card:first-child .value") == ["605", "698"]
            assert await card.locator(".interval").inner_text() == "647\N{EN DASH}748"
            assert await card.locator(".label").all_inner_texts() == ["last, veh/h", "forecast for 10:00"]
            assert await card.locator(".age").inner_text() == "read 20 min ago"
            assert await card.locator(".version").inner_text() == "traffic-lstm-v3 · champion"
            # What lowers it is said in words: the temperature is above what the model was trained on.
            assert await card.locator(".notes li").all_inner_texts() == ["outside what it was trained on"]
            assert "not trained on this site" in await texts(page, ".card:nth-child(2) .notes li")
            # 48 readings, the line of now between them and the forecast, and a band with 24 hours on each side.
            drawn = {
                kind: await card.locator(f"svg .{kind}").get_attribute("d") for kind in ("reading", "median", "band")
            }
            assert [len(re.findall("[ML]", str(path))) for path in drawn.values()] == [48, 25, 48]
            now, end = (
                float(str(await card.locator("svg .now").get_attribute("x1"))),
                float(str(re.findall(r"[ML]([\d.]+) ", str(drawn["reading"]))[-1])),
            )
            assert 0 < now - end < 6
            label = str(await card.locator("svg").get_attribute("aria-label"))
            assert "readings of the last two days from 558 to 605 veh/h" in label
            assert "next value between 647 and 748" in label

            await changing.push(live, R001=1605.0)
            await page.wait_for_function("() => document.querySelector('.card .next .value').value === '798'")
            await page.wait_for_function("() => document.querySelector('.card .last .value').value === '1,605'")
            live.town.news.tell(
                VersionChanged(domain="traffic", target="volume", role="canary", model_version="traffic-lstm-v3")
            )
            await page.wait_for_selector(".version:has-text('traffic-lstm-v3 · champion, canary')")

            # Each value is told, by keyboard too.
            await card.locator("svg").focus()
            await page.keyboard.press("ArrowRight")
            assert await card.locator(".said").inner_text() == "Fri 10:00  forecast 798 (747 to 848)"
            await page.keyboard.press("Home")
            assert await card.locator(".said").inner_text() == "Wed 10:00  measured 558"

    run(work())


def test_sites_are_found_by_domain_and_name(
    run: Run,
    serve_live: Any,
    open_page: Any,
    make_service: Callable[..., ForecastService],
    make_pollution: Callable[..., list[ForecastService]],
) -> None:
    async def work() -> None:
        services = [make_service(), *make_pollution()]
        async with serve_live(services) as live, open_page(live.address) as page:
            await page.wait_for_function(READY, arg=5)
            assert await texts(page, "#domains button") == [
                "All 5",
                "Traffic 2",
                "Demand 0",
                "Pollution 3",
                "Water 0",
            ]
            await page.click("[data-domain=pollution]")
            assert await texts(page, "h3") == ["P001", "P002", "P003"]
            assert "AQI" in (await texts(page, ".extra"))[0]
            # PM10 is a click away; P002 does not measure it.
            await page.click(".card:first-child .tabs button:has-text('PM10')")
            assert await page.locator(".card:first-child .last .value").inner_text() == "108"
            await page.fill("#search", "p002")
            assert await texts(page, "h3") == ["P002"]
            assert await page.inner_text("#shown") == "1 of 5 sites"
            assert page.url.endswith("?domain=pollution&search=p002")
            await page.reload()
            await page.wait_for_function(READY, arg=1)
            assert await texts(page, "h3") == ["P002"]
            await page.fill("#search", "<b>nowhere")
            assert "No site is called like “<b>nowhere”" in await page.inner_text("#sites")
            await page.click("text=Show all sites")
            assert len(await texts(page, "h3")) == 5

    run(work())


def test_a_key_is_asked_for_and_kept_in_the_tab(
    run: Run, serve_live: Any, open_page: Any, make_service: Callable[..., ForecastService], tmp_path: Path
) -> None:
    secured = SecuritySettings(data_dir=tmp_path, security="on")
    _, key = KeyStore(secured.keys_address).add("screen", ["data"])
    _, other = KeyStore(secured.keys_address).add("robot", ["predict"])

    async def work() -> None:
        security = Security(secured, host="0.0.0.0")
        async with serve_live([make_service()], security=security) as live, open_page(live.address) as page:
            await page.wait_for_selector("#key-dialog[open]")
            assert await page.get_attribute("body", "data-state") == "locked"
            assert await page.locator(".card").count() == 0
            for wrong, said in (("tc_none", "key"), (other, "scope data")):
                await page.fill("#key", wrong)
                await page.click("#key-form button")
                await page.wait_for_function(
                    "said => document.getElementById('key-reason').textContent.includes(said)", arg=said
                )
            await page.fill("#key", key)
            await page.click("#key-form button")
            await page.wait_for_function(READY, arg=2)
            assert not await page.locator("#key-dialog[open]").count()
            assert await page.evaluate("[Object.values(sessionStorage), Object.values(localStorage)]") == [[key], []]

    run(work())


def test_a_town_without_models_teaches_how_to_get_one(
    run: Run, serve_live: Any, open_page: Any, tmp_path: Path
) -> None:
    async def work() -> None:
        town = {"data_dir": tmp_path, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "domains": ("traffic",)}
        async with serve_live(None, town=town) as live, open_page(live.address) as page:
            await page.wait_for_selector(".empty")
            said = await page.inner_text("#sites")
            assert "No model is loaded yet" in said
            assert "make train DOMAIN=traffic" in said
            assert await page.get_attribute("body", "data-state") == "live"

    run(work())


def test_the_page_says_that_the_town_went_away_and_comes_back_with_it(
    run: Run, serve_live: Any, open_page: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with serve_live([make_service()], live_lifetime_s=1.5) as live, open_page(live.address) as page:
            await page.wait_for_function(READY, arg=2)
            await page.wait_for_selector("body[data-state=waiting]")
            assert "connect again" in await page.inner_text("#connection-text")
            await page.wait_for_selector("body[data-state=live]")
            # What was known is still shown, and followed again.
            assert await texts(page, ".card:first-child .value") == ["605", "698"]
            while not live.hub._followers:
                await asyncio.sleep(0.02)

    run(work())


class ManyRoads:
    """R001's features under many names."""

    def __init__(self, repository: Any, names: list[str]) -> None:
        self._repository = repository
        self.names = names
        self.readings = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    @property
    def folder(self) -> Path:
        return Path(self._repository.folder)

    def sites(self) -> dict[str, Site]:
        return {name: Site(name=name, timezone="UTC") for name in self.names}

    def online(self, names: list[str]) -> dict[str, OnlineHistory]:
        return dict.fromkeys(names, self._repository.online(["R001"])["R001"])


def test_of_many_sites_those_that_are_seen_are_drawn_and_followed(
    run: Run, serve_live: Any, open_page: Any, make_service: Callable[..., ForecastService], repository: Any
) -> None:
    names = [f"road {number:03}" for number in range(499)] + ["zz <img src=x onerror=alert(1)>"]

    async def work() -> None:
        memory: Any = WindowMemory(ManyRoads(repository, names))  # type: ignore[arg-type]
        async with serve_live([make_service(memory=memory)]) as live, open_page(live.address) as page:
            await page.wait_for_function(READY, arg=8)
            assert await page.locator(".card").count() == 500
            assert await page.locator(".card svg").count() < 60
            assert len(live.hub._followers) < 120
            await page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
            last = page.locator(".card").last
            await last.locator(".version:has-text('traffic-lstm-v3')").wait_for()
            # A name is text, whatever is in it.
            assert await last.locator("h3").inner_text() == names[-1]
            while any(topic.site == "road 000" for topic in live.hub._followers):
                await asyncio.sleep(0.05)
            assert await page.locator(".card svg").count() < 60
            # Nothing is wider than a small screen.
            await page.set_viewport_size({"width": 360, "height": 700})
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360

    run(work())


def test_files_have_tags_and_a_policy_and_no_others_are_served(
    run: Run, serve_live: Any, make_service: Callable[..., ForecastService]
) -> None:
    async def work() -> None:
        async with (
            serve_live([make_service()]) as live,
            httpx.AsyncClient(base_url=f"http://{live.address}") as client,
        ):
            page = await client.get("/dashboard")
            assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            again = await client.get("/dashboard", headers={"If-None-Match": page.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            for name in read_page():
                assert (await client.get(f"/dashboard/assets/{name}")).status_code == 200
            for path in ("nothing.js", "..%2fpages.py", "%2e%2e/pages.py", "index.html%00"):
                missing = await client.get(f"/dashboard/assets/{path}")
                assert (missing.status_code, missing.json()["error"]["code"]) == (404, "NOT_FOUND")
            overview = (await client.get("/data/live")).json()
            assert overview["channels"][0]["sites"] == ["R001", "R002"]
            unloaded = overview["channels"][1]
            assert unloaded["ready"] is False
            assert unloaded["models"][0]["reason"].startswith("The model of demand is not loaded yet")

    run(work())


@pytest.mark.parametrize("name", sorted(read_page()))
def test_no_file_names_another_host(name: str) -> None:
    text = read_page()[name].content.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|style=|onclick=|innerHTML", text)
