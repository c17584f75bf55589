"""From readings and a demand model to a multiplier for each control point and interval."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from features.domains.demand import DEMAND
from features.errors import ArtifactError, InvalidParameterError, NotEnoughDataError
from features.online_history import OnlineHistory
from features.vocabulary import Site
from serving.artifacts import Artifact
from serving.runtimes.in_process import InProcessRuntime
from serving.traffic_twin.histories import KnownDemand
from serving.traffic_twin.multipliers import ConstantMultipliers, DemandMultipliers
from sim_env.traffic.control_points import BASELINE
from sim_env.traffic.engine import Control

HOUR_S = 3600
WEEK_S = 168 * HOUR_S
RAMP = Control(control_id="ramp_1", edge_id="E1", baseline_veh_per_hour=600.0)
# Nobody has measured this one.
NEW = Control(control_id="ramp_9", edge_id="E2", baseline_veh_per_hour=300.0)


def history_of(trips: Callable[[np.ndarray], Any], *, until_s: int) -> OnlineHistory:
    """Hourly trips by the hour of the day that each hour ends at, UTC."""
    moments_s = until_s + np.arange(1 - DEMAND.history_steps, DEMAND.horizon_steps + 1) * HOUR_S
    value = np.full((len(moments_s), len(DEMAND.inputs)), np.nan, dtype=np.float32)
    value[:, 0] = np.where(moments_s <= until_s, trips(moments_s // HOUR_S % 24), np.nan)
    return OnlineHistory(valid_until_s=until_s, value_TK=value)


@pytest.fixture(scope="module")
def known(began_s: int) -> KnownDemand:
    """ramp_1 has a baseline; dock_2 has none, and is no control point; dock_3 was never used. The last hour is 9:00."""
    sites = [
        Site(name="ramp_1", timezone="US/Central", attributes={BASELINE: 600.0}),
        Site(name="dock_2", timezone="US/Central"),
        Site(name="dock_3", timezone="US/Central"),
    ]
    histories = {
        "ramp_1": history_of(lambda hour: 500.0 + 10 * hour, until_s=began_s),
        "dock_2": history_of(lambda hour: 100.0 + hour, until_s=began_s),
        "dock_3": history_of(lambda hour: 0.0, until_s=began_s),
    }
    return KnownDemand(sites={site.name: site for site in sites}, histories=histories)


@pytest.fixture(scope="module")
def model(make_artifact: Callable[..., Artifact]) -> Artifact:
    """The trips of last week, twice the hour of the day, and a tenth of the last hour's trips."""
    return make_artifact("demand", "trips", family="gru", sites=[])


@pytest.fixture
def drive(known: KnownDemand, model: Artifact) -> Callable[..., Any]:
    """Runs a coroutine function with the multipliers of some controls, and closes them."""

    def run(use: Callable[[DemandMultipliers], Any], *controls: Control, **changes: Any) -> Any:
        async def whole() -> Any:
            artifact = changes.pop("artifact", model)
            arguments = {"read": lambda: known, "interval_s": 60, "stale_after_s": 6.0 * HOUR_S, **changes}
            source = DemandMultipliers(
                controls or (RAMP, NEW), runtime=InProcessRuntime(artifact), artifact=artifact, **arguments
            )
            try:
                return await use(source)
            finally:
                await source.close()

        return asyncio.run(whole())

    return run


def trips_of(hour_utc: int, *, last: float) -> float:
    """What the model forecasts for ramp_1 for the hour that ends then; Austin is six hours behind."""
    return 500.0 + 10 * hour_utc + 2 * (hour_utc - 6) + 0.1 * last


