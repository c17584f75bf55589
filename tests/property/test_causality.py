"""No value that became known after the origin is in a window, whatever the readings."""

from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.feast_repository import FeatureRepository, training_service
from features.quality import check_readings
from features.readings import READING_COLUMNS, join_readings, make_readings
from features.store import ReadingStore
from features.vocabulary import Domain, Quantity, Site, Window
from features.windows import build_panel, make_windows

START = pd.Timestamp("2024-03-30T18:00Z")
HOUR = pd.Timedelta("1h")
TOWN = Domain(
    name="town",
    entity="road",
    targets=(Quantity(name="flow", unit="veh/h", aggregation="mean"),),
    covariates=(
        Quantity(name="rain", unit="mm/h", aggregation="sum"),
        Quantity(name="wind", unit="m/s", aggregation="last"),
        Quantity(name="gust", unit="m/s", aggregation="max"),
    ),
    history_steps=5,
    horizon_steps=2,
    horizons={"2h": 2},
    neighbour_count=2,
    known_ahead=("wind", "rain"),
)
SITES = [Site(name="A", neighbours=("B", "gone", "C")), Site(name="B", neighbours=("C", "A")), Site(name="C")]
ORIGINS = 4

_MINUTE = pd.Timedelta("1min")
_KEYS = st.tuples(
    st.sampled_from(["A", "B", "C", "Z"]),
    st.sampled_from([quantity.name for quantity in TOWN.inputs]),
    # From before the grid to past its end, some at whole steps.
    st.integers(-6, 45).map(lambda thirds: START + 20 * thirds * _MINUTE),
    # Forecast, known at once, within the second, within the step, at a whole step, much later.
    st.sampled_from(
        ["-90min", "-1h", "-3h", "0s", "1us", "1s", "20min", "40min", "59min", "1h", "90min", "2h", "5h", "40h"]
    ).map(pd.Timedelta),
)
_READINGS = st.dictionaries(_KEYS, st.integers(-1000, 1000), max_size=60)


def as_readings(table: dict[tuple[str, str, pd.Timestamp, pd.Timedelta], int]) -> pd.DataFrame:
    rows = [
        (site, quantity, valid, valid + delay, value / 8, "sensor:test")
        for (site, quantity, valid, delay), value in table.items()
    ]
    frame = pd.DataFrame(rows, columns=list(READING_COLUMNS))
    return frame.astype({"valid_at": "datetime64[us, UTC]", "available_at": "datetime64[us, UTC]", "value": "float64"})


def windows_of(readings: pd.DataFrame) -> Window:
    """All windows of all sites; the first origin is one history after the start."""
    first = int((START + (TOWN.history_steps - 1) * HOUR).timestamp())
    panel = build_panel(TOWN, SITES, readings, first_origin_s=first, last_origin_s=first + (ORIGINS - 1) * 3600)
    site, origin = np.meshgrid(np.arange(len(SITES)), panel.first_origin + np.arange(ORIGINS), indexing="ij")
    return make_windows(panel, site.ravel(), origin.ravel())


def value_by_hand(readings: pd.DataFrame, site: str, quantity: Quantity, step: pd.Timestamp, origin: pd.Timestamp):
    """A step's value as it was known at an origin, one reading after the other."""
    newest: dict[pd.Timestamp, tuple[pd.Timestamp, float]] = {}
    for row in readings.itertuples():
        if (row.site, row.quantity) != (site, quantity.name) or not step - HOUR < row.valid_at <= step:
            continue
        if row.available_at > origin:
            continue
        if row.valid_at not in newest or newest[row.valid_at][0] < row.available_at:
            newest[row.valid_at] = (row.available_at, row.value)
    numbers = [newest[moment][1] for moment in sorted(newest)]
    if not numbers:
        return np.nan
    how = {"mean": lambda: sum(numbers) / len(numbers), "sum": lambda: sum(numbers), "max": lambda: max(numbers)}
    return how.get(quantity.aggregation, lambda: numbers[-1])()


_WITHIN_A_SECOND = {
    ("A", "wind", START, pd.Timedelta("1s")): 1,
    ("A", "wind", START, pd.Timedelta("1us")): 0,
}


