"""From errors to replies: the one table of codes and statuses, and the one envelope of every error."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from features.errors import (
    ArtifactError,
    DataError,
    DeviceError,
    InvalidParameterError,
    NotEnoughDataError,
    RuntimeUnavailableError,
    StorageError,
    TowncastError,
    UnknownNameError,
)
from serving.inference_protocol.error_form import is_protocol_path, protocol_error
from serving.request_context import REQUEST_ID
from serving.schemas import REQUEST_ID_LENGTH, ErrorContent, ErrorReply
from serving.security.errors import (
    BodyTimeoutError,
    ForbiddenError,
    LongUrlError,
    RateLimitedError,
    RequestTimeoutError,
    UnauthorizedError,
    UnsoundPathError,
)
from serving.sessions.errors import (
    SessionBusyError,
    SessionExpiredError,
    SessionLimitError,
    SessionStoreError,
    UnknownSessionError,
)
from serving.text import new_id, utc_text
from sim_env.process.system import ConvergenceError

_LOG = logging.getLogger(__name__)
_SHOWN_CHARACTERS = 200


class BodyTooLargeError(TowncastError):
    """A request's body is larger than is allowed."""


class MalformedBodyError(TowncastError):
    """A request's body is not JSON."""


class MediaTypeError(TowncastError):
    """A request's body says that it is something else than JSON."""


class NotReadyError(TowncastError):
    """The model is not loaded yet."""


# The first class that an error is an instance of decides.
STATUS_OF: tuple[tuple[type[TowncastError], str, int], ...] = (
    (InvalidParameterError, "INVALID_PARAMETER", 400),
    (MalformedBodyError, "MALFORMED_JSON", 400),
    (UnauthorizedError, "UNAUTHORIZED", 401),
    (ForbiddenError, "FORBIDDEN", 403),
    (UnsoundPathError, "NOT_FOUND", 404),
    (UnknownNameError, "UNKNOWN_NAME", 404),
    (UnknownSessionError, "UNKNOWN_SESSION", 404),
    (BodyTimeoutError, "BODY_TIMEOUT", 408),
    (SessionBusyError, "SESSION_BUSY", 409),
    (SessionExpiredError, "SESSION_EXPIRED", 410),
    (BodyTooLargeError, "BODY_TOO_LARGE", 413),
    (LongUrlError, "URL_TOO_LONG", 414),
    (MediaTypeError, "UNSUPPORTED_MEDIA_TYPE", 415),
    (ConvergenceError, "NO_SOLUTION", 422),
    (RateLimitedError, "RATE_LIMITED", 429),
    (NotReadyError, "NOT_READY", 503),
    (SessionLimitError, "TOO_MANY_SESSIONS", 503),
    (SessionStoreError, "SESSIONS_UNAVAILABLE", 503),
    (RuntimeUnavailableError, "RUNTIME_UNAVAILABLE", 503),
    (NotEnoughDataError, "NOT_ENOUGH_DATA", 503),
    (DataError, "DATA_UNAVAILABLE", 503),
    (ArtifactError, "MODEL_UNAVAILABLE", 503),
    (DeviceError, "DEVICE_UNAVAILABLE", 503),
    (StorageError, "STORAGE_UNAVAILABLE", 503),
    (RequestTimeoutError, "REQUEST_TIMEOUT", 504),
    (TowncastError, "INTERNAL_ERROR", 500),
)
_HTTP_CODES = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}


