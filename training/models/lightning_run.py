"""What families that Lightning fits have in common: the trainer, the device, and checkpoints to go on from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import Logger

from features.errors import ArtifactError, DeviceError
from features.files import storage_errors
from training.models.weights import UNREADABLE

_LAST = "last.ckpt"


class EpochBar(callbacks.RichProgressBar):
    """A bar of one line: without the number of the run, which tells a reader nothing."""

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        """The figures beside the bar."""
        return {name: value for name, value in super().get_metrics(*arguments).items() if name != "v_num"}


def fit_epochs(
    module: lightning.LightningModule,
    *,
    epochs: int,
    recipe: str,
    folder: Path,
    accelerator: str,
    logger: Logger | None,
    bar: bool,
) -> None:
    """Fit a module, which brings its own loader, for some epochs; a stopped fit goes on after its last one.

    Args:
        module: Writes `recipe` into its checkpoints under that name.
        epochs: How many.
        recipe: What is fitted on what, in words; a checkpoint of another recipe is refused.
        folder: Where the checkpoint goes.
        accelerator: `cpu`, `gpu`, or `auto` for a GPU where there is one.
        logger: Where learning curves go.
        bar: Whether a progress bar is drawn.

    Raises:
        DeviceError: A GPU was asked for and is not there.
        StorageError: The checkpoint cannot be written.
        ArtifactError: The folder's checkpoint is damaged, or of another training.
        KeyboardInterrupt: It was stopped.
    """
    watched: list[callbacks.Callback] = [
        callbacks.ModelCheckpoint(dirpath=folder, filename="epoch", save_last=True, enable_version_counter=False)
    ]
    trainer = make_trainer(epochs, watched, accelerator=accelerator, logger=logger, bar=bar)
    run_trainer(trainer, module, recipe=recipe, folder=folder)


def run_trainer(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    *,
    recipe: str,
    folder: Path,
    data: lightning.LightningDataModule | None = None,
) -> None:
    """Run a trainer, going on from the folder's last checkpoint if there is one.

    Args:
        trainer: Of `make_trainer`, with a callback that saves the last checkpoint into `folder`.
        module: Writes `recipe` into its checkpoints under that name.
        recipe: What is fitted on what, in words; a checkpoint of another recipe is refused.
        folder: Where the checkpoints are.
        data: Loaders, where the module does not bring its own.

    Raises:
        StorageError: The checkpoint cannot be written.
        ArtifactError: The folder's checkpoint is damaged, or of another training.
        KeyboardInterrupt: It was stopped.
    """
    resume = resumable(folder / _LAST, recipe)
    with storage_errors(folder), warnings.catch_warnings():
        # Windows are cut in this process on purpose: others would only carry them about.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        # Lightning's own call of torch.
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False if resume else None)
        except SystemExit as error:
            # Lightning ends the whole process on Ctrl+C; whoever called decides that here.
            if trainer.interrupted:
                raise KeyboardInterrupt from error
            raise


def make_trainer(
    epochs: int, watched: Sequence[callbacks.Callback], *, accelerator: str, logger: Logger | None, bar: bool
) -> lightning.Trainer:
    """A trainer on one device, with clipped gradients, and a bar if one is asked for.

    Raises:
        DeviceError: A GPU was asked for and is not there.
    """
    make: Callable[..., lightning.Trainer] = lightning.Trainer
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise DeviceError(
            "A GPU was asked for, and torch sees none",
            found=f"torch {torch.__version__}",
            remedy="Install a CUDA build of torch, or set the accelerator to 'cpu' or 'auto'.",
        )
    if bar:
        watched = [*watched, EpochBar(leave=False)]
    on_gpu = accelerator != "cpu" and torch.cuda.is_available()
    return make(
        max_epochs=epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="16-mixed" if on_gpu else "32-true",
        callbacks=list(watched),
        logger=logger or False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        deterministic="warn",
    )


def resumable(last: Path, recipe: str) -> str | None:
    """The checkpoint to go on from, if there is one.

    Raises:
        ArtifactError: It is damaged, or of another training.
    """
    if not last.exists():
        return None
    found = read_checkpoint(last).get("recipe")
    if found != recipe:
        raise ArtifactError(
            "The folder holds the checkpoint of another training",
            found=f"{last}: {found}",
            remedy=f"Remove {last} to begin anew, or name another folder; asked for was {recipe}.",
        )
    return str(last)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        ArtifactError: It is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except UNREADABLE as error:
        raise ArtifactError(
            "The checkpoint is damaged", found=str(path), remedy=f"Remove {path} and train again: it begins anew."
        ) from error
    return state
