"""Windows by the thousand, cut when they are needed; and how they are split in time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.errors import NotEnoughDataError
from features.vocabulary import Domain, Float32Array, Int64Array, Quantity, Window
from features.windows import Panel, make_windows

TEST_SHARE = 0.2
_BLOCKS_PER_VALIDATION_BLOCK = 8


# What windows hold of the covariates that are known ahead: what was known at the origin, or what was observed later.
Ahead = Literal["known", "observed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSet:
    """Some windows of a panel with what their target turned out to be.

    Attributes:
        panel: Where they are cut from.
        target: What is forecast.
        target_ST: Its final values on the panel's grid [its unit].
        site_index_B: Site of each window.
        origin_B: Grid index of each origin.
        observed_STA: What the covariates that are known ahead turned out to be, if windows hold that.
    """

    panel: Panel
    target: Quantity
    target_ST: Float32Array
    site_index_B: Int64Array
    origin_B: Int64Array
    observed_STA: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.origin_B)

    def windows(self, chosen: npt.ArrayLike | None = None) -> Window:
        """The windows at positions `chosen`, or all."""
        positions = np.arange(len(self)) if chosen is None else np.asarray(chosen)
        return make_windows(
            self.panel, self.site_index_B[positions], self.origin_B[positions], observed_STA=self.observed_STA
        )

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
        if ahead == "known":
            return replace(self, observed_STA=None)
        return self if self.observed_STA is not None else replace(self, observed_STA=self.panel.observed_ahead())

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
    quantity = target or panel.domain.target
    first, last = panel.first_origin, panel.last_origin
    test_from = first_test_origin(panel, test_share=test_share, counted_from_s=counted_from_s)
    train, validation = scattered_validation(panel, until=test_from - 1)
    parts = {"train": train, "validation": validation, "test": np.arange(test_from, last + 1)}
    sets = {name: windows_at(panel, quantity, origins) for name, origins in parts.items()}
    for name, part in sets.items():
        if len(part) == 0:
            weeks = (last - first + 1) // panel.domain.season_steps
            raise NotEnoughDataError(
                f"There are too few readings: no window is left for {name}",
                found=f"{weeks} weeks of origins",
                remedy="Ingest more readings: twenty weeks or more, besides nine weeks of history.",
            )
    return Splits(**sets)


def first_test_origin(panel: Panel, *, test_share: float = TEST_SHARE, counted_from_s: int | None = None) -> int:
    """Grid index of the test's first origin; see `split_windows`."""
    counted = first_counted_origin(panel, counted_from_s)
    return counted + int((panel.last_origin - counted + 1) * (1 - test_share))


def first_counted_origin(panel: Panel, counted_from_s: int | None) -> int:
    """Grid index of the first origin that shares of the time are counted from; see `split_windows`."""
    if counted_from_s is None:
        return panel.first_origin
    return max(panel.first_origin, (counted_from_s - panel.start_s) // panel.domain.step_s)


def scattered_validation(
    panel: Panel, *, until: int, every: int = _BLOCKS_PER_VALIDATION_BLOCK
) -> tuple[Int64Array, Int64Array]:
    """Origins for training and for validation whose targets all lie at or before grid index `until`.

    Args:
        panel: Readings on the grid.
        until: Last hour that a target may cover.
        every: Every which block is for validation; blocks are counted from the panel's first origin.
    """
    horizon, first = panel.domain.horizon_steps, panel.first_origin
    origins = np.arange(first, max(first, until - horizon + 1))
    # Longer than the horizon: targets of a validation window lie in its own block, and none spans a whole one.
    block_steps = validation_block_steps(panel.domain)
    block, last_block = (origins - first) // block_steps, (origins + horizon - first) // block_steps
    held_out, touches = block % every == every - 1, last_block % every == every - 1
    return origins[~held_out & ~touches], origins[held_out & (block == last_block)]


def validation_block_steps(domain: Domain) -> int:
    """Length of a block of validation: one season, or more where the horizon is long."""
    return domain.season_steps * (1 + round(domain.horizon_steps / domain.season_steps))


def windows_at(panel: Panel, target: Quantity, origins: Int64Array) -> WindowSet:
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
