"""Requests generated from the OpenAPI document, sound and unsound, on every path: never a 500."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from serving.app import create_app
from serving.predictions import APIS
from serving.service import ForecastService
from serving.settings import ServingSettings

PREDICTIONS = [("POST", path) for api in APIS.values() for path in (api.path, f"{api.path}/batch")]
OPERATION = [("GET", path) for path in ("/health/live", "/health/ready", "/metrics", "/simulate/models")]
CHANGES = [("POST", f"/simulate/{name}") for name in ("init", "step", "reset")] + [("PATCH", "/simulate/params")]
VIEWS = [("GET", f"/simulate/{name}/{{session_id}}") for name in ("state", "history", "logs")]


@pytest.fixture
def town(
    make_service: Callable[..., ForecastService],
    make_pollution: Callable[..., list[ForecastService]],
    make_water: Callable[[], list[ForecastService]],
    make_demand: Callable[[], list[ForecastService]],
    open_api: Any,
) -> Iterator[Any]:
    services = [make_service(), *make_pollution(), *make_water(), *make_demand()]
    with open_api(create_app(ServingSettings(), services=services)) as opened:
        yield opened


def name_session(case: Any, session_id: str) -> None:
    """Put the id of a session that there is in place of a drawn one."""
    if "session_id" in (case.path_parameters or {}):
        case.path_parameters["session_id"] = session_id
    if isinstance(case.body, dict) and "session_id" in case.body:
        case.body["session_id"] = session_id


def test_all_domains_are_ready(town: Any) -> None:
    domains = town.request("GET", "/health/ready").json()["domains"]
    assert {name: state["status"] for name, state in domains.items()} == dict.fromkeys(domains, "ready")
    assert list(domains["pollution"]["models"]) == ["pm2_5", "pm10"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("method", "path"), [*PREDICTIONS, *OPERATION, *CHANGES, *VIEWS])
def test_generated_requests_meet_the_openapi_document(town: Any, method: str, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_dict(town.app.openapi())[path][method]
    if mode is GenerationMode.NEGATIVE and (method, path) in OPERATION:
        return  # nothing can be wrong about a request without parameters
    begun = town.request("POST", "/simulate/init", json={"model_name": "water_tank"}).json()
    excluded = [schemathesis.checks.positive_data_acceptance]
    if path.endswith("/batch"):
        # A request that is not as documented gets its error inside the reply.
        excluded.append(schemathesis.checks.negative_data_rejection)

    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def check(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            name_session(case, begun["session_id"])
        arguments = case.as_transport_kwargs("http://town")
        arguments["content"] = arguments.pop("data", None)
        arguments = {key: value for key, value in arguments.items() if value is not None}
        reply = town.request(arguments.pop("method"), arguments.pop("url"), **arguments)
        assert reply.status_code < 500, reply.text
        case.validate_response(reply, excluded_checks=excluded)

    check()
