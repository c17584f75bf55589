"""Bad input: each kind is refused with a remedy, or answered with a lowered quality that names it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.feast_repository import FeatureRepository
from features.vocabulary import Site
from serving.app import create_app
from serving.artifacts import Artifact
from serving.service import ForecastService
from serving.settings import ServingSettings

NAMES = ("whole", "gap", "ended", "young", "newborn", "flat", "one_hole", "no_weather", "silent")


@pytest.fixture(scope="module")
def roads(make_town: Callable[..., FeatureRepository], now_s: float) -> FeatureRepository:
    """Roads that each lack something; the last hour is 9:00 UTC."""
    now = pd.Timestamp(now_s, unit="s", tz="UTC").floor("h")

    def between(first_days: float, last_days: float) -> Callable[[pd.DatetimeIndex], Any]:
        """A volume from and until so many days ago."""
        return lambda moments: np.where(
            (moments > now - pd.Timedelta(days=first_days)) & (moments <= now - pd.Timedelta(days=last_days)),
            300.0 + moments.hour.to_numpy(float),
            np.nan,
        )

    def with_gap(moments: pd.DatetimeIndex) -> Any:
        old, new = between(100, 33)(moments), between(3, 0)(moments)
        return np.where(np.isfinite(old), old, new)

    def mild(moments: pd.DatetimeIndex) -> Any:
        return np.full(len(moments), 10.0)

    def with_hole(moments: pd.DatetimeIndex) -> Any:
        return np.where(moments == now - pd.Timedelta(hours=5), np.nan, 10.0)

    volumes = {
        "whole": between(100, 0),
        "gap": with_gap,
        "ended": between(100, 31),
        "young": between(2, 0),
        "newborn": between(1 / 24, 0),
        "flat": lambda moments: 420.0,
        "one_hole": between(100, 0),
        "no_weather": between(100, 0),
    }
    weather = {(name, "temperature"): mild for name in volumes if name != "no_weather"}
    weather["one_hole", "temperature"] = with_hole
    sites = [Site(name=name, timezone="Europe/Rome") for name in NAMES]
    return make_town("traffic", sites, {(name, "volume"): volume for name, volume in volumes.items()} | weather)


@pytest.fixture
def troubled(
    roads: FeatureRepository,
    make_artifact: Callable[..., Artifact],
    service_of: Callable[..., ForecastService],
    open_api: Any,
) -> Iterator[Any]:
    artifact = make_artifact("traffic", "volume", sites=[Site(name=name) for name in NAMES])
    with open_api(create_app(ServingSettings(), services=[service_of(artifact, roads)])) as opened:
        yield opened


def ask(api: Any, road: str) -> Any:
    body = {"location": {"road_id": road}, "forecast_horizon": "24h", "include_explanation": True}
    reply = api.request("POST", "/predict/traffic", json=body)
    if reply.status_code == 200:
        values = [entry["traffic_volume"] for entry in reply.json()["predictions"]]
        assert len(values) == 24
        assert np.isfinite(values).all()
    return reply


def quality_of(api: Any, road: str) -> dict[str, Any]:
    reply = ask(api, road)
    assert reply.status_code == 200, reply.text
    quality: dict[str, Any] = reply.json()["quality"]
    return quality


def test_where_nothing_is_wrong_nothing_is_said(troubled: Any) -> None:
    quality = quality_of(troubled, "whole")
    assert quality["lowered_by"] == []
    assert (quality["gap_h"], quality["history_h"], quality["missing_inputs"]) == (0.0, 1512.0, {})


def test_a_gap_of_a_month_is_answered_and_said(troubled: Any) -> None:
    quality = quality_of(troubled, "gap")
    assert quality["lowered_by"] == ["long_gap"]
    # 30 days ended three days ago: of them 27 are within the last 30 days.
    assert quality["gap_h"] == 27 * 24


def test_a_gap_of_a_month_up_to_now_starts_the_forecast_where_readings_end(troubled: Any) -> None:
    quality = quality_of(troubled, "ended")
    assert "stale" in quality["lowered_by"]
    assert quality["origin"] == quality["last_reading"] == "2026-01-06T09:00:00Z"


@pytest.mark.parametrize(("road", "history_h"), [("young", 48.0), ("newborn", 1.0)])
def test_too_little_history_is_answered_and_said(troubled: Any, road: str, history_h: float) -> None:
    quality = quality_of(troubled, road)
    assert {"short_history", "long_gap"} <= set(quality["lowered_by"])
    assert quality["history_h"] == history_h


def test_without_any_history_it_is_refused_with_the_remedy(troubled: Any) -> None:
    reply = ask(troubled, "silent")
    assert reply.status_code == 503
    error = reply.json()["error"]
    assert error["code"] == "NOT_ENOUGH_DATA"
    assert "towncast materialise traffic" in error["message"]


def test_a_constant_series_is_answered_and_said(troubled: Any) -> None:
    assert quality_of(troubled, "flat")["lowered_by"] == ["constant"]


def test_one_missing_value_of_a_covariate_is_answered_and_said(troubled: Any) -> None:
    quality = quality_of(troubled, "one_hole")
    assert quality["lowered_by"] == ["missing_inputs"]
    assert quality["missing_inputs"] == {"temperature": round(1 / 24, 4)}


def test_a_covariate_that_is_not_there_at_all_is_answered_and_said(troubled: Any) -> None:
    quality = quality_of(troubled, "no_weather")
    assert quality["lowered_by"] == ["missing_inputs"]
    assert quality["missing_inputs"] == {"temperature": 1.0}


def test_in_a_batch_each_says_what_is_wrong_with_its_own(troubled: Any) -> None:
    requests = [{"location": {"road_id": name}, "forecast_horizon": "2h"} for name in NAMES]
    reply = troubled.request("POST", "/predict/traffic/batch", json={"requests": requests})
    *answered, refused = reply.json()["results"]
    for name, result in zip(NAMES, answered, strict=False):
        assert result["quality"] == quality_of(troubled, name)
    assert refused["error"]["code"] == "NOT_ENOUGH_DATA"


def test_a_future_covariate_that_is_missing_is_answered_and_said(
    make_pollution: Callable[..., list[ForecastService]], open_api: Any
) -> None:
    with open_api(create_app(ServingSettings(), services=make_pollution())) as api:
        for station, horizon, lowered in (("P001", "6h", False), ("P001", "48h", True), ("P002", "6h", True)):
            body = {"station_id": station, "forecast_horizon": horizon, "parameters": ["PM2.5"]}
            reply = api.request("POST", "/predict/pollution", json=body)
            assert reply.status_code == 200, reply.text
            assert ("weather_missing" in reply.json()["quality"]["lowered_by"]) is lowered


@pytest.mark.parametrize(
    ("moment", "day", "hours"),
    [
        ("2026-03-28T12:00", "2026-03-29", 23),
        ("2026-10-24T12:00", "2026-10-25", 25),
        ("2028-02-28T12:00", "2028-02-29", 24),
        ("2027-02-27T12:00", "2027-02-28", 24),
    ],
)
def test_days_of_clock_changes_and_leap_days_are_answered_hour_by_hour(
    make_water: Callable[[], list[ForecastService]], open_api: Any, moment: str, day: str, hours: int
) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    services = make_water()
    services[0].windows.now = now.timestamp
    services[0].windows.stale_after_s = 1e9
    with open_api(create_app(ServingSettings(), services=services)) as api:
        reply = api.request("POST", "/predict/water", json={"zone_id": "Z002", "forecast_horizon": "72h"})
    assert reply.status_code == 200, reply.text
    content = reply.json()
    stamps = [datetime.fromisoformat(entry["timestamp"]) for entry in content["predictions"]]
    assert stamps == [now + timedelta(hours=hour) for hour in range(1, 73)]
    days = [total["date"] for total in content["daily_totals"]]
    assert days[1] == day
    assert days[2] == (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    # Midnight in Rome is an hour or two before midnight UTC.
    first = 11 if moment[5:7] in ("03", "02") else 10
    flows = [entry["water_demand"] for entry in content["predictions"]][first : first + hours]
    whole = content["daily_totals"][1]
    assert whole["complete"]
    assert whole["total_m3"] == pytest.approx(sum(flows) * 3.6, abs=0.2)
