"""What stands around boosted trees: a linear base, the blend of two boosters, and quantiles. Exported with them.

The forecast is `w (base (1 + ratio) - o) + (1 - w) level` with `w = exp(-lead / fade)`: near the origin a booster
corrects a persistence-like base by a ratio, which holds where levels drift; far from it a booster says the level
itself. `base` is the exponential of a ridge regression for each lead (Hoerl and Kennard 1970, doi:10.2307/1267351) of
`log(target + o)` on past levels; `o` is a share of the target's median. Trees fitted to squared error give means: the
level 0.5 is that forecast, nearer the mean than the median, since RMSE judges it.

The other quantiles are `(forecast + o) exp(s) - o`, where `s` is the quantile of `log((target + o) / (forecast + o))`
on held-out weeks, a function of lead and of the forecast's size: split conformal prediction (Lei et al. 2018,
doi:10.1080/01621459.2017.1307116), made local.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from features.vocabulary import Domain, Quantity
from training.models.boosted_config import Variant
from training.models.boosted_features import BASE_NAMES

_MEDIAN = 0.5
# The smallest forecast, as a share of the offset.
_FLOOR_SHARE = 0.2
_LARGEST_SCORE = 5.0
# Leads of the table of quantiles, as shares of the horizon, and sizes, as shares of the held-out forecasts.
_LEAD_SHARES = (0.0, 0.06, 0.125, 0.25, 0.5, 1.0)
_SIZE_SHARES = (0.05, 0.275, 0.5, 0.725, 0.95)
_LEAD_WIDTH = 0.35
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Steps of windows that trees are fitted on, N rows.

    Attributes:
        feature_NF: What trees see, NaN where missing.
        base_NB: Inputs of the base, in the order of `BASE_NAMES`.
        sight_N: Whether the weather ahead is known.
        step_N: Index of the step, 0 the first after the origin.
        target_N: What was measured [unit], without gaps.
    """

    feature_NF: npt.NDArray[np.float32]
    base_NB: npt.NDArray[np.float32]
    sight_N: npt.NDArray[np.bool_]
    step_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.target_N)

    def seen(self) -> Rows:
        """Those whose weather ahead is known."""
        return self.subset(self.sight_N)

    def subset(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Those under a mask."""
        return Rows(
            feature_NF=self.feature_NF[chosen],
            base_NB=self.base_NB[chosen],
            sight_N=self.sight_N[chosen],
            step_N=self.step_N[chosen],
            target_N=self.target_N[chosen],
        )


class BoostedHead(nn.Module):
    """Outputs of the boosters, and the inputs of the base, to quantiles.

    Args:
        domain: Gives the horizon.
        target: What is forecast.
        levels: Quantile levels, ascending.
        fade_steps: For each variant, over how many steps ahead the ratio gives way to the level; None where there is no
            ratio.
    """

    def __init__(
        self, domain: Domain, target: Quantity, levels: tuple[float, ...], fade_steps: dict[Variant, float | None]
    ) -> None:
        super().__init__()
        steps, sizes = domain.horizon_steps, len(_SIZE_SHARES)
        self.levels = levels
        self.variants = tuple(fade_steps)
        self.booster_names = tuple(
            f"{variant}_{kind}"
            for variant, fade in fade_steps.items()
            for kind in (("level",) if fade is None else ("ratio", "level"))
        )
        self.lower, self.upper = max(target.lower, -1e30), min(target.upper, 1e30)
        self.register_buffer("offset", torch.ones(()))
        self.register_buffer("base_mean", torch.zeros(len(BASE_NAMES)))
        self.register_buffer("base_gain", torch.zeros(len(BASE_NAMES)))
        self.register_buffer("base_weight", torch.zeros(steps, len(BASE_NAMES)))
        self.register_buffer("base_constant", torch.zeros(steps))
        self.register_buffer("base_range", torch.zeros(2))
        lead = torch.arange(1, steps + 1, dtype=torch.float32)
        for variant, fade in fade_steps.items():
            share = torch.zeros(steps) if fade is None else torch.exp(-lead / fade)
            self.register_buffer(f"share_{variant}", share)
            self.register_buffer(f"size_{variant}", torch.arange(sizes, dtype=torch.float32).expand(steps, -1).clone())
            self.register_buffer(f"score_{variant}", torch.zeros(steps, sizes, len(levels)))

    offset: Tensor
    base_mean: Tensor
    base_gain: Tensor
    base_weight: Tensor
    base_constant: Tensor
    base_range: Tensor

    def forward(self, base_inputs: Tensor, sight: Tensor, margins: Tensor) -> Tensor:
        """Inputs of the base (B, H, 8), sight (B, H), outputs of the boosters (B, H, M) to quantiles (B, H, Q)."""
        step = torch.arange(base_inputs.shape[1], device=base_inputs.device)
        quantiles = self._quantiles("plain", self.central("plain", base_inputs, margins, step), step)
        if "ahead" in self.variants:
            seeing = self._quantiles("ahead", self.central("ahead", base_inputs, margins, step), step)
            quantiles = torch.where(sight[:, :, None] > 0, seeing, quantiles)
        return torch.sort(torch.clamp(quantiles, self.lower, self.upper), dim=2).values

    def base(self, inputs: Tensor, step: Tensor) -> Tensor:
        """The base plus the offset (*) [unit of the target], from its inputs (*, 8) and indices of steps (*)."""
        scaled = torch.clamp(torch.nan_to_num((inputs - self.base_mean) * self.base_gain), -5.0, 5.0)
        logarithm = (scaled * self.base_weight[step]).sum(dim=-1) + self.base_constant[step]
        return torch.exp(torch.clamp(logarithm, self.base_range[0], self.base_range[1]))

    def central(self, variant: Variant, base_inputs: Tensor, margins: Tensor, step: Tensor) -> Tensor:
        """The forecast of one variant (*) [unit of the target], from outputs of the boosters (*, M)."""
        value = margins[..., self.booster_names.index(f"{variant}_level")]
        if f"{variant}_ratio" in self.booster_names:
            ratio = margins[..., self.booster_names.index(f"{variant}_ratio")]
            corrected = self.base(base_inputs, step) * (1 + ratio) - self.offset
            share = self.get_buffer(f"share_{variant}")[step]
            value = share * corrected + (1 - share) * value
        return torch.clamp(torch.maximum(value, _FLOOR_SHARE * self.offset), self.lower, self.upper)

    def _quantiles(self, variant: Variant, central: Tensor, step: Tensor) -> Tensor:
        """Quantiles (B, H, Q) around a forecast (B, H): scores interpolated between sizes."""
        size, score = self.get_buffer(f"size_{variant}")[step], self.get_buffer(f"score_{variant}")[step]
        below, above = size[:, :-1], size[:, 1:]
        logarithm = torch.log(central + self.offset)
        share = torch.clamp((logarithm[:, :, None] - below) / (above - below), 0.0, 1.0)
        moved = score[:, 0] + (share[:, :, :, None] * (score[:, 1:] - score[:, :-1])).sum(dim=2)
        return (central + self.offset)[:, :, None] * torch.exp(moved) - self.offset

    def fit_base(self, rows: Rows, *, alpha: float) -> None:
        """Fit one ridge regression for each lead; rows of near leads count too, the less the farther.

        Args:
            rows: What is fitted on.
            alpha: Penalty of the standardised weights.
        """
        known = np.isfinite(rows.base_NB)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, rows.base_NB, 0).sum(axis=0, dtype=np.float64) / count
        spread = np.sqrt(np.where(known, (rows.base_NB - mean) ** 2, 0).sum(axis=0) / count)
        gain = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0)
        scaled = np.clip(np.where(known, (rows.base_NB - mean) * gain, 0), -5, 5)
        inputs = np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)
        logarithm = np.log(np.maximum(rows.target_N, 0) + float(self.offset))
        penalty = np.diag([alpha] * len(BASE_NAMES) + [0.0])
        for index in range(len(self.base_constant)):
            distance = np.abs(rows.step_N - index) / (1 + 0.15 * (index + 1))
            weight = np.exp(-(distance**2))
            near = weight > 0.02
            weighted = inputs[near] * weight[near, None]
            # A hair of the penalty on the constant keeps a lead without rows solvable.
            gram = weighted.T @ inputs[near] + penalty + 1e-9 * np.eye(len(penalty))
            solution = np.linalg.solve(gram, weighted.T @ logarithm[near])
            self.base_weight[index] = torch.from_numpy(solution[:-1])
            self.base_constant[index] = float(solution[-1])
        self.base_mean.copy_(torch.from_numpy(mean))
        self.base_gain.copy_(torch.from_numpy(gain))
        self.base_range.copy_(torch.tensor([logarithm.min(), logarithm.max()]))

    def fit_spread(self, variant: Variant, central_N: Float64Array, rows: Rows) -> None:
        """Take the quantiles of a variant from its forecasts of held-out rows.

        Args:
            variant: Which one.
            central_N: Its forecasts [unit of the target].
            rows: What was measured; without any row the quantiles stay as they are.
        """
        if len(rows) == 0:
            return
        offset, steps = float(self.offset), len(self.base_constant)
        size = np.log(central_N + offset)
        score = np.clip(np.log((np.maximum(rows.target_N, 0) + offset) / (central_N + offset)), -_LARGEST_SCORE, None)
        score = np.minimum(score, _LARGEST_SCORE)
        leads = np.unique(np.round(1 + np.array(_LEAD_SHARES) * (steps - 1)))
        sizes = np.empty((len(leads), len(_SIZE_SHARES)))
        table = np.empty((*sizes.shape, len(self.levels)))
        for place, lead in enumerate(leads):
            near = np.exp(-0.5 * (np.log((rows.step_N + 1) / lead) / _LEAD_WIDTH) ** 2)
            nodes = _weighted_quantiles(size, near, _SIZE_SHARES)
            sizes[place] = nodes = np.maximum.accumulate(nodes + 1e-3 * np.arange(len(nodes)))
            width = max(float(nodes[-1] - nodes[0]) / (len(nodes) - 1), 1e-3)
            for column, node in enumerate(nodes):
                weight = near * np.exp(-0.5 * ((size - node) / (0.5 * width)) ** 2)
                table[place, column] = _weighted_quantiles(score, weight, self.levels)
        level = np.array(self.levels)
        # The forecast itself stays the level 0.5, and the others on their sides of it.
        table = np.where(level < _MEDIAN, np.minimum(table, 0), np.where(level > _MEDIAN, np.maximum(table, 0), 0))
        self.get_buffer(f"size_{variant}").copy_(torch.from_numpy(_over_leads(sizes, leads, steps)))
        self.get_buffer(f"score_{variant}").copy_(torch.from_numpy(_over_leads(table, leads, steps)))


def _weighted_quantiles(values: Float64Array, weight: Float64Array, levels: tuple[float, ...]) -> Float64Array:
    """Quantiles of a weighted sample, interpolated between its values."""
    order = np.argsort(values)
    cumulated = np.cumsum(weight[order])
    if cumulated[-1] <= 0:
        return np.quantile(values, levels)
    position = (cumulated - 0.5 * weight[order]) / cumulated[-1]
    return np.interp(levels, position, values[order])


def _over_leads(table: Float64Array, leads: Float64Array, steps: int) -> Float64Array:
    """A table (D, *) of some leads to all steps (H, *), linear in the logarithm of the lead."""
    every = np.log(np.arange(1, steps + 1))
    flat = table.reshape(len(leads), -1)
    columns = [np.interp(every, np.log(leads), column) for column in flat.T]
    return np.stack(columns, axis=1).reshape(steps, *table.shape[1:])
