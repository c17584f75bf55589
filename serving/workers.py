"""Several processes that answer on one port: uvicorn starts them, and starts another where one ends."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Config

    from serving.settings import ServingSettings

# Threads beside the event loop (features, large batches) hold the interpreter for so long at a time in place of
# the 5 ms of Python, which would be seen in the slowest replies.
SWITCH_S = 5e-4
# A worker imports for seconds, in which it may not say that it lives; one that died is missed only after this time.
_HEALTH_TIMEOUT_S = 15
_LOAD_S = 60.0
_SHUTDOWN_S = 10
_STUCK_MS = 20_000
_WS_MESSAGE_BYTES = 262_144


def worker_app() -> FastAPI:
    """The app of one worker, from the environment alone: it knows nothing of the process that started it."""
    from serving.app import create_app
    from serving.logs import configure_logs
    from serving.observability_settings import ObservabilitySettings

    configure_logs(ObservabilitySettings())
    sys.setswitchinterval(SWITCH_S)
    app = create_app(listen_after_s=_LOAD_S)
    freeze_when_loaded(app)
    return app


def freeze_when_loaded(app: FastAPI) -> None:
    """Keep what was imported and loaded out of every later collection of garbage, in which all requests wait.

    A collection over all that MLflow and Feast bring takes a third of a second.
    """

    def freeze() -> None:
        if app.state.loaded.wait(_LOAD_S):
            gc.collect()
            gc.freeze()

    threading.Thread(target=freeze, name="freeze", daemon=True).start()


def run_workers(settings: ServingSettings) -> None:
    """Serve on as many workers as the settings say, until told to stop.

    The workers get the settings as environment variables, of which only those that differ from the defaults are set.
    """
    from uvicorn.supervisors import Multiprocess

    from serving.metrics_folder import share_figures

    os.environ.update(_variables(settings.model_dump(mode="json", exclude_defaults=True)))
    share_figures(settings.data_dir / "metrics")
    config = server_config(
        "serving.workers:worker_app",
        host=settings.host,
        port=settings.port,
        factory=True,
        workers=settings.workers,
        log_config=None,
        timeout_worker_healthcheck=_HEALTH_TIMEOUT_S,
    )
    Multiprocess(config, sockets=[listen(config)]).run()


def server_config(app: FastAPI | str, *, host: str, port: int, **more: Any) -> Config:
    """What uvicorn is told for any number of workers."""
    from uvicorn import Config

    return Config(
        app,
        host=host,
        port=port,
        access_log=False,
        # What a client of the WebSocket says is short; compressing each update for each client costs more than sending.
        ws_max_size=_WS_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        **more,
    )


def listen(config: Config) -> socket.socket:
    """The bound socket of a server; connections whose peer takes nothing for a while are ended by the system."""
    listener = config.bind_socket()
    # An ASGI server cannot abort a connection that is stuck: it would hold up the stop.
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        listener.setsockopt(socket.IPPROTO_TCP, option, _STUCK_MS)
    return listener


def _variables(changed: Mapping[str, object]) -> dict[str, str]:
    """Settings as the environment holds them."""
    return {
        f"TOWNCAST_{name.upper()}": ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in changed.items()
        if value is not None
    }
