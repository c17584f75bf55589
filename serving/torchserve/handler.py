"""The handler that TorchServe's workers run: one for every domain's artifact.

It is packed into the archive alone, so it imports nothing of towncast. A request's body is one or more windows, each
as little-endian float32: history (L x K), future (H x C), static (S). The answer's body is quantiles (H x Q) likewise.
All requests of a batch run as one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

_FLOAT = np.dtype("<f4")


class WindowHandler:
    """Loads the graph once, then answers batches. A bad request gets its own 400; the others of its batch are answered.

    TorchServe makes it without arguments, and calls `initialize` and `handle`.
    """

    def initialize(self, context: Any) -> None:
        """Load the graph beside this file, and warm every size of batch, so that no first request is slow.

        Raises:
            RuntimeError: CUDA was asked for and is not there.
        """
        folder = Path(context.system_properties["model_dir"])
        layout = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
        self.shapes = {name: tuple(layout[name]) for name in ("history", "future", "static")}
        self.size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.buckets = tuple(layout["buckets"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = layout["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        provider, settings = _provider(layout["device"], context.system_properties.get("gpu_id"))
        # On the CPU a bound run of a small graph takes longer than a plain one.
        self.bound_to = None if layout["device"] == "cpu" else (layout["device"], int(settings["device_id"]))
        self.session = onnxruntime.InferenceSession(
            str(folder / layout["graph"]), options, providers=[(provider, settings)]
        )
        if provider not in self.session.get_providers():
            raise RuntimeError(f"{provider} was asked for, the session runs on {self.session.get_providers()}")
        for windows in self.buckets:
            self._run(self._nothing(windows))

    def _nothing(self, windows: int) -> npt.NDArray[np.float32]:
        """Windows without any reading; what is known ahead is 0, for an hour of the day is always known."""
        blank = {"history": np.nan, "future": 0.0, "static": np.nan}
        parts = [np.full((windows, int(np.prod(shape))), blank[name]) for name, shape in self.shapes.items()]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer each request of a batch; never raises for what a request holds."""
        windows = [_windows(row, self.size) for row in data]
        answers = [b""] * len(windows)
        counts = [0 if isinstance(window, str) else len(window) for window in windows]
        good = [window for window in windows if not isinstance(window, str)]
        parts: list[npt.NDArray[np.float32]] = []
        failure, run = "", ""
        if good:
            began = time.perf_counter()
            try:
                parts = np.split(self._run(np.concatenate(good)), np.cumsum([count for count in counts if count])[:-1])
                run = f"{time.perf_counter() - began:.6f};{sum(counts)}"
            except Exception as error:  # a handler that raises is answered with an opaque 503 for the whole batch
                failure = f"the graph failed: {error}"
        for index, window in enumerate(windows):
            if isinstance(window, str) or failure:
                context.set_response_status(code=500 if failure else 400, idx=index)
                answers[index] = (failure or str(window)).encode()
            else:
                answers[index] = parts.pop(0).astype(_FLOAT, copy=False).tobytes()
                context.set_response_header(index, "X-Towncast-Run", run)
        return answers

    def _run(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.bound_to is not None:
            most = self.buckets[-1]
            parts = [self._run_bound(rows[first : first + most]) for first in range(0, len(rows), most)]
            return np.concatenate(parts)
        quantiles: npt.NDArray[np.float32] = self.session.run(["quantiles"], self._inputs(rows))[0]
        return quantiles

    def _run_bound(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """On the device, filled up to a size that is warmed: a GPU plans each new shape anew."""
        assert self.bound_to is not None
        missing = next(size for size in self.buckets if size >= len(rows)) - len(rows)
        filled = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
        binding = self.session.io_binding()
        for name, array in self._inputs(filled).items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, *self.bound_to))
        binding.bind_output("quantiles", *self.bound_to)
        self.session.run_with_iobinding(binding)
        quantiles: npt.NDArray[np.float32] = binding.copy_outputs_to_cpu()[0][: len(rows)]
        return quantiles

    def _inputs(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        inputs, start = {}, 0
        for name, shape in self.shapes.items():
            end = start + int(np.prod(shape))
            inputs[name] = np.ascontiguousarray(rows[:, start:end]).reshape(len(rows), *shape)
            start = end
        return inputs


def _provider(device: str, gpu_id: int | None) -> tuple[str, dict[str, str]]:
    """The execution provider of this worker and its options."""
    if device == "cpu":
        return "CPUExecutionProvider", {}
    if gpu_id is None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError(
            f"The device cuda was asked for and is not there (worker's GPU: {gpu_id}, ONNX Runtime offers "
            f"{onnxruntime.get_available_providers()}). Install onnxruntime-gpu, or set TOWNCAST_DEVICE=cpu."
        )
    return "CUDAExecutionProvider", {"device_id": str(gpu_id)}


def _windows(row: dict[str, Any], size: int) -> npt.NDArray[np.float32] | str:
    """A request's windows, shape (B, values of a window), or what is wrong with it."""
    body = row.get("body", row.get("data"))
    if not isinstance(body, bytes | bytearray):
        return "the body must be float32 values with Content-Type application/octet-stream"
    if not body or len(body) % (size * _FLOAT.itemsize):
        return f"the body has {len(body)} bytes, not a multiple of {size * _FLOAT.itemsize}"
    return np.frombuffer(body, dtype=_FLOAT).reshape(-1, size).astype(np.float32, copy=False)
