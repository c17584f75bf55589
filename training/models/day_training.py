"""Fitting day networks: Lightning does the loop."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from training.models.blended_graph import BlendConfig
from training.models.day_networks import DayInputs
from training.models.training_days import TrainingDays

_Batch = tuple[DayInputs, Tensor]


class _Rows(Dataset[_Batch]):
    """Days as rows, a whole batch taken at once."""

    def __init__(self, days: TrainingDays) -> None:
        self.days = days

    def __len__(self) -> int:
        return len(self.days)

    def __getitem__(self, index: int) -> _Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> _Batch:
        rows = torch.tensor(indices)
        return DayInputs(*(part[rows] for part in self.days.inputs)), self.days.target[rows]


class DayTraining(lightning.LightningModule):
    """The training of one network: loss, weather that is hidden at random, optimiser, schedule.

    Args:
        network: What is fitted.
        days: What it learns from.
        config: How.
        epochs: Passes.
        seed: Of the order of the days.
        recipe: What is trained on what, in words; a checkpoint of another recipe is refused.
    """

    def __init__(
        self, network: nn.Module, days: TrainingDays, config: BlendConfig, *, epochs: int, seed: int, recipe: str
    ) -> None:
        super().__init__()
        self.network = network
        self.days = days
        self.config = config
        self.epochs = epochs
        self.seed = seed
        self.recipe = recipe

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the recipe into the checkpoint."""
        checkpoint["recipe"] = self.recipe

    def train_dataloader(self) -> DataLoader[_Batch]:
        """The days in random order; a training that is taken up again does not begin with the first order."""
        generator = torch.Generator().manual_seed(self.seed + self.current_epoch)
        rows = _Rows(self.days)
        return DataLoader(
            rows,
            batch_size=self.config.batch_size,
            sampler=RandomSampler(rows, generator=generator),
            collate_fn=_as_is,
            drop_last=len(rows) >= self.config.batch_size,
        )

    def training_step(self, batch: _Batch, batch_index: int) -> Tensor:
        """Mean absolute error over the measured hours of one batch, in units of the spread."""
        inputs, target = batch
        shown = torch.rand_like(inputs.known) >= self.config.hide_weather
        residual = self.network(inputs._replace(known=inputs.known * shown))
        measured = torch.isfinite(target)
        error = torch.where(measured, residual - torch.nan_to_num(target), torch.zeros_like(residual)).abs()
        loss = error.sum() / measured.sum()
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(target))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle learning rate."""
        rate = self.config.learning_rate
        batches = len(self.days) / self.config.batch_size
        steps = self.epochs * (math.floor(batches) if batches >= 1 else 1)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=self.config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _as_is(batch: Any) -> Any:
    return batch
