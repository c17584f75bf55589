"""The monitoring page in a browser: states in words, weeks drawn, filters, keys, an empty town."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from features.alias_history import AliasChange
from features.card import registered_name
from serving.errors import install_error_replies
from serving.live.hub import LiveHub
from serving.live.pages import dashboard_routes
from serving.live.routes import live_routes
from serving.live.settings import LiveSettings
from serving.metrics import Metrics
from serving.monitoring.answers import MonitoringAnswers
from serving.releases.plans import Standing
from serving.routes.monitoring import monitoring_routes
from serving.security.keys import KeyStore
from serving.security.security import Security
from serving.security.settings import SecuritySettings
from serving.settings import ServingSettings
from serving.town import Town

Run = Callable[[Any], Any]
READY = "count => document.querySelectorAll('.card[data-ready]').length >= count"


def watched_app(data_dir: Path, standings: Mapping[str, Standing], security: Security | None) -> FastAPI:
    """A town with nothing but its monitoring and its pages."""
    town = Town(ServingSettings(data_dir=data_dir), [])

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if security is not None:
            await security.start()
        yield
        if security is not None:
            await security.close()

    app, metrics = FastAPI(lifespan=lifespan), Metrics()
    install_error_replies(app)
    app.include_router(live_routes(LiveHub(town, LiveSettings()), metrics))
    app.include_router(monitoring_routes(MonitoringAnswers(data_dir, standings=lambda: (standings, True)), metrics))
    app.include_router(dashboard_routes(metrics))
    if security is not None:
        security.install(app, body_limit_bytes=65536, batch_body_limit_bytes=65536)
    return app


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    """Serves an app on a free port; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=5))
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        assert not task.done(), "the server ended before it had begun"
        await asyncio.sleep(0.01)
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def open_monitoring(open_page: Any) -> Callable[..., AbstractAsyncContextManager[Any]]:
    """Opens the monitoring page of a town in a data folder."""

    @contextlib.asynccontextmanager
    async def opened(
        data_dir: Path,
        *,
        standings: Mapping[str, Standing] | None = None,
        security: Security | None = None,
        **options: Any,
    ) -> AsyncIterator[Any]:
        app = watched_app(data_dir, standings or {}, security)
        async with served(app) as address, open_page(address, page_path="/monitoring", **options) as page:
            yield page

    return opened


async def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in await page.locator(selector).all_inner_texts()]


def test_a_town_shows_states_figures_weeks_and_what_asks(run: Run, open_monitoring: Any, watched: Any) -> None:
    async def work() -> None:
        async with open_monitoring(watched.data_dir) as page:
            await page.wait_for_function(READY, arg=3)
            assert await texts(page, "h3") == ["Zone north/east", "Z003", "Z001"]
            assert await texts(page, ".head .state") == ["harmed", "no data", "healthy"]
            assert (await page.locator("section h2").inner_text()).startswith("Water: Demand")
            assert await texts(page, ".asks li") == [
                "A retraining is asked for: the forecasts got worse. 8 in place of 2."
            ]
            assert await texts(page, ".remarks code") == ["long ago"]
            card = page.locator(".card").first
            assert await card.locator(".error .value").inner_text() == "8"
            assert await card.locator(".error .beside").inner_text() == "usually 2 (+300 %)"
            assert await card.locator(".coverage .value").inner_text() == "0 %"
            assert await card.locator(".notes li").all_inner_texts() == ["temperature drifted: PSI 0.3, usually 0.02"]
            assert await card.locator(".versions").inner_text() == (
                "v1: error 2.55, coverage 91 % → v2: error 8, coverage 0 %"
            )
            assert await page.locator(".card").last.locator(".estimate .value").inner_text() == "2.2"
            # Twelve weeks with a mark of their state each, drift beyond its threshold in the last two, one new version.
            assert await card.locator("svg .mark").count() == 12
            assert await card.locator("svg .mark.harmed").count() == 2
            assert await card.locator("svg .bar.over").count() == 2
            assert await card.locator("svg .version").all_text_contents() == ["v2"]
            await card.locator("svg").focus()
            await page.keyboard.press("End")
            said = await card.locator(".said").inner_text()
            assert (
                said
                == "week of 26 Jan 2026: error 8, coverage 0 % · temperature 3.0 \N{MULTIPLICATION SIGN} · harmed · v2"
            )
            assert (await texts(page, "main > .hint"))[0].startswith("No report yet of traffic (Volume), demand")

            # Found by state, name and weeks; the address keeps it.
            assert await texts(page, "#states button") == [
                "Any state 3", "harmed 1", "suspect 0", "no data 1", "healthy 1",
            ]  # fmt: skip
            await page.click("[data-state=harmed]")
            assert await texts(page, "h3") == ["Zone north/east"]
            await page.select_option("#weeks", "13")
            assert page.url.endswith("?state=harmed&weeks=13")
            await page.reload()
            await page.wait_for_function(READY, arg=1)
            assert await page.inner_text("#shown") == "1 of 3 sites"
            await page.fill("#search", "nowhere")
            await page.click("text=Show all sites")
            assert len(await texts(page, "h3")) == 3
            await page.set_viewport_size({"width": 360, "height": 700})
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360

    run(work())


