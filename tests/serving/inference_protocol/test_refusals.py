"""What does not fit is refused, with what to send in its place, in a form that the protocol's clients can read."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.vocabulary import Window
from tests.serving.inference_protocol.conftest import INFER, binary_request_of, request_of


def refused(reply: Any, *, status: int = 400) -> dict[str, Any]:
    """The error of a reply, checked to be as clients expect it."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    content: dict[str, Any] = reply.json()
    assert set(content) == {"error", "code", "details", "request_id", "timestamp"}
    assert isinstance(content["error"], str)
    return content


def changed(request: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    change(request)
    return request


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no inputs": (lambda r: r.pop("inputs"), "missing required field"),
    "inputs is a number": (lambda r: r.update(inputs=3), "inputs"),
    "no tensor": (lambda r: r.update(inputs=[]), "history"),
    "no future": (lambda r: r["inputs"].pop(1), "parameters.site"),
    "a tensor twice": (lambda r: r["inputs"].append(r["inputs"][0]), "each tensor once"),
    "an unknown tensor": (lambda r: r["inputs"][0].update(name="histroy"), "tensors of history, future, static"),
    "another datatype": (lambda r: r["inputs"][0].update(datatype="FP64"), "inputs.history.datatype"),
    "a shape of text": (lambda r: r["inputs"][0].update(shape="all"), "inputs.0.shape"),
    "a shape without windows": (lambda r: r["inputs"][0].update(shape=[0, 1512, 16]), "inputs.history.shape"),
    "a negative shape": (lambda r: r["inputs"][0].update(shape=[-1, 1512, 16]), "inputs.history.shape"),
    "a short shape": (lambda r: r["inputs"][0].update(shape=[1, 24192]), "inputs.history.shape"),
    "too many windows": (lambda r: r["inputs"][0].update(shape=[5, 1512, 16]), "is 1 to 4"),
    "a million windows": (lambda r: r["inputs"][0].update(shape=[1000000, 1512, 16]), "is 1 to 4"),
    "a shape beyond counting": (lambda r: r["inputs"][0].update(shape=[2**64 - 1, 1512, 16]), "is 1 to 4"),
    "tensors of several sizes": (lambda r: r["inputs"][1].update(shape=[2, 24, 9]), "inputs.future.shape"),
    "a value too few": (lambda r: r["inputs"][0]["data"].pop(), "24191 values"),
    "a value too many": (lambda r: r["inputs"][0]["data"].append(1.0), "24193 values"),
    "no values": (lambda r: r["inputs"][0].update(data=[]), "0 values"),
    "no data": (lambda r: r["inputs"][0].pop("data"), "inputs.history.data"),
    "null for data": (lambda r: r["inputs"][0].update(data=None), "inputs.history.data"),
    "a number for data": (lambda r: r["inputs"][0].update(data=5), "inputs.history.data"),
    "an object for data": (lambda r: r["inputs"][0].update(data={"a": [1]}), "inputs.history.data"),
    "text among numbers": (lambda r: r["inputs"][0]["data"].__setitem__(7, "1.0"), "inputs.history.data.7"),
    "a truth value among numbers": (lambda r: r["inputs"][0]["data"].__setitem__(7, True), "inputs.history.data.7"),
    "a list among numbers": (lambda r: r["inputs"][0]["data"].__setitem__(7, [1.0]), "inputs.history.data"),
    "a huge value": (lambda r: r["inputs"][0]["data"].__setitem__(7, -1e30), "1e+09"),
    "a value beyond 32 bits": (lambda r: r["inputs"][0]["data"].__setitem__(7, 1e300), "1e+09"),
    "an integer of 400 digits": (lambda r: r["inputs"][0]["data"].__setitem__(7, 10**400), "out of range"),
    "ragged rows": (
        lambda r: r["inputs"][2].update(shape=[2, 2], data=[[1.0, 2.0, 3.0], [4.0]]),
        "inputs.static.shape",
    ),
    "an unknown output": (lambda r: r.update(outputs=[{"name": "median"}]), "the output quantiles"),
    "classification": (
        lambda r: r.update(outputs=[{"name": "quantiles", "parameters": {"classification": 3}}]),
        "is not served here",
    ),
    "shared memory": (
        lambda r: r["inputs"][0].update(parameters={"shared_memory_region": "a"}),
        "is not served here",
    ),
    "a flag of text": (lambda r: r.update(parameters={"binary_data_output": "yes"}), "binary_data_output"),
    "a number for a site": (lambda r: r.update(parameters={"site": 5}), "parameters.site"),
    "two sites for a window": (lambda r: r.update(parameters={"site": ["R001", "R002"]}), "parameters.site"),
    "an origin without a zone": (lambda r: r.update(parameters={"origin": "2026-02-06T09:00:00"}), "parameters.origin"),
    "an origin off the steps": (lambda r: r.update(parameters={"origin": "2026-02-06T09:20:00Z"}), "parameters.origin"),
    "an origin out of time": (lambda r: r.update(parameters={"origin": "9999-12-31T23:00:00Z"}), "parameters.origin"),
    "an origin of numbers": (lambda r: r.update(parameters={"origin": [1]}), "parameters.origin"),
    "binary data that is not there": (
        lambda r: (r["inputs"][0].pop("data"), r["inputs"][0].update(parameters={"binary_data_size": 96768})),
        "0 values",
    ),
    "data twice": (lambda r: r["inputs"][0].update(parameters={"binary_data_size": 96768}), "inputs.history.data"),
    "a size of text": (lambda r: r["inputs"][0].update(parameters={"binary_data_size": "8"}), "binary_data_size"),
    "a negative size": (lambda r: r["inputs"][0].update(parameters={"binary_data_size": -8}), "binary_data_size"),
    "parameters that are a list": (lambda r: r.update(parameters=[1]), "parameters"),
    "an id that is a number": (lambda r: r.update(id=42), "id"),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_request_that_does_not_fit(oip: Any, windows_of: Callable[..., Window], name: str) -> None:
    change, said = CHANGES[name]
    content = refused(oip.request("POST", INFER, json=changed(request_of(windows_of()), change)))
    assert said in json.dumps(content)


def test_ragged_rows_of_the_right_number_of_values(oip: Any, windows_of: Callable[..., Window]) -> None:
    request = request_of(windows_of(2))
    request["inputs"][2]["data"] = [[1.0, 2.0, 3.0], [4.0]]
    assert "rows of equal length" in json.dumps(refused(oip.request("POST", INFER, json=request)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"{",
        b"{}}",
        b'{"inputs": []} trailing',
        b'\xef\xbb\xbf{"inputs": []}',
        '{"inputs": []}'.encode("utf-16"),
        b'{"inputs": [{"name": "\xff", "shape": [], "datatype": "FP32", "data": []}]}',
        b'{"inputs": [{"name": "\\ud800", "shape": [], "datatype": "FP32", "data": []}]}',
        b'{"inputs": [{"name": "a\\u0000b", "shape": [], "datatype": "FP32", "data": []}]}',
        b'{"inputs": [{"name": "history", "shape": [NaN], "datatype": "FP32", "data": []}]}',
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"unknown": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_a_body_that_is_no_request(oip: Any, body: bytes) -> None:
    refused(oip.request("POST", INFER, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "0x10", "01", "1_0", "nan"])
def test_what_is_no_number_in_json(oip: Any, windows_of: Callable[..., Window], number: str) -> None:
    request = request_of(windows_of())
    request["inputs"][2]["data"] = ["here", 1.0]
    body = json.dumps(request).replace('"here"', number)
    refused(oip.request("POST", INFER, content=body.encode(), headers={"Content-Type": "application/json"}))


def test_depth_in_the_data_of_a_tensor(oip: Any, windows_of: Callable[..., Window]) -> None:
    for depth in (4, 10_000, 100_000):
        request = request_of(windows_of())
        request["inputs"][2]["data"] = "here"
        body = json.dumps(request).replace('"here"', "[" * depth + "]" * depth)
        refused(oip.request("POST", INFER, content=body.encode(), headers={"Content-Type": "application/json"}))


def test_minus_zero_and_numbers_below_all_numbers_are_fine(oip: Any, windows_of: Callable[..., Window]) -> None:
    request = request_of(windows_of())
    request["inputs"][0]["data"][:4] = [-0.0, 1e-300, 5e-324, 0]
    assert oip.request("POST", INFER, json=request).status_code == 200


def test_of_two_equal_keys_the_last_one_counts(oip: Any, windows_of: Callable[..., Window]) -> None:
    body = json.dumps(request_of(windows_of()))[:-1] + ', "id": "first", "id": "second"}'
    reply = oip.request("POST", INFER, content=body.encode(), headers={"Content-Type": "application/json"})
    assert reply.json()["id"] == "second"


@pytest.mark.parametrize("length", ["0", "-1", "abc", "1e3", "", "99999999999999999999", "²", "10"])
def test_a_header_that_does_not_fit_the_body(oip: Any, windows_of: Callable[..., Window], length: str) -> None:
    body, headers = binary_request_of(windows_of())
    given = {**headers, "Inference-Header-Content-Length": length.encode("latin-1")}
    refused(oip.request("POST", INFER, content=body, headers=given))


def test_binary_tensors_that_do_not_fit(oip: Any, windows_of: Callable[..., Window]) -> None:
    body, headers = binary_request_of(windows_of())
    for wrong in (body[:-1], body + b"\0", body[:-4]):
        refused(oip.request("POST", INFER, content=wrong, headers=headers))
    window = windows_of()
    window.history_BLK[0, 0, 0] = np.inf
    body, headers = binary_request_of(window)
    assert "1e+09" in refused(oip.request("POST", INFER, content=body, headers=headers))["error"]


def test_a_window_that_the_model_cannot_go_by(oip: Any, windows_of: Callable[..., Window]) -> None:
    window = windows_of()
    window.future_BHK[:] = np.nan
    content = refused(oip.request("POST", INFER, json=request_of(window)))
    assert "calendar" in content["error"]


def test_other_media_types(oip: Any) -> None:
    for media_type in ("text/plain", "application/xml", "application/octet-stream", "a/b; application/json"):
        refused(oip.request("POST", INFER, content=b"{}", headers={"Content-Type": media_type}), status=415)


def test_names_that_are_no_models(oip: Any) -> None:
    for name in ("towncast-trafic", "..", "%2e%2e", "a%00b", "%F0%9F%9A%97", "%E2%80%AE", "x" * 2000, "a%0Ab"):
        reply = oip.request("POST", f"/v2/models/{name}/infer", content=b"{}")
        assert reply.status_code in (404, 405), name
    near = refused(oip.request("POST", "/v2/models/towncast-trafic/infer", content=b"{}"), status=404)
    assert near["details"]["nearest"][0] == "towncast-traffic"
    for path in ("/v2/models/..%2f..%2fetc%2fpasswd/infer", "/v2/models/a/b/infer", "/v2/models//infer"):
        assert oip.request("POST", path, content=b"{}").status_code == 404


def test_a_site_that_there_is_not(oip: Any, windows_of: Callable[..., Window]) -> None:
    reply = oip.request("POST", INFER, json=request_of(windows_of(), parameters={"site": "R01"}))
    assert "R001" in refused(reply, status=404)["error"]


def test_the_index_refuses_what_it_does_not_know(oip: Any) -> None:
    for body in (b"{", b"[]", b'{"ready": "yes"}', b"\xff"):
        refused(oip.request("POST", "/v2/repository/index", content=body))


_SCALARS = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5))
_ANY = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
_TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["history", "future", "static"]) | _ANY,
        "shape": st.sampled_from([[1, 1512, 16], [1, 24, 9], [1, 2]]) | _ANY,
        "datatype": st.just("FP32") | _ANY,
        "data": st.just([1.0, None]) | _ANY,
    },
    optional={"parameters": _ANY},
)
_REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(_TENSOR, max_size=4) | _ANY},
    optional={"id": _ANY, "parameters": st.fixed_dictionaries({}, optional={"site": _ANY, "origin": _ANY}) | _ANY},
)


def test_no_request_is_a_fault_of_ours(oip: Any) -> None:
    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(request=_REQUEST, header_length=st.none() | st.text(alphabet="0123456789 -", max_size=4))
    def check(request: Any, header_length: str | None) -> None:
        headers = {"Content-Type": "application/json"}
        if header_length is not None:
            headers["Inference-Header-Content-Length"] = header_length
        reply = oip.request("POST", INFER, content=json.dumps(request).encode(), headers=headers)
        assert reply.status_code in (400, 404), reply.text

    check()