@settings(max_examples=60, deadline=None)
@example(table=_WITHIN_A_SECOND)
@given(table=_READINGS)
def test_windows_hold_what_was_known_at_their_origin_and_nothing_else(table: dict) -> None:
    readings = as_readings(table)
    windows = windows_of(readings)
    by_name = {site.name: site for site in SITES}
    for row, (name, origin_s) in enumerate(zip(windows.sites, windows.origins, strict=True)):
        origin = pd.Timestamp(int(origin_s), unit="s", tz="UTC")
        steps = [origin - age * HOUR for age in reversed(range(TOWN.history_steps))]
        near = by_name[name].neighbours[: TOWN.neighbour_count]
        sources = [(name, quantity) for quantity in TOWN.inputs] + [(other, TOWN.target) for other in near]
        for channel in range(len(TOWN.measured_channels)):
            expected = [np.nan] * TOWN.history_steps
            if channel < len(sources) and sources[channel][0] in by_name:
                expected = [value_by_hand(readings, *sources[channel], step, origin) for step in steps]
            got = windows.history_BLK[row, :, channel]
            np.testing.assert_array_equal(got, np.asarray(expected, dtype=np.float32), err_msg=f"{name} {channel}")
        for ahead in TOWN.known_ahead:
            steps_ahead = [origin + lead * HOUR for lead in range(1, TOWN.horizon_steps + 1)]
            expected = [value_by_hand(readings, name, TOWN.quantity(ahead), step, origin) for step in steps_ahead]
            got = windows.future_BHK[row, :, TOWN.future_channels.index(ahead)]
            np.testing.assert_array_equal(got, np.asarray(expected, dtype=np.float32), err_msg=f"{name} {ahead} ahead")


@settings(max_examples=60, deadline=None)
@given(table=_READINGS, other=_READINGS, position=st.integers(0, ORIGINS - 1), change=st.integers(1, 9))
def test_what_becomes_known_after_the_origin_changes_no_byte(
    table: dict, other: dict, position: int, change: int
) -> None:
    origin = START + (TOWN.history_steps - 1 + position) * HOUR
    later = {key: value + change for key, value in table.items() if key[2] + key[3] > origin}
    planted = {key: value for key, value in other.items() if key[2] + key[3] > origin}
    before = windows_of(as_readings(table))
    after = windows_of(as_readings({**table, **later, **planted}))
    chosen = before.origins == int(origin.timestamp())
    assert chosen.sum() == len(SITES)
    for part in ("history_BLK", "future_BHK", "static_BS"):
        assert getattr(before, part)[chosen].tobytes() == getattr(after, part)[chosen].tobytes()


def test_a_reading_from_the_future_is_refused_by_feast(tmp_path: Path) -> None:
    origin = START + 6 * HOUR
    valid, known, value = zip(
        (origin - 2 * HOUR, origin - 2 * HOUR, 1.0),
        (origin - HOUR, origin - HOUR, 2.0),
        (origin - HOUR, origin, 3.0),
        # Planted: a revision, a late arrival, and two changes of mind within the second after the origin.
        (origin - HOUR, origin + 2 * HOUR, 666.0),
        (origin, origin + HOUR, 667.0),
        (origin - 2 * HOUR, origin + pd.Timedelta("1us"), 668.0),
        (origin - 2 * HOUR, origin + pd.Timedelta("2us"), 669.0),
        strict=True,
    )
    readings = join_readings(
        [
            make_readings(
                site="A",
                quantity="flow",
                valid_at=pd.DatetimeIndex(valid),
                available_at=pd.DatetimeIndex(known),
                value=value,
                source="sensor:test",
            )
        ]
    )
    store = ReadingStore(tmp_path / "readings", TOWN)
    assert store.append(check_readings(readings, TOWN), SITES).stored == len(readings)
    repository = FeatureRepository(tmp_path / "feast", store)
    repository.apply()

    origin_s = int(origin.timestamp())
    assert repository.known_at("A", origin_s)["value"].tolist() == [1.0, 3.0]
    assert repository.history(as_of=origin)["value"].tolist() == [1.0, 2.0, 3.0]

    panel = repository.panel()
    window = make_windows(panel, [0], [panel.index_of(origin_s)])
    np.testing.assert_array_equal(window.history_BLK[0, :, 0], [np.nan, np.nan, 1.0, 3.0, np.nan])
    # An hour on, the changes of mind and the late arrival are known, and the last word is the one that counts.
    everything = repository.history()
    assert everything["value"].tolist() == [1.0, 669.0, 2.0, 3.0, 666.0, 667.0]

    repository.materialise(as_of=origin)
    online = repository.online_window("A", origin_s=origin_s)
    assert online.history_BLK.tobytes() == window.history_BLK.tobytes()

    # Without its second cut-off Feast would hand out the planted values: the checks above can fail.
    moments_s = [origin_s - 7200, origin_s - 3600, origin_s]
    entities = pd.DataFrame({"site": "A", "valid_at_s": moments_s, "event_timestamp": origin.as_unit("ns")})
    leaked = repository._store.get_historical_features(
        entity_df=entities,
        features=repository._store.get_feature_service(training_service(TOWN)),
        full_feature_names=True,
        filter_by_created_timestamp=False,
    ).to_df()
    assert sorted(leaked["town_flow__value"]) == [666.0, 667.0, 669.0]
