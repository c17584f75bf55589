"""How much a trial of a search sees: less than a training, but enough to tell recipes apart."""

from __future__ import annotations

from dataclasses import dataclass

from training.folds import FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much of the folds a trial sees.

    Attributes:
        folds: Folds in the order in which they are judged, the oldest being 0; after each, a trial may be pruned.
        train_windows: At most this many training windows of each fold, drawn at random; all if None.
        windows_per_epoch: At most this many of them in each epoch of a network, drawn anew for each; the recipe's own
            number if None.
        validation_windows: At most this many for stopping and calibration.
        judged_windows: At most this many of the judged block.
    """

    folds: tuple[int, ...] = tuple(range(FOLDS))
    train_windows: int | None = None
    windows_per_epoch: int | None = None
    validation_windows: int | None = None
    judged_windows: int | None = None


# On two cores a fold of the quick one takes some ten seconds of one. It begins with the newest fold, which is nearest
# to what will be trained; what is best there must hold in another season. The full one begins with the oldest fold,
# which is the cheapest to prune on.
QUICK_BUDGET = Budget(
    folds=(4, 2), train_windows=12_000, windows_per_epoch=3_000, validation_windows=600, judged_windows=1_500
)
FULL_BUDGET = Budget(validation_windows=4000, judged_windows=8000)


def budget_of(recipe_name: str) -> Budget:
    """The budget of a search that begins at a recipe."""
    return QUICK_BUDGET if recipe_name == "quick" else FULL_BUDGET
