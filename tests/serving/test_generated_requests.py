"""Requests generated from the OpenAPI document, sound and unsound, to every operation in it: never a 500."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from serving.app import create_app
from serving.settings import ServingSettings

METHODS = {"get", "post", "put", "patch", "delete"}
# Judged by the reply alone; others send requests of their own.
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_headers_conformance,
    schemathesis.checks.response_schema_conformance,
]
# A part that is not as documented gets its error inside the reply.
ERRORS_INSIDE = ("/batch", "/readings")
# What there is, in place of drawn names of it.
NAMES = {"model": "towncast-traffic", "version": "3", "domain": "traffic", "site": "R001"}


def operations() -> list[tuple[str, str]]:
    """Every operation of the document."""
    document = create_app(ServingSettings(), services=[]).openapi()
    return sorted((path, method) for path, found in document["paths"].items() for method in found if method in METHODS)


@pytest.fixture(scope="module")
def document(whole_town: Any) -> Any:
    return schemathesis.openapi.from_dict(whole_town.app.openapi())


@pytest.fixture(scope="module")
def session_id(whole_town: Any) -> str:
    begun: str = whole_town.request("POST", "/simulate/init", json={"model_name": "water_tank"}).json()["session_id"]
    return begun


def put_names(case: Any, names: dict[str, str]) -> None:
    """Put names of what there is in place of drawn ones."""
    for part in (case.path_parameters, case.body):
        if isinstance(part, dict):
            part.update({name: value for name, value in names.items() if name in part})


def send(town: Any, case: Any) -> Any:
    """The reply to a generated request."""
    arguments = case.as_transport_kwargs("http://town")
    arguments["content"] = arguments.pop("data", None)
    arguments = {key: value for key, value in arguments.items() if value is not None}
    return town.request(arguments.pop("method"), arguments.pop("url"), **arguments)


def test_all_domains_are_ready(whole_town: Any) -> None:
    domains = whole_town.request("GET", "/health/ready").json()["domains"]
    assert {name: state["status"] for name, state in domains.items()} == dict.fromkeys(domains, "ready")
    assert list(domains["pollution"]["models"]) == ["pm2_5", "pm10"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["sound", "unsound"])
@pytest.mark.parametrize(("path", "method"), operations())
def test_generated_requests_meet_the_openapi_document(
    whole_town: Any, document: Any, session_id: str, path: str, method: str, mode: GenerationMode
) -> None:
    operation = document[path][method.upper()]
    written = operation.definition.raw
    in_path_alone = all(one["in"] == "path" for one in written.get("parameters", []))
    if mode is GenerationMode.NEGATIVE and in_path_alone and "requestBody" not in written:
        return  # nothing can be wrong about such a request but a name, see `test_bad_requests`
    checks = [*CHECKS]
    if mode is GenerationMode.NEGATIVE and not path.endswith(ERRORS_INSIDE):
        checks.append(schemathesis.checks.negative_data_rejection)

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            put_names(case, {**NAMES, "session_id": session_id})
        reply = send(whole_town, case)
        assert reply.status_code < 500, reply.text
        case.validate_response(reply, checks=checks)

    check()


@pytest.mark.parametrize("path", sorted({path for path, _ in operations()}))
def test_methods_that_are_not_documented_are_refused_in_the_envelope(whole_town: Any, path: str) -> None:
    documented = {method for found, method in operations() if found == path}
    filled = path.format_map({"session_id": "3f1c0d5e-3b0a-4f0e-9a55-0f6f1f0f3c55", **NAMES})
    for method in sorted(METHODS - documented):
        reply = whole_town.request(method.upper(), filled)
        assert reply.status_code == 405, (method, reply.text)
        assert reply.headers["allow"], method
        error = reply.json()["error"]
        assert error if path.startswith("/v2") else error["code"] == "METHOD_NOT_ALLOWED"
