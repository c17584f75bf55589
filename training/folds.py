"""Folds in time: cross-validation for choosing recipes, walk-forward for judging a model that is refitted.

A fold is a `Splits` whose test is the judged block, so whatever fits and judges on splits does so on folds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from features.errors import InvalidParameterError, NotEnoughDataError
from features.vocabulary import Domain, Quantity
from features.windows import Panel
from training.window_set import (
    TEST_SHARE,
    Splits,
    first_counted_origin,
    first_test_origin,
    scattered_validation,
    validation_block_steps,
    windows_at,
)

FOLDS = 5
_LONGEST_PERIOD = 8
_SEASONS_BETWEEN_REFITS = 4


def cross_validation(
    panel: Panel,
    *,
    target: Quantity | None = None,
    folds: int = FOLDS,
    embargo_steps: int | None = None,
    test_share: float = TEST_SHARE,
    counted_from_s: int | None = None,
) -> tuple[Splits, ...]:
    """Folds over the time before the test, oldest first, each trained on all that lies before its judged block.

    The blocks have the same length, a whole number of seasons; the last ends where the test of `split_windows` begins.
    All targets of a judged window lie in its block. Training and validation targets end an embargo before the block
    (Lopez de Prado 2018, Advances in Financial Machine Learning, 7.4.2): what is still similar to a block's first
    hours, because deviations last, is not trained on. Validation takes whole weeks scattered over the training span,
    every eighth, or in a short span the last of fewer.

    Args:
        panel: Readings on the grid.
        target: What is forecast, by default the domain's first target.
        folds: How many.
        embargo_steps: Steps between the last training target and the block, at least the horizon; by default one
            season, or the horizon where that is longer.
        test_share: Share of the time that is kept for the test and is in no fold.
        counted_from_s: Moment from which that share and the blocks are counted; what lies before it trains, as in
            `split_windows` [s since 1970].

    Raises:
        InvalidParameterError: Fewer than two folds, or an embargo shorter than the horizon.
        NotEnoughDataError: A part of a fold would be empty.
    """
    domain = panel.domain
    embargo = _checked_embargo(domain, embargo_steps)
    if folds < 2:
        raise InvalidParameterError(
            parameter="folds",
            provided=folds,
            allowed="2 or more",
            fact="Cross-validation needs several folds",
            remedy="Ask for two folds or more; five are usual.",
        )
    end = first_test_origin(panel, test_share=test_share, counted_from_s=counted_from_s)
    available = end - first_counted_origin(panel, counted_from_s)
    block_steps = available // (folds + 1) // domain.season_steps * domain.season_steps
    if block_steps <= domain.horizon_steps:
        raise _too_few(f"{available // domain.season_steps} weeks of origins before the test", folds)
    quantity, judged = target or domain.target, block_steps - domain.horizon_steps
    begins = [end - (folds - number) * block_steps for number in range(folds)]
    return tuple(
        _fold(panel, quantity, begin=begin, end=begin + judged, embargo=embargo, folds=folds) for begin in begins
    )


def walk_forward(
    panel: Panel,
    *,
    target: Quantity | None = None,
    every_steps: int | None = None,
    embargo_steps: int = 0,
    first_origin: int | None = None,
    last_origin: int | None = None,
    test_share: float = TEST_SHARE,
    counted_from_s: int | None = None,
) -> Iterator[Splits]:
    """Walk through a span, by default the test, block by block, each trained on all that was known before it.

    For judging a model that is refitted every month, or for out-of-fold forecasts of a first stage. The blocks
    together hold each window of the span once; a block without windows is passed over.

    Args:
        panel: Readings on the grid.
        target: What is forecast, by default the domain's first target.
        every_steps: Steps between two refits; by default four seasons, a month.
        embargo_steps: Steps between the last training target and the block's first origin. 0 is what a refit at that
            origin could know where readings arrive at once; give their delay where they do not.
        first_origin: Grid index of the first judged origin; by default the first of the test of `split_windows`.
        last_origin: Grid index of the last judged origin; by default the panel's.
        test_share: See `split_windows`.
        counted_from_s: See `split_windows` [s since 1970].

    Raises:
        NotEnoughDataError: There is nothing to train on before a block.
    """
    begin = first_origin
    if begin is None:
        begin = first_test_origin(panel, test_share=test_share, counted_from_s=counted_from_s)
    last = panel.last_origin if last_origin is None else last_origin
    step = every_steps or _SEASONS_BETWEEN_REFITS * panel.domain.season_steps
    quantity = target or panel.domain.target
    for first in range(begin, last + 1, step):
        end = min(first + step, last + 1)
        if len(windows_at(panel, quantity, np.arange(first, end))):
            yield _fold(panel, quantity, begin=first, end=end, embargo=embargo_steps, folds=1)


def _checked_embargo(domain: Domain, embargo_steps: int | None) -> int:
    if embargo_steps is None:
        return max(domain.season_steps, domain.horizon_steps)
    if embargo_steps < domain.horizon_steps:
        raise InvalidParameterError(
            parameter="embargo_steps",
            provided=embargo_steps,
            allowed=f"{domain.horizon_steps} or more",
            fact="The embargo is shorter than the horizon",
            remedy=f"Give at least the horizon of {domain.name}, {domain.horizon_steps} steps.",
        )
    return embargo_steps


def _fold(panel: Panel, target: Quantity, *, begin: int, end: int, embargo: int, folds: int) -> Splits:
    """The fold whose judged origins are `begin` to `end`, exclusive."""
    until = begin - embargo
    span = until - panel.first_origin + 1
    every = min(_LONGEST_PERIOD, span // validation_block_steps(panel.domain))
    if every < 2:
        raise _too_few(f"{max(span, 0) // panel.domain.season_steps} weeks to train on", folds)
    train, validation = scattered_validation(panel, until=until, every=every)
    parts = {"train": train, "validation": validation, "test": np.arange(begin, end)}
    sets = {name: windows_at(panel, target, origins) for name, origins in parts.items()}
    for name, part in sets.items():
        if len(part) == 0:
            raise _too_few(f"no window for {name}", folds)
    return Splits(**sets)


def _too_few(found: str, folds: int) -> NotEnoughDataError:
    return NotEnoughDataError(
        "There are too few readings for folds in time",
        found=found,
        remedy="Ingest more readings, thirty weeks or more besides the history"
        + (f", or ask for fewer folds than {folds}." if folds > 2 else "."),
    )
