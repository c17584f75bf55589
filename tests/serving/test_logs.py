"""What is written into the log, as JSON and as text, and what nobody can write into it."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from serving.logs import AccessLog, configure_logs
from serving.observability_settings import ObservabilitySettings
from serving.request_context import CALLER, REQUEST_ID, Caller

FORGED = 'R001"}\n{"time": "2026-01-01T00:00:00Z", "level": "INFO", "message": "all is well"}'


@pytest.fixture
def logs_of() -> Iterator[Callable[..., io.StringIO]]:
    """Configures logs into a text that is returned; what was configured before comes back."""
    root = logging.getLogger()
    names = ("uvicorn", "uvicorn.error", "uvicorn.access")
    handlers, level = root.handlers[:], root.level
    kept = {name: (logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in names}

    def configure(**settings: Any) -> io.StringIO:
        written = io.StringIO()
        configure_logs(ObservabilitySettings(**settings), written)
        return written

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, (before, propagate) in kept.items():
        logging.getLogger(name).handlers[:], logging.getLogger(name).propagate = before, propagate


def entries(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_an_entry_is_json_with_what_it_is_about(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of()
    known = REQUEST_ID.set("req-7"), CALLER.set(Caller(name="city hall", scopes=frozenset()))
    try:
        logging.getLogger("serving.town").warning("Not %s", "ready", extra={"model_version": "traffic-lstm-v3"})
    finally:
        REQUEST_ID.reset(known[0])
        CALLER.reset(known[1])
    logging.getLogger("serving.town").info("Outside")
    first, second = entries(written)
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING",
        "logger": "serving.town",
        "message": "Not ready",
        "request_id": "req-7",
        "caller": "city hall",
        "model_version": "traffic-lstm-v3",
    }
    assert "request_id" not in second
    assert "caller" not in second


def test_the_level_and_uvicorns_loggers_are_ours(logs_of: Callable[..., io.StringIO]) -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    logging.getLogger("uvicorn.error").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    written = logs_of(log_level="warning")
    logging.getLogger("uvicorn.error").error("Boom", extra={"color_message": "\x1b[31mBoom"})
    logging.getLogger("serving").info("Not serious enough")
    (entry,) = entries(written)
    assert (entry["logger"], entry["message"]) == ("uvicorn.error", "Boom")
    assert "color_message" not in entry


def test_a_traceback_is_one_json_line(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of()
    try:
        raise ValueError(FORGED)
    except ValueError:
        logging.getLogger("serving").exception("It failed")
    (entry,) = entries(written)
    assert "Traceback" in entry["exc_info"]
    assert FORGED in entry["exc_info"]


def test_numbers_that_json_has_not_are_written_as_text(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of()
    logging.getLogger("serving").info("Share", extra={"share": float("nan")})
    assert '"share": "nan"' in written.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_name_cannot_forge_an_entry(logs_of: Callable[..., io.StringIO], log_format: str) -> None:
    written = logs_of(log_format=log_format)
    logging.getLogger("serving").warning("There is no road %s", FORGED)
    lines = written.getvalue().splitlines()
    assert len(lines) == 1
    assert "all is well" in lines[0]


def test_a_traceback_in_text_cannot_forge_an_entry(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of(log_format="text")
    try:
        raise ValueError("no\n2026-01-01T00:00:00.000Z INFO serving: all is well")
    except ValueError:
        logging.getLogger("serving").exception("It failed")
    first, *rest = written.getvalue().splitlines()
    assert first.endswith("ERROR serving: It failed")
    assert rest
    assert all(line.startswith("    ") for line in rest)


@given(text=st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_one_line_in_either_format(text: str) -> None:
    record = logging.makeLogRecord({"name": "serving", "levelname": "INFO", "msg": "%s", "args": (text,)})
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for log_format in ("json", "text"):
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
            configure_logs(ObservabilitySettings(log_format=log_format), stream)
            root.handlers[0].handle(record)
            stream.flush()
            written = raw.getvalue().decode()
            assert written.endswith("\n")
            assert len(written.splitlines()) == 1
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_long_messages_are_cut(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of()
    logging.getLogger("serving").info("x" * 100_000)
    (entry,) = entries(written)
    assert entry["message"].endswith("(100000 characters)")
    assert len(entry["message"]) < 9000


def test_json_is_the_default_where_nobody_looks() -> None:
    program = "import logging; from serving.logs import configure_logs; from serving.observability_settings import *; "
    program += "configure_logs(ObservabilitySettings()); logging.getLogger('x').info('hello')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert json.loads(done.stderr)["message"] == "hello"


def test_a_request_gets_an_entry_without_its_secrets(logs_of: Callable[..., io.StringIO]) -> None:
    written = logs_of(access_log=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        known = REQUEST_ID.set("req-8"), CALLER.set(Caller(name="key-1", scopes=frozenset()))
        try:
            await send({"type": "http.response.start", "status": 201, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})
        finally:
            REQUEST_ID.reset(known[0])
            CALLER.reset(known[1])

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=AccessLog(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://town") as client:
            return await client.post("/predict/traffic%0Aforged?key=secret", headers={"X-API-Key": "secret"})

    assert asyncio.run(ask()).status_code == 201
    (entry,) = [entry for entry in entries(written) if entry["logger"] == "serving.access"]
    assert "secret" not in json.dumps(entry)
    said = {name: entry[name] for name in ("method", "path", "status", "request_id", "caller")}
    path = "/predict/traffic\nforged"
    assert said == {"method": "POST", "path": path, "status": 201, "request_id": "req-8", "caller": "key-1"}
    assert entry["duration_ms"] >= 0
