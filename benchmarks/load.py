"""Load: `wrk`, a client in C that costs a fraction of what it measures, with bodies of ours in turns."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# wrk's script: the requests are read once, each connection takes the next one, the last line of output is ours.
_SCRIPT = """
local requests, at = {}, 0
function init(args)
  local file = io.open(args[1], "rb")
  while true do
    local length = file:read("*l")
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
end
function request()
  at = at % #requests + 1
  return requests[at]
end
function done(summary, latency, calls)
  local e = summary.errors
  io.write(string.format(
    '\\n{"answers": %d, "duration_us": %d, "refused": %d, "broken": %d, ' ..
    '"p50_us": %d, "p99_us": %d, "longest_us": %d}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"""
# At random, so that the clients do not march in step.
_PAUSE = """
function delay()
  return math.random(0, {most})
end
"""
_TIMEOUT_S = 20


class LoadError(Exception):
    """The load generator is missing or failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request.

    Attributes:
        path: Of the URL.
        body: Sent as it is, JSON; empty for a GET.
        headers: Beside those that every request has.
    """

    path: str
    body: bytes = b""
    headers: Mapping[str, str] | None = None

    def as_bytes(self) -> bytes:
        """The whole request."""
        lines = [f"{'POST' if self.body else 'GET'} {self.path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in (self.headers or {}).items()]
        if self.body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a server did under a load.

    Attributes:
        requests_per_s: Requests that were answered, well or not.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        longest_ms: The slowest.
        errors: Answers other than 2xx and 3xx, broken connections and answers that took too long.
        answers: All answers.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    errors: int
    answers: int


def keep_calls(calls: Sequence[Call], file: Path) -> Path:
    """Write calls where `drive` reads them."""
    parts = [call.as_bytes() for call in calls]
    file.write_bytes(b"".join(b"%d\n%s" % (len(part), part) for part in parts))
    return file


def drive(
    port: int, calls: Path, *, clients: int, duration_s: float, core: int | None = None, pause_ms: int = 0
) -> Load:
    """Have some clients ask one after the other, each on a connection of its own.

    Args:
        port: The server's, on loopback.
        calls: What they ask, see `keep_calls`.
        clients: How many at a time.
        duration_s: How long [s]; wrk takes whole seconds.
        core: Processor core of the client, by default any.
        pause_ms: Mean time between an answer and the next question of a client [ms].

    Raises:
        LoadError: wrk is not there, or failed.
    """
    if shutil.which("wrk") is None:
        raise LoadError("The load generator wrk is not on PATH: install the system's package wrk")
    script = calls.with_suffix(".lua")
    script.write_text(_SCRIPT + (_PAUSE.format(most=2 * pause_ms) if pause_ms else ""), encoding="utf-8")
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{max(1, round(duration_s))}s"]
    command += ["--timeout", f"{_TIMEOUT_S}s", "--script", str(script), f"http://127.0.0.1:{port}", "--", str(calls)]
    pinned = command if core is None else ["taskset", "--cpu-list", str(core), *command]
    done = subprocess.run(pinned, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[:300]}")
    return read_load(done.stdout.strip().splitlines()[-1])


def read_load(line: str) -> Load:
    """What the script's last line says."""
    found = json.loads(line)
    return Load(
        requests_per_s=found["answers"] / (found["duration_us"] / 1e6),
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        longest_ms=found["longest_us"] / 1e3,
        errors=found["refused"] + found["broken"],
        answers=found["answers"],
    )


def median_load(loads: Sequence[Load]) -> Load:
    """Medians of several rounds; errors and answers are summed, the slowest is the slowest of all."""
    rates, halves, tails = zip(*((one.requests_per_s, one.p50_ms, one.p99_ms) for one in loads), strict=True)
    return Load(
        requests_per_s=statistics.median(rates),
        p50_ms=statistics.median(halves),
        p99_ms=statistics.median(tails),
        longest_ms=max(one.longest_ms for one in loads),
        errors=sum(one.errors for one in loads),
        answers=sum(one.answers for one in loads),
    )
