"""Errors as clients of the Open Inference Protocol read them.

The protocol has `{"error": "<message>"}`, and its clients put that text into their exceptions (Triton's joins it to the
status, and fails where it is no text). The document's envelope has an object there. So on the paths of the protocol
`error` is the message, and what else the envelope holds stands beside it.
"""

from __future__ import annotations

from typing import Any

from serving.schemas import ErrorContent

# Every path of the protocol begins with it.
PREFIX = "/v2"


def is_protocol_path(path: str) -> bool:
    """Whether errors of a path are written as the protocol has them."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def protocol_error(content: ErrorContent) -> dict[str, Any]:
    """What an envelope holds, with the message as `error`."""
    return {
        "error": content.message,
        "code": content.code,
        "details": content.details,
        "request_id": content.request_id,
        "timestamp": content.timestamp,
    }
