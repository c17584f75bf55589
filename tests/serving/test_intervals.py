"""Adaptive intervals: loaded with the artifact, laid over every forecast, refused where they are damaged."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.adaptive_intervals import INTERVALS_FILE, AdaptiveIntervals
from features.card import load_card
from features.errors import ArtifactError
from features.vocabulary import Forecast
from serving.app import create_app
from serving.artifacts import Artifact, open_artifact
from serving.places import Place
from serving.service import ForecastResult, ForecastService, Question
from serving.settings import ServingSettings

Make = Callable[..., ForecastService]


def about(site: str, *, explain: bool = False, horizon: str = "24h") -> Question:
    return Question(place=Place(name=site), horizon=horizon, explain=explain)


def forecasts_of(service: ForecastService, *questions: Question) -> list[Forecast]:
    """Each forecast alone, then all together."""

    async def run() -> list[Any]:
        await service.start()
        try:
            alone = [await service.forecast(question) for question in questions]
            return [*alone, *await service.forecast_many(questions)]
        finally:
            await service.close()

    results = asyncio.run(run())
    assert all(isinstance(result, ForecastResult) for result in results)
    return [result.forecast for result in results]


def test_the_ends_of_the_interval_follow_its_errors_and_the_median_stays(
    make_service: Make, artifact: Artifact, adaptive: Artifact
) -> None:
    fixed, *_ = forecasts_of(make_service(), about("R001"))
    moved, *_ = forecasts_of(make_service(artifact=adaptive), about("R001"))
    assert artifact.intervals is None
    assert adaptive.intervals is not None
    assert moved.levels == fixed.levels == (0.025, 0.5, 0.975)
    np.testing.assert_array_equal(moved.at_level(0.5), fixed.at_level(0.5))
    width = moved.value_BHQ[0, :, 2] - moved.value_BHQ[0, :, 0]
    # A normal error of 100 has an interval of 392; that of the graph is 100. Half an hour past 15 there is 784.
    assert np.median(width) == pytest.approx(392, rel=0.25)
    assert int(width.argmax()) == 0  # 10:00 UTC is 15:30 in Kolkata
    assert width[0] > 1.4 * np.median(width)


def test_explained_batched_and_shorter_forecasts_have_the_same_interval(make_service: Make, adaptive: Artifact) -> None:
    alone, explained, short, *together = forecasts_of(
        make_service(artifact=adaptive), about("R001"), about("R001", explain=True), about("R001", horizon="6h")
    )
    np.testing.assert_array_equal(explained.value_BHQ, alone.value_BHQ)
    np.testing.assert_array_equal(short.value_BHQ, alone.value_BHQ[:, :6])
    for one, other in zip((alone, explained, short), together, strict=True):
        np.testing.assert_array_equal(one.value_BHQ, other.value_BHQ)


def test_sites_of_one_batch_keep_their_own_offsets(make_service: Make, adaptive: Artifact) -> None:
    known, unseen, *together = forecasts_of(make_service(artifact=adaptive), about("R001"), about("R002"))
    np.testing.assert_array_equal(known.value_BHQ, together[0].value_BHQ)
    np.testing.assert_array_equal(unseen.value_BHQ, together[1].value_BHQ)
    # A site without cells gets the mean over those that have some, here one.
    np.testing.assert_allclose(
        unseen.at_level(0.975) - unseen.at_level(0.5), known.at_level(0.975) - known.at_level(0.5), rtol=1e-4
    )


def test_bounds_of_the_quantity_hold(make_service: Make, adaptive: Artifact) -> None:
    wild = AdaptiveIntervals(("R001",), (24,), tuple(adaptive.card.levels))
    wild.offset_CQ[:] = [-100.0, -90.0, 0.0, 900.0, 1000.0]
    forecast, *_ = forecasts_of(make_service(artifact=replace(adaptive, intervals=wild)), about("R001"))
    assert forecast.at_level(0.025).tolist() == [[0.0] * 24]
    assert forecast.at_level(0.975).tolist() == [[20_000.0] * 24]


def test_damaged_intervals_are_refused(adaptive: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adaptive.folder, tmp_path / "copy"))
    (folder / INTERVALS_FILE).write_bytes((adaptive.folder / INTERVALS_FILE).read_bytes()[:200])
    load_card(folder).save(folder)
    with pytest.raises(ArtifactError, match="state of the intervals cannot be read"):
        open_artifact(folder, version="1")


@pytest.mark.parametrize(
    "other",
    [
        AdaptiveIntervals(("R001",), (24,), (0.05, 0.5, 0.95)),
        AdaptiveIntervals(("R001",), (6, 12), (0.025, 0.05, 0.5, 0.95, 0.975)),
        AdaptiveIntervals((), (24,), (0.025, 0.05, 0.5, 0.95, 0.975)),
    ],
)
def test_intervals_of_another_model_are_refused(adaptive: Artifact, tmp_path: Path, other: AdaptiveIntervals) -> None:
    folder = Path(shutil.copytree(adaptive.folder, tmp_path / "copy"))
    other.save(folder)
    load_card(folder).save(folder)
    with pytest.raises(ArtifactError, match=r"do not fit it.*towncast train traffic"):
        open_artifact(folder, version="1")


def test_offsets_that_are_not_numbers_are_refused(adaptive: Artifact, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adaptive.folder, tmp_path / "copy"))
    broken = AdaptiveIntervals(("R001",), (24,), tuple(adaptive.card.levels))
    broken.offset_CQ[0, 0] = np.nan
    broken.save(folder)
    load_card(folder).save(folder)
    with pytest.raises(ArtifactError, match="do not fit it"):
        open_artifact(folder, version="1")


def test_the_list_of_models_says_that_intervals_adapt_and_until_when(
    make_service: Make, adaptive: Artifact, open_api: Any
) -> None:
    with open_api(create_app(ServingSettings(), services=[make_service(artifact=adaptive)])) as api:
        model = api.request("GET", "/health/ready").json()["domains"]["traffic"]["models"]["volume"]
        body = {"location": {"road_id": "R001"}, "forecast_horizon": "2h"}
        interval = api.request("POST", "/predict/traffic", json=body).json()["predictions"][0]["confidence_interval"]
    assert (model["intervals"], model["intervals_until"]) == ("adaptive", "2026-02-05T08:40:00Z")
    assert interval["upper"] - interval["lower"] > 300
