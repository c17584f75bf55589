"""Export: the whole forecaster as one ONNX graph, with a certificate that it says the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime

from features.card import GRAPH_FILE, ParityCertificate
from features.errors import ParityError
from features.files import whole_file
from features.vocabulary import Window
from training.forecaster import Forecaster
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT

TOLERANCE = 1e-4


def export_graph(forecaster: Forecaster, sample: Window, folder: Path) -> ParityCertificate:
    """Write `model.onnx` into `folder` and prove it against the forecaster.

    Args:
        forecaster: Fitted.
        sample: Windows to trace with (two at least) and to prove with.
        folder: Where the graph goes.

    Returns:
        The certificate.

    Raises:
        ParityError: The graph differs by more than `TOLERANCE`; nothing is written.
        StorageError: The folder cannot be written.
    """
    model = forecaster.onnx_model(sample)
    with whole_file(folder / GRAPH_FILE) as path:
        path.write_bytes(model.SerializeToString())
        certificate = certify(forecaster, sample, path)
    return certificate


def certify(forecaster: Forecaster, sample: Window, path: Path) -> ParityCertificate:
    """Compare a graph with the forecaster over `sample`.

    Raises:
        ParityError: They differ by more than `TOLERANCE`, relative to the largest value.
    """
    certificate = measure(forecaster, sample, path, tolerance=TOLERANCE)
    if not certificate.largest_relative <= TOLERANCE:
        raise ParityError(
            "The exported graph differs from the forecaster",
            found=f"{certificate.largest_relative:.2e} relative",
            remedy=f"At most {TOLERANCE:.0e} is allowed: look for an operation that is translated differently.",
        )
    return certificate


def measure(forecaster: Forecaster, sample: Window, path: Path, *, tolerance: float) -> ParityCertificate:
    """How far a graph is from the forecaster over `sample`, whether or not that is within `tolerance`."""
    expected = forecaster.predict(sample).value_BHQ
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    arrays = (sample.history_BLK, sample.future_BHK, sample.static_BS)
    (got,) = session.run([GRAPH_OUTPUT], dict(zip(GRAPH_INPUTS, arrays, strict=True)))
    largest = float(np.abs(got - expected).max() / max(float(np.abs(expected).max()), 1e-9))
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]
    return ParityCertificate(windows=len(sample), largest_relative=largest, tolerance=tolerance, batch_hash=digest)
