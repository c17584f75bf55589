"""Clients that remember every request: what was asked, what came back, and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load import Call

_TIMEOUT_S = 30.0
_RECONNECT_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one request.

    Attributes:
        request_id: Of the request.
        connection: Which connection it went over, counted from the first.
        asked_s: When it was sent [s, time.time].
        took_s: Time until its answer was read, or until it failed [s].
        status: Of the answer; 0 where there was none.
        runtime: What ran the model, as the answer says; empty where it does not.
        lowered_by: What makes the forecast less sure, as the answer says.
        fault: Why there was no answer.
    """

    request_id: str
    connection: int
    asked_s: float
    took_s: float
    status: int
    runtime: str = ""
    lowered_by: tuple[str, ...] = ()
    fault: str = ""


@dataclass(slots=True)
class Clients:
    """Some connections that ask one question after the other until they are told to stop.

    Attributes:
        port: The server's.
        count: How many connections at a time.
        calls: Gives each question its identifier and its request.
        pause_s: Time between an answer and the next question of a connection [s].
        questions_each: After so many questions a connection is made anew, so that a worker that comes back gets some;
            0 for never.
        outcomes: What became of every request so far.
        reconnects: How often a connection had to be made anew.
    """

    port: int
    count: int
    calls: Callable[[], Iterator[tuple[str, Call]]]
    pause_s: float = 0.0
    questions_each: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    reconnects: int = 0
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: int = 0

    async def run(self) -> None:
        """Ask until `stop`."""
        questions = self.calls()
        await asyncio.gather(*(self._ask_on(questions) for _ in range(self.count)))

    def stop(self) -> None:
        """Let every connection end with its present answer."""
        self._stopped.set()

    async def _ask_on(self, questions: Iterator[tuple[str, Call]]) -> None:
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        number = asked = 0
        while not self._stopped.is_set():
            request_id, call = next(questions)
            asked_s, began = time.time(), time.perf_counter()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    if stream is not None and self.questions_each and asked >= self.questions_each:
                        stream[1].close()
                        stream = None
                    if stream is None:
                        asked = 0
                        stream = await asyncio.open_connection("127.0.0.1", self.port)
                        self._connections += 1
                        number = self._connections
                    asked += 1
                    status, body = await exchange(*stream, call.as_bytes())
                said = _said(body)
                fault = "" if status < 400 else body[:300].decode("utf-8", "replace")
            except (OSError, EOFError, ValueError) as error:
                status, said, fault = 0, {}, repr(error)
                if stream is not None:
                    stream[1].close()
                    stream = None
                self.reconnects += 1
            self.outcomes.append(
                Outcome(
                    request_id=request_id,
                    connection=number,
                    asked_s=asked_s,
                    took_s=time.perf_counter() - began,
                    status=status,
                    fault=fault,
                    **said,
                )
            )
            await asyncio.sleep(self.pause_s if status else _RECONNECT_S)
        if stream is not None:
            stream[1].close()
            with contextlib.suppress(OSError):
                await stream[1].wait_closed()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """Send a request; status and body of its answer.

    Raises:
        OSError: The connection broke (also `EOFError`).
        ValueError: The answer is not HTTP with a length or in parts.
    """
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in fields:
        return status, await reader.readexactly(int(fields[b"content-length"]))
    parts = []
    while length := int((await reader.readuntil(b"\r\n")).strip(), 16):
        parts.append(await reader.readexactly(length))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, b"".join(parts)


def _said(body: bytes) -> dict[str, Any]:
    """What an answer says of its own quality."""
    content = json.loads(body)
    quality = content.get("quality", {}) if isinstance(content, dict) else {}
    return {"runtime": quality.get("runtime", ""), "lowered_by": tuple(quality.get("lowered_by", ()))}
