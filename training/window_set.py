"""Windows by the thousand, cut when they are needed; and how they are split in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.errors import NotEnoughDataError
from features.vocabulary import Float32Array, Int64Array, Quantity, Window
from features.windows import Ahead, Panel, make_windows

TEST_SHARE = 0.2
_BLOCKS_PER_VALIDATION_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSet:
    """Some windows of a panel with what their target turned out to be.

    Attributes:
        panel: Where they are cut from.
        target: What is forecast.
        target_ST: Its final values on the panel's grid [its unit].
        site_index_B: Site of each window.
        origin_B: Grid index of each origin.
        ahead: What its windows hold of the covariates that are known ahead, see `features.windows.Ahead`.
    """

    panel: Panel
    target: Quantity
    target_ST: Float32Array
    site_index_B: Int64Array
    origin_B: Int64Array
    ahead: Ahead = "known"

    def __len__(self) -> int:
        return len(self.origin_B)

    def windows(self, chosen: npt.ArrayLike | None = None) -> Window:
        """The windows at positions `chosen`, or all."""
        positions = np.arange(len(self)) if chosen is None else np.asarray(chosen)
        return make_windows(self.panel, self.site_index_B[positions], self.origin_B[positions], ahead=self.ahead)

    def targets(self, chosen: npt.ArrayLike | None = None) -> Float32Array:
        """What came after each origin, shape (B, H) [unit of the target], NaN where unmeasured."""
        positions = np.arange(len(self)) if chosen is None else np.asarray(chosen)
        ahead = self.origin_B[positions][:, None] + np.arange(1, self.panel.domain.horizon_steps + 1)
        values: Float32Array = self.target_ST[self.site_index_B[positions][:, None], ahead]
        return values

    def subset(self, chosen: npt.ArrayLike) -> WindowSet:
        """The windows at positions, or under a mask, `chosen`."""
        positions = np.asarray(chosen)
        return replace(self, site_index_B=self.site_index_B[positions], origin_B=self.origin_B[positions])

    def seen(self, ahead: Ahead) -> WindowSet:
        """The same windows with other knowledge of the covariates that are known ahead."""
        return replace(self, ahead=ahead)

    def span(self) -> str:
        """First and last origin, for people."""
        moments = self.panel.moments_s[[int(self.origin_B.min()), int(self.origin_B.max())]]
        first, last = moments.astype("datetime64[s]").astype("datetime64[h]")
        return f"{first} to {last} UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Three parts that share no target hour.

    Attributes:
        train: What weights are fitted on.
        validation: Whole weeks scattered over the training span: they stop the training and calibrate intervals.
        test: The last fifth of the time, for the final score alone.
    """

    train: WindowSet
    validation: WindowSet
    test: WindowSet


def split_windows(
    panel: Panel,
    *,
    target: Quantity | None = None,
    test_share: float = TEST_SHARE,
    counted_from_s: int | None = None,
) -> Splits:
    """Split a panel's windows in time.

    The last `test_share` of the hours are the test's targets. Before them, every eighth week is for validation (two
    weeks of sixteen where the horizon is a week). A training window whose targets touch a validation week, or the test,
    is in no part.

    Args:
        panel: Readings on the grid.
        target: What is forecast, by default the domain's first target.
        test_share: Share of the time that is kept for the test.
        counted_from_s: Moment from which that share is counted, by default the first origin [s since 1970].

    Raises:
        NotEnoughDataError: A part would be empty.
    """
    horizon = panel.domain.horizon_steps
    quantity = target or panel.domain.target
    first, last = panel.first_origin, panel.last_origin
    counted = first if counted_from_s is None else max(first, (counted_from_s - panel.start_s) // panel.domain.step_s)
    test_from = counted + int((last - counted + 1) * (1 - test_share))
    origins = np.arange(first, last + 1)
    season = panel.domain.season_steps
    # Longer than the horizon: targets of a validation window lie in its own block, and none spans a whole one.
    block_steps = season * (1 + round(horizon / season))
    block, last_block = (origins - first) // block_steps, (origins + horizon - first) // block_steps
    held_out = block % _BLOCKS_PER_VALIDATION_BLOCK == _BLOCKS_PER_VALIDATION_BLOCK - 1
    touches = last_block % _BLOCKS_PER_VALIDATION_BLOCK == _BLOCKS_PER_VALIDATION_BLOCK - 1
    before_test = origins + horizon < test_from
    parts = {
        "train": before_test & ~held_out & ~touches,
        "validation": before_test & held_out & (block == last_block),
        "test": origins >= test_from,
    }
    sets = {name: _windows_at(panel, quantity, origins[chosen]) for name, chosen in parts.items()}
    for name, part in sets.items():
        if len(part) == 0:
            weeks = (last - first + 1) // season
            raise NotEnoughDataError(
                f"There are too few readings: no window is left for {name}",
                found=f"{weeks} weeks of origins",
                remedy="Ingest more readings: twenty weeks or more, besides nine weeks of history.",
            )
    return Splits(**sets)


def _windows_at(panel: Panel, target: Quantity, origins: Int64Array) -> WindowSet:
    """Windows of all sites at `origins` that have at least half of their targets and some recent history."""
    horizon, recent = panel.domain.horizon_steps, 24
    target_ST = panel.target_ST(target)
    measured = np.isfinite(target_ST)
    sums = np.concatenate([np.zeros((len(measured), 1), dtype=np.int64), measured.cumsum(axis=1)], axis=1)
    ahead = sums[:, origins + 1 + horizon] - sums[:, origins + 1]
    behind = sums[:, origins + 1] - sums[:, origins + 1 - recent]
    site_index, position = np.nonzero((ahead >= horizon // 2) & (behind >= recent // 3))
    return WindowSet(
        panel=panel, target=target, target_ST=target_ST, site_index_B=site_index, origin_B=origins[position]
    )


def join_windows(first: WindowSet, second: WindowSet) -> WindowSet:
    """The windows of both, which are of one panel and one target."""
    return replace(
        first,
        site_index_B=np.concatenate([first.site_index_B, second.site_index_B]),
        origin_B=np.concatenate([first.origin_B, second.origin_B]),
    )
