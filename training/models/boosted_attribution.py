"""What boosted trees look at: TreeSHAP of each booster, brought to the unit of the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from features.vocabulary import Float32Array, Window
from training.explain import Attribution, tree_shap
from training.models.boosted_config import Variant
from training.models.boosted_features import BoostedFeatures
from training.models.boosted_head import BoostedHead
from training.models.onnx_graph import window_tensors

if TYPE_CHECKING:
    from xgboost import Booster

BASE = "linear base of past levels"


def attribute(
    features: BoostedFeatures, boosters: Mapping[str, Booster], head: BoostedHead, windows: Window
) -> Attribution:
    """Shapley values of the trees' features for the forecast at the domain's horizons.

    A forecast is `w (base (1 + ratio) - o) + (1 - w) level`, see `training.models.boosted_head`: a feature's share is
    `w base` times its share of the ratio and `1 - w` times that of the level. What is left is the linear base's.

    Args:
        features: Windows to what the trees see.
        boosters: By name.
        head: Their outputs to the forecast.
        windows: What is explained.
    """
    names = (*features.plain_names, *features.ahead_names)
    horizons = features.domain.horizons
    with torch.inference_mode():
        rows, base_inputs, sight = (part.numpy() for part in features(*window_tensors(windows)))
    seeing_BH = (sight > 0) & ("ahead" in head.variants)
    value_NBF = np.zeros((len(horizons), len(windows), len(names) + 1), dtype=np.float32)
    for number, steps in enumerate(horizons.values()):
        step = steps - 1
        central = np.zeros(len(windows))
        for variant in head.variants:
            chosen = seeing_BH[:, step] == (variant == "ahead")
            if chosen.any():
                columns = len(names) if variant == "ahead" else len(features.plain_names)
                table = np.ascontiguousarray(rows[chosen, step, :columns])
                shares, central[chosen] = _shares(variant, table, base_inputs[chosen, step], step, boosters, head)
                value_NBF[number, chosen, :columns] = shares
        left = central - value_NBF[number].sum(axis=1, dtype=np.float64)
        value_NBF[number, :, -1] = left - left.mean()
    unknown = np.full((len(windows), 1), np.nan, dtype=np.float32)
    last = rows[:, list(horizons.values())[-1] - 1]
    return Attribution(
        explains="the median forecast",
        method="TreeSHAP of the boosters, in the unit of the forecast",
        unit=features.target.unit,
        features=(*names, BASE),
        horizons=tuple(horizons),
        value_NBF=value_NBF,
        level_BF=np.concatenate([last, unknown], axis=1),
    )


def _shares(
    variant: Variant,
    table: Float32Array,
    base_inputs: Float32Array,
    step: int,
    boosters: Mapping[str, Booster],
    head: BoostedHead,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Share of each feature (B, F), and the forecast (B), both in the unit of the target."""
    margins = torch.zeros(len(table), len(head.booster_names))
    for place, name in enumerate(head.booster_names):
        if name.startswith(variant):
            margins[:, place] = torch.from_numpy(boosters[name].inplace_predict(table))
    index = torch.full((len(table),), step)
    inputs = torch.from_numpy(base_inputs)
    with torch.inference_mode():
        central = head.central(variant, inputs, margins, index).numpy().astype(np.float64)
        base = head.base(inputs, index).numpy().astype(np.float64)
    share = float(head.get_buffer(f"share_{variant}")[step])
    shares = (1 - share) * tree_shap(boosters[f"{variant}_level"], table).astype(np.float64)
    if f"{variant}_ratio" in boosters:
        shares += share * base[:, None] * tree_shap(boosters[f"{variant}_ratio"], table)
    return shares, central
