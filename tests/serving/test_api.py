"""The HTTP API against the document: its example, its fields, and every error in its envelope."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.app import create_app
from serving.predictions.traffic import TrafficResponse
from serving.service import ForecastService
from serving.settings import ServingSettings

R001 = {"road_id": "R001", "coordinates": [23.0225, 72.5714]}


def ask(api: Any, **fields: Any) -> Any:
    body = {"location": R001, "forecast_horizon": "24h", **fields}
    return api.request("POST", "/predict/traffic", json=body)


def error_of(reply: Any, *, status: int, code: str) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    error: dict[str, Any] = reply.json()["error"]
    assert sorted(error) == ["code", "details", "message", "request_id", "timestamp"]
    assert error["code"] == code
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])
    return error


def test_the_reply_has_the_documents_fields(api: Any) -> None:
    reply = ask(api, request_id="7f1c", include_confidence=True, include_explanation=True)
    assert reply.status_code == 200
    content = reply.json()
    assert list(content) == [
        "request_id",
        "predictions",
        "model_version",
        "explanation",
        "inference_time_ms",
        "quality",
    ]
    assert TrafficResponse.model_validate_json(reply.content, strict=True).model_dump(exclude_none=True) == content
    assert content["request_id"] == "7f1c"
    assert content["model_version"] == "traffic-lstm-v3"
    assert content["inference_time_ms"] > 0
    first = content["predictions"][0]
    # 507 is last Friday at 10:00 UTC: 500 + 4 * 24 + 10; the hour in Kolkata is 15.5, the last volume 605.
    volume = 500 + 4 * 24 + 10 + 2 * 15.5 + 0.1 * 605
    assert first == {
        "timestamp": "2026-02-06T10:00:00Z",
        "traffic_volume": round(volume),
        "average_speed": round(80.0 / (1 + 0.15 * (volume / 2500) ** 4), 1),
        "congestion_level": round(100 * volume / 2500),
        "confidence_interval": {"lower": 647, "upper": 748, "confidence": 0.95},
    }
    assert [type(first[key]) for key in ("traffic_volume", "average_speed", "congestion_level")] == [int, float, int]


@pytest.mark.parametrize(("horizon", "hours"), [("2h", 2), ("6h", 6), ("12h", 12), ("24h", 24)])
def test_there_is_one_prediction_an_hour(api: Any, horizon: str, hours: int) -> None:
    stamps = [entry["timestamp"] for entry in ask(api, forecast_horizon=horizon).json()["predictions"]]
    assert len(stamps) == hours
    assert stamps[:2] == ["2026-02-06T10:00:00Z", "2026-02-06T11:00:00Z"]


def test_interval_and_explanation_come_only_if_asked_for(api: Any) -> None:
    plain = ask(api, include_confidence=False).json()
    assert "explanation" not in plain
    assert "confidence_interval" not in plain["predictions"][0]
    assert re.fullmatch(r"pred-\d{8}-[0-9a-f]{16}", plain["request_id"])
    top = ask(api, include_explanation=True).json()["explanation"]["top_features"]
    assert {"historical_traffic_168h", "historical_traffic_24h", "hour_of_day"} == {item["feature"] for item in top}
    assert [item["importance"] for item in top] == sorted((item["importance"] for item in top), reverse=True)
    assert sum(item["importance"] for item in top) == pytest.approx(1, abs=1e-3)


def test_quality_says_what_must_be_known(api: Any) -> None:
    assert ask(api).json()["quality"] == {
        "lowered_by": ["out_of_range"],
        "runtime": "in_process",
        "road_id": "R001",
        "origin": "2026-02-06T09:00:00Z",
        "last_reading": "2026-02-06T09:00:00Z",
        "reading_age_h": 0.33,
        "stale": False,
        "missing_share": 0.0,
        "gap_h": 0.0,
        "history_h": 1512.0,
        "constant": False,
        "missing_inputs": {},
        "out_of_range": ["temperature"],
        "unseen_site": False,
        "weather_ahead": "not used",
        "speed": "derived, fitted",
    }
    other = ask(api, location={"coordinates": [23.051, 72.601]}).json()["quality"]
    assert other["road_id"] == "R002"
    assert other["distance_km"] == pytest.approx(0.15, abs=0.01)
    assert other["unseen_site"] is True
    assert other["speed"] == "derived, assumed"


def test_the_versioned_path_answers_the_same(api: Any) -> None:
    body = {"location": R001, "forecast_horizon": "2h"}
    replies = [api.request("POST", path, json=body).json() for path in ("/predict/traffic", "/v1/predict/traffic")]
    assert replies[0]["predictions"] == replies[1]["predictions"]


def test_a_wrong_horizon_is_answered_as_the_document_says(api: Any) -> None:
    error = error_of(ask(api, forecast_horizon="48h", request_id="mine"), status=400, code="INVALID_PARAMETER")
    assert error["message"] == "Invalid forecast_horizon. Must be one of: 2h, 6h, 12h, 24h"
    assert error["details"] == {
        "parameter": "forecast_horizon",
        "provided": "48h",
        "allowed": ["2h", "6h", "12h", "24h"],
    }
    assert error["request_id"] == "mine"


def test_an_unknown_road_is_answered_with_near_names(api: Any) -> None:
    error = error_of(ask(api, location={"road_id": "r01"}), status=404, code="UNKNOWN_NAME")
    assert "R001" in error["details"]["nearest"]
    assert "Did you mean: R001" in error["message"]
    assert re.fullmatch(r"req-\d{8}-[0-9a-f]{16}", error["request_id"])


@pytest.mark.parametrize(
    ("location", "parameter"),
    [
        ({"coordinates": [91.0, 0.0]}, "location.coordinates.0"),
        ({"coordinates": [23.0, -180.5]}, "location.coordinates.1"),
        ({"coordinates": [0.0, 0.0]}, "location.coordinates"),
        ({"coordinates": [23.0]}, "location.coordinates.1"),
        ({"coordinates": "23,72"}, "location.coordinates"),
        ({"road_id": 7}, "location.road_id"),
        ({"road_id": ""}, "location.road_id"),
        ({"road": "R001"}, "location.road"),
        ({}, "location"),
        ("R001", "location"),
    ],
)
def test_a_wrong_place_is_refused(api: Any, location: Any, parameter: str) -> None:
    error = error_of(ask(api, location=location), status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == parameter


@pytest.mark.parametrize(
    "fields",
    [
        {"include_confidence": "true"},
        {"include_explanation": 1},
        {"forecast_horizon": 24},
        {"forecast_horizon": None},
        {"request_id": "x" * 129},
        {"request_id": "two\nlines"},
        {"horizon": "24h"},
    ],
)
def test_nothing_is_coerced_and_unknown_fields_are_refused(api: Any, fields: dict[str, Any]) -> None:
    error = error_of(ask(api, **fields), status=400, code="INVALID_PARAMETER")
    assert error["details"]["parameter"] == next(iter(fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{'location': 1}",
        b"\xff\xfe",
        b'{"location": {"road_id": "\xff"}, "forecast_horizon": "2h"}',
        b'{"location": {"road_id": "\\ud800"}, "forecast_horizon": "2h"}',
        b'{"location": {"coordinates": [NaN, 1.0]}, "forecast_horizon": "2h"}',
        b'{"location": {"coordinates": [Infinity, 1.0]}, "forecast_horizon": "2h"}',
        b'{"location": {"coordinates": [1e999, 1.0]}, "forecast_horizon": "2h"}',
        b'{"location": {"coordinates": [' + b"9" * 4400 + b', 1.0]}, "forecast_horizon": "2h"}',
        b'{"location": {"coordinates": [1, 2, 3]}, "forecast_horizon": ' + b"9" * 4400 + b"}",
        b"[" * 20000,
        b'{"a":' * 5000,
    ],
)
def test_broken_bodies_are_the_callers_fault(api: Any, body: bytes) -> None:
    reply = api.request("POST", "/predict/traffic", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] in {"MALFORMED_JSON", "INVALID_PARAMETER"}


def test_another_media_type_is_refused(api: Any) -> None:
    reply = api.request("POST", "/predict/traffic", content=b"a=b", headers={"Content-Type": "text/plain"})
    error_of(reply, status=415, code="UNSUPPORTED_MEDIA_TYPE")


def test_a_body_over_the_limit_is_refused_whether_announced_or_streamed(api: Any) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b" " * 1024

    json_type = {"Content-Type": "application/json"}
    for content in (b" " * 65537, endless()):
        reply = api.request("POST", "/predict/traffic", content=content, headers=json_type)
        error_of(reply, status=413, code="BODY_TOO_LARGE")


def test_a_wrong_path_or_method_has_the_envelope(api: Any) -> None:
    error_of(api.request("GET", "/predict/tea"), status=404, code="NOT_FOUND")
    reply = api.request("GET", "/predict/traffic")
    error_of(reply, status=405, code="METHOD_NOT_ALLOWED")
    assert reply.headers["allow"] == "POST"


def test_the_unexpected_is_logged_and_shows_nothing(
    make_service: Callable[..., ForecastService], open_api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()
    with open_api(create_app(ServingSettings(), services=[service])) as api:
        service.windows.memory.site = None  # type: ignore[method-assign, assignment]
        error = error_of(ask(api), status=500, code="INTERNAL_ERROR")
    assert "NoneType" not in str(error)
    assert error["request_id"] in caplog.text
    assert "NoneType" in caplog.text


def test_health_says_which_runtimes_are_up(api: Any) -> None:
    assert api.request("GET", "/health/live").json() == {"status": "alive"}
    ready = api.request("GET", "/health/ready").json()
    assert ready["status"] == "ready"
    assert ready["domains"]["traffic"] == {
        "status": "ready",
        "sites": 2,
        "models": {
            "volume": {
                "model_version": "traffic-lstm-v3",
                "runtimes": {"in_process": True},
                "intervals": "fixed",
                "versions": {"champion": "traffic-lstm-v3"},
                "precision": "fp32",
                "parity": 1e-7,
                "faults": {},
            }
        },
    }
    assert ready["domains"]["water"]["status"] == "not ready"


def test_without_a_champion_it_is_alive_and_says_what_to_do(tmp_path: Path, open_api: Any) -> None:
    settings_ = ServingSettings(data_dir=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with open_api(create_app(settings_)) as api:
        assert api.request("GET", "/health/live").status_code == 200
        replies = [api.request("GET", "/health/ready") for _ in range(20)]
        assert {reply.status_code for reply in replies} == {503}
        for reply in (replies[-1], ask(api)):
            assert "make train" in error_of(reply, status=503, code="NOT_READY")["message"]
    assert not (tmp_path / "none.db").exists()


def test_metrics_count_what_happened(api: Any) -> None:
    ask(api)
    ask(api, forecast_horizon="1y")
    text = api.request("GET", "/metrics").text
    assert 'towncast_requests_total{method="POST",route="/predict/traffic",status="200"} 1.0' in text
    assert 'towncast_requests_total{method="POST",route="/predict/traffic",status="400"} 1.0' in text
    labels, made = 'domain="traffic"', 'role="champion",runtime="in_process",target="volume",version="traffic-lstm-v3"'
    assert f"towncast_forecasts_total{{{labels},{made}}} 1.0" in text
    assert 'towncast_latency_seconds_count{route="/predict/traffic",stage="inference"} 1.0' in text
    assert f'towncast_quality_flags_total{{{labels},flag="out_of_range",target="volume"}} 1.0' in text
    assert f'towncast_runtime_up{{{labels},runtime="in_process",target="volume"}} 1.0' in text


def test_the_documentation_page_is_there(api: Any) -> None:
    assert api.request("GET", "/docs").status_code == 200
