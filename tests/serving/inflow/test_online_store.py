"""The online store in SQLite and in a real Redis: what one process writes, the memory of another sees by itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from features.errors import InvalidParameterError, StorageError
from features.feast_repository import FeatureRepository
from features.online_store import online_store_config
from features.vocabulary import Site
from serving.inflow.desk import ReadingDesk
from serving.inflow.settings import InflowSettings
from serving.memory import WindowMemory
from serving.metrics import Metrics
from tests.serving.inflow.brokers import Server, redis_server
from tests.serving.inflow.conftest import NOW, TRAFFIC, fill_town, reading, repository_of

SITES = tuple(f"R{number:03d}" for number in range(1, 9))


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis"), password="12:34@5") as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> InflowSettings:
    url = ""
    if request.param == "redis":
        url = f"redis://:12%3A34%405@127.0.0.1:{request.getfixturevalue('redis').port}/3"
    folder = tmp_path_factory.mktemp(request.param)
    fill_town(folder, online_store_url=url, sites=SITES)
    return InflowSettings(data_dir=folder, online_store_url=url)


def asked_of(repository: FeatureRepository, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sites that are read from now on."""
    asked: list[list[str]] = []
    online = repository.online

    def noted(sites: list[str]) -> object:
        asked.append(sites)
        return online(sites)

    monkeypatch.setattr(repository, "online", noted)
    return asked


def take(town: InflowSettings, *values: float, site: str = "R003") -> None:
    async def work() -> None:
        desk = ReadingDesk(town, Metrics(), now=NOW.timestamp)
        try:
            for value in values:
                (outcome,) = await desk.take([reading(value=value, site=site)], transport="http")
                assert outcome.outcome == "stored"
        finally:
            await desk.close()

    asyncio.run(work())


def test_news_of_one_site_is_read_alone(town: InflowSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = repository_of(town)
    memory = WindowMemory(repository)
    assert memory.refresh() == set(SITES)
    asked = asked_of(repository, monkeypatch)
    assert memory.refresh() == set()
    take(town, 111.0, 112.0)
    assert memory.refresh() == {"R003"}
    assert memory.refresh() == set()
    assert asked == [["R003"]]
    prepared = memory.prepare("R003", now_s=NOW.timestamp(), stale_after_s=3600)
    assert prepared.window.history_BLK[0, -1, 0] == 112.0


def test_facts_about_a_site_are_seen_without_reading_any(town: InflowSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = repository_of(town)
    memory = WindowMemory(repository)
    memory.refresh()
    asked = asked_of(repository, monkeypatch)
    repository.readings.add_sites([Site(name="R005", neighbours=("R006",))])
    assert memory.refresh() == {"R005"}
    assert [site for sites in asked for site in sites] == []


def test_all_is_read_now_and_then(town: InflowSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In case that a process died after it wrote a history and before it told so."""
    clock = [0.0]
    repository = repository_of(town)
    memory = WindowMemory(repository, clock=lambda: clock[0])
    memory.refresh()
    asked = asked_of(repository, monkeypatch)
    monkeypatch.setattr("features.online_news.SqliteNews.tell", lambda self, sites: None)
    monkeypatch.setattr("features.online_news.RedisNews.tell", lambda self, sites: None)
    take(town, 77.0, site="R004")
    assert memory.refresh() == set()
    clock[0] = 601.0
    assert memory.refresh() == {"R004"}
    assert [len(sites) for sites in asked] == [8]


def test_a_whole_materialisation_is_news_of_all(town: InflowSettings) -> None:
    repository = repository_of(town)
    memory = WindowMemory(repository)
    memory.refresh()
    told = repository.news_since(0)
    assert told.sites == set(SITES)
    repository.materialise(as_of=NOW + pd.Timedelta("1s"))
    assert repository.news_since(told.number).sites == set(SITES)
    assert memory.refresh() == set()


def test_redis_that_is_away_is_said_and_what_was_stored_is_pushed_later(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        fill_town(tmp_path / "var", online_store_url=url)
        town = InflowSettings(data_dir=tmp_path / "var", online_store_url=url)
        repository = repository_of(town)
        memory = WindowMemory(repository)
        memory.refresh()
        server.kill()
        with pytest.raises(StorageError, match="does not answer"):
            take(town, 5.0, site="R001")
        with pytest.raises(StorageError, match="does not answer"):
            memory.refresh()
        assert memory.prepare("R001", now_s=NOW.timestamp(), stale_after_s=3600).window.history_BLK[0, -1, 0] == 400
        server.start()
        repository.materialise(as_of=NOW + pd.Timedelta("1s"))
        memory.refresh()
        assert memory.prepare("R001", now_s=NOW.timestamp(), stale_after_s=3600).window.history_BLK[0, -1, 0] == 5.0


def test_addresses_are_read_as_feast_writes_them(tmp_path: Path) -> None:
    config = online_store_config("rediss://me:p%2Cw@host:7000/2?socket_timeout=9", folder=tmp_path)
    words = config["connection_string"].split(",")
    assert words[0] == "host:7000"
    assert {"db=2", "socket_timeout=9", "ssl=true", 'username="me"'} <= set(words)
    assert online_store_config("", folder=tmp_path)["type"] == "sqlite"
    with pytest.raises(InvalidParameterError):
        online_store_config("http://host", folder=tmp_path)


def test_the_domain_has_one_number_for_all_its_sites(town: InflowSettings) -> None:
    assert repository_of(town).domain is TRAFFIC
    first = repository_of(town).news_since(-1)
    assert first.sites is None
    take(town, 901.0, site="R007")
    assert repository_of(town).news_since(first.number).number == first.number + 1
