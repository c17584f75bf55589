"""Windows in the body: the same forecasts as the model's own, however they are written."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fastapi import FastAPI

from features.vocabulary import Window, site_code
from serving.artifacts import Artifact
from serving.runtimes.in_process import InProcessRuntime
from serving.service import ForecastService
from tests.serving.inference_protocol.conftest import (
    INFER,
    arrays_of,
    binary_request_of,
    quantiles_of,
    request_of,
)


def test_infer_is_the_runtime_is_bare_onnx_runtime(
    oip: Any, artifact: Artifact, windows_of: Callable[..., Window]
) -> None:
    window = windows_of(3)
    window.history_BLK[:, 5:40, 0] = np.nan
    answered = quantiles_of(oip.request("POST", INFER, json=request_of(window)))
    runtime = InProcessRuntime(artifact)
    forecast = oip.run(runtime.predict(window))
    oip.run(runtime.close())
    session = onnxruntime.InferenceSession(str(artifact.graph))
    bare = np.sort(session.run(["quantiles"], arrays_of(window))[0], axis=2)
    np.testing.assert_array_equal(answered, forecast.value_BHQ)
    np.testing.assert_array_equal(answered, bare)


def test_flat_nested_and_binary_are_the_same(oip: Any, windows_of: Callable[..., Window]) -> None:
    window = windows_of(2)
    window.history_BLK[0, 3] = np.nan
    flat = quantiles_of(oip.request("POST", INFER, json=request_of(window)))
    nested = quantiles_of(oip.request("POST", INFER, json=request_of(window, nested=True)))
    body, headers = binary_request_of(window, parameters={"binary_data_output": True})
    binary = quantiles_of(oip.request("POST", INFER, content=body, headers=headers))
    np.testing.assert_array_equal(flat, nested)
    np.testing.assert_array_equal(flat, binary)


def test_tensors_may_be_binary_or_not_each_by_itself(oip: Any, windows_of: Callable[..., Window]) -> None:
    window = windows_of(1)
    request = request_of(window)
    part = window.future_BHK.astype("<f4").tobytes()
    del request["inputs"][1]["data"]
    request["inputs"][1]["parameters"] = {"binary_data_size": len(part)}
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    mixed = oip.request("POST", INFER, content=head + part, headers=headers)
    plain = oip.request("POST", INFER, json=request_of(window))
    np.testing.assert_array_equal(quantiles_of(mixed), quantiles_of(plain))


@pytest.mark.parametrize(
    ("more", "binary"),
    [
        ({}, False),
        ({"outputs": [{"name": "quantiles"}]}, False),
        ({"outputs": [{"name": "quantiles", "parameters": {"binary_data": True}}]}, True),
        ({"parameters": {"binary_data_output": True}}, True),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "quantiles", "parameters": {"binary_data": False}}],
            },
            False,
        ),
    ],
)
def test_the_output_comes_as_it_was_asked_for(
    oip: Any, windows_of: Callable[..., Window], more: dict[str, Any], binary: bool
) -> None:
    reply = oip.request("POST", INFER, json=request_of(windows_of(), **more))
    assert quantiles_of(reply).shape == (1, 24, 5)
    assert reply.headers["content-type"] == ("application/octet-stream" if binary else "application/json")
    assert ("Inference-Header-Content-Length" in reply.headers) is binary


def test_a_reply_says_what_its_numbers_are(oip: Any, windows_of: Callable[..., Window]) -> None:
    content = oip.request("POST", INFER, json=request_of(windows_of(), id="42: Straße")).json()
    assert (content["model_name"], content["model_version"], content["id"]) == (
        "towncast-traffic",
        "3",
        "42: Straße",
    )
    parameters = content["parameters"]
    assert parameters.pop("inference_time_ms") >= 0
    assert parameters == {
        "model_version": "traffic-lstm-v3",
        "quantity": "volume",
        "unit": "veh/h",
        "levels": "0.025,0.05,0.5,0.95,0.975",
        "step_s": 3600,
        "site": "",
        "origin": "2026-02-06T09:00:00Z",
        "intervals": "fixed",
        "runtime": "in_process",
        "quality": "out_of_range,unseen_site",
    }


def test_without_an_id_there_is_none_in_the_reply(oip: Any, windows_of: Callable[..., Window]) -> None:
    assert "id" not in oip.request("POST", INFER, json=request_of(windows_of())).json()


def test_null_where_clients_write_their_defaults(oip: Any, windows_of: Callable[..., Window]) -> None:
    request = request_of(windows_of(), id=None, parameters=None, outputs=None)
    request["inputs"][0]["parameters"] = None
    assert quantiles_of(oip.request("POST", INFER, json=request)).shape == (1, 24, 5)


def sound(window: Window) -> Window:
    """A window of R001 in which nothing lowers the quality."""
    window.history_BLK[:, :, 1] = 10.0
    window.static_BS[:, 0] = site_code("R001")
    return window


def test_the_quality_of_a_window_is_said(oip: Any, windows_of: Callable[..., Window]) -> None:
    def quality(window: Window) -> str:
        content = oip.request("POST", INFER, json=request_of(window)).json()
        said: str = content["parameters"]["quality"]
        return said

    assert quality(sound(windows_of())) == ""
    for place, value, said in (
        ((0, -1, 0), np.nan, "missing"),
        ((0, -1, 1), np.nan, "missing_inputs"),
        ((0, -24, 0), 2001.0, "out_of_range"),
        ((0, -25, 0), 2001.0, ""),
        ((0, -25, 0), np.nan, ""),
    ):
        window = sound(windows_of(2))
        window.history_BLK[place] = value
        assert quality(window) == said


def test_weather_that_the_model_reads_ahead_and_is_not_there_is_said(
    make_pollution: Callable[..., list[ForecastService]], protocol_app: Callable[..., FastAPI], open_api: Any
) -> None:
    services = make_pollution()
    card = services[0].artifact.card
    weather = card.future_channels.index("temperature")
    window = Window(
        history_BLK=np.full((1, card.history_steps, len(card.history_channels)), 5.0, dtype=np.float32),
        future_BHK=np.ones((1, card.horizon_steps, len(card.future_channels)), dtype=np.float32),
        static_BS=np.array([[site_code("P001")]], dtype=np.float32),
        sites=("",),
        origins=np.zeros(1, dtype=np.int64),
    )
    with open_api(protocol_app(services)) as api:
        path = f"/v2/models/{services[0].artifact.name}/infer"
        known = api.request("POST", path, json=request_of(window)).json()
        window.future_BHK[0, -1, weather] = np.nan
        missing = api.request("POST", path, json=request_of(window)).json()
    assert known["parameters"]["quality"] == ""
    assert missing["parameters"]["quality"] == "weather_missing"


def test_a_site_makes_future_and_static_known(oip: Any, windows_of: Callable[..., Window]) -> None:
    window = windows_of()
    only = {"inputs": request_of(window)["inputs"][:1], "parameters": {"site": "R002"}}
    answered = quantiles_of(oip.request("POST", INFER, json=only))
    # From 9:00 UTC, which is 14:30 in India.
    hours = (14.5 + 1 + np.arange(24)) % 24
    history = window.history_BLK[0]
    median = history[-168:-144, 0] + 2.0 * hours + 0.1 * history[-1, 0]
    np.testing.assert_allclose(answered[0, :, 2], median, rtol=1e-6)


def test_intervals_adapt_where_the_site_is_known_to_them(
    adaptive: Artifact,
    make_service: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
    open_api: Any,
    windows_of: Callable[..., Window],
) -> None:
    window = windows_of(2)
    window.future_BHK[:, :, 0] = (10 + np.arange(24)) % 24
    with open_api(protocol_app([make_service(artifact=adaptive)])) as api:

        def infer(**parameters: Any) -> tuple[Any, str]:
            reply = api.request("POST", INFER, json=request_of(window, parameters=parameters))
            return quantiles_of(reply), reply.json()["parameters"]["intervals"]

        fixed, said = infer()
        assert said == "fixed"
        adapted, said = infer(site="R001")
        assert said == "adaptive"
        mixed, said = infer(site=["R001", "R002"])
        assert said == "adaptive,fixed"
    assert (adapted[:, :, 0] < fixed[:, :, 0]).any()
    np.testing.assert_array_equal(adapted[:, :, 2], fixed[:, :, 2])
    np.testing.assert_array_equal(mixed[0], adapted[0])
    np.testing.assert_array_equal(mixed[1], fixed[1])


def test_sites_and_origins_are_those_of_the_request(oip: Any, windows_of: Callable[..., Window]) -> None:
    origins = ["2026-01-01T00:00:00Z", "2026-01-01T07:00:00+01:00"]
    parameters = {"site": ["R001", "R002"], "origin": origins}
    content = oip.request("POST", INFER, json=request_of(windows_of(2), parameters=parameters)).json()["parameters"]
    assert content["site"] == "R001,R002"
    assert content["origin"] == "2026-01-01T00:00:00Z,2026-01-01T06:00:00Z"


def test_a_version_by_its_number(oip: Any, windows_of: Callable[..., Window]) -> None:
    request = request_of(windows_of())
    by_number = oip.request("POST", INFER.replace("/infer", "/versions/3/infer"), json=request)
    np.testing.assert_array_equal(quantiles_of(by_number), quantiles_of(oip.request("POST", INFER, json=request)))
    missing = oip.request("POST", INFER.replace("/infer", "/versions/4/infer"), json=request)
    assert missing.status_code == 404
    assert "Known are: 3" in missing.json()["error"]


def test_the_router_and_the_short_way_answer_alike(
    make_service: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
    open_api: Any,
    windows_of: Callable[..., Window],
) -> None:
    bodies = [json.dumps(request_of(windows_of())).encode(), b"{", b"null"]
    seen = []
    for direct in (False, True):
        with open_api(protocol_app([make_service()], direct=direct)) as api:
            replies = [api.request("POST", INFER, content=body) for body in bodies]
            binary, headers = binary_request_of(windows_of(), parameters={"binary_data_output": True})
            replies.append(api.request("POST", INFER, content=binary, headers=headers))
            seen.append([(reply.status_code, dict(reply.headers).keys()) for reply in replies])
            np.testing.assert_array_equal(quantiles_of(replies[0]), quantiles_of(replies[3]))
    assert seen[0] == seen[1]
    assert [status for status, _ in seen[0]] == [200, 400, 400, 200]


def test_every_window_is_in_the_prediction_log(
    make_service: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
    open_api: Any,
    windows_of: Callable[..., Window],
) -> None:
    app = protocol_app([make_service()])
    written: list[Any] = []
    with open_api(app) as api:
        write, log = app.state.log.write, app.state.log
        log.write = lambda records: (written.extend(records), write(records))
        request = request_of(windows_of(2), id="42", parameters={"site": "R001"})
        answered = quantiles_of(api.request("POST", INFER, json=request))
    forecasts, answers = written[::2], written[1::2]
    assert [(one.site, one.role, one.model_version) for one in forecasts] == [
        ("R001", "champion", "traffic-lstm-v3")
    ] * 2
    assert [(one.request_id, one.came, one.forecast) for one in answers] == [
        ("42", "made", one.name) for one in forecasts
    ]
    assert len({one.name for one in forecasts}) == 2
    np.testing.assert_array_equal(np.stack([one.value_HQ() for one in forecasts]), answered)


def test_requests_are_counted_and_timed(
    make_service: Callable[..., ForecastService],
    protocol_app: Callable[..., FastAPI],
    open_api: Any,
    windows_of: Callable[..., Window],
) -> None:
    app = protocol_app([make_service()])
    with open_api(app) as api:
        api.request("POST", INFER, json=request_of(windows_of()))
        api.request("POST", INFER, content=b"[")
        text = app.state.metrics.text([]).decode()
    route = 'route="/v2/models/{model}/infer"'
    assert f'towncast_requests_total{{method="POST",{route},status="200"}} 1.0' in text
    assert f'towncast_requests_total{{method="POST",{route},status="400"}} 1.0' in text
    assert f'towncast_latency_seconds_count{{{route},stage="total"}} 1.0' in text
