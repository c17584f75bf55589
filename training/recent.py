"""What came last: windows that learn more of it, and windows that know nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from features.errors import InvalidParameterError, NotEnoughDataError
from features.vocabulary import Int64Array, Quantity
from features.windows import Panel
from training.window_set import Splits, WindowSet, join_windows, windows_at

# Every which block of a short span is for validation.
_LONGEST_PERIOD = 8
# Where the horizon is longer than this share of a season, no recent hours are held out: too few would be left.
_SHORT_HORIZON = 0.3
# A held-out block is so much longer than the horizon: origins that look into it alone, as a share of the horizon.
_BLOCK_ROOM = 0.5


def emphasise_recent(splits: Splits, *, seasons: float, share: float, seed: int) -> Splits:
    """Let the windows of the last seasons be a share of the training windows, by repeating them.

    A retraining on all readings alike has hardly learnt a change that is two weeks old. So what is recent is repeated,
    windows whose last targets lie in the test train up to its begin, and where the horizon is short, some hours of each
    recent season are held out for validation, to the same share: a training that stops by old weeks alone stops before
    it has learnt the new ones.

    Args:
        splits: As they were cut.
        seasons: Length of what is recent, up to the test.
        share: Of recent windows among those that train, 0 to below 1; where they are more already, none is repeated.
        seed: Of the draw of what is repeated once more than the rest.

    Raises:
        InvalidParameterError: The share cannot be.
    """
    if not 0 <= share < 1:
        raise InvalidParameterError(
            parameter="recent_share",
            provided=share,
            allowed="0 to below 1",
            fact="Recent rows cannot be this share of the training rows",
            remedy="Use 0 to train on all rows alike.",
        )
    if share == 0:
        return splits
    panel, end = splits.train.panel, int(splits.test.origin_B.min())
    begin = max(end - round(seasons * panel.domain.season_steps), panel.first_origin)
    blocks = _held_out_blocks(panel, begin=begin, end=end)
    train = _with_cut_targets(splits, blocks, begin=begin, end=end)
    rng = np.random.default_rng(seed)
    day = min(86400 // panel.domain.step_s, panel.domain.horizon_steps)
    return replace(
        splits,
        train=_repeated(train, train.origin_B + day > begin, share, rng),
        validation=_with_blocks(splits.validation, blocks, share, rng),
    )


def _repeated(windows: WindowSet, recent: npt.NDArray[np.bool_], share: float, rng: np.random.Generator) -> WindowSet:
    """The windows with recent ones repeated until they are a share."""
    old, new = np.flatnonzero(~recent), np.flatnonzero(recent)
    wanted = round(share / (1 - share) * len(old))
    if not len(new) or wanted <= len(new):
        return windows
    whole, rest = divmod(wanted, len(new))
    return windows.subset(np.sort(np.concatenate([old, np.repeat(new, whole), rng.permutation(new)[:rest]])))


def _held_out_blocks(panel: Panel, *, begin: int, end: int) -> tuple[range, ...]:
    """Hours of each recent season that are kept for validation; none where the horizon is long."""
    domain = panel.domain
    season, horizon = domain.season_steps, domain.horizon_steps
    if horizon > _SHORT_HORIZON * season:
        return ()
    length = horizon + round(_BLOCK_ROOM * horizon)
    # In the middle of a season, a day earlier in each season before, so that all days of the week have their turn.
    day = 86400 // domain.step_s
    firsts = [end - season // 2 - number * (season + day) for number in range((end - begin) // season + 1)]
    return tuple(range(first, first + length) for first in firsts if begin < first and first + length <= end)


def _with_cut_targets(splits: Splits, blocks: tuple[range, ...], *, begin: int, end: int) -> WindowSet:
    """The training windows without targets in the blocks or the test; what touches these trains on the rest."""
    train, panel = splits.train, splits.train.panel
    horizon = panel.domain.horizon_steps
    judged = np.zeros(train.target_ST.shape[1], dtype=np.bool_)
    for origin in np.unique(splits.validation.origin_B):
        judged[origin + 1 : origin + 1 + horizon] = True
    origins = np.arange(max(end - horizon, panel.first_origin), end - horizon // 2, dtype=np.int64)
    free = np.array([not judged[one + 1 : end + 1].any() for one in origins], dtype=np.bool_)
    target_ST = train.target_ST.copy()
    target_ST[:, end + 1 :] = np.nan
    for block in blocks:
        target_ST[:, block.start : block.stop] = np.nan
    known = train
    if free.any():
        more = windows_at(panel, train.target, origins[free])
        known = replace(
            train,
            site_index_B=np.concatenate([train.site_index_B, more.site_index_B]),
            origin_B=np.concatenate([train.origin_B, more.origin_B]),
        )
    cut = replace(known, target_ST=target_ST)
    recent = np.flatnonzero(cut.origin_B + horizon > begin)
    enough = np.isfinite(cut.targets(recent)).sum(axis=1) >= horizon // 2
    return cut.subset(np.setdiff1d(np.arange(len(cut)), recent[~enough]))


def _with_blocks(validation: WindowSet, blocks: tuple[range, ...], share: float, rng: np.random.Generator) -> WindowSet:
    """The validation windows, and those that look into the blocks alone, repeated until these are a share."""
    horizon = validation.panel.domain.horizon_steps
    origins = [np.arange(block.start - 1, block.stop - horizon, dtype=np.int64) for block in blocks]
    if not origins:
        return validation
    more = windows_at(validation.panel, validation.target, np.concatenate(origins))
    both = join_windows(validation, more)
    return _repeated(both, np.arange(len(both)) >= len(validation), share, rng)


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


def _blocks(origins: Int64Array, block_steps: int, horizon: int, every: int) -> tuple[Int64Array, Int64Array]:
    """Origins for training and for validation that share no target; the last block trains."""
    place = origins - origins[0]
    block, last_block = place // block_steps, (place + horizon) // block_steps
    held, touches = block % every == every - 2, last_block % every == every - 2
    return origins[~held & ~touches], origins[held & (block == last_block)]
