"""The recurrent network as a forecaster: Lightning does the loop."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import Logger
from onnx import ModelProto
from torch import Tensor

from features.vocabulary import Domain, Forecast, Quantity, Window
from training.data_module import Batch, WindowDataModule
from training.explain import Attribution
from training.forecaster import LEVELS, predict_with
from training.models.lightning_run import make_trainer, read_checkpoint, run_trainer
from training.models.neural import RecurrentConfig, ResidualRecurrent, quantile_loss
from training.models.onnx_graph import as_onnx, window_tensors
from training.models.recurrent_attribution import attribute
from training.models.weights import reading_weights, write_weights
from training.window_set import Splits, WindowSet

_WEIGHTS_FILE = "weights.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How the network is fitted.

    Attributes:
        epochs: At most this many passes.
        patience: Epochs without a better validation loss before it stops.
        batch_size: Windows per step.
        learning_rate: Peak of the one-cycle schedule (Smith and Topin 2018, arXiv:1708.07120).
        weight_decay: Of AdamW.
        weight_power: See `quantile_loss`.
        near_emphasis: See `quantile_loss`.
        squared: See `quantile_loss`.
        windows_per_epoch: At most this many windows per epoch; all if None.
        hide_ahead: Share of the training windows whose weather ahead is hidden, so that one network answers with and
            without it.
        accelerator: `cpu`, `gpu`, or `auto` for a GPU where there is one.
    """

    epochs: int = 12
    patience: int = 4
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    weight_power: float = 0.5
    near_emphasis: float = 0.0
    squared: float = 0.0
    windows_per_epoch: int | None = None
    hide_ahead: float = 0.5
    accelerator: str = "auto"


