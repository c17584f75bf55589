"""The panel and the windows cut from it: aggregation, lateness, revisions, neighbours."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from features.errors import NotEnoughDataError
from features.readings import epoch_s, join_readings, make_readings
from features.vocabulary import CALENDAR_CHANNELS, Domain, Quantity, Site, site_code
from features.windows import Panel, build_panel, make_windows, panel_from_blocks

START = pd.Timestamp("2024-01-01T00:00Z")
START_S = int(START.timestamp())
TOWN = Domain(
    name="town",
    entity="road",
    targets=(Quantity(name="flow", unit="veh/h", aggregation="mean"),),
    covariates=(Quantity(name="rain", unit="mm/h", aggregation="sum"),),
    history_steps=6,
    horizon_steps=2,
    horizons={"2h": 2},
    neighbour_count=2,
    static_names=("lanes",),
)


def with_aggregation(how: str) -> Domain:
    return dataclasses.replace(
        TOWN, targets=(Quantity(name="flow", unit="veh/h", aggregation=how),), covariates=(), neighbour_count=0
    )


def rows(*entries: tuple[str, str, str, float], site: str = "A", quantity: str = "flow") -> pd.DataFrame:
    """Readings from (valid, available, value) on 1 January 2024, clock times."""
    return join_readings(
        [
            make_readings(
                site=site,
                quantity=quantity,
                valid_at=pd.DatetimeIndex([f"2024-01-01T{valid}Z"]),
                available_at=pd.DatetimeIndex([f"2024-01-01T{available}Z"]),
                value=[value],
                source="sensor:test",
            )
            for _, valid, available, value in entries
        ]
    )


def reading(valid: str, value: float, *, known: str | None = None) -> tuple[str, str, str, float]:
    return ("", valid, known or valid, value)


def panel_of(domain: Domain, readings: pd.DataFrame, *, sites: list[Site] | None = None) -> Panel:
    """A panel whose origins are 05:00 to 12:00."""
    return build_panel(
        domain,
        sites or [Site(name="A")],
        readings,
        first_origin_s=START_S + 5 * 3600,
        last_origin_s=START_S + 12 * 3600,
    )


def history_at(panel: Panel, clock: str, *, site: int = 0, channel: int = 0) -> list[float]:
    """The history of a channel at an origin on 1 January 2024."""
    origin = panel.index_of(int(pd.Timestamp(f"2024-01-01T{clock}Z").timestamp()))
    return make_windows(panel, [site], [origin]).history_BLK[0, :, channel].tolist()


@pytest.mark.parametrize(("how", "value"), [("sum", 12.0), ("mean", 4.0), ("max", 7.0), ("last", 3.0)])
def test_readings_inside_a_step_become_one_value(how: str, value: float) -> None:
    # 04:00 belongs to the step that ends then; the three after it to the step that ends at 05:00.
    readings = rows(reading("04:00", 90.0), reading("04:20", 2.0), reading("04:40", 7.0), reading("05:00", 3.0))
    assert history_at(panel_of(with_aggregation(how), readings), "05:00")[-2:] == [90.0, value]


def test_the_order_of_rows_does_not_matter() -> None:
    readings = rows(reading("04:20", 2.0), reading("05:00", 3.0), reading("04:40", 7.0))
    panel = panel_of(with_aggregation("last"), readings.sample(frac=1, random_state=1))
    assert history_at(panel, "05:00")[-1] == 3.0


def test_a_step_is_what_was_known_of_it_at_the_origin() -> None:
    readings = rows(
        reading("04:20", 2.0),
        reading("04:40", 6.0, known="06:30"),
        reading("05:00", 4.0),
        reading("04:20", 5.0, known="08:00"),
    )
    panel = panel_of(TOWN, readings)
    known_at = {"05:00": 3.0, "06:00": 3.0, "07:00": 4.0, "08:00": 5.0, "09:00": 5.0}
    for position, (clock, value) in enumerate(known_at.items()):
        assert history_at(panel, clock)[-1 - position] == value, clock
    assert panel.has_delays


def test_a_late_reading_is_missing_until_it_arrives() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0, known="07:00"), reading("06:00", 2.0)))
    assert np.isnan(history_at(panel, "05:00")).all()
    np.testing.assert_array_equal(history_at(panel, "06:00")[-2:], [np.nan, 2.0])
    assert history_at(panel, "07:00")[-3:-1] == [1.0, 2.0]


def test_a_reading_known_within_the_second_after_the_origin_is_not_known_at_it() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0, known="06:00:00.500"), reading("06:00", 2.0)))
    np.testing.assert_array_equal(history_at(panel, "06:00")[-2:], [np.nan, 2.0])
    assert history_at(panel, "07:00")[-3:-1] == [1.0, 2.0]


def test_on_time_readings_need_no_bookkeeping() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0), reading("06:00", 2.0)))
    assert not panel.has_delays


def test_cutting_windows_leaves_the_panel_as_it_was() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0, known="07:00"), reading("05:00", 3.0, known="08:00")))
    before = panel.value_STK.tobytes()
    window = make_windows(panel, [0, 0], [panel.first_origin, panel.first_origin + 3])
    window.history_BLK[:] = -1.0
    assert panel.value_STK.tobytes() == before


def test_the_target_is_the_last_revision() -> None:
    readings = rows(
        reading("06:00", 1.0),
        reading("06:00", 2.0, known="09:00"),
        reading("06:00", 3.0, known="07:00"),
        reading("07:00", 8.0),
    )
    panel = panel_of(TOWN, readings)
    target = panel.target_ST()
    hours = (panel.moments_s - START_S) // 3600
    assert target[0, hours == 6] == 2.0
    assert target[0, hours == 7] == 8.0
    assert np.isfinite(target).sum() == 2
    # The panel keeps the first-known values.
    assert panel.value_STK[0, hours == 6, 0] == 1.0


def test_a_neighbours_channel_is_the_neighbours_own_series_as_it_was_known() -> None:
    own = rows(reading("05:00", 1.0), reading("06:00", 2.0))
    other = rows(
        reading("05:00", 10.0),
        reading("06:00", 20.0, known="08:00"),
        reading("05:00", 11.0, known="07:00"),
        site="B",
    )
    sites = [Site(name="A", neighbours=("B",)), Site(name="B", neighbours=("A",))]
    panel = panel_of(TOWN, join_readings([own, other]), sites=sites)
    first = TOWN.history_channels.index("neighbour_1_flow")
    for clock in ("05:00", "06:00", "07:00", "08:00", "09:00"):
        np.testing.assert_array_equal(history_at(panel, clock, channel=first), history_at(panel, clock, site=1))
        np.testing.assert_array_equal(history_at(panel, clock, site=1, channel=first), history_at(panel, clock))
    assert history_at(panel, "08:00", channel=first)[-4:-2] == [11.0, 20.0]


def test_a_neighbour_that_is_not_there_leaves_its_channel_empty_and_the_next_one_in_its_place() -> None:
    sites = [Site(name="A", neighbours=("gone", "B", "C")), Site(name="B"), Site(name="C")]
    readings = join_readings([rows(reading("05:00", 2.0), site="B"), rows(reading("05:00", 3.0), site="C")])
    panel = panel_of(TOWN, readings, sites=sites)
    first, second = (TOWN.history_channels.index(f"neighbour_{rank}_flow") for rank in (1, 2))
    assert np.isnan(history_at(panel, "05:00", channel=first)).all()
    assert history_at(panel, "05:00", channel=second)[-1] == 2.0


def test_rows_of_other_sites_and_quantities_are_passed_over() -> None:
    stray = join_readings([rows(reading("05:00", 9.0), site="Z"), rows(reading("05:00", 9.0), quantity="speed")])
    panel = panel_of(TOWN, join_readings([rows(reading("05:00", 1.0)), stray]))
    assert np.nansum(panel.value_STK[:, :, : len(TOWN.measured_channels)]) == 1.0


def test_a_window_carries_site_origin_calendar_and_attributes() -> None:
    sites = [Site(name="A", timezone="Asia/Kolkata", attributes={"lanes": 3.0}), Site(name="B")]
    panel = panel_of(TOWN, rows(reading("05:00", 1.0)), sites=sites)
    origin_s = START_S + 7 * 3600
    window = make_windows(panel, [0, 1], [panel.index_of(origin_s)] * 2)
    assert window.sites == ("A", "B")
    assert window.origins.tolist() == [origin_s, origin_s]
    np.testing.assert_array_equal(window.static_BS, [[site_code("A"), 3.0], [site_code("B"), np.nan]])
    hour = CALENDAR_CHANNELS.index("hour_of_day")
    assert window.future_BHK[0, :, hour].tolist() == [13.5, 14.5]
    assert window.future_BHK[1, :, hour].tolist() == [8.0, 9.0]
    measured = len(TOWN.measured_channels)
    assert window.history_BLK[1, :, measured + hour].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_no_windows_may_be_asked_for() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0)))
    window = make_windows(panel, [], [])
    assert len(window) == 0
    assert window.history_BLK.shape == (0, 6, len(TOWN.history_channels))
    assert window.future_BHK.shape == (0, 2, len(TOWN.future_channels))


def test_a_panel_of_known_histories_gives_those_histories() -> None:
    sites = [Site(name="A", neighbours=("B",)), Site(name="B")]
    blocks = np.arange(2 * 6 * 2, dtype=np.float32).reshape(2, 6, 2)
    blocks[0, 2, 0] = np.nan
    origin_s = START_S + 9 * 3600
    panel = panel_from_blocks(TOWN, sites, blocks, origin_s=origin_s)
    assert panel.first_origin == panel.last_origin == panel.index_of(origin_s)
    window = make_windows(panel, [0, 1], [panel.first_origin] * 2)
    np.testing.assert_array_equal(window.history_BLK[:, :, :2], blocks)
    np.testing.assert_array_equal(window.history_BLK[0, :, 2], blocks[1, :, 0])
    assert np.isnan(window.history_BLK[1, :, 2]).all()
    assert window.future_BHK.shape == (2, 2, len(CALENDAR_CHANNELS))
    assert np.isfinite(window.future_BHK).all()


def test_a_panel_of_blocks_equals_the_panel_of_their_readings() -> None:
    readings = rows(reading("03:00", 4.0), reading("05:00", 1.0), reading("06:00", 2.0))
    panel = panel_of(TOWN, readings)
    origin_s = START_S + 6 * 3600
    offline = make_windows(panel, [0], [panel.index_of(origin_s)])
    online = panel_from_blocks(TOWN, [Site(name="A")], offline.history_BLK[:, :, :2], origin_s=origin_s)
    again = make_windows(online, [0], [online.first_origin])
    assert again.history_BLK.tobytes() == offline.history_BLK.tobytes()
    assert again.future_BHK.tobytes() == offline.future_BHK.tobytes()


@pytest.mark.parametrize("clock", ["04:00", "13:00", "06:30"])
def test_an_origin_without_a_whole_window_is_refused(clock: str) -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0)))
    with pytest.raises(NotEnoughDataError, match="from 2024-01-01T05:00:00 to 2024-01-01T12:00:00 UTC") as caught:
        panel.index_of(int(pd.Timestamp(f"2024-01-01T{clock}Z").timestamp()))
    assert clock in str(caught.value)


@pytest.mark.parametrize("past_the_end", [-1, 1])
def test_windows_off_the_panel_are_refused(past_the_end: int) -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0)))
    edge = panel.first_origin if past_the_end < 0 else panel.last_origin
    assert len(make_windows(panel, [0], [edge])) == 1
    with pytest.raises(NotEnoughDataError):
        make_windows(panel, [0, 0], [edge, edge + past_the_end])


def test_moments_of_the_grid_reach_one_horizon_past_the_last_origin() -> None:
    panel = panel_of(TOWN, rows(reading("05:00", 1.0)))
    assert (panel.moments_s[[0, -1]] - START_S).tolist() == [0, 14 * 3600]
    assert panel.moments_s[panel.first_origin] - START_S == 5 * 3600


def test_moments_in_seconds_round_up() -> None:
    moments = pd.Series(pd.DatetimeIndex(["1970-01-01T00:00:07Z", "1970-01-01T00:00:07.000001Z"]))
    assert epoch_s(moments).tolist() == [7, 8]
