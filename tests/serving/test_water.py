"""`POST /predict/water`: hourly demand, and totals of local days."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.app import create_app
from serving.predictions.water import WaterResponse
from serving.service import ForecastService
from serving.settings import ServingSettings


@pytest.fixture
def water(make_water: Callable[[], list[ForecastService]], open_api: Any) -> Iterator[Any]:
    with open_api(create_app(ServingSettings(), services=make_water())) as opened:
        yield opened


def ask(api: Any, **fields: Any) -> Any:
    return api.request("POST", "/predict/water", json={"zone_id": "Z001", "forecast_horizon": "72h", **fields})


def test_each_hour_has_its_demand_and_its_interval(water: Any) -> None:
    reply = ask(water, request_id="mine")
    assert reply.status_code == 200, reply.text
    content = reply.json()
    assert list(content) == [
        "request_id",
        "predictions",
        "daily_totals",
        "model_version",
        "inference_time_ms",
        "quality",
    ]
    assert WaterResponse.model_validate_json(reply.content).model_dump(exclude_none=True) == content
    assert (content["request_id"], content["model_version"]) == ("mine", "water-prophet-v3")
    assert len(content["predictions"]) == 72
    # Last week at 10:00 UTC, twice the hour in Kolkata, a tenth of the last value, and the temperature ahead.
    demand = 11.0 + 2 * 15.5 + 1.09 + 10.0
    assert content["predictions"][0] == {
        "timestamp": "2026-02-06T10:00:00Z",
        "water_demand": pytest.approx(demand),
        "confidence_interval": {
            "lower": pytest.approx(demand - 2, abs=0.011),
            "upper": pytest.approx(demand + 2, abs=0.011),
            "confidence": 0.95,
        },
    }
    assert content["quality"]["zone_id"] == "Z001"
    assert content["quality"]["weather_ahead"] == "partly"
    assert ask(water, forecast_horizon="24h").json()["quality"]["weather_ahead"] == "known"


def test_interval_and_explanation_come_only_if_asked_for(water: Any) -> None:
    plain = ask(water, include_confidence=False).json()
    assert list(plain["predictions"][0]) == ["timestamp", "water_demand"]
    assert "explanation" not in plain
    top = ask(water, include_explanation=True).json()["explanation"]["top_features"]
    assert {item["feature"] for item in top} == {
        "historical_water_168h",
        "historical_water_24h",
        "hour_of_day",
        "weather",
    }


def test_daily_totals_are_of_local_days_and_say_which_are_whole(water: Any) -> None:
    content = ask(water).json()
    totals = content["daily_totals"]
    # From 14:30 on the 6th to 14:30 on the 9th in Kolkata.
    assert [(day["date"], day["complete"]) for day in totals] == [
        ("2026-02-06", False),
        ("2026-02-07", True),
        ("2026-02-08", True),
        ("2026-02-09", False),
    ]
    flows = [entry["water_demand"] for entry in content["predictions"]]
    assert sum(day["total_m3"] for day in totals) == pytest.approx(sum(flows) * 3.6, abs=0.5)
    # Midnight is half past 18 UTC: half of the hour up to 19:00, all up to 18:00, and half of the one up to 19:00.
    whole = 0.5 * flows[9] + sum(flows[10:33]) + 0.5 * flows[33]
    assert totals[1]["total_m3"] == pytest.approx(whole * 3.6, abs=0.2)


def test_a_day_on_which_clocks_change_has_its_own_length(
    make_water: Callable[[], list[ForecastService]], open_api: Any
) -> None:
    services = make_water()
    # 27 March 2026, 12:00 UTC: in Rome the 29th has 23 hours.
    services[0].windows.now = lambda: 1774612800.0
    services[0].windows.stale_after_s = 1e9
    with open_api(create_app(ServingSettings(), services=services)) as api:
        content = ask(api, zone_id="Z002").json()
    days = {day["date"]: day for day in content["daily_totals"]}
    assert [day["complete"] for day in days.values()] == [False, True, True, False]
    flows = [entry["water_demand"] for entry in content["predictions"]]
    # Midnight is 23:00 UTC of the 28th and 22:00 UTC of the 29th.
    assert days["2026-03-29"]["total_m3"] == pytest.approx(sum(flows[35:58]) * 3.6, abs=0.2)


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"forecast_horizon": "48h"}, "forecast_horizon"),
        ({"zone_id": None}, "zone_id"),
        ({"coordinates": [1.0, 2.0]}, "coordinates"),
    ],
)
def test_what_is_not_as_documented_is_refused(water: Any, fields: dict[str, Any], parameter: str) -> None:
    reply = ask(water, **fields)
    assert reply.status_code == 400
    assert reply.json()["error"]["details"]["parameter"] == parameter


def test_an_unknown_zone_is_answered_with_near_names(water: Any) -> None:
    reply = ask(water, zone_id="Z01")
    assert reply.status_code == 404
    assert "Z001" in reply.json()["error"]["details"]["nearest"]
