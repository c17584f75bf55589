"""Routes that parse their bodies by themselves, because the framework would decode and coerce them twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.errors import MediaTypeError

_REFERENCE = "#/components/schemas/{model}"


class DirectRoute(APIRoute):
    """A route that is documented like any other, and hands the request to its function as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function itself, in place of parsing, injecting and validating around it."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def request_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """What the OpenAPI document says of a body that a direct route parses."""
    schema = {"$ref": _REFERENCE.format(model=model.__name__)}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def describe_requests(app: FastAPI, models: list[type[BaseModel]]) -> None:
    """Add to the OpenAPI document the schemas of the requests of direct routes."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            written = generate()
            _, schema = models_json_schema([(model, "validation") for model in models], ref_template=_REFERENCE)
            written["components"]["schemas"].update(schema["$defs"])
            app.openapi_schema = written
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def check_media_type(request: Request) -> None:
    """Refuse a body that says that it is something else than JSON.

    Raises:
        MediaTypeError: It does.
    """
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if given != "application/json":
        raise MediaTypeError(
            "The body is not said to be JSON", found=given[:100], remedy="Send Content-Type: application/json."
        )
