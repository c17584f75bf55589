"""Accuracy on the last fifth of real data sets, beside the naive profiles, LightGBM, earlier peers and the claims.

Run: `python -m benchmarks.accuracy --domain traffic --data DIR`; without `--domain` all four. Origins every hour
(water: every local midnight). A data set's name ends in `_weather` where the weather of the hours ahead is given as
observed, like a perfect weather forecast; otherwise nothing after the origin is known but the calendar.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.bars import BARS, CLAIMS, MORE_IS_BETTER, NOTES
from benchmarks.fitting import fit_domain
from benchmarks.report import arguments, print_result, wide_console
from benchmarks.scores import SCORES, Figures
from features.domains import DOMAINS
from features.sources import find_published
from features.vocabulary import Domain
from pipelines.quiet import quiet_libraries
from training.recipes import RECIPES, Recipe


def main() -> None:
    """Train, judge, compare; the last line is one JSON object for all domains that were asked for."""
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--domain", choices=sorted(RECIPES), default=None, help="what to forecast; all by default")
    parser.add_argument("--recipe", default="full", help="recipe of ours")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for plots")
    options = parser.parse_args()
    quiet_libraries()
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="All-NaN|Mean of empty|Degrees of freedom")
    console = Console(stderr=True)
    figures: dict[str, Figures] = {}
    names = [options.domain] if options.domain else list(RECIPES)
    for name in names:
        domain = DOMAINS[name]
        recipe = RECIPES[name]["quick" if options.quick else options.recipe]
        fitted = fit_domain(domain, recipe, options.data, console, quick=options.quick)
        with console.status("judging"):
            found = SCORES[name](find_published(domain, options.data).name, fitted, options.pictures)
        show(domain, recipe, found)
        figures |= found
    print_result("accuracy", {**figures, "recipe": "quick" if options.quick else options.recipe})


def show(domain: Domain, recipe: Recipe, figures: dict[str, Figures]) -> None:
    """The comparison as a table, a row for each data set, horizon and metric."""
    table = Table(padding=(0, 0), title=f"{domain.name}, recipe {recipe.name}, last fifth ({domain.target.unit} or %)")
    for column in ("data set", "ahead", "metric", "towncast", "naive", "LightGBM", "bar", "stretch", "document", ""):
        # Names are told whole, over two lines where need be.
        table.add_column(column, justify="left" if column in {"data set", "metric"} else "right", overflow="fold")
    for data_set, horizons in figures.items():
        for horizon, found in horizons.items():
            bars = BARS.get(data_set, {}).get(horizon, {})
            claims = CLAIMS.get(data_set, {}).get(horizon, {})
            for metric in dict.fromkeys([*bars, *claims, "coverage_90"]):
                if metric not in found:
                    continue
                bar, stretch = bars.get(metric, (None, None))
                table.add_row(
                    data_set,
                    horizon,
                    metric,
                    f"[bold]{found[metric]:.4g}[/]",
                    *(_number(found.get(f"{peer}_{metric}")) for peer in ("naive", "lightgbm")),
                    *(_number(value) for value in (bar, stretch, claims.get(metric))),
                    _verdict(metric, found[metric], bar),
                )
    wide_console().print(table)
    wide_console().print(NOTES[domain.name])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _verdict(metric: str, found: float, bar: float | None) -> str:
    if bar is None:
        return ""
    met = found >= bar if metric in MORE_IS_BETTER else found <= bar
    return "[green]met[/]" if met else "[red]missed[/]"


if __name__ == "__main__":
    main()
