"""Statistics of series with gaps, as graph parts: NaN is what is not known, the second axis is time.

Whatever compares results with thresholds needs them to the last bit alike in torch and in ONNX Runtime. So this is for
float64: what comes from readings or from transcendental functions is put on a grid of a power of two, and sums of such
numbers are exact in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_GRID = 2.0**16
_NOTHING = -1e9


def on_grid(values: Tensor) -> Tensor:
    """Values rounded to a multiple of a small power of two."""
    return torch.round(values * _GRID) / _GRID


def log_on_grid(values: Tensor, offset: Tensor) -> Tensor:
    """Logarithm of values, negative ones taken as 0, plus an offset."""
    # Not a clamp: whether one keeps NaN differs between runtimes.
    return on_grid(torch.log(torch.where(values < 0, 0.0, values) + offset))


def ratio_of(total: Tensor, count: Tensor) -> Tensor:
    """A mean from a sum and a number, NaN where the number is 0."""
    return torch.where(count > 0, total / torch.clamp(count, min=1.0), math.nan)


def mean_known(values: Tensor) -> Tensor:
    """Mean of what is known along the second axis, NaN where nothing is."""
    known = ~torch.isnan(values)
    total = torch.where(known, values, 0.0).sum(dim=1)
    return ratio_of(total, known.to(values.dtype).sum(dim=1))


def largest_known(values: Tensor) -> Tensor:
    """Largest known value along the second axis of (B, T, C), NaN where there is none."""
    most = torch.where(torch.isnan(values), _NOTHING, values).amax(dim=1)
    return torch.where(most > _NOTHING, most, math.nan)


def last_known(values: Tensor, steps: int) -> Tensor:
    """The latest known value among the last steps of (B, T, C), NaN where there is none: (B, C)."""
    recent = values.narrow(1, values.shape[1] - steps, steps)
    place = torch.arange(1, steps + 1, device=values.device)[None, :, None]
    latest = torch.where(torch.isnan(recent), 0, place).amax(dim=1, keepdim=True)
    # Where nothing is known the first of them is NaN too.
    return recent.gather(1, torch.clamp(latest - 1, min=0)).squeeze(1)


def span_totals(values: Tensor, spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Sum and number of the known values of (B, T, C) in N spans from one step to before another: (B, N, C) each."""
    known = ~torch.isnan(values)
    both = torch.cat([torch.where(known, values, 0.0), known.to(values.dtype)], dim=2).cumsum(dim=1)
    both = nn.functional.pad(both, (0, 0, 1, 0))
    begin, end = (torch.tensor(steps, device=values.device) for steps in zip(*spans, strict=True))
    total, count = (both.index_select(1, end) - both.index_select(1, begin)).chunk(2, dim=2)
    return total, count


def largest_so_far(values: Tensor, first: int) -> Tensor:
    """Largest known value of (B, T) up to each step from `first` on, -1e9 where there is none: (B, T - first).

    `torch.cummax` has no counterpart in ONNX.
    """
    steps = torch.arange(values.shape[1], device=values.device)
    over = steps[None, :] > steps.narrow(0, first, values.shape[1] - first)[:, None]
    return torch.where(over | torch.isnan(values)[:, None, :], _NOTHING, values[:, None, :]).amax(dim=2)


def latest(values: Tensor, steps: int) -> Tensor:
    """The last steps of (B, T, *), or all where there are fewer."""
    steps = min(steps, values.shape[1])
    return values.narrow(1, values.shape[1] - steps, steps)


def picked(values: Tensor, places: list[int]) -> Tensor:
    """Some places of the last axis."""
    return torch.index_select(values, values.ndim - 1, torch.tensor(places, dtype=torch.int64, device=values.device))
