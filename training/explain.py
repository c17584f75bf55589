"""What a model looks at: Shapley values of its features, by the method that fits its family.

Trees: TreeSHAP (Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9). Networks: expected gradients (Erion et al. 2021,
doi:10.1038/s42256-021-00343-w), since SHAP's DeepExplainer has no rules for recurrent cells. Sums of terms: each term
less its mean, which is its Shapley value (Lundberg and Lee 2017, arXiv:1705.07874, corollary 1). Few groups of inputs
of anything: all coalitions of them (Strumbelj and Kononenko 2014, doi:10.1007/s10115-013-0679-x).
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from features.errors import ArtifactError
from features.files import whole_file
from features.vocabulary import Float32Array, Int64Array, Window
from training.window_set import WindowSet

ATTRIBUTION_FILE = "attribution.json"
# Enough for a global picture: the mean over windows of a feature's absolute share settles within some per cent.
_WINDOWS = 64
_GRADIENT_SAMPLES = 60
_BACKGROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """How much each feature moved each forecast away from the mean forecast.

    Attributes:
        explains: What the values add up to, such as `the median forecast`.
        method: How they were found.
        unit: Of the values.
        features: Names (F).
        horizons: Names of the leads (N).
        value_NBF: Share of each feature in the distance of what is explained from its mean [unit].
        level_BF: The feature's own value in each window, in any scale, NaN where one number does not say it.
    """

    explains: str
    method: str
    unit: str
    features: tuple[str, ...]
    horizons: tuple[str, ...]
    value_NBF: Float32Array
    level_BF: Float32Array

    def __post_init__(self) -> None:
        shape = (len(self.horizons), self.value_NBF.shape[1], len(self.features))
        assert self.value_NBF.shape == shape, f"value_NBF is {self.value_NBF.shape}, not {shape}"
        assert self.level_BF.shape == shape[1:], f"level_BF is {self.level_BF.shape}, not {shape[1:]}"

    def importance_NF(self) -> npt.NDArray[np.float64]:
        """Mean absolute share of each feature at each horizon [unit]."""
        mean: npt.NDArray[np.float64] = np.abs(self.value_NBF).mean(axis=1, dtype=np.float64)
        return mean

    def save(self, path: Path) -> Path:
        """Write it as JSON.

        Raises:
            StorageError: The folder cannot be written.
        """
        content = asdict(self)
        for name in ("value_NBF", "level_BF"):
            # Four digits are more than a picture shows.
            content[name] = json.loads(
                json.dumps(content[name].tolist()), parse_float=lambda text: float(f"{float(text):.4g}")
            )
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return path


def load_attribution(path: Path) -> Attribution:
    """Read what `Attribution.save` wrote.

    Raises:
        ArtifactError: It is missing, damaged, or of another layout.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        arrays = {name: np.asarray(content[name], dtype=np.float32) for name in ("value_NBF", "level_BF")}
        names = {name: tuple(content[name]) for name in ("features", "horizons")}
        return Attribution(**{**content, **arrays, **names})
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ArtifactError(
            "The attribution cannot be read", found=f"{path}: {error}", remedy="Train the model again."
        ) from error


