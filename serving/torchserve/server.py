"""TorchServe as a child: started on loopback with its own folder, checked, and stopped with all that it started.

It is archived upstream and an archive is code: every address is on loopback, models come from the configuration alone
(the model API is off, and the allowed URLs are pinned all the same), and our API stands before it. Other users of the
machine reach loopback too: so its token authorization is on, its keys are in a file that this user alone may read, and
they are replaced at half of their life.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from features.errors import RuntimeUnavailableError
from features.files import make_folder, storage_errors
from serving.artifacts import Artifact
from serving.settings import Device
from serving.torchserve.archive import build_archive
from serving.torchserve.keys import KEY_FILE, KeyFile, Kind

_LOG = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
# Measured starting values; TorchServe's own 100 ms of batch delay would dominate every answer.
MODEL_SETTINGS = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 32, "maxBatchDelay": 5, "responseTimeout": 10}
JOB_QUEUE_SIZE = 256
# A child that outlives us would keep its ports and 500 MB: when our end of the pipe closes, however we ended, the
# guard ends it. The guard itself lives in the child's process group and ends with it.
_GUARD = 'exec 3<&0; "$@" </dev/null 3<&- & child=$!; { read _ <&3; kill -TERM $child 2>/dev/null; } & wait $child'

# Its own logging writes a line or more per request, without end; what it says about itself and its worker is kept.
_LOGGING = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders>
    <Console name="console" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} [%-5p] %c - %m%n"/></Console>
  </Appenders>
  <Loggers>
    <Logger name="org.pytorch.serve" level="info"/>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Root level="info"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """TorchServe's ports, all on loopback."""

    inference: int
    management: int
    metrics: int
    grpc_inference: int
    grpc_management: int


def free_ports() -> Ports:
    """Ports that nothing listens on at the moment."""
    names = list(Ports.__dataclass_fields__)
    listeners = [socket.create_server((LOOPBACK, 0)) for _ in names]
    ports = {name: int(listener.getsockname()[1]) for name, listener in zip(names, listeners, strict=True)}
    for listener in listeners:
        listener.close()
    return Ports(**ports)


