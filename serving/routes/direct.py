"""Routes that parse their bodies by themselves, because the framework would decode and coerce them twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import from_json
from starlette.types import ASGIApp, Receive, Scope, Send

from features.errors import InvalidParameterError, TowncastError
from serving.errors import MediaTypeError, malformed, refusal
from serving.tracing import Tracing, answered

_REFERENCE = "#/components/schemas/{model}"


class DirectRoute(APIRoute):
    """A route that is documented like any other, and hands the request to its function as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function itself, in place of parsing, injecting and validating around it."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


# What a direct route calls with the body and its media type, "" where none is said.
BodyHandler = Callable[[bytes, str], Awaitable[Response]]


class DirectDispatch:
    """ASGI middleware that hands some POST requests to their functions, past the framework's router.

    The router tries one path after the other, and opens a stack of contexts for each request: that costs more than a
    look-up. The same functions are behind the documented routes, which answer where this is not installed.

    Args:
        app: The app behind it, which answers everything else.
        handlers: Functions by their paths.
        tracing: Traces each request, as far as anything is traced.
    """

    def __init__(self, app: ASGIApp, *, handlers: Mapping[str, BodyHandler], tracing: Tracing) -> None:
        self.app = app
        self._handlers = dict(handlers)
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        handler = None
        if scope["type"] == "http" and scope["method"] == "POST":
            handler = self._handlers.get(scope["path"])
        if handler is None:
            await self.app(scope, receive, send)
            return
        with self._tracing.request(f"POST {scope['path']}", scope["headers"]):
            try:
                body = await whole_body(receive)
                if body is None:
                    return
                media_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
                reply = await handler(body, media_type.decode("latin-1"))
            except TowncastError as error:
                reply = refusal(error).reply()
            answered(reply.status_code)
            await reply(scope, receive, send)


async def whole_body(receive: Receive) -> bytes | None:
    """The body; None where the caller hung up before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def listed_items(body: bytes, name: str, *, limit: int, fact: str, remedy: str) -> list[Any]:
    """The items of a body that holds nothing but a list of them, not looked at further.

    Args:
        body: The whole body.
        name: Of the list.
        limit: Most items.
        fact: What is wrong where there is no such list.
        remedy: What to do about it.

    Raises:
        MalformedBodyError: The body is not JSON.
        InvalidParameterError: It is not an object with such a list, or there are too many.
    """
    try:
        # `NaN` and `Infinity` are no JSON, but what many programs write: such an item is refused, not the body.
        content = from_json(body)
    except (ValueError, RecursionError) as error:
        raise malformed(str(error)) from error
    unknown = [key for key in content if key != name] if isinstance(content, dict) else []
    items = content.get(name) if isinstance(content, dict) else None
    if unknown or not isinstance(items, list) or not 1 <= len(items) <= limit:
        count = f"{len(items)} {name}" if isinstance(items, list) else items
        raise InvalidParameterError(
            parameter=unknown[0] if unknown else name,
            provided=content[unknown[0]] if unknown else count,
            allowed=f"an object with nothing but `{name}`, a list of 1 to {limit}",
            fact=fact,
            remedy=remedy,
        )
    return items


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


def check_media_type(given: str) -> None:
    """Refuse a body that is said to be something else than JSON.

    Args:
        given: The header `Content-Type`, "" where there is none.

    Raises:
        MediaTypeError: It is.
    """
    if given and given != "application/json" and given.partition(";")[0].strip().lower() != "application/json":
        raise MediaTypeError(
            "The body is not said to be JSON", found=given[:100], remedy="Send Content-Type: application/json."
        )
