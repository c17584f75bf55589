"""ONNX Runtime's session of an artifact: opened, checked against the card, warmed, and run on its device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from features.card import Card, check_files
from features.errors import ArtifactError, DeviceError
from features.vocabulary import Float32Array
from serving.artifacts import Artifact
from serving.runtimes.base import static_width
from serving.runtimes.batching import BUCKETS, Inputs, bucket_of
from serving.settings import Device

OUTPUT = "quantiles"
_PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class GraphSession:
    """A loaded graph.

    Args:
        session: ONNX Runtime's; `open_session` makes it.
        card: What it must be.
        device: Where it runs.
        bound: Whether inputs and output are bound on the device. That is for a GPU: on the CPU a bound run of a small
            graph takes longer than a plain one.
    """

    def __init__(self, session: Any, card: Card, *, device: Device, bound: bool | None = None) -> None:
        self._session = session
        self.card = card
        self.device = device
        self.bound = device == "cuda" if bound is None else bound

    def run(self, inputs: Inputs) -> Float32Array:
        """Quantiles of a batch, shape (B, H, Q) [the card's unit].

        Raises:
            ArtifactError: The graph fails.
        """
        try:
            return self._run_bound(inputs) if self.bound else self._run_plain(inputs)
        except Exception as error:  # ONNX Runtime's errors share no root that it makes public
            raise ArtifactError(
                f"The graph of {self.card.model} failed",
                found=str(error).splitlines()[0] if str(error) else type(error).__name__,
                remedy="Check the readings of this site, and train the model again with `make train`.",
            ) from error

    def _run_plain(self, inputs: Inputs) -> Float32Array:
        quantiles: Float32Array = self._session.run([OUTPUT], inputs)[0]
        return quantiles

    def _run_bound(self, inputs: Inputs) -> Float32Array:
        """On the device, filled up to a size that is warmed: a GPU plans each new shape anew."""
        from onnxruntime import OrtValue

        windows = len(inputs["history"])
        binding = self._session.io_binding()
        for name, array in _filled(inputs, bucket_of(windows)).items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array, self.device, 0))
        binding.bind_output(OUTPUT, self.device, 0)
        self._session.run_with_iobinding(binding)
        quantiles: Float32Array = binding.copy_outputs_to_cpu()[0][:windows]
        return quantiles

    def warm(self) -> dict[int, float]:
        """Run each bucket until it is warm, so that no first request is slow; the time of a run by bucket [s].

        Raises:
            ArtifactError: The graph fails.
        """
        times_s = {}
        for windows in BUCKETS:
            inputs = nothing(self.card, windows)
            took_s = []
            # The least of several: on a busy machine any one of them may be interrupted.
            for _ in range(5 if windows <= 8 else 3):
                began = time.perf_counter()
                self.run(inputs)
                took_s.append(time.perf_counter() - began)
            times_s[windows] = min(took_s)
        return times_s


def nothing(card: Card, windows: int) -> dict[str, Float32Array]:
    """Inputs of windows without any reading."""
    return {
        "history": np.full((windows, card.history_steps, len(card.history_channels)), np.nan, dtype=np.float32),
        "future": np.zeros((windows, card.horizon_steps, len(card.future_channels)), dtype=np.float32),
        "static": np.full((windows, static_width(card)), np.nan, dtype=np.float32),
    }


def open_session(artifact: Artifact, *, device: Device = "cpu", threads: int = 1) -> GraphSession:
    """The graph of an artifact, whose files are checked once more.

    Args:
        artifact: The model.
        device: Where it runs.
        threads: Threads within one run.

    Raises:
        ArtifactError: The graph is damaged, has changed, or is not what the card says.
        DeviceError: The device was asked for and is not there.
    """
    import onnxruntime

    provider = _PROVIDERS[device]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise _no_device(device, f"ONNX Runtime offers {', '.join(available)}")
    check_files(artifact.folder, artifact.card)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
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
    _check_signature(session, artifact.card)
    return GraphSession(session, artifact.card, device=device)


def _filled(inputs: Mapping[str, Float32Array], windows: int) -> dict[str, Float32Array]:
    """Inputs with their last window repeated until there are so many."""
    missing = windows - len(inputs["history"])
    if missing == 0:
        return dict(inputs)
    return {name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for name, array in inputs.items()}


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