def find_java() -> str | None:
    """The Java runtime that TorchServe would use, if there is one."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(f"{home}/bin/java") if home else shutil.which("java")


class TorchServeServer:
    """One TorchServe with one or more models, a worker each.

    Args:
        artifacts: The models to host.
        folder: Its own folder: model store, configuration, logs. Made by `start`.
        ports: Where it listens, on loopback.
        device: Where its workers run the graphs.
        threads: Threads within one run of a graph.
        key_life_min: How long a key holds [min].
    """

    def __init__(
        self,
        artifacts: Sequence[Artifact],
        folder: Path,
        *,
        ports: Ports,
        device: Device = "cpu",
        threads: int = 1,
        key_life_min: float = 60.0,
    ) -> None:
        self.artifacts = tuple(artifacts)
        self.folder = folder.absolute()
        self.ports = ports
        self.device = device
        self.threads = threads
        self.key_life_min = key_life_min
        self._keys = KeyFile(self.key_file)
        self._stopping = threading.Event()
        self._rotating: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary: Path | None = None

    @property
    def url(self) -> str:
        """Address of predictions."""
        return f"http://{LOOPBACK}:{self.ports.inference}"

    @property
    def key_file(self) -> Path:
        """Its keys, from its start to its stop; see `serving.torchserve.keys`."""
        return self.folder / KEY_FILE

    @property
    def process_id(self) -> int | None:
        """Process, and process group, of all that was started; None before and after."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Build the archives and start TorchServe, without waiting for it.

        Raises:
            RuntimeUnavailableError: Java or TorchServe is not installed.
            ArtifactError: An archive cannot be built.
            StorageError: The folder cannot be written.
        """
        java, home = find_java(), _torchserve_home()
        if java is None or home is None:
            raise RuntimeUnavailableError(
                "TorchServe cannot start",
                found="no java on PATH" if java is None else "the package torchserve is not installed",
                remedy="Install a Java 17 runtime and towncast[torchserve], or serve with --no-torchserve.",
            )
        for name in ("store", "logs"):
            make_folder(self.folder / name)
        for artifact in self.artifacts:
            build_archive(artifact, self.folder / "store", device=self.device, threads=self.threads)
        with storage_errors(self.folder), (self.folder / "logs" / "torchserve.log").open("wb") as log:
            # Workers listen on sockets in here, and the path of a socket may have 107 characters at most.
            self._temporary = Path(tempfile.mkdtemp(prefix="torchserve-"))
            (self.folder / "config.properties").write_text(self._configuration(), encoding="utf-8")
            (self.folder / "log4j2.xml").write_text(_LOGGING, encoding="utf-8")
            # It writes new keys into a file that is there, with whatever rights that has.
            self.key_file.unlink(missing_ok=True)
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "torchserve", *self._command(java, home, self._temporary)],
                cwd=self.folder,
                env=_environment(self._temporary),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        self._stopping.clear()
        self._rotating = threading.Thread(target=self._keep_rotating, name="torchserve-keys", daemon=True)
        self._rotating.start()

    def _keep_rotating(self) -> None:
        half_life_s = self.key_life_min * 60.0 / 2.0
        wait_s = half_life_s
        while not self._stopping.wait(wait_s):
            # Both, whatever comes of the first one.
            done = [self.rotate(kind) for kind in ("inference", "management")]
            wait_s = half_life_s if all(done) else half_life_s / 10.0

    def rotate(self, kind: Kind) -> bool:
        """Have a key replaced; the old one ends at once. Whether that was done: TorchServe may be starting, or down."""
        import httpx

        keys = KeyFile(self.key_file)
        address = f"http://{LOOPBACK}:{self.ports.management}/token"
        try:
            reply = httpx.get(address, params={"type": kind}, headers=keys.header("API"), timeout=5.0, trust_env=False)
        except httpx.HTTPError as error:
            _LOG.info("The %s key of TorchServe is not replaced yet: %s", kind, type(error).__name__)
            return False
        if reply.status_code != httpx.codes.OK:
            _LOG.warning("TorchServe refused to replace its %s key: status %d", kind, reply.status_code)
            return False
        return True

    def _command(self, java: str, home: Path, temporary: Path) -> list[str]:
        """What `torchserve --start` runs, without its pid file, of which there is one per machine."""
        return [
            java,
            f"-Dmodel_server_home={home}",
            f"-Djava.io.tmpdir={temporary}",
            f"-Dlog4j.configurationFile=file://{self.folder / 'log4j2.xml'}",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            *("-cp", str(home / "ts" / "frontend" / "*")),
            "org.pytorch.serve.ModelServer",
            *("--python", sys.executable),
            *("-f", str(self.folder / "config.properties")),
            *("-s", str(self.folder / "store")),
            "-ncs",
        ]

    def _configuration(self) -> str:
        models = {
            artifact.name: {
                artifact.version: {"defaultVersion": True, "marName": f"{artifact.name}.mar", **MODEL_SETTINGS}
            }
            for artifact in self.artifacts
        }
        lines = {
            "inference_address": self.url,
            "management_address": f"http://{LOOPBACK}:{self.ports.management}",
            "metrics_address": f"http://{LOOPBACK}:{self.ports.metrics}",
            "grpc_inference_address": LOOPBACK,
            "grpc_management_address": LOOPBACK,
            "grpc_inference_port": self.ports.grpc_inference,
            "grpc_management_port": self.ports.grpc_management,
            "allowed_urls": f"file://{self.folder / 'store'}/.*",
            "enable_model_api": "false",
            "enable_envvars_config": "false",
            "disable_token_authorization": "false",
            "token_expiration_min": self.key_life_min,
            "disable_system_metrics": "true",
            "install_py_dep_per_model": "false",
            "job_queue_size": JOB_QUEUE_SIZE,
            "default_response_timeout": MODEL_SETTINGS["responseTimeout"],
            "max_request_size": 64 * 1024 * 1024,
            "number_of_netty_threads": 2,
            "netty_client_threads": 1,
            **({"number_of_gpu": 0} if self.device == "cpu" else {}),
            "load_models": ",".join(f"{name}.mar" for name in models),
            "models": json.dumps(models),
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def wait_ready(self, *, timeout_s: float = 120.0, stop: threading.Event | None = None) -> None:
        """Wait until each model's worker is ready and its settings are those that were asked for.

        Args:
            timeout_s: Longest wait [s].
            stop: Ends the wait early when set.

        Raises:
            RuntimeUnavailableError: It ended, did not get ready in time, or took other settings.
        """
        end = time.monotonic() + timeout_s
        stop = stop or threading.Event()
        while time.monotonic() < end and not stop.is_set():
            if self._process is None or self._process.poll() is not None:
                raise self._failed("it ended")
            descriptions = [self.describe(artifact.name) for artifact in self.artifacts]
            if all(_is_ready(description) for description in descriptions):
                for description in descriptions:
                    self._check(description)
                return
            stop.wait(0.2)
        raise self._failed("the wait was ended" if stop.is_set() else f"not ready after {timeout_s:g} s")

    def describe(self, name: str) -> dict[str, Any]:
        """What TorchServe says of a model; nothing where it does not answer yet."""
        import httpx

        address = f"http://{LOOPBACK}:{self.ports.management}/models/{name}"
        try:
            answer = httpx.get(address, headers=self._keys.header("management"), timeout=2.0, trust_env=False)
        except httpx.HTTPError:
            return {}
        if answer.status_code != httpx.codes.OK:
            return {}
        description: dict[str, Any] = answer.json()[0]
        return description

    def _check(self, description: dict[str, Any]) -> None:
        other = {key: description.get(key) for key, value in MODEL_SETTINGS.items() if description.get(key) != value}
        queue = description.get("jobQueueStatus", {}).get("remainingCapacity")
        if other or queue != JOB_QUEUE_SIZE:
            raise self._failed(f"it took other settings: {other or {'jobQueueSize': queue}}")

    def _failed(self, found: str) -> RuntimeUnavailableError:
        return RuntimeUnavailableError(
            "TorchServe did not start", found=found, remedy=f"See the files in {self.folder / 'logs'}."
        )

    def stop(self, *, grace_s: float = 10.0) -> None:
        """Stop TorchServe, its workers and the guard; nothing of its process group is left. Twice does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        self._stopping.set()
        _signal_group(process.pid, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while time.monotonic() < end and _group_lives(process):
            time.sleep(0.05)
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self.key_file.unlink(missing_ok=True)
        if self._rotating is not None:
            self._rotating.join()

    def __enter__(self) -> TorchServeServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _is_ready(description: dict[str, Any]) -> bool:
    workers = description.get("workers", [])
    return bool(workers) and all(worker["status"] == "READY" for worker in workers)


def _environment(temporary: Path) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, "TEMP": str(temporary), "TMPDIR": str(temporary), **own}


def _torchserve_home() -> Path | None:
    found = importlib.util.find_spec("ts")
    return None if found is None or found.origin is None else Path(found.origin).parent.parent


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    """Whether any process of the group runs; reaps the first one, which would count for ever."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
