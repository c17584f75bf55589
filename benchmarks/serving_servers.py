"""The servers of `benchmarks.serving`: started, checked against the graph, and stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.load import Call, keep_calls
from benchmarks.server_process import ServerProcess, ask
from benchmarks.serving_bars import INFER
from benchmarks.serving_gateway import Installation, infer_call, reply_differences, site_call, start_gateway
from benchmarks.serving_peers.peers import Peer, start_peer
from benchmarks.serving_rates import Subject, Truth, WrongAnswerError, peer_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Which processor cores the servers and the clients have."""

    servers: tuple[int, ...]
    client: int
    every: tuple[int, ...]


def choose_cores() -> Cores:
    """The first for the servers, the second for the clients; the same one where there is no second."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(servers=(usable[0],), client=usable[min(1, len(usable) - 1)], every=tuple(usable))


class Servers:
    """All servers of a run; every one that was started is stopped at the end.

    Args:
        folder: For their files.
        console: For progress.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def keep(self, process: ServerProcess) -> ServerProcess:
        """Have a process stopped at the end."""
        self._stack.callback(process.stop)
        return process

    def peer(self, peer: Peer, graph: Path, truth: Truth, cores: Sequence[int]) -> Subject:
        """Install, start and check a peer."""
        self.console.print(f"[dim]starting {peer.name}[/dim]")
        process, port = start_peer(peer, graph, truth.windows[0], self.folder, cores=cores)
        return peer_subject(peer, self.keep(process), port, truth, self.folder)

    def gateway(
        self,
        name: str,
        installation: Installation,
        cores: Sequence[int],
        *,
        workers: int = 1,
        **changes: object,
    ) -> Subject:
        """Start `towncast serve`; a subject that is asked about sites."""
        self.console.print(f"[dim]starting {name}[/dim]")
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        process, port = start_gateway(installation, log, cores=cores, workers=workers, changes=changes)
        calls = [site_call(installation, road) for road in installation.roads]
        self.keep(process)
        return Subject(name=name, process=process, port=port, calls=keep_calls(calls, self.folder / f"{port}.calls"))


def infer_subject(gateway: Subject, installation: Installation, truth: Truth, folder: Path) -> Subject:
    """The same server, asked with the window in the body.

    Raises:
        WrongAnswerError: It does not answer what the graph answers.
    """
    answer = ask(gateway.port, infer_call(installation, truth.windows[0]))
    if answer.is_error:
        raise WrongAnswerError(f"{INFER}: status {answer.status_code}: {answer.text[:200]}")
    found = np.array(answer.json()["outputs"][0]["data"]).reshape(truth.quantiles[0].shape)
    if not np.allclose(found, truth.quantiles[0], rtol=0.0, atol=0.01):
        raise WrongAnswerError(f"{INFER}: differs from the graph")
    calls = keep_calls([infer_call(installation, window) for window in truth.windows], folder / "infer.calls")
    return Subject(name=INFER, process=gateway.process, port=gateway.port, calls=calls)


def check_gateway(gateway: Subject, installation: Installation, truth: Truth) -> None:
    """Make sure that the API answers for its roads what the graph answers.

    Raises:
        WrongAnswerError: It does not.
    """
    for road, quantiles in zip(truth.roads[:3], truth.quantiles, strict=False):
        answer = ask(gateway.port, site_call(installation, road))
        if answer.is_error or reply_differences(answer.json(), quantiles) > 0.01:
            raise WrongAnswerError(f"{gateway.name}: {answer.status_code} {answer.text[:200]}")


def what_is_on(gateway: Subject, installation: Installation) -> dict[str, bool]:
    """Which of the things that cost time are on."""
    road = installation.roads[0]
    answer = ask(gateway.port, site_call(installation, road))
    without_key = ask(gateway.port, site_call(installation, road, headers={"X-API-Key": "tc_none"}))
    unknown = ask(gateway.port, replace(site_call(installation, road), body=b'{"location": {"road_id": 1}}'))
    metrics = ask(gateway.port, Call(path="/metrics", headers=installation.headers))
    logged = list((installation.folder / "predictions").rglob("*"))
    return {
        "validation": unknown.status_code in (400, 422),
        "key check": without_key.status_code == 401,
        "rate limit": "x-ratelimit-limit" in answer.headers,
        "interval": "confidence_interval" in answer.json()["predictions"][0],
        "metrics": metrics.status_code == 200 and "towncast_" in metrics.text,
        "prediction log": any(file.is_file() and file.stat().st_size for file in logged),
    }
