"""Logs: a line per entry, as JSON or as text, with the request that it is about.

Whatever a request holds, an entry stays one line (in text, the lines of a traceback are set in): nobody can write
entries of their own through a name or a header.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.observability_settings import ObservabilitySettings
from serving.request_context import CALLER, REQUEST_ID
from serving.tracing import trace_ids

_LONGEST = 8192
# Characters that end a line, steer a terminal, turn the direction of writing, or are none.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NAMES = {"levelname": "level", "name": "logger"}
# What uvicorn adds for terminals.
_LEFT_OUT = ("color_message",)
_CONTEXT = ("request_id", "caller", "trace_id", "span_id")
_UVICORN = ("uvicorn", "uvicorn.error")
_ACCESS = logging.getLogger("serving.access")


def configure_logs(settings: ObservabilitySettings, stream: TextIO | None = None) -> None:
    """Have all entries of this process, uvicorn's too, written as the settings say; replaces what was configured.

    Args:
        settings: Format and level.
        stream: Where to; standard error by default.
    """
    out = stream or sys.stderr
    text = settings.log_format == "text" or (settings.log_format == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(_TextFormatter() if text else _json_formatter())
    handler.addFilter(_add_context)
    root = logging.getLogger()
    for before in tuple(root.handlers):
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in _UVICORN:
        logger = logging.getLogger(name)
        # Whatever was set before, by a server in this process or by what configures logging from a file.
        logger.handlers, logger.propagate, logger.disabled = [], True, False
        logger.setLevel(logging.NOTSET)
    # An entry for each request is ours to write, see `AccessLog`: uvicorn writes its own wherever it finds a handler.
    uvicorns = logging.getLogger("uvicorn.access")
    uvicorns.handlers, uvicorns.propagate = [], False
    # It says every few minutes that it looked at its files.
    logging.getLogger("feast").setLevel(logging.WARNING)


def _add_context(record: logging.LogRecord) -> bool:
    """Write the request that is being answered into a record."""
    caller = CALLER.get()
    context = {"request_id": REQUEST_ID.get(), "caller": "" if caller is None else caller.name, **trace_ids()}
    for name, value in context.items():
        if value:
            setattr(record, name, value)
    return True


class _JsonFormatter(JsonFormatter):
    """JSON with the time in UTC, and messages of a bounded length."""

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        log_data["time"] = _utc(record)
        super().add_fields(log_data, record, message_dict)
        log_data.update({name: _writable(value) for name, value in log_data.items()})


def _json_formatter() -> logging.Formatter:
    return _JsonFormatter(
        ("levelname", "name", "message"), rename_fields=_NAMES, reserved_attrs=[*RESERVED_ATTRS, *_LEFT_OUT]
    )


class _TextFormatter(logging.Formatter):
    """Text for people: one line, and a traceback's lines set in below it."""

    def format(self, record: logging.LogRecord) -> str:
        context = {name: getattr(record, name) for name in _CONTEXT if hasattr(record, name)}
        said = " ".join(f"{name}={value}" for name, value in context.items())
        message = _cut(record.getMessage())
        line = f"{_utc(record)} {record.levelname} {record.name}: {message}{f' [{said}]' if said else ''}"
        lines = [_CONTROL.sub(_escaped, line)]
        if record.exc_info:
            lines += [_CONTROL.sub(_escaped, one) for one in self.formatException(record.exc_info).split("\n")]
        if record.stack_info:
            lines += [_CONTROL.sub(_escaped, one) for one in record.stack_info.split("\n")]
        return "\n    ".join(lines)


def _utc(record: logging.LogRecord) -> str:
    moment = time.gmtime(record.created)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{int(record.msecs):03d}Z"


def _writable(value: object) -> object:
    """A value as JSON can hold it, texts cut."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _cut(value) if isinstance(value, str) else value


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


class AccessLog:
    """Writes an entry for each HTTP request when its answer is done. To stand around everything else.

    Queries are left out, because secrets stand in them; so are bodies and headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and write."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        # Read while the answer begins: what stands around us does not see what is set within.
        context: dict[str, str] = {}

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, caller = message["status"], CALLER.get()
                context.update(request_id=REQUEST_ID.get(), caller="" if caller is None else caller.name)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            client = scope.get("client")
            said = {
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round((time.perf_counter() - began) * 1e3, 3),
                "client": client[0] if client else "",
                **{name: value for name, value in context.items() if value},
            }
            _ACCESS.info("%s %s %s", said["method"], said["path"], status, extra=said)
