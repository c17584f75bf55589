"""What Lightning's loop costs over a bare PyTorch loop, and how long either waits for data.

Run: `python -m benchmarks.training_loop`. Same network, same seed, same batches of the same windows; the loops take
turns, epoch by epoch, and the medians of the pairs are compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.report import arguments, print_result, wide_console
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.store import ReadingStore
from pipelines.ingest import ingest_rollout
from pipelines.quiet import quiet_libraries
from sim_env import SIMULATORS
from training.data_module import TimedLoader, WindowDataModule
from training.forecaster import LEVELS
from training.models.neural import RecurrentConfig, ResidualRecurrent
from training.models.recurrent import FitConfig, RecurrentTraining
from training.window_set import Splits, split_windows

_DOMAIN = DOMAINS["traffic"]


def main() -> None:
    """Run both loops in turn and compare."""
    options = arguments(__doc__ or "").parse_args()
    quiet_libraries()
    warnings.filterwarnings("ignore")
    rounds, windows = (2, 1024) if options.quick else (7, 8192)
    fitting = FitConfig(epochs=1, windows_per_epoch=windows, accelerator="cpu")
    with tempfile.TemporaryDirectory() as temporary:
        splits = generated_splits(Path(temporary))
    sizes = RecurrentConfig(hidden=64, hidden_second=32)
    bare_loop(splits, sizes, fitting, seed=0)
    pairs = [
        (lightning_loop(splits, sizes, fitting, seed=seed), bare_loop(splits, sizes, fitting, seed=seed))
        for seed in track(range(rounds), description="pairs of epochs", console=Console(stderr=True))
    ]
    ratio = statistics.median(ours[0] / bare[0] for ours, bare in pairs)
    waiting = statistics.median(ours[1] / ours[0] for ours, _ in pairs)
    same = max(abs(ours[2] - bare[2]) for ours, bare in pairs)
    table = Table(title=f"One epoch of {windows} windows, batches of {fitting.batch_size}")
    for column in ("", "median s", "share waiting for data"):
        table.add_column(column, justify="right")
    for name, index in (("Lightning", 0), ("bare PyTorch", 1)):
        seconds = statistics.median(pair[index][0] for pair in pairs)
        share = statistics.median(pair[index][1] / pair[index][0] for pair in pairs)
        table.add_row(name, f"{seconds:.2f}", f"{share:.1%}")
    console = wide_console()
    console.print(table)
    console.print(f"Lightning / bare: {ratio:.3f} (at most 1.10); largest difference of the loss {same:.1e}")
    figures = {"lightning_over_bare": ratio, "share_waiting_for_data": waiting, "largest_loss_difference": same}
    print_result("training_loop", {name: round(value, 6) for name, value in figures.items()})


def generated_splits(folder: Path) -> Splits:
    """Windows over the generator's readings."""
    simulator = SIMULATORS["roads"]
    scenario = next(iter(simulator.scenarios().values()))
    ingest_rollout(simulator, scenario, rng=np.random.default_rng(0), root=folder / "readings")
    repository = FeatureRepository(folder / "feast", ReadingStore(folder / "readings", _DOMAIN))
    repository.apply()
    return split_windows(repository.panel())


def _start(
    splits: Splits, sizes: RecurrentConfig, fitting: FitConfig, seed: int
) -> tuple[ResidualRecurrent, RecurrentTraining, TimedLoader]:
    lightning.seed_everything(seed, verbose=False)
    network = ResidualRecurrent(_DOMAIN, _DOMAIN.target, LEVELS, sizes)
    data = WindowDataModule(
        splits, batch_size=fitting.batch_size, windows_per_epoch=fitting.windows_per_epoch, seed=seed
    )
    loader = data.train_dataloader()
    return network, RecurrentTraining(network, fitting, total_steps=len(loader), recipe="benchmark"), loader


def lightning_loop(
    splits: Splits, sizes: RecurrentConfig, fitting: FitConfig, *, seed: int
) -> tuple[float, float, float]:
    """One epoch by Lightning: seconds, seconds waiting for data, last loss."""
    _, module, loader = _start(splits, sizes, fitting, seed)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    torch.manual_seed(seed)
    began = time.perf_counter()
    trainer.fit(module, train_dataloaders=loader)
    return time.perf_counter() - began, loader.waited_s, float(trainer.callback_metrics["train_loss"])


def bare_loop(splits: Splits, sizes: RecurrentConfig, fitting: FitConfig, *, seed: int) -> tuple[float, float, float]:
    """The same epoch by a plain loop."""
    network, module, loader = _start(splits, sizes, fitting, seed)
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    network.train()
    torch.manual_seed(seed)
    began = time.perf_counter()
    total = torch.zeros(())
    count = 0
    for batch in loader:
        loss = module._loss(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(batch["target"])
        count += len(batch["target"])
    return time.perf_counter() - began, loader.waited_s, float(total / count)


if __name__ == "__main__":
    main()
