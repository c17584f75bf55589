"""What a fitted Prophet's forecast is the sum of: trend, seasonalities and regressors, each in the forecast's unit."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from training.models.additive import ProphetTable

TREND = "trend"


def prophet_terms(table: ProphetTable, site: Tensor, day: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """Terms that add up to `table(site, day, columns)`; `training.explain.additive_shap` makes Shapley values of them.

    A term is what the forecast loses without it. The forecast is linear in the weights of each seasonality and of each
    regressor, with the trend as their common factor, so that the terms and the bare trend are the whole of it.

    Args:
        table: Of the fitted Prophets.
        site: Place of each row's site, shape (B,).
        day: Local time, float64, shape (B, T) [days since 2000-01-01].
        columns: The regressors, NaN where unknown, shape (B, T, R).

    Returns:
        `trend`, then each seasonality and each regressor by its name, each of shape (B, T) [unit of the target].
    """
    with torch.inference_mode():
        whole = table(site, day, columns)
        terms = {name: whole - part(site, day, columns) for name, part in _each_without(table)}
        trend = whole - torch.stack(list(terms.values())).sum(dim=0) if terms else whole
    return {TREND: trend, **terms}


def _each_without(table: ProphetTable) -> list[tuple[str, ProphetTable]]:
    """Copies of a table, each without one seasonality or one regressor, with its name."""
    found = []
    column = 0
    for name, (_, orders) in table.waves.items():
        less = copy.deepcopy(table)
        for weight in (less.sine, less.cosine):
            weight[:, column : column + orders] = 0
        column += orders
        found.append((name, less))
    for place, regressor in enumerate(table.regressors):
        less = copy.deepcopy(table)
        less.weight[:, place] = 0
        found.append((regressor.name, less))
    return found
