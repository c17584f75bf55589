"""Features of one site, looked up, and the way of a reading from its arrival until forecasts see it.

For each online store, SQLite and a real Redis that is started here: one site's history out of the store; its window,
cut anew after a reading; and `POST /readings` at 200 readings a second over all sites, each of a step that is over, so
that it is stored, pushed to the online store and seen by the windows before the answer.

Run: `python -m benchmarks.feature_lookup [--quick] [--domain NAME]`.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from fastapi import FastAPI
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Domain, Site
from serving.inflow.desk import ReadingDesk
from serving.inflow.settings import InflowSettings
from serving.memory import WindowMemory
from serving.metrics import Metrics
from serving.routes.readings import readings_routes
from serving.window_source import WindowSource

LOOKUP_BAR_MS = 5.0
ARRIVAL_BAR_MS = 1000.0
_SITES = 50
_READINGS_PER_S = 200
_BATCHES_PER_S = 20
_WEEKS = 10


def main() -> None:
    """Measure both stores, and say whether the bars are met."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--domain", default="pollution", choices=[*DOMAINS], help="the widest by default")
    options = parser.parse_args()
    domain = DOMAINS[options.domain]
    lookups, rounds, seconds = (50, 3, 1) if options.quick else (2000, 100, 20)
    figures: dict[str, Any] = {"domain": domain.name, "sites": _SITES, "inputs": len(domain.inputs)}
    with tempfile.TemporaryDirectory() as folder, _redis(Path(folder)) as redis_url:
        for name, url in (("sqlite", ""), ("redis", redis_url)):
            settings = InflowSettings(data_dir=Path(folder) / name, online_store_url=url)
            fill(settings, domain)
            figures[name] = {
                "lookup_ms": _spread(lookup_times_s(settings, domain, lookups)),
                **asyncio.run(_live(settings, domain, rounds=rounds, seconds=seconds)),
            }
    stores = [figures["sqlite"], figures["redis"]]
    figures["met"] = {
        "lookup_p99_below_5_ms": all(one[key]["p99"] < LOOKUP_BAR_MS for one in stores for key in ("lookup_ms",)),
        "arrival_p99_below_1_s": all(one["arrival_ms"]["p99"] < ARRIVAL_BAR_MS for one in stores),
    }
    _show(figures)
    print_result("feature_lookup", figures)


def fill(settings: InflowSettings, domain: Domain) -> None:
    """Ten weeks of hourly readings of every input at every site, stored and pushed."""
    rng = np.random.default_rng(0)
    moments = pd.date_range(end=pd.Timestamp.now("UTC").floor("h"), periods=_WEEKS * 168, freq="h")
    store = ReadingStore(settings.readings_dir, domain)
    parts = []
    for site in range(_SITES):
        for quantity in domain.inputs:
            low = max(quantity.lower, -10.0)
            value = rng.uniform(low, min(low + 20.0, quantity.upper), len(moments))
            parts.append(
                make_readings(
                    site=f"S{site}", quantity=quantity.name, valid_at=moments, value=value, source="sensor:bench"
                )
            )
    store.append(check_readings(join_readings(parts), domain), [Site(name=f"S{site}") for site in range(_SITES)])
    repository = _repository(settings, domain)
    repository.apply()
    repository.materialise(as_of=pd.Timestamp.now("UTC"))


def _repository(settings: InflowSettings, domain: Domain) -> FeatureRepository:
    store = ReadingStore(settings.readings_dir, domain)
    return FeatureRepository(settings.feast_dir, store, online_store_url=settings.online_store_url)


def lookup_times_s(settings: InflowSettings, domain: Domain, lookups: int) -> list[float]:
    """Time of each look-up of one site [s]."""
    repository = _repository(settings, domain)
    repository.online(["S0"])
    return [_timed(lambda number=number: repository.online([f"S{number % _SITES}"])) for number in range(lookups)]  # type: ignore[misc]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


