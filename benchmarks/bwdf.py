"""The scoreboard of the Battle of Water Demand Forecasting: our entry alone among its 31 submissions.

Run: `python -m benchmarks.bwdf --data DIR`. Rules: `benchmarks/bwdf_rules.py`. For each of the four weeks a forecaster
is made anew from a recipe and fitted on readings from which every inflow after the week's start was taken out before
anything else is done with them. The weather of the week is given as observed, as it was to the competitors.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.bwdf_rules import (
    AREAS,
    HOURS,
    TIMEZONE,
    UNIT,
    WEEKS,
    Float64Array,
    Standing,
    hour_of_week_median,
    indicators,
    last_week,
    measured_weeks,
    read_submissions,
    stand_alone,
)
from benchmarks.report import arguments, print_result, wide_console
from features.domains.water import INFLOW, WATER
from features.files import make_folder, whole_file
from features.quality import check_readings
from features.readings import epoch_s
from features.sources.bwdf import read_bwdf
from features.units import convert
from features.vocabulary import Site
from features.windows import Panel, build_panel
from pipelines.quiet import quiet_libraries
from training.families import Workplace, make_forecaster
from training.recipes import RECIPES, Recipe
from training.window_set import Splits, WindowSet, scattered_validation, windows_at

BAR = 6.55
# What others found by the same rules: they prove the scorer.
_PUBLISHED = {"winner": 6.55, "8-week median": 12.05, "last week": 15.96}
_WINNER_INDICATORS = (0.985, 3.303, 1.128)
_STEP = pd.Timedelta(seconds=WATER.step_s)


def main() -> None:
    """Forecast the weeks, rank, print; a week whose forecast was kept is not forecast again."""
    parser = arguments(__doc__ or "", data=True)
    parser.add_argument("--recipe", choices=sorted(RECIPES["water"]), default="full", help="recipe of ours")
    count = range(1, len(WEEKS) + 1)
    parser.add_argument("--weeks", type=int, choices=count, default=None, help="only the first so many weeks")
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder for each week's forecast, so that a stopped run goes on there"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_libraries()
    warnings.filterwarnings("ignore", category=RuntimeWarning, message="All-NaN|Mean of empty|Degrees of freedom")
    recipe = RECIPES["water"]["quick" if options.quick else options.recipe]
    weeks = WEEKS[: options.weeks or (1 if options.quick else len(WEEKS))]
    console = Console(stderr=True)
    with console.status("reading the workbooks"):
        readings, sites = read_readings(options.data)
        submissions = read_submissions(options.data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(options.keep or Path(temporary))
        forecast_WHA = np.stack([_week(readings, sites, week, recipe, folder, console) for week in weeks])
    figures = score(forecast_WHA, local_inflow(readings), submissions[:, : len(weeks)], weeks)
    print_result("bwdf", {**figures, "recipe": recipe.name, "weeks": len(weeks)})


def read_readings(data: Path) -> tuple[pd.DataFrame, list[Site]]:
    """All checked readings of the competition, and its areas.

    Raises:
        DataError: A workbook is missing or damaged.
    """
    parsed = read_bwdf(data)
    return check_readings(parsed.readings, WATER).accepted, parsed.sites


def local_inflow(readings: pd.DataFrame) -> pd.DataFrame:
    """Inflow by area [L/s] and local hour that begins; of the hour that comes twice in autumn the first."""
    inflow = readings[readings["quantity"] == INFLOW.name]
    begins = (inflow["valid_at"] - _STEP).sort_values()
    rows = inflow.loc[begins.index].assign(hour=begins.dt.tz_convert(TIMEZONE).dt.tz_localize(None))
    table = rows.drop_duplicates(["site", "hour"]).pivot(index="hour", columns="site", values="value")
    return pd.DataFrame(convert(table.to_numpy(), unit=INFLOW.unit, to=UNIT), index=table.index, columns=table.columns)


def start_of(week: pd.Timestamp) -> pd.Timestamp:
    """The moment at which a week begins: a local midnight."""
    return week.tz_localize(TIMEZONE).tz_convert("UTC")


def known_before(readings: pd.DataFrame, week: pd.Timestamp) -> pd.DataFrame:
    """The readings without any inflow that was not known at a week's start, and without weather after its end."""
    start = start_of(week)
    inflow = readings["quantity"] == INFLOW.name
    known = (readings["valid_at"] <= start) & (readings["available_at"] <= start)
    return readings[(inflow & known) | (~inflow & (readings["valid_at"] <= start + HOURS * _STEP))]


def panel_before(readings: pd.DataFrame, sites: list[Site], week: pd.Timestamp) -> Panel:
    """The panel whose last origin is a week's start; inflow after it is not there."""
    known = known_before(readings, week)
    first_s = int(epoch_s(known.loc[known["quantity"] == INFLOW.name, "valid_at"]).min())
    start_s = int(start_of(week).timestamp())
    panel = build_panel(WATER, sites, known, first_origin_s=first_s, last_origin_s=start_s)
    after = panel.target_ST(INFLOW)[:, panel.last_origin + 1 :]
    assert not np.isfinite(after).any(), f"inflow after {week} is in the panel"
    return panel


def splits_before(panel: Panel) -> Splits:
    """All that lies before the panel's last origin, split as every training is; the test is the week to forecast."""
    last = panel.last_origin
    train, validation = scattered_validation(panel, until=last)
    every = np.arange(len(panel.sites))
    test = WindowSet(
        panel=panel,
        target=INFLOW,
        target_ST=panel.target_ST(INFLOW),
        site_index_B=every,
        origin_B=np.full_like(every, last),
    )
    return Splits(train=windows_at(panel, INFLOW, train), validation=windows_at(panel, INFLOW, validation), test=test)


