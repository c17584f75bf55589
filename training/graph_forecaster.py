"""A registered model as it serves: its ONNX graph alone, run over windows and timed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from features.card import GRAPH_FILE, Card, load_card
from features.errors import ArtifactError
from features.vocabulary import Domain, Float32Array, Quantity, Window
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT
from training.window_set import WindowSet

_MEDIAN = 0.5


class GraphForecaster:
    """Forecasts with the graph of an artifact, on one thread.

    Args:
        card: What the model is.
        session: Its graph in ONNX Runtime; `open_graph` makes it.
    """

    def __init__(self, card: Card, session: Any) -> None:
        self.card = card
        self._session = session

    def predict(self, windows: Window) -> Float32Array:
        """Quantiles, shape (B, H, Q) [the card's unit].

        Raises:
            ArtifactError: The windows are of another layout than the model's.
        """
        arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
        try:
            (quantiles,) = self._session.run([GRAPH_OUTPUT], dict(zip(GRAPH_INPUTS, arrays, strict=True)))
        except Exception as error:  # ONNX Runtime's errors share no root that it makes public
            raise ArtifactError(
                f"The graph of {self.card.model} does not take these windows",
                found=str(error).splitlines()[0],
                remedy="The domain has changed since: train the model again, with `towncast train`.",
            ) from error
        forecast: Float32Array = np.sort(quantiles, axis=2)
        return forecast

    def predict_set(self, windows: WindowSet, *, batch_size: int = 1024) -> Float32Array:
        """Quantiles of a whole window set, cut batch by batch: shape (B, H, Q) [the card's unit]."""
        parts = [
            self.predict(windows.windows(np.arange(begin, min(begin + batch_size, len(windows)))))
            for begin in range(0, len(windows), batch_size)
        ]
        return np.concatenate(parts)

    def median_of(self, windows: WindowSet) -> Float32Array:
        """Its median forecasts of a whole window set, shape (B, H) [the card's unit]."""
        median: Float32Array = self.predict_set(windows)[:, :, self.card.levels.index(_MEDIAN)]
        return median

    def latency_ms(self, windows: WindowSet, *, repeats: int = 50) -> float:
        """Median time of the forecast of one window [ms]."""
        one = windows.windows([0])
        for _ in range(5):
            self.predict(one)
        times_s = []
        for _ in range(repeats):
            began = time.perf_counter()
            self.predict(one)
            times_s.append(time.perf_counter() - began)
        return 1000 * float(np.median(times_s))


def open_graph(folder: Path) -> GraphForecaster:
    """The model of an artifact's folder.

    Raises:
        ArtifactError: The graph or the card is missing or damaged.
    """
    card = load_card(folder)
    options = onnxruntime.SessionOptions()
    # A small graph is slower on several threads, and waiting ones take the cores from all others.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        content = (folder / GRAPH_FILE).read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no root that it makes public
        raise ArtifactError(
            f"The graph of {card.model} cannot be read",
            found=f"{folder / GRAPH_FILE}: {str(error).splitlines()[0]}",
            remedy="Train and register the model again, with `towncast train`.",
        ) from error
    return GraphForecaster(card, session)


def layout_differences(card: Card, domain: Domain, target: Quantity) -> list[str]:
    """In what a model's windows differ from those of the domain as it is now; empty where it can forecast them."""
    expected: dict[str, object] = {
        "domain": domain.name,
        "target": target.name,
        "unit": target.unit,
        "step_s": domain.step_s,
        "history_steps": domain.history_steps,
        "horizon_steps": domain.horizon_steps,
        "history_channels": domain.history_channels,
        "future_channels": domain.future_channels,
        "static_channels": domain.static_channels,
    }
    differences = [name for name, value in expected.items() if getattr(card, name) != value]
    return differences if _MEDIAN in card.levels else [*differences, "levels"]
