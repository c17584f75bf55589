"""Adaptive intervals of an artifact: loaded and checked with it, and laid over what its graph forecasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from features.adaptive_intervals import AdaptiveIntervals, load_intervals
from features.card import Card
from features.errors import ArtifactError
from features.vocabulary import Forecast, Quantity, Window


def open_intervals(folder: Path, card: Card) -> AdaptiveIntervals | None:
    """The adaptive intervals beside a card; None where the artifact has none.

    Raises:
        ArtifactError: They are damaged, or of another model than the card's.
    """
    intervals = load_intervals(folder)
    if intervals is None:
        return None
    cells = len(intervals.sites) * len(intervals.bands) * 24
    fits = (
        intervals.levels == tuple(card.levels)
        and cells > 0
        and max(intervals.bands) >= card.horizon_steps
        and intervals.offset_CQ.shape == (cells, len(card.levels))
        and bool(np.isfinite(intervals.offset_CQ).all())
    )
    if not fits:
        raise ArtifactError(
            f"The intervals beside {card.model} do not fit it",
            found=f"levels {intervals.levels}, bands {intervals.bands}, offsets {intervals.offset_CQ.shape}",
            remedy=f"Register the model again, with `towncast train {card.domain}`.",
        )
    return intervals


def adapt(
    intervals: AdaptiveIntervals, forecast: Forecast, window: Window, *, target: Quantity, hour_channel: int
) -> Forecast:
    """A forecast with the offsets of its sites, leads and hours; its median stays.

    Args:
        intervals: Of the model that made it.
        forecast: With all levels of the model, before any offset.
        window: What it was made from.
        target: What is forecast; gives its bounds.
        hour_channel: Channel of the window's future with the local hour of each step.
    """
    adjusted = intervals.adjust(
        forecast.value_BHQ,
        forecast.sites,
        window.future_BHK[:, :, hour_channel],
        lower=target.lower,
        upper=target.upper,
    )
    return replace(forecast, value_BHQ=adjusted)


def keep_levels(forecast: Forecast, levels: tuple[float, ...]) -> Forecast:
    """A forecast with some of its levels.

    Raises:
        InvalidParameterError: It does not hold one of them.
    """
    kept = np.stack([forecast.at_level(level) for level in levels], axis=2)
    return replace(forecast, levels=levels, value_BHQ=kept)
