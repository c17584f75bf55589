"""Boosted trees as a forecaster (XGBoost: Chen and Guestrin 2016, doi:10.1145/2939672.2939785).

One set of boosters serves all steps ahead, the lead being a feature; a second set also sees the weather ahead. Which
of the two answers is decided for each step of each window, see `BoostedFeatures.sees_ahead`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from rich.progress import Progress

from features.errors import NotEnoughDataError
from features.vocabulary import Domain, Float32Array, Forecast, Quantity, Window
from training.explain import Attribution
from training.forecaster import LEVELS, forecast_of
from training.models.boosted_attribution import attribute
from training.models.boosted_config import BoostedConfig, BoosterConfig, Variant, VariantConfig, config_from
from training.models.boosted_features import BoostedFeatures
from training.models.boosted_graph import merged_graph
from training.models.boosted_head import BoostedHead, Rows
from training.models.boosted_rows import join_rows, sample_rows
from training.models.onnx_graph import window_tensors
from training.models.weights import reading_weights, write_weights
from training.window_set import Splits, WindowSet

if TYPE_CHECKING:
    from xgboost import Booster

_FILE = "boosted.pt"
_BATCH = 256
# Fewer rows with known weather than this teach nothing.
_FEWEST_ROWS = 500


class BoostedForecaster:
    """Boosted trees between a graph of features and a head that makes quantiles.

    Args:
        domain: Gives lengths and channels.
        target: What it forecasts, by default the domain's first target.
        levels: Quantile levels.
        config: How it is fitted.
        show_progress: Whether a progress bar is drawn.
    """

    name = "boosted"

    def __init__(
        self,
        domain: Domain,
        *,
        target: Quantity | None = None,
        levels: tuple[float, ...] = LEVELS,
        config: BoostedConfig | None = None,
        show_progress: bool = False,
    ) -> None:
        self.domain = domain
        self.target = target or domain.target
        self.levels = levels
        self.config = config or BoostedConfig()
        self.show_progress = show_progress
        self.boosters: dict[str, Booster] = {}
        self._features: BoostedFeatures | None = None
        self._head: BoostedHead | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of `features`; boosters whose name begins with `plain` see the first of them only."""
        graph = self._fitted()[0]
        return (*graph.plain_names, *graph.ahead_names)

    def columns_of(self, booster: str) -> int:
        """How many of the columns, counted from the first, a booster sees."""
        graph = self._fitted()[0]
        plain = len(graph.plain_names)
        return plain if booster.startswith("plain") else plain + len(graph.ahead_names)

    def features(self, windows: Window) -> Float32Array:
        """What the boosters see of windows, shape (B, H, F), NaN where missing."""
        with torch.inference_mode():
            rows, _, _ = self._fitted()[0](*window_tensors(windows))
        table: Float32Array = rows.numpy()
        return table

    @property
    def saw_validation(self) -> bool:
        """Whether the recipe refits on the validation weeks."""
        return self.config.refit

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Fit on the training windows, take quantiles from the validation weeks, then fit again with these.

        Raises:
            NotEnoughDataError: No target was measured.
        """
        rng = np.random.default_rng(seed)
        features = BoostedFeatures(self.domain, self.target).eval()
        features.fit_scale(splits.train)
        train = self._rows(features, splits.train, rng)
        if len(train) == 0:
            raise NotEnoughDataError(
                f"There is no reading of {self.target.name} to learn from",
                found=f"{len(splits.train)} windows, of which every {self.config.origin_stride}th origin is fitted on",
                remedy="Ingest more readings, or fit on more origins.",
            )
        variants = self.config.variants()
        if not features.ahead_names or len(train.seen()) < _FEWEST_ROWS:
            variants.pop("ahead", None)
        fade = {name: None if one.ratio is None else one.fade_steps for name, one in variants.items()}
        head = BoostedHead(self.domain, self.target, self.levels, fade).eval()
        head.offset.copy_(features.target_offset)
        self._features, self._head = features, head
        held_out = self._rows(features, splits.validation, rng)
        with self._progress(variants, rounds=2 if self.config.refit else 1) as progress:
            self._fit_rows(train, variants, seed=seed, progress=progress)
            for variant in variants:
                rows = held_out if variant == "plain" else held_out.seen()
                head.fit_spread(variant, self._central(variant, rows), rows)
            if self.config.refit:
                self._fit_rows(join_rows(train, held_out), variants, seed=seed, progress=progress)

    def _rows(self, features: BoostedFeatures, windows: WindowSet, rng: np.random.Generator) -> Rows:
        seen = windows.seen("observed") if self.domain.known_ahead and self.config.ahead is not None else windows
        return sample_rows(
            features, seen, stride=self.config.origin_stride, steps=self.config.steps_per_origin, rng=rng
        )

    @contextmanager
    def _progress(self, variants: dict[Variant, VariantConfig], *, rounds: int) -> Iterator[_Trees]:
        total = rounds * sum(
            booster.trees for one in variants.values() for booster in (one.ratio, one.level) if booster is not None
        )
        with Progress(transient=True, disable=not self.show_progress) as progress:
            yield _Trees(progress, total)

    def _fit_rows(self, rows: Rows, variants: dict[Variant, VariantConfig], *, seed: int, progress: _Trees) -> None:
        _, head = self._fitted()
        head.fit_base(rows, alpha=self.config.base_alpha)
        self.boosters = {}
        for variant, config in variants.items():
            chosen = rows if variant == "plain" else rows.seen()
            columns = self.columns_of(variant)
            table = np.ascontiguousarray(chosen.feature_NF[:, :columns])
            if config.ratio is not None:
                base = _base(head, chosen)
                ratio = (chosen.target_N + float(head.offset)) / base - 1
                weight = base**2
                self.boosters[f"{variant}_ratio"] = self._boost(
                    config.ratio, table, ratio, weight / weight.mean(), seed=seed, progress=progress
                )
            self.boosters[f"{variant}_level"] = self._boost(
                config.level, table, chosen.target_N, None, seed=seed, progress=progress
            )

    def _boost(
        self,
        config: BoosterConfig,
        table: Float32Array,
        target: npt.NDArray[Any],
        weight: npt.NDArray[Any] | None,
        *,
        seed: int,
        progress: _Trees,
    ) -> Booster:
        import xgboost

        parameters = {name: value for name, value in asdict(config).items() if name != "trees"}
        parameters |= {"objective": "reg:squarederror", "tree_method": "hist", "base_score": 0.0}
        parameters |= {"seed": seed, "nthread": self.config.threads}
        matrix = xgboost.QuantileDMatrix(
            table, target, weight=weight, max_bin=config.max_bin, nthread=self.config.threads
        )
        booster = xgboost.Booster(parameters, [matrix])
        for number in range(config.trees):
            booster.update(matrix, number)
            progress.advance()
        return booster

    def _central(self, variant: Variant, rows: Rows) -> npt.NDArray[np.float64]:
        """The forecast of one variant for each row [unit of the target]."""
        _, head = self._fitted()
        wanted = np.full(len(rows), True)
        margins = self._margins(rows.feature_NF, {variant: wanted})
        with torch.inference_mode():
            central = head.central(
                variant, torch.from_numpy(rows.base_NB), torch.from_numpy(margins), torch.from_numpy(rows.step_N)
            )
        return central.numpy().astype(np.float64)

    def _margins(self, table_NF: Float32Array, wanted: dict[Variant, npt.NDArray[np.bool_]]) -> Float32Array:
        """Outputs of the boosters (N, M); of a variant only in the rows that are wanted, 0 elsewhere."""
        margins = np.zeros((len(table_NF), len(self.boosters)), dtype=np.float32)
        for place, (name, booster) in enumerate(self.boosters.items()):
            chosen = wanted.get("ahead" if name.startswith("ahead") else "plain")
            if chosen is not None and chosen.any():
                rows = np.ascontiguousarray(table_NF[chosen, : self.columns_of(name)])
                margins[chosen, place] = booster.inplace_predict(rows)
        return margins

    def predict(self, windows: Window) -> Forecast:
        """Quantiles of the target [its unit]."""
        features, head = self._fitted()
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(windows), _BATCH):
                part = (tensor[begin : begin + _BATCH] for tensor in window_tensors(windows))
                rows, base, sight = features(*part)
                seeing = (sight.numpy() > 0).reshape(-1) & ("ahead" in head.variants)
                flat = rows.numpy().reshape(-1, rows.shape[2])
                margins = self._margins(flat, {"plain": ~seeing, "ahead": seeing})
                shaped = torch.from_numpy(margins).reshape(*sight.shape, -1)
                parts.append(head(base, sight, shaped).numpy())
        empty = np.empty((0, self.domain.horizon_steps, len(self.levels)), dtype=np.float32)
        return forecast_of(self, windows, np.concatenate([empty, *parts]))

    def onnx_model(self, sample: Window) -> ModelProto:
        """Features, trees and head as one graph."""
        features, head = self._fitted()
        return merged_graph(features, self.boosters, head, sample)

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Shapley values of its trees' features, see `training.explain`; nothing is drawn."""
        features, head = self._fitted()
        return attribute(features, self.boosters, head, windows)

    def _fitted(self) -> tuple[BoostedFeatures, BoostedHead]:
        assert self._features is not None, "fit or load comes first"
        assert self._head is not None, "fit or load comes first"
        return self._features, self._head

    def save(self, folder: Path) -> None:
        """Write boosters, base and quantiles.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        features, head = self._fitted()
        content = {
            "config": asdict(self.config),
            "levels": list(self.levels),
            "variants": list(head.variants),
            "features": features.state_dict(),
            "head": head.state_dict(),
            "boosters": {
                name: torch.frombuffer(booster.save_raw("ubj"), dtype=torch.uint8)
                for name, booster in self.boosters.items()
            },
        }
        write_weights(folder / _FILE, content)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ArtifactError: It is missing, damaged, or of another domain.
        """
        from xgboost import Booster
        from xgboost.core import XGBoostError

        with reading_weights(folder / _FILE, XGBoostError) as saved:
            config = config_from(saved["config"])
            levels = tuple(float(level) for level in saved["levels"])
            variants = {name: one for name, one in config.variants().items() if name in saved["variants"]}
            fade = {name: None if one.ratio is None else one.fade_steps for name, one in variants.items()}
            features = BoostedFeatures(self.domain, self.target).eval()
            features.load_state_dict(saved["features"])
            head = BoostedHead(self.domain, self.target, levels, fade).eval()
            head.load_state_dict(saved["head"])
            boosters = {
                name: Booster({"nthread": config.threads}, model_file=bytearray(raw.numpy().tobytes()))
                for name, raw in saved["boosters"].items()
            }
            _check_columns(boosters, head, features)
        self.config, self.levels, self.boosters = config, levels, boosters
        self._features, self._head = features, head


class _Trees:
    """A bar that counts trees."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.task = progress.add_task("trees", total=total)

    def advance(self) -> None:
        self.progress.advance(self.task)


def _base(head: BoostedHead, rows: Rows) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        base: npt.NDArray[np.float32] = head.base(torch.from_numpy(rows.base_NB), torch.from_numpy(rows.step_N)).numpy()
    return base


def _check_columns(boosters: dict[str, Booster], head: BoostedHead, features: BoostedFeatures) -> None:
    plain = len(features.plain_names)
    wanted = {
        name: plain + (len(features.ahead_names) if name.startswith("ahead") else 0) for name in head.booster_names
    }
    found = {name: booster.num_features() for name, booster in boosters.items()}
    if found != wanted:
        raise ValueError(f"boosters see {found} columns, not {wanted}")
