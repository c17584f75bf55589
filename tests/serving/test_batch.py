"""The batch form: many requests in one, each with its own reply or error."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from features.vocabulary import Forecast, Window
from serving.app import create_app
from serving.service import ForecastService
from serving.settings import ServingSettings

Make = Callable[..., ForecastService]
ROAD = {"location": {"road_id": "R001"}, "forecast_horizon": "2h"}
OTHER = {"location": {"road_id": "R002"}, "forecast_horizon": "24h"}


def batch(api: Any, requests: Any, *, domain: str = "traffic") -> Any:
    return api.request("POST", f"/predict/{domain}/batch", json={"requests": requests})


def test_each_request_is_answered_as_if_it_were_alone_in_the_same_order(api: Any) -> None:
    requests = [
        ROAD,
        {**OTHER, "request_id": "second"},
        {**ROAD, "forecast_horizon": "6h", "include_confidence": False},
    ]
    reply = batch(api, requests)
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    assert results[1]["request_id"] == "second"
    for request, result in zip(requests, results, strict=True):
        alone = api.request("POST", "/predict/traffic", json=request).json()
        for key in ("predictions", "model_version", "quality"):
            assert result[key] == alone[key]


def test_a_request_that_cannot_be_answered_gets_its_own_error(api: Any) -> None:
    wrong = [
        {**ROAD, "forecast_horizon": "48h", "request_id": "mine"},
        {"location": {"road_id": "R01"}, "forecast_horizon": "2h"},
        {"location": {"coordinates": [91, 0]}, "forecast_horizon": "2h"},
        {"location": {"road_id": "\ud7ff"}, "forecast_horizon": "2h"},
        {},
        7,
        None,
        [ROAD],
    ]
    reply = batch(api, [*wrong, ROAD])
    assert reply.status_code == 200, reply.text
    *errors, good = reply.json()["results"]
    assert [error["error"]["code"] for error in errors] == [
        "INVALID_PARAMETER",
        "UNKNOWN_NAME",
        "INVALID_PARAMETER",
        "UNKNOWN_NAME",
        *(["INVALID_PARAMETER"] * 4),
    ]
    assert errors[0]["error"]["request_id"] == "mine"
    assert errors[0]["error"]["message"] == "Invalid forecast_horizon. Must be one of: 2h, 6h, 12h, 24h"
    assert len(good["predictions"]) == 2


def test_windows_of_a_batch_run_together_and_a_site_runs_once(make_service: Make, open_api: Any) -> None:
    service = make_service()
    sizes: list[int] = []
    answer = service.runtime.answer

    async def counted(window: Window, **given: Any) -> Any:
        sizes.append(len(window))
        return await answer(window, **given)

    service.runtime.answer = counted  # type: ignore[method-assign]
    with open_api(create_app(ServingSettings(), services=[service])) as api:
        assert batch(api, [ROAD, OTHER] * 10).status_code == 200
        assert sizes == [2]
        sizes.clear()
        results = batch(api, [ROAD, {**ROAD, "include_explanation": True}, OTHER]).json()["results"]
        assert len(sizes) == 2
        assert [("explanation" in result) for result in results] == [False, True, False]


def test_a_forecast_that_is_not_finite_does_not_spoil_the_others(make_service: Make, open_api: Any) -> None:
    from features.errors import ArtifactError
    from serving.runtimes.failover import Answer

    service = make_service()
    answer = service.runtime.answer

    async def spoiled(window: Window, **given: Any) -> Answer:
        if "R002" in window.sites:
            raise ArtifactError("The graph gave no usable forecast", remedy="Check the readings.")
        return await answer(window, **given)

    service.runtime.answer = spoiled  # type: ignore[method-assign]
    with open_api(create_app(ServingSettings(), services=[service])) as api:
        good, bad = batch(api, [ROAD, OTHER]).json()["results"]
    assert len(good["predictions"]) == 2
    assert bad["error"]["code"] == "MODEL_UNAVAILABLE"


@pytest.mark.parametrize(
    ("body", "code", "parameter"),
    [
        (b"", "MALFORMED_JSON", None),
        (b"[", "MALFORMED_JSON", None),
        (b"[" * 20000, "MALFORMED_JSON", None),
        (b'{"requests": [{"request_id": "\xff"}]}', "MALFORMED_JSON", None),
        (b"null", "INVALID_PARAMETER", "requests"),
        (b"[]", "INVALID_PARAMETER", "requests"),
        (b"{}", "INVALID_PARAMETER", "requests"),
        (b'{"requests": []}', "INVALID_PARAMETER", "requests"),
        (b'{"requests": {}}', "INVALID_PARAMETER", "requests"),
        (b'{"requests": [{}], "more": NaN}', "INVALID_PARAMETER", "more"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(api: Any, body: bytes, code: str, parameter: str | None) -> None:
    headers = {"Content-Type": "application/json"}
    reply = api.request("POST", "/predict/traffic/batch", content=body, headers=headers)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert (error["code"], error["details"].get("parameter")) == (code, parameter)


def test_more_requests_than_the_limit_are_refused_whole(make_service: Make, open_api: Any) -> None:
    with open_api(create_app(ServingSettings(batch_limit=3), services=[make_service()])) as api:
        assert batch(api, [ROAD] * 3).status_code == 200
        reply = batch(api, [ROAD] * 4)
    assert reply.status_code == 400
    assert "a list of 1 to 3" in reply.json()["error"]["details"]["allowed"]


def test_a_batch_may_be_larger_than_one_request(api: Any) -> None:
    requests = [{**ROAD, "request_id": "x" * 128}] * 256
    assert len(json.dumps(requests)) > 50_000
    assert batch(api, [{**ROAD, "request_id": "x" * 128, "location": {"road_id": "y" * 200}}] * 256).status_code == 200
    reply = api.request(
        "POST", "/predict/traffic/batch", content=b" " * 1048577, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 413


def test_a_domain_without_a_model_refuses_the_batch(api: Any) -> None:
    reply = batch(api, [{"zone_id": "Z001", "forecast_horizon": "24h"}], domain="water")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "NOT_READY"


def test_pollution_in_a_batch_needs_both_models_once(
    make_pollution: Callable[..., list[ForecastService]], open_api: Any
) -> None:
    with open_api(create_app(ServingSettings(), services=make_pollution())) as api:
        body = {"station_id": "P001", "forecast_horizon": "6h"}
        requests = [
            body,
            {**body, "parameters": ["PM10"]},
            {**body, "parameters": ["x"]},
            {**body, "station_id": "P002"},
        ]
        results = batch(api, requests, domain="pollution").json()["results"]
    assert list(results[0]["predictions"]) == ["PM2.5", "PM10", "AQI"]
    assert list(results[1]["predictions"]) == ["PM10"]
    assert [result["error"]["code"] for result in results[2:]] == ["INVALID_PARAMETER", "NOT_ENOUGH_DATA"]


def test_the_shape_of_a_forecast_in_a_batch_is_that_of_one(make_service: Make) -> None:
    import asyncio

    from serving.places import Place
    from serving.service import ForecastResult, Question

    async def run() -> list[Any]:
        service = make_service()
        await service.start()
        found = await service.forecast_many(
            [Question(place=Place(name=name), horizon="6h") for name in ("R002", "R001")]
        )
        await service.close()
        return found

    results = asyncio.run(run())
    forecasts: list[Forecast] = [result.forecast for result in results if isinstance(result, ForecastResult)]
    assert [(forecast.sites, forecast.value_BHQ.shape) for forecast in forecasts] == [
        (("R002",), (1, 6, 3)),
        (("R001",), (1, 6, 3)),
    ]