def test_a_multiplier_is_the_forecast_over_the_baseline_of_its_site(drive: Callable[..., Any], began_s: int) -> None:
    async def use(source: DemandMultipliers) -> Any:
        return await source.at(began_s + HOUR_S // 2), await source.at(began_s + HOUR_S - 60)

    middle, end = drive(use)
    # The last reading is that of 9:00; in the middle of an hour its own forecast counts, at its end that of the next
    # one nearly half.
    first, second = trips_of(10, last=590.0), trips_of(11, last=590.0)
    assert middle[0] * 600.0 == pytest.approx(first + (second - first) * 30 / 3600, abs=0.1)
    assert end[0] * 600.0 == pytest.approx(first + (second - first) * 1770 / 3600, abs=0.1)


def test_a_point_that_nobody_has_measured_gets_the_profile_of_the_known_ones(
    drive: Callable[..., Any], began_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(source: DemandMultipliers) -> Any:
        return await source.at(began_s + HOUR_S // 2), source.kinds, source.model

    multipliers, kinds, name = drive(use)
    assert kinds == ("measured", "assumed")
    assert name == "demand-gru-v3"
    assert "1 of 2 control points were never measured" in caplog.text
    assert "ramp_9" in caplog.text
    # Half the baseline, so half the trips of last week and of the last hour; the hour of day is the model's own.
    assert multipliers[1] * 300.0 == pytest.approx((600.0 + 59.0) / 2 + 8.0, abs=0.2)


def test_old_readings_stand_in_for_the_last_weeks_by_the_hour_of_the_week(
    drive: Callable[..., Any], began_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(source: DemandMultipliers) -> Any:
        return await source.at(began_s + 20 * WEEK_S + 5 * HOUR_S), source.kinds

    multipliers, kinds = drive(use)
    assert kinds[0] == "moved"
    assert "have old readings" in caplog.text
    # At 14:00, half a minute past the middle between the hours that end at 14:00 and 15:00; in summer Austin is five
    # hours behind.
    before, after = 640.0, trips_of(15, last=640.0) + 2
    assert multipliers[0] * 600.0 == pytest.approx(before + (after - before) * 1830 / 3600, abs=0.1)


def test_vehicles_of_an_hour_become_its_history(drive: Callable[..., Any], began_s: int) -> None:
    async def use(source: DemandMultipliers, *, vehicles: int) -> Any:
        await source.at(began_s)
        for minute in range(60):
            source.record(began_s + 60 * minute, np.array([vehicles, vehicles]))
        return await source.at(began_s + HOUR_S + HOUR_S // 2)

    quiet = drive(functools.partial(use, vehicles=5))
    busy = drive(functools.partial(use, vehicles=15))
    # A tenth of the last hour's vehicles counts: 300 and 900 of them.
    assert (busy - quiet) * [600.0, 300.0] == pytest.approx([60.0, 60.0], abs=0.1)


def test_a_sensor_knows_better_than_the_twin(drive: Callable[..., Any], began_s: int) -> None:
    async def use(source: DemandMultipliers) -> Any:
        earlier_s = began_s - HOUR_S
        await source.at(earlier_s)
        for minute in range(60):
            source.record(earlier_s + 60 * minute, np.array([50, 50]))
        return await source.at(began_s + HOUR_S // 2)

    async def plain(source: DemandMultipliers) -> Any:
        return await source.at(began_s + HOUR_S // 2)

    told, untold = drive(use), drive(plain)
    assert told[0] == untold[0]
    assert told[1] > untold[1]


def test_an_hour_of_which_less_than_half_was_seen_tells_nothing(drive: Callable[..., Any], began_s: int) -> None:
    async def use(source: DemandMultipliers, *, minutes: int) -> Any:
        await source.at(began_s + HOUR_S - 60 * minutes)
        for minute in range(60 - minutes, 60):
            source.record(began_s + 60 * minute, np.array([10, 10]))
        return await source.at(began_s + HOUR_S + HOUR_S // 2)

    few, half, whole = (drive(functools.partial(use, minutes=minutes)) for minutes in (29, 30, 60))
    np.testing.assert_allclose(half, whole)
    assert few[0] != pytest.approx(whole[0], abs=1e-3)


def test_no_step_in_demand_meets_the_roads_on_the_hour(drive: Callable[..., Any], began_s: int) -> None:
    async def use(source: DemandMultipliers) -> Any:
        rows, carry = [], np.zeros(2)
        for minute in range(150):
            rows.append(await source.at(began_s + 60 * minute))
            carry += rows[-1] * [10.0, 5.0]
            source.record(began_s + 60 * minute, np.floor(carry).astype(np.int64))
            carry -= np.floor(carry)
        return np.array(rows)

    rows = drive(use)
    assert np.abs(np.diff(rows, axis=0)).max() < 0.02
    assert np.ptp(rows[:, 0]) > 0.02


def test_what_cannot_drive_a_twin_is_refused(
    drive: Callable[..., Any], known: KnownDemand, make_artifact: Callable[..., Artifact], began_s: int
) -> None:
    async def use(source: DemandMultipliers) -> Any:
        return await source.at(began_s)

    with pytest.raises(ArtifactError, match="volume of traffic"):
        drive(use, artifact=make_artifact("traffic", "volume", sites=[]))
    with pytest.raises(InvalidParameterError, match="does not divide an hour"):
        drive(use, interval_s=7)
    with pytest.raises(NotEnoughDataError, match="--model none"):
        drive(use, read=lambda: KnownDemand(sites={}, histories={}))
    unused = {"dock_3": known.histories["dock_3"]}
    with pytest.raises(NotEnoughDataError, match="none with trips"):
        drive(use, read=lambda: KnownDemand(sites=known.sites, histories=unused))


def test_without_a_model_every_multiplier_is_one() -> None:
    assert asyncio.run(ConstantMultipliers(3).at(0)).tolist() == [1.0, 1.0, 1.0]
