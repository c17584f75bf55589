"""The short way of a request for inference: past the framework's router, see `serving.routes.direct`."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from features.errors import TowncastError
from serving.errors import refusal
from serving.inference_protocol.messages import HEADER_LENGTH, InferenceReply
from serving.inference_protocol.protocol import ROUTE, InferenceProtocol
from serving.inference_protocol.refusals import protocol_refusal
from serving.inference_protocol.routes import infer_target
from serving.routes.direct import whole_body
from serving.tracing import Tracing, answered

_HEADER_LENGTH = HEADER_LENGTH.lower().encode()


class InferenceDispatch:
    """ASGI middleware that answers `POST /v2/models/{model}[/versions/{version}]/infer`.

    Args:
        app: The app behind it, which answers everything else.
        protocol: What answers.
        tracing: Traces each request, as far as anything is traced.
    """

    def __init__(self, app: ASGIApp, *, protocol: InferenceProtocol, tracing: Tracing) -> None:
        self.app = app
        self._protocol = protocol
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        asked = infer_target(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if asked is None:
            await self.app(scope, receive, send)
            return
        content_type, header_length = "", None
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == _HEADER_LENGTH:
                header_length = value.decode("latin-1")
        with self._tracing.request(f"POST {ROUTE}", scope["headers"]):
            try:
                body = await whole_body(receive)
                if body is None:
                    return
                reply = await self._protocol.infer(*asked, body, content_type=content_type, header_length=header_length)
            except TowncastError as error:
                # What reads the body refuses one that is too large, or too slow.
                reply = protocol_refusal(refusal(error))
            answered(reply.status)
            await _send(reply, send)


async def _send(reply: InferenceReply, send: Send) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers.items()),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