@runtime_checkable
class Explainable(Protocol):
    """A forecaster that says what it looks at."""

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Shapley values of its features for the median at each of the domain's horizons.

        Args:
            windows: What is explained, each against the others.
            rng: Source of all draws.
        """
        ...


def explain_forecaster(
    forecaster: object, windows: WindowSet, *, rng: np.random.Generator, count: int = _WINDOWS
) -> Attribution | None:
    """Explain a forecaster over windows drawn from a set; None for a family that does not explain itself."""
    if not isinstance(forecaster, Explainable):
        return None
    chosen = np.sort(rng.choice(len(windows), size=min(count, len(windows)), replace=False))
    return forecaster.explain(windows.windows(chosen), rng=rng)


def tree_shap(booster: Any, features_BF: Float32Array) -> Float32Array:
    """Shapley values of one booster's features, shape (B, F) [unit of its output].

    Args:
        booster: An `xgboost.Booster` or another model that `shap.TreeExplainer` knows, with one output.
        features_BF: What it predicts from, NaN where missing.
    """
    values: Float32Array = np.asarray(_shap().TreeExplainer(booster).shap_values(features_BF), dtype=np.float32)
    assert values.shape == features_BF.shape, f"a booster with one output is asked for, not {values.shape}"
    return values


def gradient_shap(
    module: nn.Module, inputs: Sequence[Tensor], *, rng: np.random.Generator, samples: int = _GRADIENT_SAMPLES
) -> list[Float32Array]:
    """Expected gradients of a network from its inputs to N numbers, each row against the other rows.

    Args:
        module: Differentiable, from the inputs to shape (B, N).
        inputs: Each of shape (B, *), finite.
        rng: Source of the draws.
        samples: Points on the way from the background, of each row.

    Returns:
        Of each input, shape (B, *, N) [unit of the output].
    """
    tensors = [part.detach().clone() for part in inputs]
    # The library seeds and uses numpy's global generator.
    state = np.random.get_state()
    try:
        with torch.enable_grad():
            explainer = _shap().GradientExplainer(module.eval(), tensors, batch_size=samples)
            values = explainer.shap_values(tensors, nsamples=samples, rseed=int(rng.integers(2**31)))
    finally:
        np.random.set_state(state)
    return [np.asarray(value, dtype=np.float32) for value in values]


def additive_shap(terms: Mapping[str, npt.ArrayLike]) -> tuple[tuple[str, ...], Float32Array]:
    """Shapley values of a forecast that is a sum of terms.

    Args:
        terms: Of each name, its term at each horizon and window, shape (N, B) [unit].

    Returns:
        Names (F) and values of shape (N, B, F) [unit].
    """
    values = np.stack([np.asarray(term, dtype=np.float64) for term in terms.values()], axis=2)
    return tuple(terms), (values - values.mean(axis=1, keepdims=True)).astype(np.float32)


def coalition_shap(
    evaluate: Callable[[Sequence[bool], Int64Array], npt.NDArray[Any]],
    *,
    groups: int,
    rows: int,
    rng: np.random.Generator,
    backgrounds: int = _BACKGROUNDS,
) -> tuple[npt.NDArray[np.float64], Float32Array]:
    """Shapley values of groups of inputs, over all coalitions of them.

    Args:
        evaluate: From which groups keep their own values, and the row that each row takes the others from, to what is
            explained, shape (N, B) [unit].
        groups: How many; the work doubles with each.
        rows: How many (B).
        rng: Source of the rows that values are taken from.
        backgrounds: How many rows each row takes values from.

    Returns:
        What is left when every group is taken from elsewhere, shape (N, B), and the groups' values, shape (N, B, F)
        [unit]; together they are what is explained.
    """
    others = [rng.permutation(rows) for _ in range(backgrounds)]
    worth = {
        coalition: np.mean([np.asarray(evaluate(coalition, other), dtype=np.float64) for other in others], axis=0)
        for coalition in itertools.product((False, True), repeat=groups)
    }
    nobody = worth[(False,) * groups]
    values = np.zeros((*nobody.shape, groups))
    for coalition, value in worth.items():
        size = sum(coalition)
        for group in (index for index in range(groups) if not coalition[index]):
            joined = tuple(inside or index == group for index, inside in enumerate(coalition))
            orders = math.factorial(size) * math.factorial(groups - size - 1) / math.factorial(groups)
            values[:, :, group] += orders * (worth[joined] - value)
    return nobody, values.astype(np.float32)


def sum_by_name(values: npt.NDArray[Any], names: Sequence[str]) -> tuple[tuple[str, ...], Float32Array]:
    """Join the columns of the same name, along the last axis, in the order in which names first occur."""
    found = tuple(dict.fromkeys(names))
    joined = [values[..., [name == other for other in names]].sum(axis=-1) for name in found]
    return found, np.stack(joined, axis=-1).astype(np.float32)


def _shap() -> Any:
    """The library, which takes seconds to import."""
    with warnings.catch_warnings():
        # Its colour maps use a part of matplotlib that is about to go.
        warnings.simplefilter("ignore")
        import shap
    return shap
