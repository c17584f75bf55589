"""Releases under load: the champion's alias is moved, and a canary walks to champion, while clients ask on."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import Load, drive
from benchmarks.server_process import ask
from benchmarks.serving_gateway import ROOT, Installation, promote, site_call, towncast

_PATIENCE_S = 60.0


@dataclass(slots=True)
class LoadBeside:
    """A load that runs in a thread while something else is done; `failed` and `answers` are known at its end."""

    port: int
    calls: Path
    clients: int
    duration_s: float
    core: int | None
    pause_ms: int = 0
    loads: list[Load] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def __enter__(self) -> LoadBeside:
        def run() -> None:
            load = drive(
                self.port,
                self.calls,
                clients=self.clients,
                duration_s=self.duration_s,
                core=self.core,
                pause_ms=self.pause_ms,
            )
            self.loads.append(load)

        self._thread = threading.Thread(target=run, name="load", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._thread is not None
        self._thread.join()

    @property
    def runs(self) -> bool:
        """Whether it goes on."""
        return self._thread is not None and self._thread.is_alive()


def version_of(port: int, installation: Installation, road: str) -> str:
    """Which version answers for a road, such as `2`."""
    reply = ask(port, site_call(installation, road)).json()
    return str(reply["model_version"]).rpartition("-v")[2]


def _wait_for_version(port: int, installation: Installation, version: int) -> float | None:
    """Time until a version answers for every road asked [s]; None where it does not come."""
    began, roads = time.perf_counter(), installation.roads[:10]
    while time.perf_counter() - began < _PATIENCE_S:
        if all(version_of(port, installation, road) == str(version) for road in roads):
            return time.perf_counter() - began
        time.sleep(0.05)
    return None


def measure_reloads(
    port: int, installation: Installation, calls: Path, *, clients: int, moves: int, core: int | None
) -> dict[str, Any]:
    """Move the champion's alias to and fro under load; how many requests failed, and how soon each version came."""
    delays: list[float | None] = []
    load = LoadBeside(port, calls, clients, duration_s=6.0 * moves, core=core)
    with load:
        time.sleep(1.0)
        for move in range(moves):
            version = 2 - move % 2
            promote(installation, version)
            delays.append(_wait_for_version(port, installation, version))
    came = [delay for delay in delays if delay is not None]
    return {
        "moves": moves,
        "moves_that_came": len(came),
        "longest_delay_s": round(max(came, default=0.0), 2),
        "answers": load.loads[0].answers,
        "failed": load.loads[0].errors,
        "p99_ms": round(load.loads[0].p99_ms, 2),
        "longest_ms": round(load.loads[0].longest_ms, 1),
    }


def measure_canary(
    port: int,
    installation: Installation,
    calls: Path,
    *,
    version: int,
    clients: int,
    duration_s: float,
    core: int | None,
) -> dict[str, Any]:
    """Release a version as a canary under load; how many requests failed, and whether it became champion."""
    command, variables = towncast(
        installation,
        *("release", "canary", "traffic", str(version), "--steps", "25,50,100"),
        *("--minutes", "0.05", "--requests", "100", "--force", "--reason", "benchmark"),
    )
    load = LoadBeside(port, calls, clients, duration_s=duration_s, core=core)
    shares: list[float] = []
    with load:
        # Importing MLflow for the command takes seconds, in which the load is on already.
        environment = {**os.environ, **variables}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        while load.runs and done.returncode == 0:
            versions = [version_of(port, installation, road) for road in installation.roads[:20]]
            shares.append(versions.count(str(version)) / len(versions))
            time.sleep(0.5)
    return {
        "released": done.returncode == 0,
        "message": (done.stdout + done.stderr).strip()[-200:] if done.returncode else "",
        "shares_seen": sorted(set(shares)),
        "became_champion": bool(shares) and shares[-1] == 1.0,
        "answers": load.loads[0].answers,
        "failed": load.loads[0].errors,
        "p99_ms": round(load.loads[0].p99_ms, 2),
        "longest_ms": round(load.loads[0].longest_ms, 1),
    }
