"""What the OpenAPI document says of keys, tokens, limits and of what the gateway may answer."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from serving.inference_protocol.error_form import is_protocol_path
from serving.inference_protocol.schemas import ProtocolError
from serving.schemas import ErrorReply
from serving.security.scopes import PUBLIC, SCOPES, needed_scope

_REPLY = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorReply.__name__}"}}}
_PROTOCOL_REPLY = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ProtocolError.__name__}"}}}
_ANYWHERE = {"414": "The URL is too long.", "504": "The request took too long."}
_GUARDED = {
    "401": "Nobody, or nobody known, asks.",
    "403": "The caller's scopes do not include the one needed.",
    "429": "The caller's requests of this minute are used up.",
    "503": "The API keys cannot be read.",
}
_WITH_BODY = {
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "415": "The body is compressed, or not of the documented type.",
}
_SCHEMES: dict[str, Any] = {
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "A key made with `towncast keys add`. Scopes: "
        + "; ".join(f"`{name}` ({what})" for name, what in SCOPES.items())
        + ".",
    },
    "Bearer": {"type": "http", "scheme": "bearer", "description": "The same key, or a JSON Web Token with `scope`."},
}


def describe_security(app: FastAPI, *, on: bool) -> None:
    """Add to the OpenAPI document how callers say who they are, and every reply of the gateway.

    Args:
        app: The app, with all its routes.
        on: Whether callers must say who they are; else they may leave it out.
    """
    generate = app.openapi
    described = False

    def document() -> dict[str, Any]:
        nonlocal described
        written = generate()
        if not described:
            _describe(written, on=on)
            described = True
        return written

    app.openapi = document  # type: ignore[method-assign]


def _describe(written: dict[str, Any], *, on: bool) -> None:
    components = written.setdefault("components", {})
    components.setdefault("securitySchemes", {}).update(_SCHEMES)
    ways: list[dict[str, list[str]]] = [{name: []} for name in _SCHEMES]
    for path, operations in written["paths"].items():
        for method, operation in operations.items():
            if method not in ("get", "post", "put", "patch", "delete"):
                continue
            needed = needed_scope(path)
            may_happen = dict(_ANYWHERE)
            if needed != PUBLIC:
                operation["security"] = ways if on else [{}, *ways]
                operation["x-scope"] = needed
                may_happen |= _GUARDED
            if "requestBody" in operation:
                may_happen |= _WITH_BODY
            for status, text in may_happen.items():
                content = _PROTOCOL_REPLY if is_protocol_path(path) else _REPLY
                operation["responses"].setdefault(status, {"description": text, "content": content})
