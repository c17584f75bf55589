"""The dashboard of a small town as the README shows it: `python -m pytest tests/serving/live/picture.py`.

The readings are made up: daily and weekly rhythms with noise. The graphs forecast what was a week ago.
"""

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import numpy_helper

from features.domains import DOMAINS
from features.vocabulary import Site
from serving.artifacts import open_artifact
from serving.memory import WindowMemory
from serving.service import ForecastService
from serving.window_source import WindowSource

PICTURE = Path(__file__).parents[3] / "docs" / "images" / "dashboard.png"
NOW = pd.Timestamp("2026-02-06T09:20:00Z")
# Site, quantity, mean, share of the daily rhythm, share of noise, hours without readings at the end.
PLAN = {
    "traffic": {
        ("Ashram Road", "volume"): (1080, 0.75, 0.05, 0),
        ("Nehru Bridge", "volume"): (980, 0.8, 0.07, 0),
        ("Ring Road east", "volume"): (1600, 0.6, 0.04, 0),
        ("Station Road", "volume"): (740, 0.7, 0.09, 9),
    },
    "demand": {
        ("East on-ramp", "trips"): (450, 0.6, 0.06, 0),
        ("Market on-ramp", "trips"): (380, 0.6, 0.1, 0),
        ("North on-ramp", "trips"): (620, 0.7, 0.07, 0),
        ("South on-ramp", "trips"): (510, 0.65, 0.08, 0),
    },
    "pollution": {
        ("Civic centre", "pm2_5"): (78, 0.35, 0.12, 0),
        ("Civic centre", "pm10"): (132, 0.35, 0.12, 0),
        ("Harbour", "pm2_5"): (64, 0.25, 0.16, 0),
        ("Harbour", "pm10"): (118, 0.25, 0.16, 0),
        ("Mill Road", "pm2_5"): (88, 0.4, 0.1, 0),
        ("Mill Road", "pm10"): (141, 0.4, 0.1, 0),
        ("River park", "pm2_5"): (51, 0.3, 0.15, 0),
        ("River park", "pm10"): (87, 0.3, 0.15, 0),
    },
    "water": {("Zone north", "inflow"): (61, 0.45, 0.03, 0), ("Zone old town", "inflow"): (34, 0.5, 0.04, 0)},
}
# Stations that do not measure the temperature.
WITHOUT_WEATHER = ("Mill Road", "Market on-ramp")
WIDTH = {"volume": 0.16, "pm2_5": 0.35, "pm10": 0.35, "inflow": 0.12, "trips": 0.25}
LOOK = {"viewport": {"width": 1400, "height": 1240}, "timezone_id": "Asia/Kolkata"}
FAMILY = {"traffic": "lstm", "pollution": "xgb", "water": "prophet", "demand": "gru"}


def rhythm(name: str, plan: tuple[float, float, float, int]) -> Callable[[pd.DatetimeIndex], Any]:
    mean, share, noise, silent_h = plan
    rng = np.random.default_rng(zlib.crc32(name.encode()))

    def values(moments: pd.DatetimeIndex) -> Any:
        hour = moments.hour.to_numpy(float) + 5.5
        daily = 0.7 * np.exp(4 * (np.cos(2 * np.pi * (hour - 9) / 24) - 1)) + np.exp(
            4 * (np.cos(2 * np.pi * (hour - 18.5) / 24) - 1)
        )
        weekly = np.where(moments.dayofweek.to_numpy() >= 5, 0.8, 1.0)
        level = mean * ((1 - share) + share * 1.8 * daily) * weekly
        made = level * (1 + noise * rng.standard_normal(len(moments)))
        return np.where(moments <= NOW - pd.Timedelta(hours=silent_h), np.maximum(made, 0), np.nan)

    return values


def spread(folder: Path, size: float) -> None:
    """Make a graph copy last week alone, with an interval that widens with the lead."""
    graph = onnx.load(folder / "model.onnx")
    for constant in graph.graph.initializer:
        if constant.name in ("per_hour", "per_unit"):
            constant.CopyFrom(numpy_helper.from_array(np.array(0, dtype=np.float32), constant.name))
        if constant.name == "offsets":
            horizon = graph.graph.input[1].type.tensor_type.shape.dim[1].dim_value
            growth = size * (0.45 + 0.55 * np.sqrt(np.arange(1, horizon + 1) / 24))
            levels = numpy_helper.to_array(constant) / 50
            offsets = (growth[None, :, None] * levels[None, None, :]).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(offsets, "offsets"))
    onnx.save(graph, folder / "model.onnx")


def test_picture(make_town: Any, make_artifact: Any, service_of: Any, serve_live: Any, open_page: Any) -> None:
    services: list[ForecastService] = []
    for domain, plan in PLAN.items():
        names = list(dict.fromkeys(site for site, _ in plan))
        sites = [Site(name=name, timezone="Asia/Kolkata", country="IN") for name in names]
        values = {key: rhythm(f"{domain} {key}", one) for key, one in plan.items()}
        weather = {(name, "temperature"): lambda moments: 14.0 for name in names if name not in WITHOUT_WEATHER}
        repository = make_town(domain, sites, values | weather)
        windows = WindowSource(WindowMemory(repository), now=NOW.timestamp)
        for target in DOMAINS[domain].targets:
            made = make_artifact(domain, target.name, family=FAMILY[domain], sites=sites)
            mean = np.mean([one[0] for (_, quantity), one in plan.items() if quantity == target.name])
            spread(made.folder, WIDTH[target.name] * float(mean))
            made.card.save(made.folder)
            services.append(service_of(open_artifact(made.folder, version="3"), repository, windows=windows))

    async def work() -> None:
        async with serve_live(services) as live, open_page(live.address, **LOOK) as page:
            await page.wait_for_function("() => document.querySelectorAll('.card[data-ready]').length >= 6")
            await page.wait_for_timeout(1500)
            await page.screenshot(path=PICTURE)

    asyncio.run(work())
