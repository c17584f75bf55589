"""`POST /readings`: what came is told item by item, and anything gets a documented answer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from serving.errors import install_error_replies
from serving.inflow.desk import ReadingDesk
from serving.metrics import Metrics
from serving.routes.direct import describe_requests
from serving.routes.readings import reading_request_models, readings_routes
from tests.serving.inflow.conftest import reading

Post = Callable[..., httpx.Response]


@pytest.fixture
def api(make_desk: Callable[..., ReadingDesk], open_api: Any) -> Iterator[Any]:
    metrics = Metrics()
    desk = make_desk(readings_limit=20, metrics=metrics)
    app = FastAPI()
    install_error_replies(app)
    app.include_router(readings_routes(desk, metrics))
    describe_requests(app, reading_request_models())
    with open_api(app) as opened:
        opened.metrics = metrics
        yield opened
        opened.run(desk.close())


@pytest.fixture
def post(api: Any) -> Post:
    def send(content: Any, **headers: str) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        reply: httpx.Response = api.request(
            "POST", "/readings", content=body, headers={"Content-Type": "application/json", **headers}
        )
        return reply

    return send


def test_each_item_gets_its_outcome(post: Post, api: Any) -> None:
    items = [reading(minutes_ago=1), reading(minutes_ago=1), reading(value=-5.0), {"colour": "red"}]
    reply = post({"readings": items})
    assert reply.status_code == 200
    assert reply.json() == {
        "stored": 1,
        "known": 1,
        "quarantined": 2,
        "outcomes": [
            {"outcome": "stored"},
            {"outcome": "known"},
            {"outcome": "quarantined", "reason": "outside 0 to 20000 veh/h (volume)"},
            {"outcome": "quarantined", "reason": "unknown field 'colour'"},
        ],
    }
    again = post({"readings": items[:1]}).json()
    assert (again["stored"], again["known"]) == (0, 1)
    told = api.metrics.text().decode()
    assert 'towncast_readings_total{domain="traffic",outcome="stored",transport="http"} 1.0' in told


def test_nan_in_an_item_does_not_refuse_the_others(post: Post) -> None:
    body = json.dumps({"readings": [reading(minutes_ago=2, value=float("nan")), reading(minutes_ago=3)]}).encode()
    assert b"NaN" in body
    assert [one["outcome"] for one in post(body).json()["outcomes"]] == ["quarantined", "stored"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "MALFORMED_JSON"),
        (b"\xff", "MALFORMED_JSON"),
        (b"[" * 5000, "MALFORMED_JSON"),
        ([reading()], "INVALID_PARAMETER"),
        ({}, "INVALID_PARAMETER"),
        ({"readings": []}, "INVALID_PARAMETER"),
        ({"readings": {}}, "INVALID_PARAMETER"),
        ({"readings": [reading()], "more": 1}, "INVALID_PARAMETER"),
        ({"readings": [reading()] * 21}, "INVALID_PARAMETER"),
        ({"readings": [{}, "text", None]}, "INVALID_PARAMETER"),
    ],
)
def test_a_body_without_readings_is_refused_in_the_envelope(post: Post, content: Any, code: str) -> None:
    reply = post(content)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


def test_another_media_type_is_refused(post: Post) -> None:
    assert post({"readings": [reading()]}, **{"Content-Type": "text/csv"}).status_code == 415


def test_a_disk_that_refuses_is_a_503(post: Post, data_dir: Path) -> None:
    folder = data_dir / "readings" / "traffic" / "quarantine"
    folder.write_text("in the way")
    reply = post({"readings": [reading(value=-1.0)]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")
    assert str(data_dir) not in reply.text


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_generated_requests_meet_the_openapi_document(api: Any, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(api.app.openapi())["/readings"]["POST"]
    # One good item among bad ones is stored.
    excluded = [schemathesis.checks.positive_data_acceptance, schemathesis.checks.negative_data_rejection]

    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def check(case: Any) -> None:
        arguments = case.as_transport_kwargs("http://town")
        arguments["content"] = arguments.pop("data", None)
        arguments = {key: value for key, value in arguments.items() if value is not None}
        reply = api.request(arguments.pop("method"), arguments.pop("url"), **arguments)
        assert reply.status_code < 500, reply.text
        case.validate_response(reply, excluded_checks=excluded)

    check()
