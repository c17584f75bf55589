"""`/dashboard` and `/monitoring`: pages of plain files, which ask nothing of any other host."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from serving.metrics import Metrics

_FOLDER = Path(__file__).parent / "page"
_PAGES = {"/dashboard": "index.html", "/monitoring": "monitoring.html"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """A file of the pages, as it is sent.

    Attributes:
        content: Its bytes.
        media_type: Their kind.
        tag: Changes with them.
    """

    content: bytes
    media_type: str
    tag: str


def read_page() -> Mapping[str, PageFile]:
    """The pages' files by name."""
    files = {}
    for path in sorted(_FOLDER.iterdir()):
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=12).hexdigest()
        files[path.name] = PageFile(content=content, media_type=_TYPES[path.suffix], tag=f'"{digest}"')
    return files


def dashboard_routes(metrics: Metrics) -> APIRouter:
    """The pages and their files; they hold no data, and need no key."""
    router = APIRouter(include_in_schema=False)
    files: dict[str, PageFile] = {}

    def reply(name: str, request: Request) -> Response:
        if not files:
            files.update(read_page())
        if name not in files:
            raise HTTPException(404)
        file = files[name]
        # Asked again each time, so that a new release's page and scripts come together.
        headers = {"ETag": file.tag, "Cache-Control": "no-cache", **_SECURITY}
        if file.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.media_type, headers=headers)

    def add_page(path: str, name: str) -> None:
        @router.get(path, name=name)
        async def page(request: Request) -> Response:
            metrics.count_request(path, 200, "GET")
            return reply(name, request)

    for path, name in _PAGES.items():
        add_page(path, name)

    @router.get("/dashboard/assets/{name}")
    async def asset(name: str, request: Request) -> Response:
        return reply(name, request)

    return router
