"""The command `towncast rehearsal`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Group

    from pipelines.rehearsal.diary import Recovery, Rehearsed

_QUICK_WEEKS = 3
_QUICK_KINDS = "level_shift"


def rehearsal(
    domain: Annotated[str, typer.Option(help="water or traffic.")] = "water",
    data: Annotated[
        Path | None, typer.Option(help="Folder with a published data set. Default: readings that simulators make.")
    ] = None,
    weeks: Annotated[
        int | None, typer.Option(help="Length of the replay. Default: 26, or as the readings allow.", min=2)
    ] = None,
    inject: Annotated[
        str | None,
        typer.Option(
            help="What is done to the readings, with commas between: level_shift, stuck_sensor, silent_sensor, "
            "shifted_clock, sundays, turned_day, new_peak, weather_effect; `none` for nothing. "
            "Default: level_shift,turned_day,stuck_sensor,sundays."
        ),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="How many times faster than real time at most. Default: as fast as it goes.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="How models are trained, see towncast train.")] = "quick",
    retrain_weeks: Annotated[
        int, typer.Option(help="Weeks between two retrainings on schedule; errors start others.", min=1)
    ] = 6,
    folder: Annotated[Path, typer.Option(help="Where its readings, models and diary are kept.")] = Path(
        "var/rehearsal"
    ),
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes. Default: in the folder.")] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Begin anew, and forget the rehearsal in the folder.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Three weeks and one injection.")] = False,
) -> None:
    """Replay half a year through the running API, do harm on the way, and show what was seen and what it came to.

    It trains a first champion on what lies before, starts the API on a port of its own, posts each day's readings, asks
    for forecasts, looks at them, and retrains by the error's trigger and on schedule, all on the replay's clock, in a
    folder and a registry of its own. Stop it with Ctrl-C: the same command goes on with the next day.

    Example: towncast rehearsal --data ../shared/data --domain water
    """
    import logging

    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    # The diary tells of every alarm already.
    logging.getLogger("pipelines.alerts").setLevel(logging.CRITICAL)
    from rich.console import Console

    from pipelines.rehearsal.plot import save_plot
    from pipelines.rehearsal.rehearse import USUAL_KINDS, RehearsalPlan, rehearse

    asked = inject if inject is not None else (_QUICK_KINDS if quick else ",".join(USUAL_KINDS))
    plan = RehearsalPlan(
        domain=domain,
        folder=folder,
        data=data,
        weeks=weeks or (_QUICK_WEEKS if quick else None),
        kinds=tuple(kind.strip() for kind in asked.split(",") if kind.strip() not in ("", "none")),
        recipe=recipe,
        retrain_weeks=retrain_weeks,
        speed=speed,
    )
    console = Console()
    if anew:
        forget_rehearsal(folder)
    try:
        rehearsed = rehearse(plan, console=console)
    except KeyboardInterrupt:
        typer.secho("Stopped. The same command goes on with the next day.", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    path = save_plot(rehearsed, picture or folder / "rehearsal.png")
    console.print(render_rehearsed(rehearsed))
    console.print(f"All figures: {folder / 'rehearsal.json'}; the picture: {path}", soft_wrap=True)


def forget_rehearsal(folder: Path) -> None:
    """Remove a rehearsal with all that it made.

    Raises:
        InvalidParameterError: The folder holds something else.
    """
    import shutil

    from features.errors import InvalidParameterError

    if not folder.exists():
        return
    if any(folder.iterdir()) and not any((folder / name).exists() for name in ("diary.json", "source", "readings")):
        raise InvalidParameterError(
            parameter="folder",
            provided=str(folder),
            allowed="the folder of a rehearsal",
            fact="The folder holds something else, which is not removed",
            remedy="Name another folder with --folder.",
        )
    shutil.rmtree(folder)


def render_rehearsed(rehearsed: Rehearsed) -> Group:
    """What was done, seen and mended, as tables."""
    from rich.console import Group
    from rich.table import Table

    unit = rehearsed.unit
    table = Table(title=f"{rehearsed.domain}: {rehearsed.target}, mean absolute error [{unit}]")
    for name in ("injected", "where", "on", "seen after", "retrained"):
        table.add_column(name)
    for name in ("before", "worst week", "last two weeks", "never retrained", "only new data"):
        table.add_column(name, justify="right")
    for one in rehearsed.recoveries:
        table.add_row(*_recovery_cells(one))
    share = rehearsed.false_alarms / max(rehearsed.healthy_site_weeks, 1)
    refused = sum(event.kind == "refused" for event in rehearsed.diary.events)
    failed = sum(event.kind == "failed" for event in rehearsed.diary.events)
    return Group(
        table,
        f"{rehearsed.false_alarms} false alarms in {rehearsed.healthy_site_weeks} healthy site-weeks ({share:.1%}), "
        f"{rehearsed.natural_alarms} alarms in {rehearsed.natural_site_weeks} that were harmed without an injection; "
        f"retrainings refused by the gate: {refused}, failed: {failed}; {rehearsed.readings:,} readings, "
        f"{rehearsed.forecasts:,} forecasts, {rehearsed.diary.seconds:.0f} s",
        "never retrained: the first champion on the same last two weeks; only new data: a model that learnt from "
        "readings after the injection alone, up to these weeks",
    )


def _recovery_cells(one: Recovery) -> tuple[str, ...]:
    import pandas as pd

    from pipelines.rehearsal.injections import KINDS

    begin = pd.Timestamp(one.harm.begin_s, unit="s")
    seen = "not seen" if one.delay_days is None else f"{one.delay_days:.0f} days"
    figures = (one.before, one.worst, one.last, one.unhelped, one.fresh)
    return (
        f"{one.harm.kind} {one.harm.size:g}" if KINDS[one.harm.kind].size_words != "unused" else one.harm.kind,
        ", ".join(one.harm.sites[:3]) + (" ..." if len(one.harm.sites) > 3 else ""),
        f"{begin:%Y-%m-%d}",
        seen,
        f"{len(one.retrained_s)} times",
        *("" if figure is None else f"{figure:.3g}" for figure in figures),
    )
