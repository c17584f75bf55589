"""The command `towncast serve`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from serving.artifacts import Artifact
    from serving.settings import ServingSettings
    from serving.torchserve.server import TorchServeServer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.", min=0, max=65535)] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer. Default: 1.", min=1, max=64)] = None,
    torchserve: Annotated[
        bool, typer.Option(help="Host the models in TorchServe, where Java is there; it joins when it is ready.")
    ] = True,
) -> None:
    """Answer forecasts over HTTP, with the champions of the registry, of every domain that has one; and simulations.

    The API answers in process from its first second. Where Java is installed, TorchServe starts beside it and takes
    over when it is ready; when it is down, the API answers in process again and says so in each reply. Ctrl-C stops
    both.

    Once it is up:

        curl localhost:8000/predict/traffic -H 'Content-Type: application/json'
        -d '{"location": {"road_id": "R001"}, "forecast_horizon": "24h"}'

    Live forecasts are on /dashboard. Where the address is not loopback, callers need a key: see `towncast keys --help`.

    Host, port and all other settings can also be set as variables, such as TOWNCAST_PORT, or TOWNCAST_DOMAINS for
    some domains alone.
    """
    import os

    # Before the numerical libraries are loaded: threads that wait by spinning take both cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from rich.console import Console
    from rich.markup import escape

    from serving.loading import champions
    from serving.logs import configure_logs
    from serving.observability_settings import ObservabilitySettings
    from serving.settings import ServingSettings

    console = Console()
    configure_logs(ObservabilitySettings())
    settings = ServingSettings()
    given = {"host": host, "port": port, "workers": workers, "runtime": None if torchserve else "in_process"}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    with console.status("Loading the champions"):
        artifacts, missing = champions(settings)
    versions = ", ".join(artifact.model_version for artifact in artifacts) or "simulations alone, no forecasts yet"
    console.print(f"[bold]{versions}[/bold] on http://{settings.host}:{settings.port}/docs", soft_wrap=True)
    for error in missing if settings.domains else missing[: not artifacts]:
        console.print(f"[yellow]{escape(error.fact)}.[/yellow] {escape(error.remedy)}", soft_wrap=True)
    server = _choose_torchserve(settings, artifacts, console) if artifacts else None
    if server is None:
        _run(settings, lambda loaded: contextlib.nullcontext())
    else:
        _run(
            settings.model_copy(update={"torchserve_url": server.url}),
            lambda loaded: _beside(server, loaded, console),
        )


def _run(
    settings: ServingSettings, beside: Callable[[threading.Event], contextlib.AbstractContextManager[None]]
) -> None:
    """Run the API until it is told to stop; what runs `beside` it gets the event of the first loaded models."""
    import signal
    import sys

    from serving.app import create_app, run_app
    from serving.workers import freeze_when_loaded, run_workers

    # uvicorn raises the signal again when it is done; by default SIGTERM would then end us without stopping TorchServe.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    if settings.workers > 1:
        # Whether a worker has loaded its models is not seen here: TorchServe starts at once.
        at_once = threading.Event()
        at_once.set()
        with beside(at_once):
            run_workers(settings)
        return
    app = create_app(settings)
    freeze_when_loaded(app)
    with beside(app.state.loaded):
        run_app(app, host=settings.host, port=settings.port)


def _choose_torchserve(
    settings: ServingSettings, artifacts: Sequence[Artifact], console: Console
) -> TorchServeServer | None:
    """A TorchServe to start, or None where it is not wanted, runs elsewhere, or cannot run here.

    Raises:
        RuntimeUnavailableError: It was asked for by name and cannot run here.
    """
    from features.errors import RuntimeUnavailableError
    from serving.torchserve.server import TorchServeServer, find_java, free_ports

    if settings.runtime == "in_process" or settings.torchserve_url:
        return None
    if find_java() is None:
        fact, remedy = "TorchServe needs Java", "Install a Java 17 runtime."
        if settings.runtime == "torchserve":
            raise RuntimeUnavailableError(fact, found="no java on PATH", remedy=remedy)
        console.print(f"[yellow]{fact}: answering in process.[/yellow] {remedy}")
        return None
    return TorchServeServer(
        artifacts, settings.torchserve_dir, ports=free_ports(), device=settings.device, threads=settings.onnx_threads
    )


@contextlib.contextmanager
def _beside(server: TorchServeServer, loaded: threading.Event, console: Console) -> Iterator[None]:
    """Start TorchServe in the background once the API is ready, which it would only delay; stop it at the end."""
    from rich.markup import escape

    from features.errors import TowncastError

    ended = threading.Event()

    def start() -> None:
        while not loaded.wait(0.2):
            if ended.is_set():
                return
        try:
            server.start()
            server.wait_ready(stop=ended)
            console.print(f"TorchServe is ready on {server.url}; logs in {server.folder / 'logs'}", soft_wrap=True)
        except TowncastError as error:
            if not ended.is_set():
                console.print(f"[yellow]Answering in process.[/yellow] {escape(str(error))}", soft_wrap=True)

    starting = threading.Thread(target=start, name="torchserve", daemon=True)
    starting.start()
    try:
        yield
    finally:
        ended.set()
        starting.join()
        server.stop()
