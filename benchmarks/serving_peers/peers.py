"""How each peer is installed, started and asked."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.load import Call
from benchmarks.server_process import ServerProcess, free_port
from benchmarks.serving_peers.environments import environment, versions

Windows = Mapping[str, npt.NDArray[np.float32]]
SERVERS = Path(__file__).parent / "servers"
BASELINE = "FastAPI, pydantic"
_INPUTS = ("history", "future", "static")


def _same(package: str, extras: str = "") -> str:
    """A requirement for the version of a package that towncast itself runs with."""
    return f"{package}{extras}=={importlib.metadata.version(package)}"


def window_lists(window: Windows) -> dict[str, Any]:
    """A window as JSON holds it: the shortest decimals that give back each float32."""
    return {name: _lists(window[name]) for name in _INPUTS}


def _lists(values: npt.NDArray[np.float32]) -> Any:
    return [_lists(part) for part in values] if values.ndim else float(str(values))


def plain_call(window: Windows) -> Call:
    """The three arrays of one window."""
    return Call(path="/predict", body=json.dumps(window_lists(window), separators=(",", ":")).encode())


def protocol_call(path: str, window: Windows, headers: Mapping[str, str] | None = None) -> Call:
    """One window by the Open Inference Protocol, flat data."""
    inputs = [
        {"name": name, "shape": [1, *window[name].shape], "datatype": "FP32", "data": _flat(values)}
        for name, values in window_lists(window).items()
    ]
    return Call(path=path, body=json.dumps({"inputs": inputs}, separators=(",", ":")).encode(), headers=headers)


def _flat(values: Any) -> list[float]:
    return [leaf for part in values for leaf in _flat(part)] if isinstance(values, list) else [values]


def _batched_call(window: Windows) -> Call:
    """One window as a batch of one, the way MLflow's scoring server takes tensors."""
    inputs = {name: [values] for name, values in window_lists(window).items()}
    return Call(path="/invocations", body=json.dumps({"inputs": inputs}, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another server of the same graph.

    Attributes:
        name: In tables and figures.
        packages: Of its environment; none where it runs in ours.
        prepare: Writes what it needs into a folder, and returns its command and its environment's variables.
        call: Makes the request for a window.
        quantiles: Finds the forecast in its answer.
        note: What is particular about it.
    """

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[Path, Path, Path, int], tuple[list[str], dict[str, str]]]
    call: Callable[[Windows], Call] = plain_call
    quantiles: Callable[[Any], Any] = field(default=lambda answer: answer["quantiles"])
    note: str = ""


def start_peer(
    peer: Peer, graph: Path, window: Windows, folder: Path, *, cores: Sequence[int]
) -> tuple[ServerProcess, int]:
    """Start a peer in its environment, and wait until it answers a window; the caller stops it.

    Raises:
        PeerUnavailableError: It cannot be installed.
        ServerFailedError: It does not get ready.
    """
    python = environment(_slug(peer.name), peer.packages) if peer.packages else Path(sys.executable)
    own, port = folder / _slug(peer.name), free_port()
    own.mkdir(parents=True)
    command, variables = peer.prepare(python, graph, own, port)
    variables = {"PEER_GRAPH": str(graph), "PYTHONPATH": str(SERVERS), **variables}
    process = ServerProcess(command, log=own / "log", environment=variables, folder=own, cores=cores)
    process.start()
    try:
        process.wait_for(port, peer.call(window))
    except BaseException:
        process.stop()
        raise
    return process, port


def peer_versions(peer: Peer) -> dict[str, str]:
    """What is installed for a peer, by package."""
    if not peer.packages:
        return {name: importlib.metadata.version(name) for name in ("torchserve", "onnxruntime")}
    return versions(environment(_slug(peer.name), peer.packages), peer.packages)


def _slug(name: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def _uvicorn(module: str) -> Callable[[Path, Path, Path, int], tuple[list[str], dict[str, str]]]:
    def prepare(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [str(python), "-m", "uvicorn", f"{module}:app", *options], {}

    return prepare


def _bentoml(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    options = ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(SERVERS)]
    return (
        [str(python), "-m", "bentoml", "serve", "bentoml_service:Forecaster", *options],
        {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder / "home")},
    )


def _mlserver(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    model = {"name": "lstm", "implementation": "mlserver_runtime.OnnxModel"}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return [str(python.with_name("mlserver")), "start", str(folder)], {}


def _mlflow(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    script = (
        "import sys, mlflow.onnx, onnx; mlflow.onnx.save_model(onnx.load(sys.argv[1]), sys.argv[2],"
        " onnx_session_options={'intra_op_num_threads': 1, 'inter_op_num_threads': 1}, save_as_external_data=False)"
    )
    model = folder / "model"
    subprocess.run([str(python), "-c", script, str(graph), str(model)], capture_output=True, check=True)
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # MLflow starts what it finds first on PATH.
    variables = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin"}
    return [str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(model), *options], variables


def _litserve(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return [str(python), str(SERVERS / "litserve_server.py"), str(port)], {}


def _torchserve(batch: int, delay_ms: int) -> Callable[[Path, Path, Path, int], tuple[list[str], dict[str, str]]]:
    def prepare(python: Path, graph: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        model = folder / "store" / "lstm"
        (model / "MAR-INF").mkdir(parents=True)
        for source, name in ((graph, "model.onnx"), *((SERVERS / file, file) for file in _HANDLER)):
            shutil.copy2(source, model / name)
        manifest = {
            "runtime": "python",
            "archiverVersion": "0.12.0",
            "model": {"modelName": "lstm", "modelVersion": "1.0", "handler": _HANDLER[0]},
        }
        (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest), encoding="utf-8")
        settings = {"defaultVersion": True, "marName": "lstm", "minWorkers": 1, "maxWorkers": 1}
        settings |= {"batchSize": batch, "maxBatchDelay": delay_ms, "responseTimeout": 60}
        lines = {
            "inference_address": f"http://127.0.0.1:{port}",
            "management_address": f"http://127.0.0.1:{free_port()}",
            "metrics_address": f"http://127.0.0.1:{free_port()}",
            "grpc_inference_port": free_port(),
            "grpc_management_port": free_port(),
            "disable_token_authorization": "true",
            "disable_system_metrics": "true",
            "job_queue_size": 1000,
            "load_models": "lstm",
            "models": json.dumps({"lstm": {"1.0": settings}}),
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (folder / "config.properties").write_text(text, encoding="utf-8")
        (folder / "log4j2.xml").write_text(_QUIET, encoding="utf-8")
        command = [str(python.with_name("torchserve")), "--start", "--foreground", "--no-config-snapshots"]
        command += ["--model-store", str(folder / "store"), "--ts-config", str(folder / "config.properties")]
        command += ["--log-config", str(folder / "log4j2.xml")]
        # Workers listen on sockets in here, and the path of a socket may have 107 characters at most.
        short = folder / "t"
        short.mkdir()
        return command, {"TEMP": str(short), "TMPDIR": str(short), "PATH": f"{python.parent}:/usr/bin:/bin"}

    return prepare


_HANDLER = ("torchserve_handler.py", "graph.py")
# Its own logging writes lines for each request.
_QUIET = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="console" target="SYSTEM_OUT"/></Appenders>
  <Loggers><Root level="error"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""

_RUN = (_same("onnxruntime"), _same("numpy"))
_WEB = (*_RUN, _same("fastapi"), _same("uvicorn", "[standard]"))

PEERS: tuple[Peer, ...] = (
    Peer(name=BASELINE, packages=(*_WEB, _same("pydantic")), prepare=_uvicorn("minimal_fastapi")),
    Peer(name="FastAPI, orjson", packages=(*_WEB, "orjson==3.13.0"), prepare=_uvicorn("orjson_fastapi")),
    Peer(
        name="BentoML",
        packages=("onnxruntime", "numpy", "bentoml"),
        prepare=_bentoml,
        quantiles=lambda answer: answer,
    ),
    Peer(
        name="MLServer",
        packages=("onnxruntime", "numpy", "mlserver"),
        prepare=_mlserver,
        call=lambda window: protocol_call("/v2/models/lstm/infer", window),
        quantiles=lambda answer: answer["outputs"][0]["data"],
        note="no parallel workers: in one process",
    ),
    Peer(
        name="mlflow models serve",
        packages=("onnxruntime", "numpy", "onnx", _same("mlflow")),
        prepare=_mlflow,
        call=_batched_call,
        quantiles=lambda answer: answer["predictions"]["quantiles"],
    ),
    Peer(name="LitServe", packages=("onnxruntime", "numpy", "litserve"), prepare=_litserve),
    Peer(
        name="TorchServe, batch 1",
        packages=(),
        prepare=_torchserve(1, 0),
        call=lambda window: Call(path="/predictions/lstm", body=plain_call(window).body),
    ),
    Peer(
        name="TorchServe, batch 32",
        packages=(),
        prepare=_torchserve(32, 5),
        call=lambda window: Call(path="/predictions/lstm", body=plain_call(window).body),
        note="waits 5 ms for a batch",
    ),
)
