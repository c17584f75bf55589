"""TorchServe with the champions of the registry, in a container beside the API's.

TorchServe listens on loopback alone and its keys are in a file: the container shares the API's network and its /data.
A new champion is hosted as soon as it is seen; while TorchServe starts again, the API answers in process.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import threading
from pathlib import Path

from features.errors import TowncastError
from serving.artifacts import Artifact
from serving.loading import champions
from serving.logs import configure_logs
from serving.observability_settings import ObservabilitySettings
from serving.settings import ServingSettings
from serving.torchserve.server import LOOPBACK, Ports, TorchServeServer

# The API is told the first one: TOWNCAST_TORCHSERVE_URL=http://127.0.0.1:7070.
PORTS = Ports(inference=7070, management=7071, metrics=7072, grpc_inference=7073, grpc_management=7074)
LOOK_EVERY_S = 30.0
_LOG = logging.getLogger("deploy.host_models")


def main() -> None:
    """Host models until told to stop, or say with the exit status whether they are hosted."""
    parser = argparse.ArgumentParser(description="TorchServe with the champions of the registry.")
    parser.add_argument("--check", action="store_true", help="exit with 0 if it answers, and with 1 if not")
    if parser.parse_args().check:
        sys.exit(0 if answers() else 1)
    configure_logs(ObservabilitySettings())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    host(ServingSettings(), stop)


def answers(ports: Ports = PORTS) -> bool:
    """Whether TorchServe listens."""
    try:
        socket.create_connection((LOOPBACK, ports.inference), timeout=2).close()
    except OSError:
        return False
    return True


def host(
    settings: ServingSettings, stop: threading.Event, *, ports: Ports = PORTS, look_every_s: float = LOOK_EVERY_S
) -> None:
    """Keep a TorchServe with the present champions until `stop` is set."""
    server: TorchServeServer | None = None
    hosted: list[Path] = []
    try:
        while not stop.is_set():
            found = _champions(settings)
            wanted = [artifact.folder for artifact in found]
            if found and (server is None or wanted != hosted or not answers(ports)):
                if server is not None:
                    server.stop()
                server, hosted = _start(settings, found, ports, stop), wanted
            stop.wait(look_every_s)
    finally:
        if server is not None:
            server.stop()


def _champions(settings: ServingSettings) -> list[Artifact]:
    try:
        found, _ = champions(settings)
    except TowncastError as error:
        _LOG.warning("The registry cannot be read: %s", error)
        return []
    return found


def _start(
    settings: ServingSettings, artifacts: list[Artifact], ports: Ports, stop: threading.Event
) -> TorchServeServer | None:
    server = TorchServeServer(
        artifacts, settings.torchserve_dir, ports=ports, device=settings.device, threads=settings.onnx_threads
    )
    try:
        server.start()
        server.wait_ready(stop=stop)
    except TowncastError as error:
        # A device that is not there ends here too: the log says so, and it is tried again.
        _LOG.error("TorchServe does not host the models: %s", error)
        server.stop()
        return None
    _LOG.info("TorchServe hosts %s", ", ".join(artifact.model_version for artifact in artifacts))
    return server


if __name__ == "__main__":
    main()
