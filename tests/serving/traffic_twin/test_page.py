"""The page in a browser: roads in the colours of their speeds, live, and what it says when the twin goes away."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
from playwright.async_api import Page, async_playwright

from serving.traffic_twin.document import network_message, state_message
from sim_env.traffic.engine import Control, Edge, TrafficState, VehicleCounts
from sim_env.traffic.mock_engine import MockEngine

QUIET = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync")  # fmt: skip
# Three streets across the whole map, one above the other, each 10 m/s.
EDGES = tuple(
    Edge(name=name, shape=((0.0, height), (1000.0, height)), length_m=1000.0, lanes=3, speed_limit_mps=10.0)
    for name, height in (("top", 600.0), ("middle", 300.0), ("bottom", 0.0))
)
CONTROLS = (Control(control_id="<b>ramp</b>", edge_id="top", baseline_veh_per_hour=600.0),)


def find_browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, "No Chromium on PATH: install it, as with `apt-get install chromium`."
    return found


@contextlib.asynccontextmanager
async def opened(port: int) -> AsyncIterator[Page]:
    """The page in a browser of its own; anything that it logs as an error is one."""
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=find_browser(), args=QUIET.split())
        page = await browser.new_page(viewport={"width": 1200, "height": 700}, color_scheme="light")
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.goto(f"http://127.0.0.1:{port}/")
        yield page
        await browser.close()
        assert not errors
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in requests), "something came from elsewhere"


def state(time_s: float, counts: list[int], speeds: list[float]) -> bytes:
    vehicles = VehicleCounts(entered=sum(counts), left=0, present=sum(counts), waiting=0)
    whole = TrafficState(
        sim_time_s=time_s,
        veh_count_E=np.array(counts),
        mean_speed_E_mps=np.array(speeds),
        injected_P=np.array([0]),
        vehicles=vehicles,
    )
    return state_message(
        whole, moment_s=1_770_368_400 + time_s, edges=EDGES, controls=CONTROLS, multiplier_P=np.array([1.25])
    )


NETWORK = network_message(
    edges=EDGES, controls=CONTROLS, kinds=["assumed"], engine="mock", model="demand-gru-v3", interval_s=60, speed=1
)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, timeout=120))


async def colours(page: Page) -> dict[str, tuple[int, int, int]]:
    """The most vivid colour of each street's middle third; of an empty one the least bright."""
    found: dict[str, tuple[int, int, int]] = {}
    pixels = await page.evaluate(
        """() => {
          const map = document.getElementById("map"), pen = map.getContext("2d");
          const column = pen.getImageData(Math.round(map.width / 2), 0, 1, map.height).data;
          return {height: map.height, column: Array.from(column)};
        }"""
    )
    rows = np.array(pixels["column"]).reshape(-1, 4)[:, :3].astype(int)
    third = pixels["height"] // 3
    for index, edge in enumerate(EDGES):
        part = rows[index * third : (index + 1) * third]
        best = part[np.argmax(np.ptp(part, axis=1))]
        found[edge.name] = (int(best[0]), int(best[1]), int(best[2]))
    return found


def kind_of(colour: tuple[int, int, int]) -> str:
    red, _, blue = colour
    if max(colour) - min(colour) < 40:
        return "grey"
    return "red" if red > blue else "blue"


async def shown(page: Page, time_s: float) -> None:
    await page.wait_for_function("time => Number(document.body.dataset.simTime) === time", arg=time_s)


