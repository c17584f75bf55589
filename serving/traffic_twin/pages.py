"""The twin's page, over HTTP on the port of its WebSocket."""

from __future__ import annotations

import http
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("page", "state", "drawing", "text", "pointer")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Page = tuple[str, bytes]


class Pages:
    """Answers plain GET requests; requests for a WebSocket are let through, and the library refuses all else.

    Args:
        network: Gives the JSON of `/network.json`.
    """

    def __init__(self, network: Callable[[], bytes]) -> None:
        self._network = network
        self._pages: Mapping[str, Page] = {}

    def load(self) -> None:
        """Read the page's files."""
        self._pages = {path: (kind, (_FOLDER / name).read_bytes()) for path, (name, kind) in _FILES.items()}

    def __call__(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request, or None where it asks for a WebSocket."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return None
        path = request.path.partition("?")[0]
        if path == "/network.json":
            kind, body = "application/json", self._network()
        elif path in self._pages:
            kind, body = self._pages[path]
        else:
            return _response(http.HTTPStatus.NOT_FOUND, "text/plain", b"The page is at /.\n")
        return _response(http.HTTPStatus.OK, kind, body)


def _response(status: http.HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-cache",
            **_SECURITY,
        }
    )
    return Response(status.value, status.phrase, headers, body)
