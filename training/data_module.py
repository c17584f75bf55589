"""One LightningDataModule per domain: every family gets the same splits from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from training.window_set import Splits, WindowSet

Batch = dict[str, torch.Tensor]
_GOLDEN_RATIO = 0.6180339887498949


class WindowDataset(Dataset[Batch]):
    """Windows as tensors, a whole batch cut at once.

    Args:
        windows: The windows.
        hide_ahead: Share of the windows whose weather ahead is hidden; the others see what was observed later.
    """

    def __init__(self, windows: WindowSet, *, hide_ahead: float = 1.0) -> None:
        self.known_ahead = len(windows.panel.domain.known_ahead)
        self.windows = windows.seen("observed") if self.known_ahead and hide_ahead < 1 else windows
        self.hide_ahead = hide_ahead

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The windows at `indices` as one batch: history (B, L, K), future (B, H, C), static (B, S), target (B, H)."""
        positions = np.asarray(indices)
        window = self.windows.windows(positions)
        future = torch.from_numpy(window.future_BHK)
        if self.known_ahead and self.hide_ahead < 1:
            # The same windows in every epoch and every process, spread evenly.
            hidden = np.modf(positions * _GOLDEN_RATIO)[0] < self.hide_ahead
            future[torch.from_numpy(hidden), :, -self.known_ahead :] = torch.nan
        return {
            "history": torch.from_numpy(window.history_BLK),
            "future": future,
            "static": torch.from_numpy(window.static_BS),
            "target": torch.from_numpy(self.windows.targets(positions)),
        }


class TimedLoader(DataLoader[Batch]):
    """A loader that knows how long its users waited for data."""

    waited_s: float = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waited_s += time.perf_counter() - began
            yield batch


class WindowDataModule(lightning.LightningDataModule):
    """The splits of one domain as loaders, and its folds; families without loaders take `splits` itself.

    Args:
        splits: Train, validation and test windows.
        folds: Of `training.folds.cross_validation`, where recipes are to be chosen.
        batch_size: Windows per batch.
        windows_per_epoch: At most this many training windows per epoch, drawn anew for each; all if None.
        hide_ahead: See `WindowDataset`.
        seed: Of the order of the training windows.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        folds: tuple[Splits, ...] = (),
        batch_size: int = 128,
        windows_per_epoch: int | None = None,
        seed: int = 0,
        hide_ahead: float = 1.0,
    ) -> None:
        super().__init__()
        self.splits = splits
        self.folds = folds
        self.batch_size = batch_size
        self.windows_per_epoch = windows_per_epoch
        self.seed = seed
        self.hide_ahead = hide_ahead

    def fold(self, number: int) -> WindowDataModule:
        """The same over one fold, the oldest being 0: its test loader gives the judged block."""
        return WindowDataModule(
            self.folds[number],
            batch_size=self.batch_size,
            windows_per_epoch=self.windows_per_epoch,
            seed=self.seed,
            hide_ahead=self.hide_ahead,
        )

    def train_dataloader(self) -> TimedLoader:
        """Training windows in random order; a training that is taken up again does not begin with the first order."""
        dataset = WindowDataset(self.splits.train, hide_ahead=self.hide_ahead)
        wanted = min(self.windows_per_epoch or len(dataset), len(dataset))
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        generator = torch.Generator().manual_seed(self.seed + epoch)
        sampler = torch.utils.data.RandomSampler(dataset, num_samples=wanted, generator=generator)
        return TimedLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, collate_fn=_as_is, drop_last=wanted >= self.batch_size
        )

    def val_dataloader(self) -> TimedLoader:
        """Validation windows in order of time."""
        dataset = WindowDataset(self.splits.validation, hide_ahead=self.hide_ahead)
        return TimedLoader(dataset, batch_size=1024, collate_fn=_as_is)

    def test_dataloader(self) -> TimedLoader:
        """Test windows in order of time."""
        return TimedLoader(WindowDataset(self.splits.test), batch_size=1024, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    return batch