class RecurrentTraining(lightning.LightningModule):
    """The training of a `ResidualRecurrent`: loss, optimiser, schedule.

    Args:
        network: The graph that is fitted.
        config: How.
        total_steps: Steps of the whole schedule.
        recipe: What is trained on what, in words; a checkpoint of another recipe is refused.
    """

    def __init__(self, network: ResidualRecurrent, config: FitConfig, *, total_steps: int, recipe: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.network = network
        self.config = config
        self.total_steps = total_steps
        self.register_buffer("levels", torch.tensor(network.levels))

    levels: Tensor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the recipe into the checkpoint."""
        checkpoint["recipe"] = self.recipe

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of one batch."""
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log the validation loss of one batch."""
        self.log("validation_loss", self._loss(batch), prog_bar=True, batch_size=len(batch["target"]))

    def _loss(self, batch: Batch) -> Tensor:
        members = self.network.member_quantiles(batch["history"], batch["future"], batch["static"])
        losses = [
            quantile_loss(
                quantiles,
                batch["target"],
                profile,
                scale,
                self.levels,
                weight_power=self.config.weight_power,
                near_emphasis=self.config.near_emphasis,
                squared=self.config.squared,
            )
            for quantiles, profile, scale in members
        ]
        return torch.stack(losses).mean()

    def configure_optimizers(self) -> Any:
        """AdamW with a one-cycle learning rate."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.learning_rate, total_steps=self.total_steps, pct_start=0.15
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class RecurrentForecaster:
    """The residual LSTM or GRU as a forecaster.

    Args:
        domain: Gives lengths and channels.
        target: What it forecasts, by default the domain's first target.
        levels: Quantile levels.
        sizes: Of the network.
        fitting: How it is fitted.
        folder: Where checkpoints go, so that a stopped training is taken up again; None for none.
        logger: Where Lightning logs learning curves.
        show_progress: Whether a progress bar is drawn.
    """

    saw_validation = False

    def __init__(
        self,
        domain: Domain,
        *,
        target: Quantity | None = None,
        levels: tuple[float, ...] = LEVELS,
        sizes: RecurrentConfig | None = None,
        fitting: FitConfig | None = None,
        folder: Path | None = None,
        logger: Logger | None = None,
        show_progress: bool = False,
    ) -> None:
        self.domain = domain
        self.target = target or domain.target
        self.levels = levels
        self.sizes = sizes or RecurrentConfig()
        self.fitting = fitting or FitConfig()
        self.folder = folder
        self.logger = logger
        self.show_progress = show_progress
        self.network: ResidualRecurrent | None = None

    @property
    def name(self) -> str:
        """Family: the kind of its cells."""
        return self.sizes.cell

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Fit the network, keep its best epoch, and calibrate its quantiles on the validation weeks.

        Raises:
            DeviceError: A GPU was asked for and is not there.
            StorageError: A checkpoint cannot be written.
            ArtifactError: The folder's checkpoint is damaged, or of another training.
            KeyboardInterrupt: Training was stopped; the next run with the same folder goes on from the checkpoint.
        """
        lightning.seed_everything(seed, workers=True, verbose=False)
        network = ResidualRecurrent(self.domain, self.target, self.levels, self.sizes)
        _fit_scaling(network, splits.train)
        data = WindowDataModule(
            splits,
            batch_size=self.fitting.batch_size,
            windows_per_epoch=self.fitting.windows_per_epoch,
            hide_ahead=self.fitting.hide_ahead,
            seed=seed,
        )
        steps = len(data.train_dataloader()) * self.fitting.epochs
        module = RecurrentTraining(network, self.fitting, total_steps=steps, recipe=self._recipe(splits, seed))
        with tempfile.TemporaryDirectory() as temporary:
            self._run(module, data, self.folder or Path(temporary))
        self.network = network.eval().cpu()
        self.calibrate(splits.validation)

    def _recipe(self, splits: Splits, seed: int) -> str:
        fitting = {key: value for key, value in asdict(self.fitting).items() if key != "accelerator"}
        return (
            f"{self.domain.name} {self.target.name}, {self.levels}, {self.sizes}, {fitting}, seed {seed}, "
            f"{len(splits.train)} and {len(splits.validation)} windows"
        )

    def _run(self, module: RecurrentTraining, data: WindowDataModule, folder: Path) -> None:
        best = callbacks.ModelCheckpoint(
            dirpath=folder,
            filename="best",
            monitor="validation_loss",
            save_last=True,
            enable_version_counter=False,
        )
        stopping = callbacks.EarlyStopping(monitor="validation_loss", patience=self.fitting.patience)
        watched: list[callbacks.Callback] = [stopping, best]
        trainer = make_trainer(
            self.fitting.epochs,
            watched,
            accelerator=self.fitting.accelerator,
            logger=self.logger,
            bar=self.show_progress,
        )
        run_trainer(trainer, module, recipe=module.recipe, folder=folder, data=data)
        if best.best_model_path:
            module.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])

    def calibrate(self, validation: WindowSet) -> None:
        """Shift each quantile, by lead, so that on the validation windows its level is met; the median stays.

        Split conformal prediction for quantiles (Romano, Patterson and Candes 2019, arXiv:1905.03222), each tail alone.
        """
        network = self._fitted()
        network.interval_offset[0] = self._tail_shifts(validation.seen("known"))
        if self.domain.known_ahead:
            network.interval_offset[1] = self._tail_shifts(validation.seen("observed"))

    def _tail_shifts(self, validation: WindowSet) -> Tensor:
        """Shift of each lead's quantiles (H, Q), in log ratios."""
        network = self._fitted()
        scores = []
        with torch.inference_mode():
            for begin in range(0, len(validation), 1024):
                rows = np.arange(begin, min(begin + 1024, len(validation)))
                ratio, profile, scale = network.log_ratios(*window_tensors(validation.windows(rows)))
                target = torch.from_numpy(validation.targets(rows))
                scores.append((network.log_ratio(target, profile, scale)[:, :, None] - ratio).numpy())
        score = np.concatenate(scores)
        offset = np.zeros((self.domain.horizon_steps, len(self.levels)), dtype=np.float32)
        # A lead that was never measured keeps its quantiles.
        measured = np.isfinite(score).any(axis=(0, 2))
        for index, level in enumerate(self.levels):
            if level != 0.5:
                offset[measured, index] = np.nanquantile(score[:, measured, index], level, axis=0)
        return torch.from_numpy(offset)

    def predict(self, windows: Window) -> Forecast:
        """Quantiles of the target [its unit]."""
        return predict_with(self, self._fitted(), windows)

    def graph(self) -> ResidualRecurrent:
        """The module that is exported."""
        return self._fitted()

    def onnx_model(self, sample: Window) -> ModelProto:
        """The graph, exported."""
        return as_onnx(self._fitted(), sample)

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Shapley values of its groups of features, see `training.explain`."""
        return attribute(self._fitted(), windows, rng=rng)

    def _fitted(self) -> ResidualRecurrent:
        assert self.network is not None, "fit or load comes first"
        return self.network

    def save(self, folder: Path) -> None:
        """Write weights and sizes.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        content = {"sizes": asdict(self.sizes), "state": self._fitted().state_dict()}
        write_weights(folder / _WEIGHTS_FILE, content)

    def load(self, folder: Path) -> None:
        """Read weights and sizes.

        Raises:
            ArtifactError: They are missing, damaged, or of another domain.
        """
        with reading_weights(folder / _WEIGHTS_FILE) as saved:
            sizes = RecurrentConfig(**saved["sizes"])
            network = ResidualRecurrent(self.domain, self.target, self.levels, sizes)
            network.load_state_dict(saved["state"])
        self.sizes = sizes
        self.network = network.eval()


def _fit_scaling(network: ResidualRecurrent, train: WindowSet) -> None:
    """Means and gains of weather and site attributes over the training span; what never varies gets no gain."""
    panel = train.panel
    until = int(train.origin_B.max()) + 1
    weather = panel.value_STK[:, :until, network.weather].reshape(-1, len(network.weather))
    for values, mean, gain in (
        (weather, network.weather_mean, network.weather_gain),
        (panel.static_SS[:, 1:], network.static_mean, network.static_gain),
    ):
        for column in range(values.shape[1]):
            known = values[:, column][np.isfinite(values[:, column])]
            if len(known) > 1 and known.std() > 1e-6:
                mean[column] = float(known.mean())
                gain[column] = float(1 / known.std())