def status_of(error: TowncastError) -> tuple[str, int]:
    """Code and HTTP status of an error."""
    return next((code, status) for kind, code, status in STATUS_OF if isinstance(error, kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error as it is answered.

    Attributes:
        status: HTTP status.
        content: The envelope.
    """

    status: int
    content: ErrorReply

    def reply(self, headers: dict[str, str] | None = None) -> Response:
        """The HTTP reply, with more headers if need be."""
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers = {"Retry-After": "5", **(headers or {})}
        return _RefusalReply(self.content, status=self.status, headers=headers)


class _RefusalReply(Response):
    """A refusal in the form that the clients of its path read."""

    media_type = "application/json"

    def __init__(self, content: ErrorReply, *, status: int, headers: dict[str, str] | None) -> None:
        super().__init__(content.model_dump_json(), status_code=status, headers=headers)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_protocol_path(scope["path"]):
            self.body = to_json(protocol_error(self._content.error))
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def refuse(
    code: str, message: str, *, status: int, details: dict[str, Any] | None = None, request_id: str | None = None
) -> Refusal:
    """An error in the document's envelope.

    Args:
        code: Upper-case name of the kind of error.
        message: What is wrong, for people.
        status: HTTP status.
        details: What was found, for programs.
        request_id: The request's own; by default that of the exchange, or made up outside of one.
    """
    content = ErrorContent(
        code=code,
        message=message,
        details=details or {},
        request_id=request_id or REQUEST_ID.get() or new_id("req"),
        timestamp=utc_text(int(time.time())),
    )
    return Refusal(status=status, content=ErrorReply(error=content))


def refusal(
    error: TowncastError | ValidationError, *, request_id: str | None = None, fields: Iterable[str] = ()
) -> Refusal:
    """The answer to an error of ours, or to a body that is not as the schema says.

    Args:
        error: What is wrong.
        request_id: The request's own.
        fields: Those that a request may have, for one that has another.
    """
    if isinstance(error, ValidationError):
        return _invalid(error, request_id, ", ".join(fields))
    code, status = status_of(error)
    message, details = str(error), {}
    if isinstance(error, InvalidParameterError):
        allowed = error.allowed if isinstance(error.allowed, str) else list(error.allowed)
        wanted = allowed if isinstance(allowed, str) else f"one of: {', '.join(map(str, allowed))}"
        message = f"Invalid {error.parameter}. Must be {wanted}"
        details = {"parameter": error.parameter, "provided": _shown(error.provided), "allowed": allowed}
        if error.nearest:
            details["nearest"] = error.nearest
    elif isinstance(error, UnknownNameError):
        details = {"parameter": error.kind, "provided": _shown(error.name), "nearest": error.nearest}
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # What was found may hold paths of the server: it goes to the log, the fact and the remedy to the caller.
        if not isinstance(error, NotReadyError):
            _LOG.error("%s", error)
        message = f"{error.fact}. {error.remedy}"
    return refuse(code, message, status=status, details=details, request_id=request_id)


def _invalid(error: ValidationError, request_id: str | None, fields: str) -> Refusal:
    """The first fault is named, all are listed."""
    found = error.errors(include_url=False)
    faults = [
        {"parameter": _dotted(fault["loc"]), "provided": _shown(fault["input"]), "allowed": _allowed(fault, fields)}
        for fault in found[:20]
    ]
    first = faults[0]
    if found[0]["type"] == "json_invalid":
        return refusal(malformed(str(first["allowed"])), request_id=request_id)
    message = f"Invalid {first['parameter']}. {first['allowed']}"
    details = {**first, **({"faults": faults} if len(faults) > 1 else {})}
    return refuse("INVALID_PARAMETER", message, status=400, details=details, request_id=request_id)


def _allowed(fault: ErrorDetails, fields: str) -> str:
    """What would be right, for people."""
    if fault["type"] != "extra_forbidden":
        return fault["msg"]
    known = f"; there are {fields}" if fields and len(fault["loc"]) == 1 else ""
    return f"There is no such field{known}"


def malformed(found: str) -> MalformedBodyError:
    """The error of a body that is not JSON."""
    return MalformedBodyError("The body is not JSON", found=found, remedy="Send one JSON object, encoded as UTF-8.")


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "body"


def _shown(value: Any) -> Any:
    """A value of a request as an error may repeat it: short, and what JSON can hold."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**15 else _shown_int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) and abs(value) < 1e15 else str(value)
    if isinstance(value, list) and len(value) <= 4 and all(isinstance(item, int | float) for item in value):
        return [_shown(item) for item in value]
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "replace").decode()[:_SHOWN_CHARACTERS]


def _shown_int(value: int) -> str:
    """A huge number in few characters: Python refuses to write one of more than some thousand digits."""
    return f"an integer of {value.bit_length()} bits"


def request_id_in(body: bytes) -> str | None:
    """The request's own identifier, if the body is sound enough to have one that can be repeated."""
    try:
        return own_request_id(json.loads(body))
    except (ValueError, RecursionError):
        return None


def own_request_id(content: Any) -> str | None:
    """The identifier in a parsed request, if it can be repeated."""
    found = content.get("request_id") if isinstance(content, dict) else None
    usable = isinstance(found, str) and 0 < len(found) <= REQUEST_ID_LENGTH and found.isascii() and found.isprintable()
    return found if usable else None


def install_error_replies(app: FastAPI) -> None:
    """Make every error of the app answer in the envelope: ours, the framework's, and the unexpected."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, TowncastError)
        return refusal(error).reply()

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _HTTP_CODES.get(error.status_code, HTTPStatus(error.status_code).name)
        details = {"method": request.method, "path": _shown(request.url.path)}
        message = f"{HTTPStatus(error.status_code).phrase}: {request.method} {_shown(request.url.path)}"
        return refuse(code, message, status=error.status_code, details=details).reply(dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> Response:
        request_id = REQUEST_ID.get() or new_id("req")
        _LOG.error("Unexpected error in request %s", request_id, exc_info=error)
        message = "Something went wrong on our side. Quote the request_id when you report it"
        # The framework answers this outside of all middleware, which would add the header.
        headers = {"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
        return refuse("INTERNAL_ERROR", message, status=500, request_id=request_id).reply(headers)

    app.add_exception_handler(TowncastError, ours)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, unexpected)
