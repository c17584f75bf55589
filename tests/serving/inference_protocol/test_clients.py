"""The protocol's own clients, unchanged: Triton's, and what those of KServe and MLServer send."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from features.vocabulary import Window
from tests.serving.inference_protocol.conftest import (
    INFER,
    MODEL,
    arrays_of,
    binary_request_of,
    quantiles_of,
    request_of,
)


@pytest.fixture
def client(served: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served) as opened:
        yield opened


def inputs_of(window: Window, *, binary: bool) -> list[triton.InferInput]:
    inputs = []
    for name, array in arrays_of(window).items():
        one = triton.InferInput(name, list(array.shape), "FP32")
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    return inputs


def test_tritons_client_learns_what_there_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "3")
    assert not client.is_model_ready(MODEL, "4")
    assert not client.is_model_ready("towncast-trafic")
    server = client.get_server_metadata()
    assert server["name"] == "towncast"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"], model["platform"]) == (MODEL, ["3"], "onnxruntime_onnx")
    assert {one["name"]: one["shape"] for one in model["inputs"]} == {
        "history": [-1, 1512, 16],
        "future": [-1, 24, 9],
        "static": [-1, 2],
    }
    assert model["inputs"][0]["parameters"]["channels"].startswith("volume,temperature,")
    assert model["outputs"][0]["parameters"]["levels"] == "0.025,0.05,0.5,0.95,0.975"
    config = client.get_model_config(MODEL)
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [1512, 16])
    index = {(one["name"], one["version"]): one["state"] for one in client.get_model_repository_index()}
    assert index[MODEL, "3"] == "READY"
    assert index["towncast-water", ""] == "UNAVAILABLE"


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_infers(
    client: triton.InferenceServerClient, windows_of: Callable[..., Window], served: str, binary: bool
) -> None:
    window = windows_of(2)
    expected = quantiles_of(httpx.post(f"http://{served}{INFER}", json=request_of(window)))
    for outputs in (None, [triton.InferRequestedOutput("quantiles", binary_data=not binary)]):
        result = client.infer(
            MODEL, inputs_of(window, binary=binary), model_version="3", outputs=outputs, request_id="7"
        )
        np.testing.assert_array_equal(result.as_numpy("quantiles"), expected)
        response = result.get_response()
        assert (response["id"], response["model_version"]) == ("7", "3")


def test_tritons_client_sends_parameters_of_ours_and_of_its_own(
    client: triton.InferenceServerClient, windows_of: Callable[..., Window]
) -> None:
    result = client.infer(
        MODEL,
        inputs_of(windows_of(), binary=True)[:1],
        parameters={"site": "R001", "origin": "2026-02-06T08:00:00Z"},
        priority=1,
        timeout=1_000_000,
    )
    parameters = result.get_response()["parameters"]
    assert (parameters["site"], parameters["origin"]) == ("R001", "2026-02-06T08:00:00Z")


def test_tritons_client_reads_our_errors(
    client: triton.InferenceServerClient, windows_of: Callable[..., Window]
) -> None:
    wrong = windows_of(5)
    with pytest.raises(InferenceServerException) as refused:
        client.infer(MODEL, inputs_of(wrong, binary=True))
    assert refused.value.status() == "400"
    assert "number of windows, is 1 to 4" in str(refused.value)
    with pytest.raises(InferenceServerException, match="no model of this name"):
        client.infer("nothing", inputs_of(windows_of(), binary=True))
    with pytest.raises(InferenceServerException):
        client.get_inference_statistics(MODEL)


def test_compressed_bodies_are_refused_in_words(served: str, windows_of: Callable[..., Window]) -> None:
    # The gateway refuses Content-Encoding before it comes here; without it the bytes are just no JSON.
    reply = httpx.post(f"http://{served}{INFER}", content=b"\x1f\x8b\x08\x00", headers={"Content-Encoding": "gzip"})
    assert reply.status_code in (400, 415)
    assert isinstance(reply.json()["error"], str)


def test_the_forms_of_kserve_and_mlserver(served: str, windows_of: Callable[..., Window]) -> None:
    window = windows_of()
    with httpx.Client(base_url=f"http://{served}") as client:
        assert client.get("/v2/health/ready").json()["ready"] is True
        assert client.get("/v2/health/live").json()["live"] is True
        plain = request_of(window)
        # KServe's `InferRequest.to_rest`, and MLServer's codecs with their content types.
        kserve = {"id": "5b7b4a2e", **plain}
        mlserver = {
            "id": None,
            "parameters": {"content_type": "np", "headers": None},
            "inputs": [{**one, "parameters": {"content_type": "np"}} for one in plain["inputs"]],
            "outputs": None,
        }
        first = quantiles_of(client.post(INFER, json=kserve))
        np.testing.assert_array_equal(first, quantiles_of(client.post(INFER, json=mlserver)))
        body, headers = binary_request_of(window, id="5b7b4a2e")
        lower = {name.lower(): value for name, value in headers.items()}
        np.testing.assert_array_equal(first, quantiles_of(client.post(INFER, content=body, headers=lower)))


def test_readiness_before_a_model_is_loaded(
    protocol_app: Callable[..., Any], open_api: Any, make_service: Callable[..., Any]
) -> None:
    with open_api(protocol_app([])) as api:
        for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}"):
            reply = api.request("GET", path)
            assert (reply.status_code, reply.json()["code"]) == (503, "NOT_READY")
            assert reply.headers["retry-after"]
        assert api.request("GET", "/v2/health/live").status_code == 200
        assert api.request("POST", "/v2/repository/index", json={"ready": True}).json() == []
        every = api.request("POST", "/v2/repository/index").json()
        assert {one["state"] for one in every} == {"UNAVAILABLE"}
        assert "towncast-pollution-pm10" in {one["name"] for one in every}
