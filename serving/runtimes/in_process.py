"""ONNX Runtime in the process of the API: nothing to start, nothing to lose."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from features.card import Card
from features.errors import ArtifactError, DeviceError
from features.vocabulary import Float32Array, Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import forecast_of, graph_inputs, static_width
from serving.settings import Device

_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# The longest that one request may hold the event loop: about what reading and writing its JSON takes.
INLINE_BELOW_S = 1e-3


class InProcessRuntime:
    """Runs the graph where that costs least: one window of a fast graph on the event loop, all else in a thread.

    A run of 0.2 ms holds the loop no longer than writing the reply does, and handing it to a thread and back costs two
    switches that on a busy machine take longer than the run. A batch of occluded windows, or a slow graph, would hold
    every other request and the health checks: it goes to the thread, where ONNX Runtime lets go of the interpreter's
    lock. How long a run takes is measured when the graph is loaded.

    Args:
        artifact: The model.
        device: Where the graph runs.
    """

    name = "in_process"

    def __init__(self, artifact: Artifact, *, device: Device = "cpu") -> None:
        self.artifact = artifact
        self.device = device
        self._session: Any = None
        self._run_s = math.inf
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")

    def load(self) -> None:
        """Read the graph and check it against the card; a second call does nothing.

        Raises:
            ArtifactError: The graph is damaged, or is not what the card says.
            DeviceError: The device was asked for and is not there.
        """
        if self._session is None:
            session = _open_session(self.artifact, self.device)
            _check_signature(session, self.artifact.card)
            self._run_s = _time_runs(session, self.artifact.card)
            self._session = session

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """Quantiles of the target for each window; the first call loads the graph.

        Raises:
            ArtifactError: The graph, the window and the card do not fit together.
            DeviceError: The device was asked for and is not there.
            InvalidParameterError: The model has no such level.
        """
        inputs = graph_inputs(self.artifact.card, window)
        if len(window) == 1 and self._run_s <= INLINE_BELOW_S:
            quantiles = self._run(inputs)
        else:
            quantiles = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, inputs)
        return forecast_of(self.artifact, window, quantiles, levels=levels)

    def _run(self, inputs: dict[str, Float32Array]) -> Float32Array:
        self.load()
        quantiles: Float32Array = self._session.run(["quantiles"], inputs)[0]
        return quantiles

    async def ready(self) -> bool:
        """Whether the graph is loaded; loads it.

        Raises:
            ArtifactError: The graph is damaged, or is not what the card says.
            DeviceError: The device was asked for and is not there.
        """
        await asyncio.get_running_loop().run_in_executor(self._executor, self.load)
        return True

    async def close(self) -> None:
        """Stop the thread and free the session."""
        self._executor.shutdown(wait=True)
        self._session = None


def _open_session(artifact: Artifact, device: Device) -> Any:
    import onnxruntime

    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise _no_device(device, f"ONNX Runtime offers {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(artifact.graph), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's errors share no root that it makes public
        raise ArtifactError(
            "The graph cannot be loaded",
            found=f"{artifact.graph}: {error}",
            remedy="Export the model again, with `make train`.",
        ) from error
    # Where the provider's libraries do not load, ONNX Runtime falls back to the CPU and only logs it.
    if provider not in session.get_providers():
        raise _no_device(device, f"the session runs on {', '.join(session.get_providers())}")
    return session


def _time_runs(session: Any, card: Card) -> float:
    """Time of one run, once warm [s]; also takes the slow first run away from the first request."""
    nothing = {
        "history": np.full((1, card.history_steps, len(card.history_channels)), np.nan, dtype=np.float32),
        "future": np.zeros((1, card.horizon_steps, len(card.future_channels)), dtype=np.float32),
        "static": np.full((1, static_width(card)), np.nan, dtype=np.float32),
    }
    times_s = []
    for _ in range(5):
        began = time.perf_counter()
        session.run(["quantiles"], nothing)
        times_s.append(time.perf_counter() - began)
    return min(times_s)


def _no_device(device: Device, found: str) -> DeviceError:
    return DeviceError(
        f"The device {device} was asked for and is not there",
        found=found,
        remedy="Install onnxruntime-gpu instead of onnxruntime and check `nvidia-smi`, or set TOWNCAST_DEVICE=cpu.",
    )


def _check_signature(session: Any, card: Card) -> None:
    """Names and fixed sizes of inputs and output, so that a wrong pair fails at start and not at the first request."""
    expected = {
        "history": [card.history_steps, len(card.history_channels)],
        "future": [card.horizon_steps, len(card.future_channels)],
        "static": [static_width(card)],
        "quantiles": [card.horizon_steps, len(card.levels)],
    }
    found = {node.name: list(node.shape[1:]) for node in [*session.get_inputs(), *session.get_outputs()]}
    for name, shape in expected.items():
        fixed = [isinstance(size, int) for size in found.get(name, [])]
        given = np.array_equal(found.get(name, []), shape) if all(fixed) else len(fixed) == len(shape)
        if not given:
            raise ArtifactError(
                f"The graph of {card.model} is not what its card says",
                found=f"{name} is {found.get(name)}, the card says {shape}",
                remedy="Export the model again, with `make train`.",
            )
