"""The blend as a forecaster: residual networks over the seasonal profile, with a share of Prophet."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from onnx import ModelProto

from features.errors import NotEnoughDataError
from features.vocabulary import Domain, Forecast, Quantity, Window
from training.explain import Attribution
from training.forecaster import LEVELS, predict_with
from training.models.additive import ProphetConfig, ProphetTable, fit_prophet, table_of, terms_of
from training.models.blended_attribution import attribute
from training.models.blended_graph import BlendConfig, BlendGraph, FromMidnight
from training.models.conformal import score_of
from training.models.day_networks import NetworkConfig
from training.models.day_training import DayTraining
from training.models.lightning_run import fit_epochs
from training.models.onnx_graph import as_onnx, window_tensors
from training.models.training_days import TrainingDays, midnights, training_days
from training.models.weights import reading_weights, write_weights
from training.window_set import Ahead, Splits, WindowSet, join_windows

_WEIGHTS_FILE = "weights.pt"
_BATCH = 512


class BlendedForecaster:
    """Residual networks over the seasonal profile, blended with Prophet, as a forecaster.

    Args:
        domain: Gives lengths and channels.
        target: What it forecasts, by default the domain's first target.
        levels: Quantile levels.
        config: What is blended, and how it is fitted.
        folder: Where checkpoints go, so that a stopped training is taken up again; None for none.
        logger: Where Lightning logs learning curves.
        show_progress: Whether progress bars are drawn.
    """

    name = "prophet_blend"

    def __init__(
        self,
        domain: Domain,
        *,
        target: Quantity | None = None,
        levels: tuple[float, ...] = LEVELS,
        config: BlendConfig | None = None,
        folder: Path | None = None,
        logger: Logger | None = None,
        show_progress: bool = False,
    ) -> None:
        self.domain = domain
        self.target = target or domain.target
        self.levels = levels
        self.config = config or BlendConfig()
        self.folder = folder
        self.logger = logger
        self.show_progress = show_progress
        self._graph: BlendGraph | None = None

    @property
    def saw_validation(self) -> bool:
        """Whether the recipe refits on the validation weeks."""
        return self.config.refit

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Fit networks and Prophet on the training days, calibrate on the validation weeks, and fit again on both.

        A site with fewer than two weeks of rows goes without a Prophet.

        Raises:
            NotEnoughDataError: There is no midnight to learn from.
            DeviceError: A GPU was asked for and is not there.
            StorageError: A checkpoint cannot be written.
            ArtifactError: The folder's checkpoint is damaged, or of another training.
            KeyboardInterrupt: Training was stopped; the next run with the same folder goes on from the checkpoint.
        """
        graph = self._fit_part(splits.train, "train", seed=seed)
        self._graph = graph
        self.calibrate(splits.validation, seed=seed)
        if self.config.refit:
            final = self._fit_part(join_windows(splits.train, splits.validation), "final", seed=seed)
            final.nowcast, final.intervals = graph.nowcast, graph.intervals
            self._graph = final

    def _fit_part(self, windows: WindowSet, part: str, *, seed: int) -> BlendGraph:
        """A graph without nowcast and intervals, fitted on some windows' targets."""
        panel = windows.panel
        lightning.seed_everything(seed, workers=True, verbose=False)
        graph = BlendGraph(self.domain, self.target, self.levels, self.config, sites=len(panel.sites))
        graph.site_code.copy_(torch.from_numpy(panel.static_SS[:, 0]))
        rng = np.random.default_rng(seed)
        days = training_days(graph, midnights(windows, most=self.config.most_windows, rng=rng))
        with tempfile.TemporaryDirectory() as temporary:
            root = self.folder or Path(temporary)
            for number, (network, config) in enumerate(zip(graph.members(), self.config.networks, strict=True)):
                lightning.seed_everything(seed + number, workers=True, verbose=False)
                network.fit_scaling(days.inputs)
                recipe = f"{self._recipe(seed)}, {part} network {number} on {len(days)} days"
                module = DayTraining(
                    network, days, self.config, epochs=config.epochs, seed=seed + number, recipe=recipe
                )
                fit_epochs(
                    module,
                    epochs=config.epochs,
                    recipe=recipe,
                    folder=root / f"{part}_network_{number}",
                    accelerator=self.config.accelerator,
                    logger=self.logger,
                    bar=self.show_progress,
                )
        self._fit_prophet(graph, days, seed=seed)
        return graph.eval().cpu()

    def _recipe(self, seed: int) -> str:
        config = replace(self.config, accelerator="auto")
        return f"{self.domain.name} {self.target.name}, {config}, seed {seed}"

    def _fit_prophet(self, graph: BlendGraph, days: TrainingDays, *, seed: int) -> None:
        """Fit a Prophet for every site that has the readings for one."""
        config = self.config.prophet
        if config is None or self.config.prophet_weight == 0:
            return
        rows, fitted = days.prophet, {}
        for site in range(len(graph.site_code)):
            chosen = rows.site == site
            columns = {
                regressor.name: rows.columns[chosen, position] for position, regressor in enumerate(graph.regressors)
            }
            with suppress(NotEnoughDataError):
                model = fit_prophet(
                    rows.day[chosen],
                    rows.value[chosen],
                    columns,
                    config=config,
                    regressors=graph.regressors,
                    seed=seed,
                )
                fitted[site] = terms_of(model)
        if fitted:
            graph.prophet = table_of(fitted, graph.regressors, sites=len(graph.site_code))
            graph.has_prophet[list(fitted)] = 1.0

    def calibrate(self, validation: WindowSet, *, seed: int) -> None:
        """Fit the nowcast and the intervals on windows that nothing was fitted on."""
        graph, most = self._fitted(), self.config.most_windows
        if most is not None and len(validation) > most:
            rng = np.random.default_rng(seed)
            validation = validation.subset(np.sort(rng.choice(len(validation), size=most, replace=False)))
        sights: list[Ahead] = ["known", "observed"] if graph.weather is not None else ["known"]
        found = {ahead: self._from_midnight(validation.seen(ahead)) for ahead in sights}
        target = torch.from_numpy(validation.targets())
        graph.nowcast.fit(
            torch.cat([part.averages for part in found.values()]).numpy(),
            torch.cat([(target - part.median) / part.spread for part in found.values()]).numpy(),
        )
        for ahead, part in found.items():
            graph.intervals.fit(score_of(graph.corrected(part), part.unit, target), known=ahead == "observed")
        if graph.weather is None:
            graph.intervals.without_weather()

    def _from_midnight(self, windows: WindowSet) -> FromMidnight:
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(windows), _BATCH):
                rows = np.arange(begin, min(begin + _BATCH, len(windows)))
                parts.append(self._fitted().from_midnight(*window_tensors(windows.windows(rows))))
        return FromMidnight(*(torch.cat(fields) for fields in zip(*parts, strict=True)))

    def predict(self, windows: Window) -> Forecast:
        """Quantiles of the target [its unit]."""
        return predict_with(self, self._fitted(), windows, batch_size=_BATCH)

    def graph(self) -> BlendGraph:
        """The module that is exported."""
        return self._fitted()

    def onnx_model(self, sample: Window) -> ModelProto:
        """The graph, exported."""
        return as_onnx(self._fitted(), sample)

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Shapley values of its parts, see `training.explain`."""
        return attribute(self._fitted(), windows, unit=self.target.unit, rng=rng)

    def _fitted(self) -> BlendGraph:
        assert self._graph is not None, "fit or load comes first"
        return self._graph

    def save(self, folder: Path) -> None:
        """Write weights and configuration.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        graph = self._fitted()
        table = graph.prophet
        content = {
            "config": asdict(self.config),
            "sites": len(graph.site_code),
            "waves": None if table is None else table.waves,
            "changepoints": 0 if table is None else table.changepoint.shape[1],
            "state": graph.state_dict(),
        }
        write_weights(folder / _WEIGHTS_FILE, content)

    def load(self, folder: Path) -> None:
        """Read weights and configuration.

        Raises:
            ArtifactError: They are missing, damaged, or of another domain.
        """
        with reading_weights(folder / _WEIGHTS_FILE) as saved:
            config = _config_from(saved["config"])
            graph = BlendGraph(self.domain, self.target, self.levels, config, sites=saved["sites"])
            if saved["waves"] is not None:
                graph.prophet = ProphetTable(
                    saved["sites"], saved["waves"], graph.regressors, changepoints=saved["changepoints"]
                )
            graph.load_state_dict(saved["state"])
        self.config = config
        self._graph = graph.eval()


def _config_from(saved: dict[str, object]) -> BlendConfig:
    networks = tuple(NetworkConfig(**network) for network in saved.pop("networks"))  # type: ignore[attr-defined]
    prophet = saved.pop("prophet")
    return BlendConfig(
        **saved,  # type: ignore[arg-type]
        networks=networks,
        prophet=None if prophet is None else ProphetConfig(**prophet),  # type: ignore[arg-type]
    )
