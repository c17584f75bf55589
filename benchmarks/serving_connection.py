"""What one connection sees: a forecast against the bare graph, and a batch against single calls, in turns."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.load import Call
from benchmarks.serving_gateway import Installation, batch_call, site_call


def body_length(head: bytes) -> int | None:
    """Length of a reply's body, None where it is streamed; refuses replies that are not 200."""
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the API answered {head[:200]!r}")
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    return next((int(value) for name, _, value in lines if name == b"content-length"), None)


def dechunked(body: bytes) -> bytes:
    """A streamed body without the lengths of its parts."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        length = int(body[at:end].partition(b";")[0], 16)
        if length == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + length])
        at = end + 2 + length + 2


class Connection:
    """A kept-alive connection that does nothing but send and receive: the client's cost is not what is measured."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Send a request; the reply's body, with the lengths of its parts where it is streamed."""
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._received()
        head, _, body = received.partition(b"\r\n\r\n")
        length, parts = body_length(head), [body]
        if length is None:
            while not (parts[-1] if len(parts[-1]) > 6 else b"".join(parts[-8:])).endswith(b"0\r\n\r\n"):
                parts.append(self._received())
            return b"".join(parts)
        missing = length - len(body)
        while missing > 0:
            parts.append(self._received())
            missing -= len(parts[-1])
        return b"".join(parts)

    def _received(self) -> bytes:
        part = self._socket.recv(1 << 20)
        if not part:
            raise RuntimeError("the API closed the connection")
        return part

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def measure_latency(port: int, call: Call, bare: Callable[[], Any], *, pairs: int) -> dict[str, float]:
    """The graph with its answer as JSON, and a call over HTTP, in turns [ms], and their ratios.

    Args:
        port: The server's.
        call: What it is asked.
        bare: Runs the graph on a window that is there, which any server must do at least.
        pairs: How many of both.
    """
    connection, request = Connection(port), call.as_bytes()
    answer = json.loads(connection.ask(request))
    times_s = np.empty((pairs + pairs // 10, 2))
    for row in times_s:
        began = time.perf_counter()
        bare()
        json.dumps(answer)
        middle = time.perf_counter()
        connection.ask(request)
        row[:] = middle - began, time.perf_counter() - middle
    connection.close()
    times_ms = 1e3 * times_s[pairs // 10 :]  # the first tenth warms up
    bare_p99, whole_p99 = np.percentile(times_ms, 99, axis=0)
    found = {
        "bare_median_ms": np.median(times_ms[:, 0]),
        "http_median_ms": np.median(times_ms[:, 1]),
        "median_ratio": np.median(times_ms[:, 1] / times_ms[:, 0]),
        "bare_p99_ms": bare_p99,
        "http_p99_ms": whole_p99,
        "p99_ratio": whole_p99 / bare_p99,
    }
    return {name: round(float(value), 3) for name, value in found.items()}


def measure_batch(port: int, installation: Installation, *, requests: int, rounds: int) -> dict[str, float]:
    """Many questions together, and one after the other on one connection, in turns [ms]."""
    connection = Connection(port)
    roads = [installation.roads[index % len(installation.roads)] for index in range(requests)]
    single = [site_call(installation, road).as_bytes() for road in roads]
    together = batch_call(installation, roads).as_bytes()
    _check_batch(connection.ask(together), requests)
    times_s = np.empty((rounds + 1, 2))
    for row in times_s:
        began = time.perf_counter()
        for request in single:
            connection.ask(request)
        middle = time.perf_counter()
        connection.ask(together)
        row[:] = middle - began, time.perf_counter() - middle
    connection.close()
    times_ms = 1e3 * times_s[1:]
    return {
        "requests": float(requests),
        "singles_ms": round(float(np.median(times_ms[:, 0])), 1),
        "batch_ms": round(float(np.median(times_ms[:, 1])), 1),
        "times_faster": round(float(np.median(times_ms[:, 0] / times_ms[:, 1])), 2),
    }


def _check_batch(body: bytes, requests: int) -> None:
    """A batch that was refused in part would be fast."""
    results = json.loads(body if body.startswith(b"{") else dechunked(body))["results"]
    if len(results) != requests or any("predictions" not in one for one in results):
        raise RuntimeError(f"the batch was not answered whole: {str(results[0])[:200]}")
