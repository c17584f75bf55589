"""The service: origins, places, what quality says, what an explanation finds, and what is kept between requests."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from features.domains import DOMAINS
from features.errors import ArtifactError, InvalidParameterError, NotEnoughDataError, UnknownNameError
from features.feast_repository import FeatureRepository
from features.online_history import OnlineHistory
from features.online_news import SqliteNews
from features.store import ReadingStore
from features.vocabulary import Site
from serving.artifacts import Artifact
from serving.memory import WindowMemory
from serving.places import Place
from serving.service import ForecastResult, ForecastService, Question

HOUR_S = 3600
Make = Callable[..., ForecastService]


def with_service(service: ForecastService, work: Callable[[ForecastService], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        await service.start()
        try:
            return await work(service)
        finally:
            await service.close()

    return asyncio.run(run())


def about(
    site: str | None = "R001", *, coordinates: tuple[float, float] | None = None, horizon: str = "24h"
) -> Question:
    return Question(place=Place(name=site, coordinates=coordinates), horizon=horizon)


def ask(service: ForecastService, **arguments: Any) -> ForecastResult:
    result: ForecastResult = with_service(service, lambda started: started.forecast(about(**arguments)))
    return result


@pytest.mark.parametrize(("hours_later", "stale"), [(0, False), (5, False), (7, True), (2000, True)])
def test_an_old_reading_moves_the_origin_back_and_is_said(
    make_service: Make, now_s: float, hours_later: int, stale: bool
) -> None:
    result = ask(make_service(now=lambda: now_s + hours_later * HOUR_S))
    last_s = int(now_s) // HOUR_S * HOUR_S
    assert result.quality.stale is stale
    assert result.quality.last_reading_s == last_s
    assert result.quality.origin_s == (last_s if stale else last_s + hours_later * HOUR_S)
    assert result.quality.reading_age_h == pytest.approx(hours_later + 1 / 3)
    assert result.quality.missing_share == (0 if stale else hours_later / 24)
    assert result.forecast.origins.tolist() == [result.quality.origin_s]


def test_before_the_first_reading_there_is_no_forecast(make_service: Make, now_s: float) -> None:
    with pytest.raises(NotEnoughDataError, match="no reading of volume"):
        ask(make_service(now=lambda: now_s - 2000 * HOUR_S))


def test_the_name_decides_and_the_nearest_site_answers_coordinates(make_service: Make) -> None:
    near_second = (23.049, 72.599)
    assert ask(make_service(), coordinates=near_second).site.name == "R001"
    found = ask(make_service(), site=None, coordinates=near_second)
    assert found.site.name == "R002"
    assert found.quality.distance_km == pytest.approx(0.151, abs=0.002)


@pytest.mark.parametrize("coordinates", [(90.01, 0.0), (0.0, 181.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_coordinates_off_the_globe_are_refused_even_beside_a_name(
    make_service: Make, coordinates: tuple[float, float]
) -> None:
    with pytest.raises(InvalidParameterError, match="off the globe"):
        ask(make_service(), coordinates=coordinates)


def test_places_and_horizons_that_are_not_there_are_refused(make_service: Make) -> None:
    with pytest.raises(UnknownNameError, match="R001"):
        ask(make_service(), site="R01")
    with pytest.raises(InvalidParameterError, match="no road near"):
        ask(make_service(), site=None, coordinates=(0.0, 0.0))
    with pytest.raises(InvalidParameterError, match="no place"):
        ask(make_service(), site=None)
    with pytest.raises(InvalidParameterError) as raised:
        ask(make_service(), horizon="48h")
    assert raised.value.allowed == ["2h", "6h", "12h", "24h"]


def test_a_repeated_request_cuts_no_window_again_until_something_is_new(
    make_service: Make, repository: FeatureRepository, now_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, moment = WindowMemory(repository), [now_s]
    cuts: list[str] = []
    prepare = memory.prepare

    def read_anew() -> None:
        SqliteNews(repository.folder / "news.db").tell(["R001"])
        memory.refresh()

    monkeypatch.setattr(memory, "prepare", lambda name, **given: cuts.append(name) or prepare(name, **given))

    async def story(service: ForecastService) -> None:
        async def many() -> None:
            await asyncio.gather(*(service.forecast(about(horizon="2h")) for _ in range(8)))

        await many()
        await many()
        assert cuts == ["R001"]
        read_anew()  # nothing new in the online store
        await many()
        assert cuts == ["R001"]
        moment[0] += HOUR_S
        await many()
        assert cuts == ["R001", "R001"]
        history = repository.online(["R001"])["R001"]
        changed = OnlineHistory(valid_until_s=history.valid_until_s, value_TK=history.value_TK + 1)
        monkeypatch.setattr(repository, "online", lambda names: {"R001": changed})
        memory.refresh()  # nobody says that anything was written
        await many()
        assert cuts == ["R001", "R001"]
        read_anew()
        await many()
        assert cuts == ["R001", "R001", "R001"]

    with_service(make_service(memory=memory, now=lambda: moment[0]), story)


def test_old_features_are_said_when_the_online_store_cannot_be_read(
    make_service: Make, repository: FeatureRepository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    memory = WindowMemory(repository, clock=lambda: clock[0])

    async def story(service: ForecastService) -> tuple[ForecastResult, ForecastResult]:
        fresh = await service.forecast(about(horizon="2h"))

        def broken(names: list[str]) -> dict[str, OnlineHistory]:
            raise OSError("the disk is gone")

        monkeypatch.setattr(repository, "online", broken)
        SqliteNews(repository.folder / "news.db").tell(["R001"])
        await asyncio.sleep(0.1)
        clock[0] = 100.0
        return fresh, await service.forecast(about(horizon="2h"))

    fresh, old = with_service(make_service(memory=memory, refresh_s=0.01), story)
    assert fresh.quality.memory_age_s is None
    assert old.quality.memory_age_s == 100.0
    assert "the disk is gone" in caplog.text


def test_a_model_of_another_layout_or_without_the_interval_is_refused_at_start(
    make_service: Make, artifact: Artifact
) -> None:
    other = replace(artifact, card=replace(artifact.card, history_channels=artifact.card.history_channels[1:]))
    with pytest.raises(ArtifactError, match="another layout"):
        ask(make_service(artifact=other))
    with pytest.raises(ArtifactError, match="no interval of 80%"):
        ask(make_service(confidence=0.8))


def test_without_an_online_store_the_start_says_what_to_run(make_service: Make, tmp_path: Path) -> None:
    empty = FeatureRepository(tmp_path / "feast", ReadingStore(tmp_path / "readings", DOMAINS["traffic"]))
    with pytest.raises(NotEnoughDataError, match="towncast materialise"):
        ask(make_service(memory=WindowMemory(empty)))


def test_a_site_without_readings_is_known_but_has_no_forecast(
    make_service: Make, repository: FeatureRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = {**repository.readings.sites(), "R003": Site(name="R003")}
    monkeypatch.setattr(repository.readings, "sites", lambda: sites)
    with pytest.raises(NotEnoughDataError, match="R003"):
        ask(make_service(), site="R003")
