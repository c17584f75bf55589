"""Judging: errors, skill over the naive profile and interval coverage, by lead and by site."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from features.vocabulary import Domain, Float32Array

NOMINAL_COVERAGE = {"coverage_90": (0.05, 0.95), "coverage_95": (0.025, 0.975)}
Metrics = dict[str, float]


def judge(
    quantiles_BHQ: Float32Array,
    target_BH: Float32Array,
    naive_BH: Float32Array,
    *,
    levels: tuple[float, ...],
    lead: int,
) -> Metrics:
    """Figures of one lead over the windows whose target was measured.

    MAPE leaves out hours with a target of 0, where it is not defined. A figure that is not defined at all, such as any
    of a lead that was never measured, is NaN.

    Args:
        quantiles_BHQ: Forecast [unit].
        target_BH: What was measured [unit], NaN where nothing was.
        naive_BH: The naive profile [unit].
        levels: Quantile levels, 0.5 among them.
        lead: Steps ahead, from 1.

    Returns:
        `mae`, `rmse` [unit], `mape` [%], `r2`, `naive_mae`, `naive_rmse`, `naive_mape`, `skill` (1 minus the ratio of
        the MAEs), `pinball` (mean over the levels), `coverage_90`, `coverage_95`, `width_90` [unit], `windows`.
    """
    target = target_BH[:, lead - 1].astype(np.float64)
    known = np.isfinite(target)
    target = target[known]
    quantiles = quantiles_BHQ[known, lead - 1].astype(np.float64)
    naive = naive_BH[known, lead - 1].astype(np.float64)
    median = quantiles[:, levels.index(0.5)]
    error, naive_error = target - median, target - naive
    positive = target > 0
    tau = np.asarray(levels)
    spread = target[:, None] - quantiles
    figures = {
        "mae": _mean_abs(error),
        "rmse": float(np.sqrt(_mean(error**2))),
        "mape": 100 * _mean_abs(error[positive] / target[positive]),
        "r2": 1 - _ratio(_mean(error**2), _mean((target - _mean(target)) ** 2)),
        "naive_mae": _mean_abs(naive_error),
        "naive_rmse": float(np.sqrt(_mean(naive_error**2))),
        "naive_mape": 100 * _mean_abs(naive_error[positive] / target[positive]),
        "skill": 1 - _ratio(_mean_abs(error), _mean_abs(naive_error)),
        "pinball": _mean(np.maximum(tau * spread, (tau - 1) * spread)),
        "windows": float(len(target)),
    }
    for name, (low, high) in NOMINAL_COVERAGE.items():
        below, above = quantiles[:, levels.index(low)], quantiles[:, levels.index(high)]
        figures[name] = _mean((target >= below) & (target <= above))
        if name == "coverage_90":
            figures["width_90"] = _mean(above - below)
    return figures


def judge_horizons(
    domain: Domain,
    quantiles_BHQ: Float32Array,
    target_BH: Float32Array,
    naive_BH: Float32Array,
    *,
    levels: tuple[float, ...],
) -> dict[str, Metrics]:
    """Figures of each named horizon of the domain, and of `mean`: their average over all leads that have them."""
    return pick_horizons(domain, judge_leads(quantiles_BHQ, target_BH, naive_BH, levels=levels))


def judge_leads(
    quantiles_BHQ: Float32Array, target_BH: Float32Array, naive_BH: Float32Array, *, levels: tuple[float, ...]
) -> list[Metrics]:
    """Figures of every lead, the first being one step ahead."""
    leads = range(1, quantiles_BHQ.shape[1] + 1)
    return [judge(quantiles_BHQ, target_BH, naive_BH, levels=levels, lead=lead) for lead in leads]


def pick_horizons(domain: Domain, by_lead: list[Metrics]) -> dict[str, Metrics]:
    """Figures of each named horizon, and of `mean`, from those of every lead."""
    table = {name: by_lead[steps - 1] for name, steps in domain.horizons.items()}
    table["mean"] = {}
    for name in by_lead[0]:
        figures = np.array([figures[name] for figures in by_lead])
        table["mean"][name] = _mean(figures[np.isfinite(figures)])
    return table


def skill_interval(
    error: npt.ArrayLike, naive_error: npt.ArrayLike, *, block: int, rng: np.random.Generator, draws: int = 1000
) -> tuple[float, float]:
    """90 % interval of the skill (1 - MAE / naive MAE), by a paired bootstrap of blocks in time.

    Moving blocks keep the dependence between neighbouring hours (Kuensch 1989, doi:10.1214/aos/1176347265).

    Args:
        error: Errors in order of time, NaN where unmeasured.
        naive_error: The naive profile's, at the same moments.
        block: Length of a block (a week, say).
        rng: Source of the draws.
        draws: How many.
    """
    both = np.abs(np.stack([np.asarray(error, dtype=np.float64), np.asarray(naive_error, dtype=np.float64)]))
    both = both[:, np.isfinite(both).all(axis=0)]
    length = both.shape[1]
    count = -(-length // block)
    sums = np.concatenate([np.zeros((2, 1)), both.cumsum(axis=1)], axis=1)
    begins = rng.integers(0, max(length - block, 0) + 1, size=(draws, count))
    ours, naive = (sums[row][np.minimum(begins + block, length)] - sums[row][begins] for row in (0, 1))
    low, high = np.quantile(1 - ours.sum(axis=1) / naive.sum(axis=1), [0.05, 0.95])
    return float(low), float(high)


def _mean(values: npt.NDArray[Any]) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _mean_abs(values: npt.NDArray[np.float64]) -> float:
    return _mean(np.abs(values))


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan
