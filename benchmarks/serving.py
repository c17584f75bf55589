"""The claim: over the bare graph, the API costs little.

`python -m benchmarks.serving [--quick] [--data DIR]` measures

- a forecast over real loopback HTTP against a bare `InferenceSession.run` of the same window plus `json.dumps` of the
  same answer, in turns: median and p99, and their ratios (bars: 3 and 6);
- requests per second at 1, 8 and 32 clients, in process and with TorchServe, in turns;
- a batch of requests against the same requests one after the other, on one connection, in turns.

It serves the champion of the registry, or a random LSTM of the design document's size where there is none.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from benchmarks.serving_subject import Town, find_artifact, make_town, served, temporary_folder
from features.feast_repository import FeatureRepository
from serving.artifacts import Artifact
from serving.runtimes.base import graph_inputs
from serving.settings import ServingSettings
from serving.torchserve.server import TorchServeServer, find_java, free_ports

MEDIAN_BAR, P99_BAR = 3.0, 6.0
CLIENTS = (1, 8, 32)
_ROADS = 20
_HOUR_S = 3600


def question(road: int) -> dict[str, Any]:
    """The body of a request for a day ahead."""
    return {"location": {"road_id": f"R{road:03d}"}, "forecast_horizon": "24h"}


def request_bytes(content: dict[str, Any], *, path: str = "/predict/traffic") -> bytes:
    """A whole HTTP request."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def body_length(head: bytes) -> int:
    """Length of a reply's body; refuses replies that are not 200."""
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the API answered {head[:200]!r}")
    lines = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    return next(int(value) for name, _, value in lines if name == b"content-length")


