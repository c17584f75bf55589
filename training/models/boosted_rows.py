"""Rows for trees from windows: some origins, and of each some steps ahead."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from training.models.boosted_features import BASE_NAMES, BoostedFeatures
from training.models.boosted_head import Rows
from training.models.onnx_graph import window_tensors
from training.window_set import WindowSet

_BATCH = 256


def sample_rows(
    features: BoostedFeatures, windows: WindowSet, *, stride: int, steps: int, rng: np.random.Generator
) -> Rows:
    """Rows of a window set; windows are cut batch by batch, and only what is wanted of them is kept.

    Args:
        features: Windows to features.
        windows: Where they come from.
        stride: Every which origin; sites take turns, so that together they cover the hours.
        steps: How many steps of each origin, one drawn from each of as many spans that grow with the lead.
        rng: Source of the draws.

    Returns:
        The rows whose target was measured.
    """
    positions = np.flatnonzero((windows.origin_B + windows.site_index_B) % stride == 0)
    edges = _edges(features.domain.horizon_steps, steps)
    parts = [_no_rows(features)]
    for begin in range(0, len(positions), _BATCH):
        chosen = positions[begin : begin + _BATCH]
        step = rng.integers(edges[:-1], edges[1:], size=(len(chosen), len(edges) - 1))
        history, future, _ = window_tensors(windows.windows(chosen))
        with torch.inference_mode():
            table, base, sight = features.at_steps(history, future, torch.from_numpy(step))
        target = np.take_along_axis(windows.targets(chosen), step, axis=1).reshape(-1)
        rows = Rows(
            feature_NF=table.flatten(0, 1).numpy(),
            base_NB=base.flatten(0, 1).numpy(),
            sight_N=sight.flatten().numpy(),
            step_N=step.reshape(-1),
            target_N=target,
        )
        parts.append(rows.subset(np.isfinite(target)))
    return join_rows(*parts)


def join_rows(*parts: Rows) -> Rows:
    """The rows of all parts."""
    names = [entry.name for entry in dataclasses.fields(Rows)]
    return Rows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _edges(horizon: int, spans: int) -> np.ndarray:
    """Bounds of spans of steps that grow evenly with the lead: of 48 hours, 6, 10, 14 and 18."""
    spans = min(spans, horizon)
    number = np.arange(spans + 1)
    edges = np.round(horizon * number * (number + 2) / (spans * (spans + 2))).astype(np.int64)
    # Of a short horizon every span keeps a step.
    return np.maximum(edges, number)


def _no_rows(features: BoostedFeatures) -> Rows:
    columns = len(features.plain_names) + len(features.ahead_names)
    return Rows(
        feature_NF=np.empty((0, columns), dtype=np.float32),
        base_NB=np.empty((0, len(BASE_NAMES)), dtype=np.float32),
        sight_N=np.empty(0, dtype=np.bool_),
        step_N=np.empty(0, dtype=np.int64),
        target_N=np.empty(0, dtype=np.float32),
    )
