"""Requests and replies of the Open Inference Protocol v2, as they are parsed and written.

The protocol: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`. Binary
tensors behind the JSON: Triton's binary tensor data extension, which KServe has taken over. Fields that the protocol
does not name are passed over, as it asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from features.errors import InvalidParameterError, TowncastError
from serving.errors import MalformedBodyError, MediaTypeError, malformed

JSON = "application/json"
BINARY = "application/octet-stream"
# How many bytes of the body are JSON, where binary tensors come behind it.
HEADER_LENGTH = "Inference-Header-Content-Length"
_NO_DATA = msgspec.Raw(b"")
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`", re.DOTALL)


class RequestInput(msgspec.Struct, frozen=True):
    """A tensor that is sent; its data stays JSON until its shape is known to be right."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw = _NO_DATA


class RequestOutput(msgspec.Struct, frozen=True):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[RequestInput]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[RequestOutput] | None = None


class ResponseOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor that is answered, flat and row by row; without data where it comes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[float] | None = None


class InferenceResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON of a reply."""

    model_name: str
    model_version: str
    outputs: list[ResponseOutput]
    parameters: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request: its JSON, and the binary tensors behind it."""

    request: InferenceRequest
    binary: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceReply:
    """A reply as any transport can send it.

    Attributes:
        status: HTTP status.
        content_type: Of the body.
        headers: Further headers.
        body: JSON, with binary tensors behind it where they were asked for.
    """

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes


_REQUEST = msgspec.json.Decoder(InferenceRequest)
_ENCODER = msgspec.json.Encoder()


def check_content_type(content_type: str, *, header_length: str | None) -> None:
    """Refuse a body that says that it is neither JSON nor, with the header that it needs, JSON and binary tensors.

    Raises:
        MediaTypeError: It does.
    """
    given = content_type.partition(";")[0].strip().lower()
    if given in ("", JSON) or (given == BINARY and header_length is not None):
        return
    raise MediaTypeError(
        "The body is not said to be JSON",
        found=given[:100],
        remedy=f"Send Content-Type: {JSON}, or {BINARY} with the header {HEADER_LENGTH}.",
    )


def parse_message(body: bytes, *, header_length: str | None) -> Message:
    """A request as it came.

    Args:
        body: The whole body.
        header_length: What the header `Inference-Header-Content-Length` says, None without one.

    Raises:
        MalformedBodyError: The body is not JSON, or not as far as the header says.
        InvalidParameterError: The header is no length, or the JSON is not a request.
    """
    text, binary = (body, b"") if header_length is None else _parted(body, header_length)
    try:
        return Message(request=_REQUEST.decode(text), binary=binary)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(error) from error


def json_error(error: Exception, *, within: str = "") -> TowncastError:
    """The error of a body, or of a part of it, that cannot be decoded.

    Args:
        error: What msgspec says.
        within: Dotted name of the part.
    """
    if not isinstance(error, msgspec.ValidationError):
        return _not_json(str(error))
    found = _WHERE.fullmatch(str(error))
    what, where = (found[1], found[2]) if found else (str(error), "")
    path = ".".join(part for part in (within, re.sub(r"\[(\d+|\.\.\.)\]", r".\1", where).strip(".")) if part)
    return InvalidParameterError(
        parameter=path or "body",
        provided=None,
        allowed=what,
        fact="The request is not as the Open Inference Protocol has it",
        remedy="See /docs, or the protocol's specification.",
    )


def _not_json(found: str) -> MalformedBodyError:
    error = malformed(found)
    return MalformedBodyError(error.fact, found=found, remedy=f"{error.remedy} A missing value is null, not NaN.")


def _parted(body: bytes, header_length: str) -> tuple[bytes, bytes]:
    length = (
        int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 16 else -1
    )
    if not 0 < length <= len(body):
        raise InvalidParameterError(
            parameter=HEADER_LENGTH,
            provided=header_length,
            allowed=f"the length of the JSON at the body's beginning, 1 to {len(body)} bytes",
            fact="The header does not fit the body",
            remedy="Send the length of the JSON, or leave the header out where no binary tensor follows it.",
        )
    return body[:length], body[length:]


def write_response(response: InferenceResponse, *, binary: bytes) -> InferenceReply:
    """A response as it goes out, with the binary tensors behind it."""
    text = _ENCODER.encode(response)
    if not binary:
        return InferenceReply(status=200, content_type=JSON, headers={}, body=text)
    return InferenceReply(status=200, content_type=BINARY, headers={HEADER_LENGTH: str(len(text))}, body=text + binary)


def write_json(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> InferenceReply:
    """Any JSON as it goes out."""
    return InferenceReply(status=status, content_type=JSON, headers=headers or {}, body=_ENCODER.encode(content))
