"""Windows of one span alone: for a model that knows nothing of what was before or after."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from features.errors import NotEnoughDataError
from features.vocabulary import Int64Array, Quantity
from features.windows import Panel
from training.window_set import Splits, windows_at

# Every which block of a short span is for validation.
_LONGEST_PERIOD = 8


def splits_between(panel: Panel, *, begin: int, end: int, target: Quantity | None = None) -> Splits:
    """Splits of windows whose targets all lie in one span, for a model that knows nothing of what was before or after.

    Their histories may reach back beyond the span. Every eighth block is for validation, in a short span one of fewer;
    the test is the validation's, and says nothing by itself.

    Args:
        panel: Readings on the grid.
        begin: Grid index of the first target.
        end: Grid index after the last target.
        target: What is forecast, by default the domain's first.

    Raises:
        NotEnoughDataError: The span is too short.
    """
    domain = panel.domain
    horizon, quantity = domain.horizon_steps, target or domain.target
    first, last = max(begin - 1, panel.first_origin), min(end - horizon - 1, panel.last_origin)
    block_steps = 2 * horizon
    every = min(_LONGEST_PERIOD, (last - first + 1) // block_steps)
    if every >= 2:
        origins = np.arange(first, last + 1, dtype=np.int64)
        parts = [windows_at(panel, quantity, chosen) for chosen in _blocks(origins, block_steps, horizon, every)]
        if all(len(part) for part in parts):
            return Splits(train=parts[0], validation=parts[1], test=parts[1])
    raise NotEnoughDataError(
        "The span is too short to train on",
        found=f"{(end - begin) / domain.season_steps:.1f} weeks",
        remedy=f"Give {4 * horizon * domain.step_s // 86400} days at least.",
    )


def without_past(panel: Panel, *, before: int, sites: Collection[str] | None = None) -> Panel:
    """A panel in which nothing was measured of the targets before a moment.

    Args:
        panel: Readings on the grid.
        before: Grid index of the first step that is kept.
        sites: Of these alone, by default of all.
    """
    chosen = [sites is None or site.name in sites for site in panel.sites]
    value_STK = panel.value_STK.copy()
    value_STK[np.array(chosen), :before, : len(panel.domain.targets)] = np.nan
    return replace(panel, value_STK=value_STK)


def _blocks(origins: Int64Array, block_steps: int, horizon: int, every: int) -> tuple[Int64Array, Int64Array]:
    """Origins for training and for validation that share no target; the last block trains."""
    place = origins - origins[0]
    block, last_block = place // block_steps, (place + horizon) // block_steps
    held, touches = block % every == every - 2, last_block % every == every - 2
    return origins[~held & ~touches], origins[held & (block == last_block)]