async def _live(settings: InflowSettings, domain: Domain, *, rounds: int, seconds: int) -> dict[str, Any]:
    """The window after news, and the arrival of readings, on one API's stores."""
    windows = WindowSource(WindowMemory(_repository(settings, domain)), refresh_s=1.0)
    await windows.start()
    metrics = Metrics()
    desk = ReadingDesk(settings, metrics, windows=lambda name: windows)
    app = FastAPI()
    app.include_router(readings_routes(desk, metrics))
    sent = _Sent(domain)
    transport = httpx.ASGITransport(app=app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=60) as client:
            cut_s, alone_s = [], []
            for number in range(rounds):
                alone_s.append(await _post(client, sent.batch([number % _SITES])))
                began = time.perf_counter()
                await windows.prepared(f"S{number % _SITES}")
                cut_s.append(time.perf_counter() - began)
            arrival_s = await _stream(client, sent, seconds)
    finally:
        await desk.close()
        await windows.close()
    return {"window_ms": _spread(cut_s), "alone_ms": _spread(alone_s), "arrival_ms": _spread(arrival_s)}


class _Sent:
    """Items of moments that were never sent before, in the last step that is over."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._end = pd.Timestamp.now("UTC").floor(f"{domain.step_s}s")
        self._number = 0

    def batch(self, sites: list[int]) -> list[dict[str, Any]]:
        items = []
        for site in sites:
            self._number += 1
            moment = self._end - pd.Timedelta(milliseconds=50 * (self._number % 70_000))
            stamp, value = moment.isoformat(), 1.0 + self._number % 7
            quantity = self._domain.target.name
            items.append(
                {"domain": self._domain.name, "site": f"S{site}", "quantity": quantity, "timestamp": stamp}
                | {"value": value}
            )
        return items


async def _post(client: httpx.AsyncClient, items: list[dict[str, Any]]) -> float:
    began = time.perf_counter()
    reply = await client.post("/readings", json={"readings": items})
    assert reply.json()["stored"] == len(items), reply.text
    return time.perf_counter() - began


async def _stream(client: httpx.AsyncClient, sent: _Sent, seconds: int) -> list[float]:
    """Time from sending to the answer of each batch, sent at their times whether the last is answered or not [s]."""
    each = _READINGS_PER_S // _BATCHES_PER_S
    posts = []
    began = time.perf_counter()
    for number in range(seconds * _BATCHES_PER_S):
        sites = [(number * each + place) % _SITES for place in range(each)]
        posts.append(asyncio.create_task(_post(client, sent.batch(sites))))
        await asyncio.sleep(max(0.0, began + (number + 1) / _BATCHES_PER_S - time.perf_counter()))
    return await asyncio.gather(*posts)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest [ms]."""
    milliseconds = 1e3 * np.asarray(seconds)
    told = {"p50": np.median(milliseconds), "p99": np.percentile(milliseconds, 99), "max": milliseconds.max()}
    return {name: round(float(value), 3) for name, value in told.items()}


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """The address of a Redis of our own on a free port."""
    program = shutil.which("redis-server")
    assert program is not None, "install redis-server"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _show(figures: dict[str, Any]) -> None:
    rows = {
        "lookup_ms": "history of one site from the online store",
        "window_ms": "its window, cut anew after a reading",
        "alone_ms": "one POST /readings of one reading, until forecasts see it",
        "arrival_ms": f"POST /readings, {_READINGS_PER_S} readings/s over {_SITES} sites, until forecasts see them",
    }
    table = Table(f"{figures['domain']}, {figures['inputs']} inputs", *("SQLite p50", "p99", "Redis p50", "p99"))
    for key, text in rows.items():
        cells = [f"{figures[store][key][name]:.2f}" for store in ("sqlite", "redis") for name in ("p50", "p99")]
        table.add_row(text, *cells)
    console = wide_console()
    console.print(table)
    console.print(f"Times in ms. Bars: {figures['met']}")


if __name__ == "__main__":
    main()
