"""`POST /predict/pollution`: the document's example, indices that follow from concentrations, and what is missing."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from serving.app import create_app
from serving.predictions.pollution import PollutionResponse
from serving.service import ForecastService
from serving.settings import ServingSettings

Make = Callable[..., list[ForecastService]]
DOCUMENT = {
    "station_id": "P001",
    "parameters": ["PM2.5", "PM10", "AQI"],
    "forecast_horizon": "48h",
    "include_health_advisory": True,
}


@pytest.fixture
def air(make_pollution: Make, open_api: Any) -> Iterator[Any]:
    with open_api(create_app(ServingSettings(), services=make_pollution())) as opened:
        yield opened


def ask(api: Any, **fields: Any) -> Any:
    body = {"station_id": "P001", "forecast_horizon": "6h", **fields}
    return api.request("POST", "/predict/pollution", json={k: v for k, v in body.items() if v is not None})


def error_of(reply: Any, *, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    error: dict[str, Any] = reply.json()["error"]
    assert error["code"] == code
    return error


def test_the_documents_example_is_answered_with_its_fields(air: Any) -> None:
    reply = air.request("POST", "/predict/pollution", json=DOCUMENT)
    assert reply.status_code == 200, reply.text
    content = reply.json()
    assert list(content) == ["request_id", "predictions", "model_version", "inference_time_ms", "quality"]
    assert content["model_version"] == "pollution-xgb-v3, pollution-xgb-pm10-v3"
    assert list(content["predictions"]) == ["PM2.5", "PM10", "AQI"]
    assert {name: len(entries) for name, entries in content["predictions"].items()} == dict.fromkeys(
        content["predictions"], 48
    )
    first = content["predictions"]["PM2.5"][0]
    # Last Friday at 10:00 UTC, the hour in Kolkata, a tenth of the last value, and the temperature that is forecast.
    assert first == {
        "timestamp": "2026-02-06T10:00:00Z",
        "value": pytest.approx(50 + 2 * 15.5 + 4.9 + 11.0),
        "confidence_interval": [pytest.approx(86.9), pytest.approx(106.9)],
    }
    index = content["predictions"]["AQI"][0]
    assert list(index) == ["timestamp", "value", "category", "health_advisory"]
    assert (type(index["value"]), index["category"]) == (int, "Moderate")
    assert index["health_advisory"] == "Sensitive groups should limit outdoor activity"
    parsed = PollutionResponse.model_validate_json(reply.content)
    assert parsed.model_dump(by_alias=True, exclude_none=True, mode="json") == content


def test_only_what_is_asked_for_is_answered(air: Any) -> None:
    content = ask(air, parameters=["PM10"], include_confidence=False).json()
    assert list(content["predictions"]) == ["PM10"]
    assert list(content["predictions"]["PM10"][0]) == ["timestamp", "value"]
    assert content["model_version"] == "pollution-xgb-pm10-v3"
    assert "aqi" not in content["quality"]
    index = ask(air, parameters=["AQI"]).json()["predictions"]
    assert list(index) == ["AQI"]
    assert list(index["AQI"][0]) == ["timestamp", "value", "category"]


def test_the_index_is_computed_from_means_of_measured_and_forecast_hours(air: Any) -> None:
    content = ask(air, forecast_horizon="48h").json()
    forecast = {name: [entry["value"] for entry in content["predictions"][name]] for name in ("PM2.5", "PM10")}
    measured = {"PM2.5": 40.0 + np.arange(10, 34) % 24, "PM10": 90.0 + 2 * (np.arange(10, 34) % 24)}
    for hour in (0, 11, 23, 47):
        means = {
            name: float(np.concatenate([measured[name], forecast[name]])[: 24 + hour + 1][-24:].mean())
            for name in forecast
        }
        # CPCB 2014: 30, 60, 90 and 120 ug/m3 of PM2.5 are 50, 100, 200 and 300; 100 and 250 of PM10 are 100 and 200.
        fine = float(np.interp(means["PM2.5"], [30, 60, 90, 120], [50, 100, 200, 300]))
        coarse = float(np.interp(means["PM10"], [50, 100, 250], [50, 100, 200]))
        assert content["predictions"]["AQI"][hour]["value"] == pytest.approx(max(fine, coarse), abs=1)
    assert content["quality"]["aqi"] == {
        "standard": "IN",
        "source": "National Air Quality Index of India (CPCB 2014)",
        "pollutants": ["PM2.5", "PM10"],
        "official": False,
        "averaging_complete": True,
        "notes": ["Not an official index: the standard takes 3 pollutants, here are 2"],
    }


def test_the_standard_can_be_chosen(air: Any) -> None:
    indian, american = (ask(air, parameters=["AQI"], aqi_standard=name).json() for name in ("IN", "US"))
    # The first hour's means are about 53 ug/m3 of PM2.5 and 113 of PM10: CPCB looks at the latter, EPA at the former.
    assert indian["predictions"]["AQI"][0]["category"] == "Moderate"
    assert american["predictions"]["AQI"][0]["category"] == "Unhealthy for Sensitive Groups"
    assert american["quality"]["aqi"] == {
        "standard": "US",
        "source": "Air Quality Index of the United States (EPA 2024), particles",
        "pollutants": ["PM2.5", "PM10"],
        "official": True,
        "averaging_complete": True,
        "notes": [],
    }


@pytest.mark.parametrize(
    ("fields", "parameter", "nearest"),
    [
        ({"parameters": ["PM2.5", "PM25"]}, "parameters", "PM2.5"),
        ({"parameters": ["aqi"]}, "parameters", "AQI"),
        ({"aqi_standard": "in"}, "aqi_standard", "IN"),
    ],
)
def test_a_name_that_is_not_known_is_refused_with_near_ones(
    air: Any, fields: dict[str, Any], parameter: str, nearest: str
) -> None:
    error = error_of(ask(air, **fields), status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == parameter
    assert nearest in error["details"]["nearest"]
    assert nearest in error["details"]["allowed"]


@pytest.mark.parametrize(
    "fields", [{"parameters": []}, {"station_id": 7}, {"coordinates": [91.0, 0.0]}, {"horizon": 1}]
)
def test_what_is_not_as_documented_is_refused(air: Any, fields: dict[str, Any]) -> None:
    error_of(ask(air, **fields), status=400, code="INVALID_PARAMETER")


def test_a_field_that_there_is_not_is_answered_with_those_that_there_are(air: Any) -> None:
    error = error_of(ask(air, location={"road_id": "R1"}), status=400, code="INVALID_PARAMETER")
    assert error["message"].startswith("Invalid location. There is no such field; there are ")
    assert "station_id" in error["details"]["allowed"]
    assert error["details"]["provided"] == "{'road_id': 'R1'}"


def test_a_station_is_named_or_found_by_coordinates(air: Any) -> None:
    found = ask(air, station_id=None, coordinates=[23.021, 72.57]).json()
    assert found["quality"]["station_id"] == "P001"
    assert found["quality"]["distance_km"] == pytest.approx(0.22, abs=0.02)
    error = error_of(ask(air, station_id="P01"), status=404, code="UNKNOWN_NAME")
    assert "P001" in error["details"]["nearest"]
    error = error_of(ask(air, station_id=None), status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == "station_id"


def test_a_station_without_pm10_has_an_index_of_pm2_5_and_says_so(air: Any) -> None:
    content = ask(air, station_id="P002", parameters=["PM2.5", "AQI"]).json()
    assert list(content["predictions"]) == ["PM2.5", "AQI"]
    assert content["quality"]["aqi"]["pollutants"] == ["PM2.5"]
    assert content["quality"]["constant"] is True
    error = error_of(ask(air, station_id="P002"), status=503, code="NOT_ENOUGH_DATA")
    assert "no reading of pm10 of this station" in error["message"]


def test_where_too_many_hours_are_missing_there_is_no_index(air: Any) -> None:
    content = ask(
        air, station_id="P003", forecast_horizon="48h", parameters=["AQI"], include_health_advisory=True
    ).json()
    entries = content["predictions"]["AQI"]
    # 16 of 24 are needed: the eleventh hour has eleven that are forecast, and five measured, at 21, 0, 3, 6 and 9.
    assert [entry["value"] is None for entry in entries] == [True] * 10 + [False] * 38
    assert entries[0] == {
        "timestamp": "2026-02-06T10:00:00Z",
        "value": None,
        "category": None,
        "health_advisory": None,
    }
    quality = content["quality"]
    assert quality["aqi"]["averaging_complete"] is False
    assert "an hour with fewer than 16 of 24 has no index" in quality["aqi"]["notes"][1]
    # Of both the worst: PM2.5 of every third hour, PM10 that ended forty hours ago.
    assert (quality["stale"], quality["missing_share"], quality["gap_h"]) == (True, 1.0, 40.0)
    assert quality["origin"] == "2026-02-06T09:00:00Z"


@pytest.mark.parametrize(
    ("station", "horizon", "expected"),
    [("P001", "6h", "known"), ("P001", "48h", "partly"), ("P002", "6h", "missing")],
)
def test_weather_that_is_missing_ahead_is_said(air: Any, station: str, horizon: str, expected: str) -> None:
    content = ask(air, station_id=station, forecast_horizon=horizon, parameters=["PM2.5"]).json()
    assert content["quality"]["weather_ahead"] == expected


def test_a_model_that_reads_no_weather_ahead_says_so(make_pollution: Make, open_api: Any) -> None:
    with open_api(create_app(ServingSettings(), services=make_pollution(ahead=""))) as api:
        assert ask(api).json()["quality"]["weather_ahead"] == "not used"


def test_each_concentration_is_explained(air: Any) -> None:
    top = ask(air, parameters=["AQI"], include_explanation=True).json()["explanation"]["top_features"]
    assert list(top) == ["PM2.5", "PM10"]
    for name, target in (("PM2.5", "pm2_5"), ("PM10", "pm10")):
        features = [item["feature"] for item in top[name]]
        assert set(features) == {f"historical_{target}_168h", f"historical_{target}_24h", "hour_of_day", "weather"}
        assert sum(item["importance"] for item in top[name]) == pytest.approx(1, abs=1e-3)


def test_without_the_model_of_pm10_the_rest_is_answered(make_pollution: Make, open_api: Any) -> None:
    with open_api(create_app(ServingSettings(), services=make_pollution()[:1])) as api:
        assert ask(api, parameters=["AQI"]).json()["quality"]["aqi"]["pollutants"] == ["PM2.5"]
        error_of(ask(api), status=503, code="NOT_READY")
        ready = api.request("GET", "/health/ready").json()["domains"]["pollution"]
        assert ready["status"] == "ready"
        assert "reason" in ready["models"]["pm10"]


def test_both_concentrations_share_each_window(
    make_pollution: Make, open_api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = make_pollution()
    memory = services[0].windows.memory
    cuts: list[str] = []
    prepare = memory.prepare
    monkeypatch.setattr(memory, "prepare", lambda name, **given: cuts.append(name) or prepare(name, **given))
    with open_api(create_app(ServingSettings(), services=services)) as api:
        assert ask(api).status_code == 200
        assert ask(api, station_id="P002", parameters=["AQI"]).status_code == 200
    assert cuts == ["P001", "P002"]