def forecast_week(
    readings: pd.DataFrame, sites: list[Site], week: pd.Timestamp, recipe: Recipe, checkpoints: Path | None = None
) -> pd.DataFrame:
    """Median forecasts of a week by a forecaster that was fitted on what was known at its start.

    Args:
        readings: Of any time; what was not known is taken out.
        sites: The areas.
        week: Its beginning, a local midnight.
        recipe: Of the water domain.
        checkpoints: Where a stopped fit goes on.

    Returns:
        A column for each area [L/s], index the local hour that begins.
    """
    splits = splits_before(panel_before(readings, sites, week))
    forecaster = make_forecaster(WATER, recipe, Workplace(folder=checkpoints))
    forecaster.fit(splits, seed=recipe.seed)
    forecast = forecaster.predict(splits.test.seen("observed").windows())
    value_BH = convert(forecast.at_level(0.5), unit=forecast.unit, to=UNIT)
    hours = pd.date_range(week, periods=HOURS, freq="h", name="hour")
    return pd.DataFrame(value_BH.T, index=hours, columns=list(forecast.sites))


def _week(
    readings: pd.DataFrame, sites: list[Site], week: pd.Timestamp, recipe: Recipe, folder: Path, console: Console
) -> Float64Array:
    """A week's forecast (H, A), taken up from `folder` where it lies there."""
    # Whatever a forecast is made of is in the name: another recipe or other files are forecast anew.
    rows = known_before(readings, week)[["site", "quantity", "valid_at", "available_at", "value"]]
    made_of = pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes() + repr(recipe).encode()
    name = f"{week.date()}_{recipe.name}_{hashlib.sha256(made_of).hexdigest()[:12]}"
    kept = folder / f"{name}.csv"
    if kept.exists():
        console.print(f"week of {week.date()}: taken up from {kept}")
        table = pd.read_csv(kept, index_col="hour", parse_dates=["hour"])
    else:
        began = time.perf_counter()
        with console.status(f"fitting and forecasting the week of {week.date()}"):
            table = forecast_week(readings, sites, week, recipe, folder / name)
        with whole_file(kept) as path:
            table.to_csv(path)
        console.print(f"week of {week.date()}: {time.perf_counter() - began:.0f} s")
    return table[list(AREAS)].to_numpy(dtype=np.float64)


def score(
    forecast_WHA: Float64Array, inflow: pd.DataFrame, submissions_EWHA: Float64Array, weeks: tuple[pd.Timestamp, ...]
) -> dict[str, object]:
    """Standings of ours, the winner and the naive forecasts, printed and as figures."""
    measured = measured_weeks(inflow, weeks)
    others = np.stack([indicators(entry, measured) for entry in submissions_EWHA])
    naive = {"8-week median": hour_of_week_median, "last week": last_week}
    naive_WHA = {name: np.stack([make(inflow, week) for week in weeks]) for name, make in naive.items()}
    ours = stand_alone(indicators(forecast_WHA, measured), others)
    standings = {
        "towncast": ours,
        "winner": stand_alone(others[0], others[1:]),
        **{name: stand_alone(indicators(entry, measured), others) for name, entry in naive_WHA.items()},
    }
    show(standings, weeks)
    best = ", ".join(f"{rank:.2f}" for rank in sorted(ours.others)[:5])
    wide_console().print(f"The five best submissions beside ours: {best}")
    winner = standings["winner"]
    return {
        "mean_rank": round(ours.mean_rank, 4),
        "place": ours.place,
        "entries": ours.entries,
        **_indicators(ours, "pi"),
        "by_week": {str(week.date()): round(rank, 4) for week, rank in zip(weeks, ours.by_week, strict=True)},
        "winner_mean_rank": round(winner.mean_rank, 4),
        "winner_mean_rank_with_us": round(ours.others[0], 4),
        **_indicators(winner, "winner_pi"),
        "eight_week_median_mean_rank": round(standings["8-week median"].mean_rank, 4),
        "last_week_mean_rank": round(standings["last week"].mean_rank, 4),
    }


def _indicators(standing: Standing, name: str) -> dict[str, float]:
    return {f"{name}{number}": round(value, 4) for number, value in enumerate(standing.indicators, start=1)}


def show(standings: dict[str, Standing], weeks: tuple[pd.Timestamp, ...]) -> None:
    """The standings as a table, each entry alone among the submissions."""
    table = Table(title=f"Mean rank, each alone among the submissions (bar for ours: below {BAR})")
    days = [week.strftime("%d/%m/%y") for week in weeks]
    for column in ("entry", "rank", "place", "PI1", "PI2", "PI3", *days, "known"):
        table.add_column(column, justify="left" if column == "entry" else "right")
    for name, standing in standings.items():
        published = _PUBLISHED.get(name)
        colour = "bold" if name != "towncast" else "green" if standing.mean_rank < BAR else "red"
        table.add_row(
            name,
            f"[{colour}]{standing.mean_rank:.3f}[/]",
            f"{standing.place} of {standing.entries}",
            *(f"{value:.3f}" for value in standing.indicators),
            *(f"{value:.2f}" for value in standing.by_week),
            "" if published is None else f"{published:.2f}",
        )
    console = wide_console()
    console.print(table)
    wanted = " / ".join(f"{value:.3f}" for value in _WINNER_INDICATORS)
    console.print(
        f"Known from others are ranks over four weeks, the winner's among the 31; its PI1 / PI2 / PI3 are {wanted} L/s."
    )


if __name__ == "__main__":
    main()
