"""A small town that takes readings in: two roads and a zone with ten weeks of readings, and a desk over its stores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Site
from serving.inflow.desk import ReadingDesk
from serving.inflow.settings import InflowSettings
from serving.metrics import Metrics

NOW = pd.Timestamp("2026-02-06T09:20:00Z")
TRAFFIC = DOMAINS["traffic"]


def fill_town(data_dir: Path, *, online_store_url: str = "", sites: tuple[str, ...] = ("R001", "R002")) -> None:
    """Readings of roads up to 9:00, stored and pushed."""
    settings = InflowSettings(data_dir=data_dir, online_store_url=online_store_url)
    store = ReadingStore(settings.readings_dir, TRAFFIC)
    moments = pd.date_range(end=NOW.floor("h"), periods=10 * 168, freq="h")
    parts = [
        make_readings(
            site=site,
            quantity=quantity,
            valid_at=moments,
            value=np.full(len(moments), value),
            source="sensor:test",
        )
        for site in sites
        for quantity, value in (("volume", 400.0), ("temperature", 12.0))
    ]
    store.append(check_readings(join_readings(parts), TRAFFIC), [Site(name=site) for site in sites])
    repository = repository_of(settings)
    repository.apply()
    repository.materialise(as_of=NOW)


def repository_of(settings: InflowSettings) -> FeatureRepository:
    store = ReadingStore(settings.readings_dir, TRAFFIC)
    return FeatureRepository(settings.feast_dir, store, online_store_url=settings.online_store_url)


def reading(*, minutes_ago: float = 20, value: Any = 431.0, **fields: Any) -> dict[str, Any]:
    """An item; by default of 9:00."""
    moment = NOW - pd.Timedelta(minutes=minutes_ago)
    item = {"domain": "traffic", "site": "R001", "quantity": "volume", "timestamp": moment.isoformat(), "value": value}
    return {**item, **fields}


@pytest.fixture(scope="session")
def town_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    fill_town(folder)
    return folder


@pytest.fixture
def data_dir(town_folder: Path, tmp_path: Path) -> Path:
    """A town of the test's own. The offline sources are still the first one's: nothing here reads them."""
    import shutil

    return Path(shutil.copytree(town_folder, tmp_path / "var"))


@pytest.fixture
def make_desk(data_dir: Path) -> Callable[..., ReadingDesk]:
    def make(
        *,
        now: Callable[[], float] = NOW.timestamp,
        windows: Any = None,
        metrics: Metrics | None = None,
        **changed: Any,
    ) -> ReadingDesk:
        settings = InflowSettings(**{"data_dir": data_dir, **changed})
        return ReadingDesk(settings, metrics or Metrics(), windows=windows, now=now)

    return make
