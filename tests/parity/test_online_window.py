"""The window that serving sees equals the window that training saw, bit for bit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.quality import check_readings
from features.readings import epoch_s, join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Domain, Site
from features.windows import make_windows

TRAFFIC, POLLUTION = DOMAINS["traffic"], DOMAINS["pollution"]


def _replayed_readings(rng: np.random.Generator, *, hours: int) -> pd.DataFrame:
    """Readings of two roads with gaps, late arrivals and revisions."""
    moments = pd.date_range("2024-03-01", periods=hours, freq="h", tz="UTC")
    parts = []
    for site in ("R1", "R2"):
        for quantity, low, high in (("volume", 100, 4000), ("temperature", -5, 30)):
            value = rng.uniform(low, high, hours)
            value[rng.random(hours) < 0.05] = np.nan
            delay = pd.to_timedelta(np.where(rng.random(hours) < 0.1, rng.integers(1, 30, hours), 0), unit="h")
            parts.append(
                make_readings(
                    site=site,
                    quantity=quantity,
                    valid_at=moments,
                    available_at=moments + delay,
                    value=value,
                    source="sensor:test",
                )
            )
    revised = parts[0].sample(40, random_state=7).copy()
    revised["available_at"] += pd.Timedelta("5h")
    revised["value"] += 1.0
    return join_readings([*parts, revised])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> FeatureRepository:
    folder = tmp_path_factory.mktemp("repository")
    store = ReadingStore(folder / "readings", TRAFFIC)
    sites = [
        Site(name="R1", timezone="Europe/Rome", country="IT", neighbours=("R2",), attributes={"lanes": 2}),
        Site(name="R2", timezone="Europe/Rome", country="IT", neighbours=("R1",)),
    ]
    checked = check_readings(_replayed_readings(np.random.default_rng(3), hours=1700), TRAFFIC)
    store.append(checked, sites)
    made = FeatureRepository(folder / "feast", store)
    made.apply()
    return made


def test_the_online_window_equals_the_offline_window_after_a_replay(repository: FeatureRepository) -> None:
    panel = repository.panel()
    # Daylight saving begins on 31 March 2024 in Rome: the last origins have it inside their windows.
    for hours in (1500, 1513, 1660, 1699):
        origin = pd.Timestamp("2024-03-01", tz="UTC") + pd.Timedelta(hours=hours)
        repository.push(["R1", "R2"], as_of=origin)
        origin_s = int(origin.timestamp())
        for index, site in enumerate(panel.sites):
            online = repository.online_window(site.name, origin_s=origin_s)
            offline = make_windows(panel, [index], [panel.index_of(origin_s)])
            assert np.isfinite(online.history_BLK[0, :, 0]).sum() > 1000
            assert online.history_BLK.tobytes() == offline.history_BLK.tobytes()
            assert online.future_BHK.tobytes() == offline.future_BHK.tobytes()
            assert online.static_BS.tobytes() == offline.static_BS.tobytes()
            assert (online.sites, online.origins.tolist()) == (offline.sites, offline.origins.tolist())


def test_the_panel_knows_at_an_origin_what_feast_knew_then(repository: FeatureRepository) -> None:
    panel = repository.panel()
    origin_s = int(pd.Timestamp("2024-05-05 07:00", tz="UTC").timestamp())
    known = repository.known_at("R1", origin_s)
    window = make_windows(panel, [0], [panel.index_of(origin_s)])
    for channel, quantity in enumerate(TRAFFIC.inputs):
        rows = known[known["quantity"] == quantity.name]
        position = TRAFFIC.history_steps - 1 - (origin_s - epoch_s(rows["valid_at"])) // TRAFFIC.step_s
        expected = np.full(TRAFFIC.history_steps, np.nan, dtype=np.float32)
        expected[position] = rows["value"]
        np.testing.assert_array_equal(window.history_BLK[0, :, channel], expected)


def test_materialise_fills_the_online_store_for_every_site(repository: FeatureRepository) -> None:
    as_of = pd.Timestamp("2024-05-01", tz="UTC")
    assert repository.materialise(as_of=as_of) == 2
    histories = repository.online(["R1", "R2", "R9"])
    assert sorted(histories) == ["R1", "R2"]
    assert histories["R1"].valid_until_s <= as_of.timestamp()


def test_pushed_changes_equal_a_whole_push(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    store = ReadingStore(tmp_path / "readings", POLLUTION)
    sites = [Site(name=name) for name in ("P1", "P2", "P3")]
    begin = pd.Timestamp("2024-03-01", tz="UTC")
    moments = pd.date_range(begin, periods=1600, freq="h")
    first = _noise(rng, POLLUTION, ["P1", "P2"], moments, moments)
    store.append(check_readings(first, POLLUTION), sites)
    online = FeatureRepository(tmp_path / "feast", store)
    online.apply()
    online.push(["P1", "P2"], as_of=moments[-1])
    for hours in (0, 0.2, 0.9, 1, 1.5, 4, 30):
        as_of = moments[-1] + pd.Timedelta(hours=hours)
        # Several an hour, some late by days, some of hours ahead, and some revised.
        spread = pd.to_timedelta(rng.uniform(-70, 24, 60), unit="h")
        valid_at = (as_of + spread.where(spread < pd.Timedelta(0), spread * (rng.random(60) < 0.5))).floor("10min")
        added = _noise(rng, POLLUTION, ["P1", "P2", "P3"], valid_at, pd.DatetimeIndex([as_of] * 60))
        checked = check_readings(added, POLLUTION)
        assert store.append(checked, []).stored > 100
        online.push_changes(checked.accepted, as_of=as_of)
        got = online.online(["P1", "P2", "P3"])
        online.push(["P1", "P2", "P3"], as_of=as_of)
        wanted = online.online(["P1", "P2", "P3"])
        assert got.keys() == wanted.keys()
        for site, history in wanted.items():
            assert got[site].valid_until_s == history.valid_until_s
            assert got[site].value_TK.tobytes() == history.value_TK.tobytes()
            assert np.isfinite(history.value_TK).any()


def _noise(
    rng: np.random.Generator, domain: Domain, sites: list[str], valid_at: pd.DatetimeIndex, known: pd.DatetimeIndex
) -> pd.DataFrame:
    """Readings of every input at each site, those of the future only of what is known ahead."""
    parts = []
    for site in sites:
        for quantity in domain.inputs:
            chosen = (valid_at <= known) | (quantity.name in domain.known_ahead)
            low = max(quantity.lower, -10.0)
            parts.append(
                make_readings(
                    site=site,
                    quantity=quantity.name,
                    valid_at=valid_at[chosen],
                    available_at=known[chosen],
                    value=rng.uniform(low, low + 20.0, int(chosen.sum())),
                    source="sensor:test",
                )
            )
    return join_readings(parts)
