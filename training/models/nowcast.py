"""A correction of the hours ahead by the errors since midnight: none at midnight, fading with the lead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.models.window_graph import known_or_zero

# Over how many hours errors are averaged, and over how many steps their effect fades.
AVERAGED_HOURS = (1.0, 4.0, 24.0)
FADING_STEPS = (2.0, 8.0, 24.0, 96.0)
_LARGEST_ERROR = 8.0
# The mean of few errors is held towards 0 as if so many errors of 0 had been there.
_PRIOR_HOURS = 1.0
_RIDGE = 1e-3


class Nowcast(nn.Module):
    """Weighted averages of the errors since midnight, each fading in several ways.

    Args:
        steps: Steps ahead (H).
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("weight", torch.zeros(len(AVERAGED_HOURS), len(FADING_STEPS)))

    weight: Tensor

    def forward(self, errors: Tensor, first: Tensor) -> Tensor:
        """What is added to each step ahead (B, H) [unit of the errors].

        Args:
            errors: Measured less forecast of each hour of the day of the origin, NaN where unknown (B, 24).
            first: Hour of that day in which the first step begins (B, 1).
        """
        return self.effect(self.averages(errors, first))

    def effect(self, averages: Tensor) -> Tensor:
        """What averages of the errors add to each step ahead (B, H)."""
        added: Tensor = (averages @ self.weight) @ self.fading().T
        return added

    def averages(self, errors: Tensor, first: Tensor) -> Tensor:
        """Averages of the errors, the latest counting most (B, len(AVERAGED_HOURS)); 0 at midnight."""
        hour = torch.arange(errors.shape[1], device=errors.device, dtype=errors.dtype)
        age = torch.clamp(first.to(errors.dtype) - 1 - hour[None], min=0.0)
        known = torch.isfinite(errors) & (hour[None] < first)
        bounded = torch.clamp(known_or_zero(errors), -_LARGEST_ERROR, _LARGEST_ERROR)
        means = []
        for hours in AVERAGED_HOURS:
            weight = torch.where(known, torch.exp(-age / hours), torch.zeros_like(age))
            means.append((weight * bounded).sum(dim=1) / (weight.sum(dim=1) + _PRIOR_HOURS))
        return torch.stack(means, dim=1)

    def fading(self) -> Tensor:
        """How an effect fades, shape (H, len(FADING_STEPS))."""
        step = torch.arange(self.steps, device=self.weight.device, dtype=self.weight.dtype)
        return torch.stack([torch.exp(-step / steps) for steps in FADING_STEPS], dim=1)

    def fit(self, averages_NA: npt.NDArray[np.floating], errors_NH: npt.NDArray[np.floating]) -> None:
        """Least squares with a little ridge.

        Args:
            averages_NA: Averages of the errors since midnight.
            errors_NH: Errors of the steps ahead without a correction, NaN where unmeasured.
        """
        fading = self.fading().numpy().astype(np.float64)
        size = averages_NA.shape[1] * fading.shape[1]
        square, cross = np.zeros((size, size)), np.zeros(size)
        for averages, errors in zip(averages_NA, errors_NH, strict=True):
            measured = np.isfinite(errors)
            bounded = np.clip(errors[measured], -_LARGEST_ERROR, _LARGEST_ERROR)
            faded = fading[measured]
            square += np.kron(np.outer(averages, averages), faded.T @ faded)
            cross += np.kron(averages, faded.T @ bounded)
        ridge = _RIDGE * max(float(np.trace(square)) / size, 1e-9)
        found = np.linalg.solve(square + ridge * np.eye(size), cross)
        self.weight.copy_(torch.from_numpy(found.reshape(self.weight.shape)))