def test_a_town_without_reports_says_what_to_do(run: Run, open_monitoring: Any, tmp_path: Path) -> None:
    async def work() -> None:
        async with open_monitoring(tmp_path, color_scheme="dark") as page:
            await page.wait_for_selector(".empty")
            assert "No report yet" in await page.inner_text("#sites")
            assert await page.inner_text(".empty pre") == "towncast monitor"
            assert await page.inner_text("#connection-text") == "no report yet"

    run(work())


def test_who_became_champion_is_told_with_its_reason(run: Run, open_monitoring: Any, watched: Any) -> None:
    change = {"at": "2026-01-26T08:05:00+00:00", "alias": "champion", "action": "promote", "by": "ann"}
    changes = (
        AliasChange(number=1, from_version=None, to_version=1, reason="first", took=False, **change),  # type: ignore[arg-type]
        AliasChange(number=2, from_version=1, to_version=2, reason="<b>worse</b>", **change),  # type: ignore[arg-type]
    )
    name = registered_name("water")
    standings = {name: Standing(name=name, made_ms=0, versions={"champion": 2}, history=changes)}

    async def work() -> None:
        async with open_monitoring(watched.data_dir, standings=standings) as page:
            await page.wait_for_selector("details table")
            assert await page.inner_text("details summary") == "Model history of towncast-water · v2 champion"
            rows = [re.split(r"\t", row) for row in await texts(page, "tbody tr")]
            assert rows[0] == [
                "2026-01-26 08:05",
                "champion: v1 \N{RIGHTWARDS ARROW} v2",
                "promote",
                "ann",
                "<b>worse</b>",
            ]
            assert rows[1][2] == "promote, did not take"

    run(work())


def test_a_town_with_keys_asks_for_one(run: Run, open_monitoring: Any, watched: Any, tmp_path: Path) -> None:
    secured = SecuritySettings(data_dir=tmp_path, security="on")
    _, key = KeyStore(secured.keys_address).add("screen", ["data"])
    _, other = KeyStore(secured.keys_address).add("robot", ["predict"])

    async def work() -> None:
        security = Security(secured, host="0.0.0.0")
        async with open_monitoring(watched.data_dir, security=security) as page:
            await page.wait_for_selector("#key-dialog[open]")
            assert await page.get_attribute("body", "data-state") == "locked"
            for given, said in ((other, "scope data"), (key, "")):
                assert await page.locator(".card").count() == 0
                await page.fill("#key", given)
                await page.click("#key-form button")
                if said:
                    await page.wait_for_function(
                        "said => document.getElementById('key-reason').textContent.includes(said)", arg=said
                    )
            await page.wait_for_function(READY, arg=3)
            assert not await page.locator("#key-dialog[open]").count()

    run(work())