class Connection:
    """A kept-alive connection that does nothing but send and receive: the client's cost is not what is measured."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """Send a request; the reply's body."""
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._received()
        head, _, body = received.partition(b"\r\n\r\n")
        length = body_length(head)
        while len(body) < length:
            body += self._received()
        return body

    def _received(self) -> bytes:
        part = self._socket.recv(65536)
        if not part:
            raise RuntimeError("the API closed the connection")
        return part

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def bare_forecast(artifact: Artifact, repository: FeatureRepository) -> Callable[[Any], None]:
    """What any API must do at least: run the graph on a window that is there, and write an answer as JSON."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact.graph), options, providers=["CPUExecutionProvider"])
    window = repository.online_window("R001", origin_s=int(time.time()) // _HOUR_S * _HOUR_S)
    inputs = graph_inputs(artifact.card, window)

    def run(answer: Any) -> None:
        session.run(["quantiles"], inputs)
        json.dumps(answer)

    return run


def measure_latency(port: int, bare: Callable[[Any], None], *, pairs: int) -> dict[str, float]:
    """Bare and whole forecasts in turns [ms], and their ratios."""
    connection = Connection(port)
    request = request_bytes(question(1))
    answer = json.loads(connection.ask(request))
    times_s = np.empty((pairs + pairs // 10, 2))
    for row in times_s:
        began = time.perf_counter()
        bare(answer)
        middle = time.perf_counter()
        connection.ask(request)
        row[:] = middle - began, time.perf_counter() - middle
    connection.close()
    times_ms = 1e3 * times_s[pairs // 10 :]  # the first tenth warms up
    bare_p99, whole_p99 = np.percentile(times_ms, 99, axis=0)
    return {
        "bare_median_ms": float(np.median(times_ms[:, 0])),
        "http_median_ms": float(np.median(times_ms[:, 1])),
        "median_ratio": float(np.median(times_ms[:, 1] / times_ms[:, 0])),
        "bare_p99_ms": float(bare_p99),
        "http_p99_ms": float(whole_p99),
        "p99_ratio": float(whole_p99 / bare_p99),
        "pairs": float(pairs),
    }


def measure_batch(port: int, *, rounds: int) -> dict[str, float]:
    """A question about each road, together and one after the other, in turns [ms]."""
    connection = Connection(port)
    questions = [question(road) for road in range(1, _ROADS + 1)]
    single = [request_bytes(one) for one in questions]
    together = request_bytes({"requests": questions}, path="/predict/traffic/batch")
    times_s = np.empty((rounds + 2, 2))
    for row in times_s:
        began = time.perf_counter()
        for request in single:
            connection.ask(request)
        middle = time.perf_counter()
        connection.ask(together)
        row[:] = middle - began, time.perf_counter() - middle
    connection.close()
    times_ms = 1e3 * times_s[2:]
    return {
        "requests": float(_ROADS),
        "singles_ms": float(np.median(times_ms[:, 0])),
        "batch_ms": float(np.median(times_ms[:, 1])),
        "times_faster": float(np.median(times_ms[:, 0] / times_ms[:, 1])),
    }


async def measure_rate(port: int, *, clients: int, duration_s: float) -> float:
    """Requests per second that some clients together get answered, each on its own connection."""
    end = time.perf_counter() + duration_s
    counts = await asyncio.gather(*(_client(port, 1 + index % _ROADS, end) for index in range(clients)))
    return sum(counts) / duration_s


async def _client(port: int, road: int, end: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request, count = request_bytes(question(road)), 0
    while time.perf_counter() < end:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(body_length(head))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count


def measure_rates(ports: dict[str, int], *, rounds: int, duration_s: float, console: Console) -> dict[str, Any]:
    """Median requests per second by runtime and number of clients, the runtimes in turns."""
    rates: dict[str, dict[str, list[float]]] = {name: {str(count): [] for count in CLIENTS} for name in ports}
    for turn in range(rounds):
        for clients in CLIENTS:
            for name, port in ports.items():
                console.print(f"[dim]round {turn + 1} of {rounds}: {clients} clients, {name}[/dim]")
                rate = asyncio.run(measure_rate(port, clients=clients, duration_s=duration_s))
                rates[name][str(clients)].append(rate)
    return {
        name: {clients: round(statistics.median(found), 1) for clients, found in by_clients.items()}
        for name, by_clients in rates.items()
    }


def show(
    console: Console, model: str, latency: dict[str, float], batch: dict[str, float], rates: dict[str, Any]
) -> None:
    """Print all figures."""
    table = Table("", "bare run + JSON", "POST over HTTP", "ratio", "bar", title=f"One forecast of {model}, in process")
    for name, bar in (("median", MEDIAN_BAR), ("p99", P99_BAR)):
        ratio = latency[f"{name}_ratio"]
        colour = "green" if ratio <= bar else "red"
        bare, whole = (f"{latency[f'{part}_{name}_ms']:.2f} ms" for part in ("bare", "http"))
        table.add_row(name, bare, whole, f"[{colour}]{ratio:.2f}[/{colour}]", f"{bar:g}")
    console.print(table)
    table = Table("runtime", *(f"{count} clients" for count in CLIENTS), title="Requests per second")
    for name, by_clients in rates.items():
        table.add_row(name, *(f"{by_clients[str(count)]:.0f}" for count in CLIENTS))
    console.print(table)
    console.print(
        f"{batch['requests']:.0f} requests: {batch['singles_ms']:.1f} ms one after the other, "
        f"{batch['batch_ms']:.1f} ms as a batch, {batch['times_faster']:.1f} times as fast"
    )


def measure(folder: Path, *, quick: bool, data: Path | None, console: Console) -> dict[str, Any]:
    """All figures, in a folder that may be filled."""
    settings = ServingSettings() if data is None else ServingSettings(data_dir=data)
    console.print("[dim]finding the model, making a town[/dim]")
    artifact = find_artifact(settings, folder / "model")
    repository = make_town(folder, roads=_ROADS)
    town = Town(folder=folder, artifact_folder=artifact.folder, version=artifact.version)
    bare = bare_forecast(artifact, repository)
    rounds, duration_s = (1, 1.0) if quick else (3, 4.0)
    with served(town) as port:
        console.print("[dim]one client, in turns with the bare run[/dim]")
        latency = measure_latency(port, bare, pairs=200 if quick else 3000)
        batch = measure_batch(port, rounds=5 if quick else 100)
        if find_java() is None:
            console.print("[yellow]No Java: TorchServe is not measured[/yellow]")
            rates = measure_rates({"in_process": port}, rounds=rounds, duration_s=duration_s, console=console)
        else:
            with TorchServeServer([artifact], folder / "torchserve", ports=free_ports()) as server:
                server.wait_ready()
                with served(town, torchserve_url=server.url) as other:
                    ports = {"in_process": port, "torchserve": other}
                    rates = measure_rates(ports, rounds=rounds, duration_s=duration_s, console=console)
    show(console, artifact.model_version, latency, batch, rates)
    rounded = {
        part: {name: round(value, 3) for name, value in figures.items()}
        for part, figures in (("latency", latency), ("batch", batch))
    }
    return {"model": artifact.model_version, **rounded, "requests_per_s": rates}


def main() -> None:
    """Run the benchmark and print its report."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", type=Path, help="data folder whose fetched artifacts are used (default: var)")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with temporary_folder() as folder:
        figures = measure(folder, quick=options.quick, data=options.data, console=wide_console())
    print_result("serving", figures)


if __name__ == "__main__":
    main()