def test_roads_show_their_speed_in_colour_and_change_live(serve_clients: Callable[..., Any]) -> None:
    async def work() -> None:
        async with serve_clients(NETWORK) as (broadcaster, port):
            broadcaster.publish(state(3600.0, [30, 10, 0], [0.5, 9.9, 10.0]))
            async with opened(port) as page:
                await shown(page, 3600.0)
                seen = {name: kind_of(colour) for name, colour in (await colours(page)).items()}
                assert seen == {"top": "red", "middle": "blue", "bottom": "grey"}
                assert await page.inner_text("#vehicles") == "40"
                assert await page.inner_text("#queues") == "1"
                assert await page.inner_text("#clock-time") == "10:00:00"
                assert "1 h 0 min simulated" in await page.inner_text("#elapsed")
                assert "1.25" in await page.inner_text("#controls")
                # A name is text, whatever is in it; and what is assumed is said.
                assert "<b>ramp</b>" in await page.inner_text("#controls")
                assert "history assumed" in await page.inner_text("#controls")
                assert "never measured" in await page.inner_text("#notice")

                broadcaster.publish(state(3660.0, [0, 20, 5], [10.0, 1.0, 9.5]))
                await shown(page, 3660.0)
                seen = {name: kind_of(colour) for name, colour in (await colours(page)).items()}
                assert seen == {"top": "grey", "middle": "red", "bottom": "blue"}
                assert await page.inner_text("#vehicles") == "25"

    run(work())


def test_a_road_under_the_pointer_tells_its_figures(serve_clients: Callable[..., Any]) -> None:
    async def work() -> None:
        async with serve_clients(NETWORK) as (broadcaster, port):
            broadcaster.publish(state(60.0, [30, 10, 0], [0.5, 5.0, 10.0]))
            async with opened(port) as page:
                await shown(page, 60.0)
                box = await page.locator("#map").bounding_box()
                assert box is not None
                await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 + 3)
                await page.wait_for_selector("#tip:not([hidden])")
                tip = await page.inner_text("#tip")
                assert "middle" in tip
                assert "10 vehicles" in tip
                assert "18 of 36 km/h (50 %)" in tip

    run(work())


def test_the_page_says_that_the_twin_failed_and_comes_back_with_it(serve_clients: Callable[..., Any]) -> None:
    async def work() -> None:
        async with serve_clients(NETWORK) as (broadcaster, port), opened(port) as page:
            broadcaster.publish(state(600.0, [1, 0, 0], [5.0, 10.0, 10.0]))
            await shown(page, 600.0)
            assert await page.get_attribute("body", "data-state") == "live"
            await broadcaster.fail("The engine's process is gone")
            await page.wait_for_selector("body[data-state=failed]")
            assert "The engine's process is gone" in await page.inner_text("#connection-text")

    async def restarted() -> None:
        async with contextlib.AsyncExitStack() as stack:
            first = contextlib.AsyncExitStack()
            broadcaster, port = await first.enter_async_context(serve_clients(NETWORK))
            broadcaster.publish(state(600.0, [1, 0, 0], [5.0, 10.0, 10.0]))
            page = await stack.enter_async_context(opened(port))
            await shown(page, 600.0)
            await first.aclose()
            await page.wait_for_selector("body:not([data-state=live])")
            again, _ = await stack.enter_async_context(serve_clients(NETWORK, port=port))
            again.publish(state(60.0, [2, 0, 0], [5.0, 10.0, 10.0]))
            await shown(page, 60.0)
            assert await page.get_attribute("body", "data-state") == "live"
            assert await page.inner_text("#vehicles") == "2"

    run(work())
    run(restarted())


def test_a_whole_twin_is_seen_moving(running_twin: Callable[..., Any]) -> None:
    async def work() -> None:
        async with running_twin(speed=300) as twin, opened(twin.port) as page:
            await page.wait_for_function("() => Number(document.body.dataset.simTime) >= 600")
            before = await page.evaluate("document.getElementById('map').toDataURL()")
            count = int(await page.get_attribute("body", "data-messages") or 0)
            await page.wait_for_function("count => Number(document.body.dataset.messages) > count + 2", arg=count)
            assert await page.evaluate("document.getElementById('map').toDataURL()") != before
            assert int(await page.inner_text("#vehicles")) > 0
            rows = page.locator("#controls tr")
            assert await rows.count() == len(MockEngine().controls)

    run(work())
