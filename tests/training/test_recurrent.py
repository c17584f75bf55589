"""The LSTM as a forecaster: it learns, repeats itself, survives interruption, and says what is wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from features.errors import ArtifactError, DeviceError, StorageError
from features.readings import join_readings, make_readings
from features.vocabulary import Domain, Quantity, Site
from features.windows import build_panel
from training.evaluate import judge_horizons
from training.forecaster import predict_set
from training.models.neural import RecurrentConfig, quantile_loss
from training.models.recurrent import FitConfig, RecurrentForecaster, RecurrentTraining
from training.models.seasonal import SeasonalForecaster
from training.window_set import Splits, split_windows

TOWN = Domain(
    name="town",
    entity="road",
    targets=(Quantity(name="flow", unit="veh/h", aggregation="mean", lower=0.0, upper=20_000.0),),
    covariates=(Quantity(name="temperature", unit="degC", aggregation="mean"),),
    history_steps=4 * 168,
    horizon_steps=6,
    horizons={"2h": 2, "6h": 6},
    static_names=("lanes",),
)
TINY = RecurrentConfig(recent_steps=12, hidden=8, layers=1, hidden_second=8, head=8, dropout=0.1)
BRIEF = FitConfig(epochs=3, batch_size=64, windows_per_epoch=192, learning_rate=5e-3, accelerator="cpu")
SEED = 11


def town_with_memory(*, weeks: int = 24) -> Splits:
    """A road with a daily shape, and deviations from it that last for hours: what a forecaster can learn."""
    rng = np.random.default_rng(5)
    hours = weeks * 168
    moments = pd.date_range("2024-01-01", periods=hours, freq="h", tz="UTC")
    deviation = np.zeros(hours)
    for hour in range(1, hours):
        deviation[hour] = 0.95 * deviation[hour - 1] + 0.1 * rng.normal()
    shape = 1000 + 600 * np.sin(2 * np.pi * (moments.hour.to_numpy() - 6) / 24)
    flow = np.where(rng.random(hours) < 0.02, np.nan, shape * np.exp(deviation))
    readings = join_readings(
        [
            make_readings(site="A", quantity=name, valid_at=moments, value=value, source="sensor:test")
            for name, value in (("flow", flow), ("temperature", rng.normal(10, 5, hours)))
        ]
    )
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    site = Site(name="A", attributes={"lanes": 2.0})
    return split_windows(build_panel(TOWN, [site], readings, first_origin_s=first_s, last_origin_s=last_s))


def brief(
    folder: Path | None = None, *, fitting: FitConfig = BRIEF, sizes: RecurrentConfig = TINY
) -> RecurrentForecaster:
    return RecurrentForecaster(TOWN, sizes=sizes, fitting=fitting, folder=folder)


def weights(forecaster: RecurrentForecaster) -> str:
    """Every bit of a fitted network."""
    state = forecaster.graph().state_dict()
    return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in state.items()).hex()


@pytest.fixture(scope="module")
def splits() -> Splits:
    return town_with_memory()


@pytest.fixture(scope="module")
def fitted(splits: Splits) -> RecurrentForecaster:
    fitting = FitConfig(epochs=8, batch_size=32, windows_per_epoch=1024, learning_rate=1e-2, accelerator="cpu")
    forecaster = brief(fitting=fitting, sizes=dataclasses.replace(TINY, hidden=16, head=16, dropout=0.0))
    forecaster.fit(splits, seed=SEED)
    return forecaster


def in_another_process(function: Callable[..., None], folder: Path) -> dict[str, object]:
    """What a function of this file prints as its last line, run in a process without a GPU."""
    call = f"import runpy; runpy.run_path({__file__!r})[{function.__name__!r}]({str(folder)!r})"
    answer = subprocess.run(
        [sys.executable, "-c", call],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert answer.returncode == 0, answer.stderr
    last: dict[str, object] = json.loads(answer.stdout.splitlines()[-1])
    return last


def fit_and_note(folder: Path, *, interrupt_in_epoch: int | None = None) -> dict[str, object]:
    """Fit in `folder`, with a real Ctrl+C in the middle of an epoch; what happened."""
    begun: list[tuple[int, int]] = []

    def at_begin_of_epoch(module: RecurrentTraining) -> None:
        begun.append((module.current_epoch, module.global_step))

    def at_begin_of_batch(module: RecurrentTraining, batch: object, index: int) -> None:
        if module.current_epoch == interrupt_in_epoch and index == 1:
            os.kill(os.getpid(), signal.SIGINT)

    # A shell may have started this test with Ctrl+C switched off.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    RecurrentTraining.on_train_epoch_start = at_begin_of_epoch  # type: ignore[method-assign]
    RecurrentTraining.on_train_batch_start = at_begin_of_batch  # type: ignore[method-assign,assignment]
    forecaster, interrupted = brief(folder), False
    try:
        forecaster.fit(town_with_memory(), seed=SEED)
    except KeyboardInterrupt:
        interrupted = True
    return {
        "interrupted": interrupted,
        "begun": list(begun),
        "files": sorted(path.name for path in folder.iterdir()),
        "weights": "" if interrupted else weights(forecaster),
        "interruptible": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }


def main_interrupted(folder: str) -> None:
    """In another process: a training that is stopped in its second epoch."""
    sys.stdout.write("\n" + json.dumps(fit_and_note(Path(folder), interrupt_in_epoch=1)))


def main_resumed(folder: str) -> None:
    """In another process: the same call again; then one from the beginning; then one that wants a GPU."""
    resumed = fit_and_note(Path(folder))
    fresh = brief()
    fresh.fit(town_with_memory(), seed=SEED)
    gpu = brief(fitting=dataclasses.replace(BRIEF, accelerator="gpu"))
    try:
        gpu.fit(town_with_memory(), seed=SEED)
    except DeviceError as error:
        refusal = str(error)
    sys.stdout.write("\n" + json.dumps({**resumed, "fresh": weights(fresh), "refusal": refusal}))


def test_an_interrupted_training_goes_on_and_the_same_seed_gives_the_same_weights_anywhere(
    splits: Splits, tmp_path: Path
) -> None:
    stopped = in_another_process(main_interrupted, tmp_path)
    assert stopped["interrupted"] is True
    assert stopped["begun"] == [[0, 0], [1, 3]]
    assert stopped["files"] == ["best.ckpt", "last.ckpt"]
    assert stopped["interruptible"] is True

    resumed = in_another_process(main_resumed, tmp_path)
    assert resumed["interrupted"] is False
    # The second epoch begins again: three batches of the first are done, and are not done twice.
    assert resumed["begun"] == [[1, 3], [2, 6]]
    assert "A GPU was asked for" in str(resumed["refusal"])

    here = brief()
    here.fit(splits, seed=SEED)
    assert resumed["fresh"] == weights(here)
    assert resumed["weights"] != weights(here)


def test_other_seeds_give_other_weights_and_a_folder_changes_nothing(splits: Splits, tmp_path: Path) -> None:
    with_folder, without, other = brief(tmp_path), brief(), brief()
    with_folder.fit(splits, seed=SEED)
    without.fit(splits, seed=SEED)
    other.fit(splits, seed=SEED + 1)
    assert weights(with_folder) == weights(without)
    assert weights(other) != weights(without)
    # A training that is complete is not trained on.
    again = brief(tmp_path)
    again.fit(splits, seed=SEED)
    assert weights(again) == weights(without)


def test_it_learns_what_the_seasonal_profile_does_not_know(splits: Splits, fitted: RecurrentForecaster) -> None:
    levels = fitted.levels
    naive = predict_set(SeasonalForecaster(TOWN), splits.test)[:, :, levels.index(0.5)]
    quantiles, target = predict_set(fitted, splits.test), splits.test.targets()
    figures = judge_horizons(TOWN, quantiles, target, naive, levels=levels)
    assert figures["2h"]["skill"] > 0.3
    assert figures["mean"]["skill"] > 0.2
    assert figures["2h"]["mae"] < figures["6h"]["mae"]
    assert 0.8 < figures["mean"]["coverage_90"] < 0.98


def test_calibration_meets_every_level_on_the_validation_weeks(splits: Splits, fitted: RecurrentForecaster) -> None:
    quantiles, target = predict_set(fitted, splits.validation), splits.validation.targets()
    for lead in range(TOWN.horizon_steps):
        known = np.isfinite(target[:, lead])
        for index, level in enumerate(fitted.levels):
            if level != 0.5:
                below = np.mean(target[known, lead] <= quantiles[known, lead, index])
                assert below == pytest.approx(level, abs=0.01), (lead, level)


def test_calibration_moves_all_but_the_median(splits: Splits, fitted: RecurrentForecaster) -> None:
    offset = fitted.graph().interval_offset[0].numpy()
    assert (offset[:, fitted.levels.index(0.5)] == 0).all()
    assert (np.abs(offset).sum(axis=0) > 0).sum() == len(fitted.levels) - 1


def test_calibration_without_a_measured_lead_keeps_its_quantiles(splits: Splits, fitted: RecurrentForecaster) -> None:
    kept = fitted.graph().interval_offset.clone()
    target = splits.validation.target_ST.copy()
    part = splits.validation.subset(splits.validation.origin_B % 24 == 3)
    hidden = np.unique(part.origin_B) + 2
    target[:, hidden] = np.nan
    fitted.calibrate(dataclasses.replace(part, target_ST=target))
    offset = fitted.graph().interval_offset[0]
    assert torch.isfinite(offset).all()
    assert (offset[1] == 0).all()
    assert (offset[0] != 0).any()
    fitted.graph().interval_offset.copy_(kept)


def test_the_loss_passes_over_missing_targets() -> None:
    rng = np.random.default_rng(0)
    levels = torch.tensor([0.1, 0.5, 0.9])
    quantiles = torch.from_numpy(rng.uniform(0, 9, (4, 3, 3)).astype(np.float32)).requires_grad_()
    target = torch.from_numpy(rng.uniform(0, 9, (4, 3)).astype(np.float32))
    profile, scale = torch.full((4, 3), 5.0), torch.full((4, 1), 5.0)
    target[2:] = torch.nan
    loss = quantile_loss(quantiles, target, profile, scale, levels, weight_power=0.5)
    known = quantile_loss(quantiles[:2], target[:2], profile[:2], scale[:2], levels, weight_power=0.5)
    assert loss.item() == pytest.approx(known.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, quantiles)
    assert torch.isfinite(gradient).all()
    assert (gradient[:2] != 0).all()
    assert (gradient[2:] == 0).all()
    nothing = quantile_loss(quantiles, torch.full_like(target, torch.nan), profile, scale, levels, weight_power=0.5)
    assert nothing.item() == 0.0


def test_the_loss_is_the_mean_pinball_loss() -> None:
    levels = torch.tensor([0.1, 0.5, 0.9])
    quantiles = torch.tensor([[[4.0, 6.0, 9.0]]])
    loss = quantile_loss(
        quantiles, torch.tensor([[5.0]]), torch.ones(1, 1), torch.full((1, 1), 2.0), levels, weight_power=0.0
    )
    # Errors 1, -1, -4 over a scale of 2: (0.1 * 1 + 0.5 * 1 + 0.1 * 4) / 2 / 3 levels.
    assert loss.item() == pytest.approx(1.0 / 6.0)


@pytest.mark.parametrize("damage", ["cut off", "empty", "something else"])
def test_a_damaged_checkpoint_is_named_with_its_remedy(splits: Splits, tmp_path: Path, damage: str) -> None:
    brief(tmp_path, fitting=dataclasses.replace(BRIEF, epochs=1, windows_per_epoch=64)).fit(splits, seed=SEED)
    last = tmp_path / "last.ckpt"
    content = last.read_bytes()
    damaged = {"cut off": content[: len(content) // 2], "empty": b"", "something else": b"no checkpoint"}
    last.write_bytes(damaged[damage])
    with pytest.raises(ArtifactError, match="The checkpoint is damaged") as caught:
        brief(tmp_path).fit(splits, seed=SEED)
    assert f"Remove {last}" in caught.value.remedy


def test_a_checkpoint_of_another_training_is_refused(splits: Splits, tmp_path: Path) -> None:
    fitting = dataclasses.replace(BRIEF, epochs=1, windows_per_epoch=64)
    brief(tmp_path, fitting=fitting).fit(splits, seed=SEED)
    others = [
        (brief(tmp_path, fitting=fitting, sizes=dataclasses.replace(TINY, hidden=9)), SEED),
        (brief(tmp_path, fitting=dataclasses.replace(fitting, epochs=2)), SEED),
        (brief(tmp_path, fitting=fitting), SEED + 1),
    ]
    for forecaster, seed in others:
        with pytest.raises(ArtifactError, match="checkpoint of another training") as caught:
            forecaster.fit(splits, seed=seed)
        assert str(tmp_path / "last.ckpt") in caught.value.remedy


def test_a_checkpoint_folder_that_cannot_be_written(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        brief(tmp_path / "taken" / "folder").fit(splits, seed=SEED)


def test_saved_weights_come_back(fitted: RecurrentForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path / "new" / "folder")
    restored = RecurrentForecaster(TOWN)
    restored.load(tmp_path / "new" / "folder")
    assert weights(restored) == weights(fitted)
    assert restored.sizes == fitted.sizes


@pytest.mark.parametrize("damage", ["cut off", "empty", "something else", "missing", "other content"])
def test_damaged_weights_are_refused(fitted: RecurrentForecaster, tmp_path: Path, damage: str) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "weights.pt"
    content = path.read_bytes()
    damaged = {"cut off": content[: len(content) // 2], "empty": b"", "something else": b"no weights"}
    if damage in damaged:
        path.write_bytes(damaged[damage])
    elif damage == "missing":
        path.unlink()
    else:
        torch.save({"state": {}}, path)
    restored = RecurrentForecaster(TOWN)
    with pytest.raises(ArtifactError, match="The weights cannot be read"):
        restored.load(tmp_path)
    assert restored.network is None


def test_weights_of_another_domain_are_refused(fitted: RecurrentForecaster, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    with pytest.raises(ArtifactError):
        RecurrentForecaster(dataclasses.replace(TOWN, horizon_steps=12)).load(tmp_path)
