"""Simulated rows beside measured ones: they may train, never evaluate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from features.errors import InvalidParameterError, NotEnoughDataError
from training.window_set import Splits, WindowSet


def measured_only(windows: WindowSet, measured: Collection[str]) -> WindowSet:
    """The windows of sites whose readings are a sensor's."""
    return windows.subset(_is_measured(windows, measured))


def mix_simulated(splits: Splits, measured: Collection[str], *, share: float, seed: int) -> Splits:
    """Let simulated windows be a share of the training windows; validation and test are measured ones alone.

    Below 1 all measured windows train, and simulated ones are drawn to make up the share, as far as there are so many;
    at 1 simulated windows train alone.

    Args:
        splits: Of a panel of measured and simulated sites.
        measured: Names of the measured sites.
        share: Of simulated windows among those that train, 0 to 1.
        seed: Of the draw.

    Raises:
        InvalidParameterError: The share cannot be.
        NotEnoughDataError: There is no simulated window before the test, or no measured one to judge by.
    """
    if not 0 <= share <= 1:
        raise InvalidParameterError(
            parameter="simulated_share",
            provided=share,
            allowed="0 to 1",
            fact="Simulated rows cannot be this share of the training rows",
            remedy="Use 0 for none, 1 for nothing else.",
        )
    real = _is_measured(splits.train, measured)
    simulated = np.flatnonzero(~real)
    if share > 0 and not len(simulated):
        raise NotEnoughDataError(
            "No simulated window lies in the training span of the measured readings",
            found=f"training {splits.train.span()}",
            remedy="Roll out a run that begins there: towncast simulate traffic --start MOMENT, or process.",
        )
    wanted = len(simulated) if share == 1 else round(share / (1 - share) * int(real.sum()))
    drawn = np.random.default_rng(seed).permutation(simulated)[:wanted]
    kept = drawn if share == 1 else np.concatenate([np.flatnonzero(real), drawn])
    return replace(
        splits,
        train=splits.train.subset(np.sort(kept)),
        validation=measured_only(splits.validation, measured),
        test=measured_only(splits.test, measured),
    )


def simulated_share(windows: WindowSet, measured: Collection[str]) -> float:
    """Share of the windows that are of simulated sites."""
    return 1.0 - float(_is_measured(windows, measured).mean())


def _is_measured(windows: WindowSet, measured: Collection[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    known = np.array([site.name in measured for site in windows.panel.sites])
    return known[windows.site_index_B]
