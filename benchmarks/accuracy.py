"""Accuracy on the last fifth of a real data set, beside the naive profiles, LightGBM and the design document's claims.

Run: `python -m benchmarks.accuracy --domain traffic --data DIR`. Origins every hour, no future weather.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers import LightGbmResidual, hour_of_week_median
from benchmarks.report import arguments, print_result, wide_console
from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.sources import find_published
from features.store import ReadingStore
from features.vocabulary import Domain
from pipelines.ingest import ingest_published
from pipelines.quiet import quiet_libraries
from training.families import Workplace, make_forecaster
from training.recipes import RECIPES, RecurrentRecipe
from training.train import draw, judge_forecaster
from training.window_set import Splits, WindowSet, split_windows

# What the design document, 4.2.1, says of its model (MAPE in %), on data that it does not name.
DOCUMENT_MAPE = {"traffic": {"2h": 8.5, "6h": 11.2, "24h": 14.8}}
# Best peer that was measured before, walk-forward allowed (MAPE in %, RMSE in the target's unit).
BARS = {"traffic": {"2h": (6.2, 246.0), "6h": (7.8, 301.0), "24h": (8.2, 339.0)}}


def main() -> None:
    """Train, judge, compare."""
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--domain", default="traffic", choices=sorted(RECIPES), help="what to forecast")
    parser.add_argument("--recipe", default="full", help="recipe of ours")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for plots")
    options = parser.parse_args()
    quiet_libraries()
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="All-NaN|Mean of empty|Degrees of freedom")
    console = Console(stderr=True)
    domain = DOMAINS[options.domain]
    recipe = RECIPES[domain.name]["quick" if options.quick else options.recipe]
    if options.quick:
        assert isinstance(recipe.config, RecurrentRecipe)
        fitting = replace(recipe.config.fitting, epochs=1, windows_per_epoch=2000)
        recipe = replace(recipe, config=replace(recipe.config, fitting=fitting))

    with tempfile.TemporaryDirectory() as temporary:
        splits = read_splits(domain, options.data, Path(temporary))
        console.print(f"train {splits.train.span()}, test {splits.test.span()}")
        with console.status("ours"):
            forecaster = make_forecaster(domain, recipe, Workplace(folder=Path(temporary) / "checkpoints"))
            forecaster.fit(splits, seed=recipe.seed)
            judgement = judge_forecaster(forecaster, splits.test)
        if options.pictures is not None:
            draw(judgement, options.pictures, levels=forecaster.levels)
        static = hour_of_week_median(join_windows(splits), splits.test)
        figures: dict[str, dict[str, float]] = {}
        for name, lead in domain.horizons.items():
            with console.status(f"LightGBM, {name}"):
                peer = LightGbmResidual(lead)
                peer.fit(join_windows(splits))
                peer_mape, peer_rmse = errors(peer.predict(splits.test), splits.test, lead)
            static_mape, static_rmse = errors(static[:, lead - 1], splits.test, lead)
            ours = judgement.by_horizon[name]
            figures[name] = {
                **{key: round(ours[key], 4) for key in ("mape", "rmse", "mae", "r2", "naive_mape", "naive_rmse")},
                **{key: round(ours[key], 4) for key in ("skill", "coverage_90", "coverage_95")},
                "hour_of_week_mape": round(static_mape, 4),
                "hour_of_week_rmse": round(static_rmse, 4),
                "lightgbm_mape": round(peer_mape, 4),
                "lightgbm_rmse": round(peer_rmse, 4),
            }
    show(domain, figures)
    low, high = judgement.skill_90
    skill = judgement.by_horizon["mean"]["skill"]
    wide_console().print(
        f"mean skill over the eight-week profile {skill:+.1%}, 90 % interval [{low:+.1%}, {high:+.1%}]"
    )
    data_set = find_published(domain, options.data).name
    print_result("accuracy", {data_set: figures, "recipe": recipe.name, "skill_90": [round(low, 4), round(high, 4)]})


def read_splits(domain: Domain, data: Path, folder: Path) -> Splits:
    """Published file -> store -> Feast -> windows, as the training job does it."""
    ingest_published(data, domain, root=folder / "readings")
    repository = FeatureRepository(folder / "feast", ReadingStore(folder / "readings", domain))
    repository.apply()
    reliable = find_published(domain, data).reliable_from
    counted = None if reliable is None else int(reliable.timestamp())
    return split_windows(repository.panel(), counted_from_s=counted)


def join_windows(splits: Splits) -> WindowSet:
    """Training and validation windows together: peers that stop at a fixed size learn from both."""
    train, validation = splits.train, splits.validation
    return replace(
        train,
        site_index_B=np.concatenate([train.site_index_B, validation.site_index_B]),
        origin_B=np.concatenate([train.origin_B, validation.origin_B]),
    )


def errors(forecast: np.ndarray, windows: WindowSet, lead: int) -> tuple[float, float]:
    """MAPE [%] and RMSE [unit] of a forecast of one lead."""
    target = windows.targets()[:, lead - 1].astype(np.float64)
    known = np.isfinite(target) & np.isfinite(forecast)
    error = target[known] - forecast[known]
    positive = target[known] > 0
    mape = 100 * float(np.mean(np.abs(error[positive]) / target[known][positive]))
    return mape, float(np.sqrt(np.mean(error**2)))


def show(domain: Domain, figures: dict[str, dict[str, float]]) -> None:
    """The comparison as a table: MAPE % / RMSE."""
    table = Table(title=f"{domain.name}, last fifth: MAPE % / RMSE {domain.target.unit}")
    columns = (
        "ahead",
        "towncast",
        "LightGBM",
        "eight-week profile",
        "hour-of-week median",
        "bar",
        "document",
        "90 % holds",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in figures.items():
        bar = BARS.get(domain.name, {}).get(name)
        claim = DOCUMENT_MAPE.get(domain.name, {}).get(name)
        table.add_row(
            name,
            f"[bold]{row['mape']:.2f} / {row['rmse']:.0f}[/]",
            f"{row['lightgbm_mape']:.2f} / {row['lightgbm_rmse']:.0f}",
            f"{row['naive_mape']:.2f} / {row['naive_rmse']:.0f}",
            f"{row['hour_of_week_mape']:.2f} / {row['hour_of_week_rmse']:.0f}",
            "" if bar is None else f"{bar[0]:.1f} / {bar[1]:.0f}",
            "" if claim is None else f"{claim:.1f}",
            f"{row['coverage_90']:.1%}",
        )
    wide_console().print(table)


if __name__ == "__main__":
    main()
