"""What the OpenAPI document says of security, and that the whole API answers as it says."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from serving.app import create_app
from serving.inference_protocol.error_form import is_protocol_path
from serving.security.document import describe_security
from serving.security.scopes import PUBLIC, needed_scope
from serving.security.security import Security
from serving.security.settings import SecuritySettings
from serving.settings import ServingSettings


@pytest.fixture(params=[True, False])
def described(request: pytest.FixtureRequest) -> tuple[bool, dict[str, Any]]:
    app = create_app(ServingSettings(), services=[])
    app.openapi_schema = None
    describe_security(app, on=request.param)
    return request.param, app.openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, one) for path, methods in document["paths"].items() for one in methods.values()]


def test_every_operation_says_what_it_needs_and_how_it_is_refused(described: tuple[bool, dict[str, Any]]) -> None:
    on, document = described
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for path, operation in operations(document):
        replies = set(operation["responses"])
        assert {"414", "504"} <= replies
        if needed_scope(path) == PUBLIC:
            assert "security" not in operation
            assert not {"401", "403", "429"} & replies
            continue
        assert {"401", "403", "429", "503"} <= replies
        assert operation["x-scope"] == needed_scope(path)
        assert ({} in operation["security"]) is not on
        assert ({"408", "413", "415"} <= replies) is ("requestBody" in operation)


def test_describing_twice_adds_nothing() -> None:
    app = FastAPI()
    describe_security(app, on=True)
    first = repr(app.openapi())
    assert repr(app.openapi()) == first


def test_refusals_of_the_whole_api_are_documented_and_in_the_envelope(tmp_path: Path, open_api: Any) -> None:
    security = Security(SecuritySettings(data_dir=tmp_path, security="on"), host="127.0.0.1")
    app = create_app(ServingSettings(), services=[])
    describe_security(app, on=True)
    security.install(app, body_limit_bytes=1024, batch_body_limit_bytes=1024)
    with open_api(app) as api:
        api.run(security.start())
        for path, methods in app.openapi()["paths"].items():
            for method, operation in methods.items():
                url = path.replace("{", "").replace("}", "")
                reply = api.request(method.upper(), url, headers={"X-API-Key": "tc_x_y"})
                if needed_scope(path) == PUBLIC:
                    assert reply.status_code != 401
                    continue
                assert reply.status_code == 401, path
                assert str(reply.status_code) in operation["responses"]
                refused = reply.json()
                assert (refused if is_protocol_path(path) else refused["error"])["code"] == "UNAUTHORIZED"
        api.run(security.close())
