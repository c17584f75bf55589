"""How boosted trees are fitted, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# Without, and with, the weather ahead.
Variant = Literal["plain", "ahead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoosterConfig:
    """One booster; names and meanings are XGBoost's.

    Attributes:
        trees: How many.
        max_depth: Of a tree.
        min_child_weight: Of a leaf.
        reg_lambda: L2 penalty of leaves.
        reg_alpha: L1 penalty of leaves.
        gamma: Least gain of a split.
        learning_rate: Share of a tree that is added.
        subsample: Share of the rows that a tree sees.
        colsample_bytree: Share of the features that a tree sees.
        max_bin: Values that a feature's splits are tried at.
    """

    trees: int = 200
    max_depth: int = 4
    min_child_weight: float = 200.0
    reg_lambda: float = 50.0
    reg_alpha: float = 0.0
    gamma: float = 0.0
    learning_rate: float = 0.05
    subsample: float = 0.5
    colsample_bytree: float = 0.3
    max_bin: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantConfig:
    """The boosters of a forecast with, or without, the weather ahead.

    Attributes:
        level: Says the target itself.
        ratio: Corrects the base by a ratio; None for the level alone.
        fade_steps: Over how many steps ahead the ratio gives way to the level.
    """

    level: BoosterConfig = field(default_factory=BoosterConfig)
    ratio: BoosterConfig | None = field(default_factory=BoosterConfig)
    fade_steps: float = 24.0


def _seeing() -> VariantConfig:
    # Weather says more than the past does: deeper trees, and an earlier turn to the level.
    return VariantConfig(
        ratio=BoosterConfig(trees=300, max_depth=7, min_child_weight=20.0, reg_lambda=10.0),
        level=BoosterConfig(trees=300, max_depth=8, min_child_weight=5.0, reg_lambda=10.0),
        fade_steps=12.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedConfig:
    """How the trees are fitted; the defaults were chosen on the first 60 % of measured air.

    Attributes:
        plain: Without the weather ahead.
        ahead: With it; None for never. Fitted where a domain has such weather and training windows hold it.
        base_alpha: Penalty of the linear base.
        origin_stride: Every which origin is fitted on: neighbouring hours say nearly the same.
        steps_per_origin: How many steps ahead of each, drawn from near to far.
        refit: Whether, after the intervals are calibrated on the validation weeks, trees are fitted on these too. It
            takes twice the time, and whatever learns from these weeks later sees errors that are too small.
        threads: Of XGBoost; the last digits depend on it.
    """

    plain: VariantConfig = field(default_factory=VariantConfig)
    ahead: VariantConfig | None = field(default_factory=_seeing)
    base_alpha: float = 10.0
    origin_stride: int = 2
    steps_per_origin: int = 4
    refit: bool = False
    threads: int = 1

    def variants(self) -> dict[Variant, VariantConfig]:
        """The variants that are asked for."""
        found: dict[Variant, VariantConfig] = {"plain": self.plain}
        return found if self.ahead is None else {**found, "ahead": self.ahead}


def config_from(content: dict[str, Any]) -> BoostedConfig:
    """The configuration that `dataclasses.asdict` made `content` of.

    Raises:
        KeyError: A part is missing.
        TypeError: A part is unknown.
    """

    def variant(one: dict[str, Any]) -> VariantConfig:
        ratio = None if one["ratio"] is None else BoosterConfig(**one["ratio"])
        return VariantConfig(**{**one, "level": BoosterConfig(**one["level"]), "ratio": ratio})

    ahead = None if content["ahead"] is None else variant(content["ahead"])
    return BoostedConfig(**{**content, "plain": variant(content["plain"]), "ahead": ahead})
