"""`towncast tune`: search for a better recipe, and the tables that close it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from pipelines.tune import Tuned


def tune(
    domain: Annotated[str, typer.Argument(help="What to forecast; see `towncast domains`.")] = "traffic",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or file of a published data set, e.g. one with the Metro Interstate CSV."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials in all; those of a search that was stopped count.")] = 100,
    recipe: Annotated[
        str, typer.Option(help="Recipe to begin with: quick searches on few windows, full on all.")
    ] = "quick",
    target: Annotated[str | None, typer.Option(help="Whose recipe. Default: the domain's first target.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that work on trials at the same time.")] = 2,
    timeout: Annotated[float | None, typer.Option(help="Minutes after which it ends with what it has.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu; a GPU that is asked for must be there.")] = "auto",
) -> None:
    """Search for a better recipe of a domain.

    Each trial fits a recipe on folds in time before the test, which stays untouched, and is given up early when it lags
    behind. Stop it with Ctrl-C: the same command goes on with the finished trials. What was found is the recipe
    `tuned` of `towncast train`; the trials are nested runs in MLflow.

    Example: towncast tune traffic --data ../shared/data --trials 100 --recipe full
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.commands.train import checked_device
    from pipelines.settings import Settings
    from pipelines.tune import tune_domain

    console = Console()
    try:
        tuned = tune_domain(
            domain,
            settings=Settings(),
            console=console,
            data=data,
            recipe_name=recipe,
            target_name=target,
            trials=trials,
            workers=workers,
            timeout_s=None if timeout is None else 60 * timeout,
            accelerator=checked_device(device),
        )
    except KeyboardInterrupt:
        message = "Stopped. The same command goes on with the finished trials."
        typer.secho(message, fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    console.print(render_tuned(tuned))


def render_tuned(tuned: Tuned) -> Group:
    """The closing tables, the recipe that was found, and what to type next."""
    from rich.console import Group
    from rich.pretty import Pretty

    progress, name = tuned.progress, tuned.domain.name
    parts: list[object] = [_table(tuned)]
    if progress.present is not None and progress.best is not None:
        gain = 1 - progress.best / progress.present
        verdict = f"[green]{gain:.1%} less[/]" if gain > 0 else "nothing better was found"
        parts.append(f"best {progress.best:.4f}, {tuned.begun_with.name} as it is {progress.present:.4f}: {verdict}")
    parts.append("loss: pinball loss over that of the seasonal profile, mean over folds and sites; below 1 is better")
    parts.append(
        "matters: importance of the choice for a low loss on the first fold"
        if tuned.importance
        else "There are too few trials to tell which choices matter."
    )
    if not tuned.measured:
        parts.append("[yellow]searched on simulated readings: what suits them need not suit a real town[/]")
    choices = f"{progress.finished} trials, {progress.pruned} pruned, {progress.failed} stopped or broken"
    parts += [
        f"{choices}; {tuned.seconds:.0f} s",
        "",
        "The recipe, to be written down in training/recipes.py if it proves itself:",
        Pretty(tuned.found, expand_all=False),
        "",
        "Next:",
        f"  [bold]towncast train {name} --recipe tuned[/]   train with it, judge it on the untouched test",
        "  [bold]make mlflow-ui[/]   each trial, history and importance",
    ]
    return Group(*parts)  # type: ignore[arg-type]


def _table(tuned: Tuned) -> Table:
    from rich.table import Table

    table = Table(title=f"{tuned.domain.name}: the best trials for {tuned.target.name}")
    importance = tuned.importance
    table.add_column("choice")
    if importance:
        table.add_column("matters", justify="right")
    table.add_column(f"{tuned.begun_with.name}\nas it is", justify="right")
    for trial in tuned.best:
        table.add_column(f"trial\n{trial.number}", justify="right")
    blank = [""] if importance else []
    present = "" if tuned.progress.present is None else f"{tuned.progress.present:.4f}"
    table.add_row("[bold]loss[/]", *blank, present, *(f"{trial.loss:.4f}" for trial in tuned.best), end_section=True)
    for choice in importance or tuned.present:
        share = [f"{importance[choice]:.0%}"] if importance else []
        chosen = (_short(trial.parameters.get(choice, "")) for trial in tuned.best)
        table.add_row(choice.replace("_", " "), *share, _short(tuned.present[choice]), *chosen)
    return table


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
