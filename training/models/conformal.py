"""Intervals around a point forecast: one-sided conformal offsets by lead, with and without knowledge of the weather."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from features.vocabulary import Domain, Float32Array, Quantity
from training.models.window_graph import known_or_zero

# Beyond this a bound is none: float32 graphs have no use for infinities.
_UNBOUNDED = 1e30


class LeadOffsets(nn.Module):
    """Quantiles from a median: a unit of each step times what the errors of the validation weeks say of its lead.

    Split conformal prediction (Lei et al. 2018, doi:10.1080/01621459.2017.1307116) of errors relative to a local unit,
    each tail alone.

    Args:
        domain: Gives the horizon.
        target: Gives the bounds.
        levels: Quantile levels, ascending, with 0.5 among them.
    """

    def __init__(self, domain: Domain, target: Quantity, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.levels = levels
        self.lower, self.upper = max(target.lower, -_UNBOUNDED), min(target.upper, _UNBOUNDED)
        # Without and with knowledge of the weather ahead.
        self.register_buffer("offset", torch.zeros(2, domain.horizon_steps, len(levels)))

    offset: Tensor

    def forward(self, median: Tensor, unit: Tensor, known: Tensor) -> Tensor:
        """Quantiles (B, H, Q).

        Args:
            median: Shape (B, H) [unit of the target].
            unit: Size of an ordinary error, shape (B, H) [unit of the target].
            known: Whether the weather of each step is known, 0 or 1, shape (B, H).
        """
        offset = torch.where(known[:, :, None] > 0, self.offset[1], self.offset[0])
        quantiles = median[:, :, None] + offset * unit[:, :, None]
        return torch.clamp(torch.sort(quantiles, dim=2).values, self.lower, self.upper)

    def fit(self, score_NH: Float32Array, *, known: bool) -> None:
        """Take the offsets from errors in their unit.

        Args:
            score_NH: Measured less forecast over the unit, NaN where unmeasured.
            known: Whether the weather ahead was known; the other set is left alone.
        """
        measured = np.isfinite(score_NH).any(axis=0)
        offset = np.zeros((score_NH.shape[1], len(self.levels)), dtype=np.float32)
        for index, level in enumerate(self.levels):
            found = np.nanquantile(score_NH[:, measured], level, axis=0)
            # The median stays; no lower quantile may pass it, nor a higher one fall below it.
            offset[measured, index] = np.sign(level - 0.5) * np.maximum(np.sign(level - 0.5) * found, 0)
        self.offset[int(known)] = torch.from_numpy(offset)

    def without_weather(self) -> None:
        """Use the offsets of unknown weather for both: a domain that knows none ahead."""
        self.offset[1] = self.offset[0]


def score_of(median: Tensor, unit: Tensor, target: Tensor) -> Float32Array:
    """Errors in their unit (N, H), NaN where unmeasured."""
    score: Float32Array = ((target - median) / torch.clamp(known_or_zero(unit), min=1e-6)).numpy()
    return score
