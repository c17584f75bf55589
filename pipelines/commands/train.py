"""`towncast train`: the main job, and the table that closes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from pipelines.train import Trained, TrainedModel
    from training.families import Accelerator


def train(
    domain: Annotated[str, typer.Argument(help="What to forecast; see `towncast domains`.")] = "traffic",
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or file of a published data set, e.g. one with the Metro Interstate CSV."),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(help="quick (minutes), full (best figures), document (its sizes) or tuned (see towncast tune)."),
    ] = "quick",
    device: Annotated[str, typer.Option(help="auto, cpu or gpu; a GPU that is asked for must be there.")] = "auto",
) -> None:
    """Train, judge and register a domain's model.

    Without --data it uses the readings that you ingested, and if there are none, readings that it makes itself.
    Stop it with Ctrl-C: the same command goes on from its checkpoint.

    Example: towncast train traffic --data ../shared/data --recipe full
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.settings import Settings
    from pipelines.train import train_domain

    accelerator = checked_device(device)
    console = Console()
    try:
        trained = train_domain(
            domain, settings=Settings(), console=console, data=data, recipe_name=recipe, accelerator=accelerator
        )
    except KeyboardInterrupt:
        message = "Stopped. The same command goes on from the last finished epoch, if there was one."
        typer.secho(message, fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    console.print(render_trained(trained))


def checked_device(device: str) -> Accelerator:
    """What to fit on, from what was typed.

    Raises:
        InvalidParameterError: There is no such device.
    """
    from features.errors import InvalidParameterError

    devices: dict[str, Accelerator] = {"auto": "auto", "cpu": "cpu", "gpu": "gpu"}
    if device not in devices:
        raise InvalidParameterError(
            parameter="device",
            provided=device,
            allowed=list(devices),
            fact="There is no such device",
            remedy="Use auto, cpu or gpu.",
        )
    return devices[device]


def render_trained(trained: Trained) -> Group:
    """The closing tables, what they mean, and what to type next."""
    from rich.console import Group

    parts = [part for model in trained.models for part in (*_model_lines(trained.domain.name, model), "")]
    if not trained.measured:
        parts.append("[yellow]judged on simulated readings: not a claim about a real town[/]")
    serve = f"  [bold]make serve[/]       answer POST {trained.domain.api_path} on http://127.0.0.1:8000"
    refused = "  [bold]towncast aliases[/] what the gate said of each version; what serves is what served before"
    return Group(
        *parts,
        "naive: the seasonal profile, the median of the same hour over the last eight weeks; skill: 1 - MAE / its MAE",
        f"{trained.seconds:.0f} s, peak memory {trained.peak_mib:.0f} MiB",
        "",
        "Next:",
        serve if any(model.champion for model in trained.models) else refused,
        "  [bold]make mlflow-ui[/]   parameters, curves, pictures and the artifact",
    )


def _error(value: float) -> str:
    """Three digits, all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _model_lines(domain: str, trained: TrainedModel) -> tuple[RenderableType, ...]:
    from rich.table import Table

    from pipelines.commands.promote import outcome_line, render_verdict

    judgement, target = trained.judgement, trained.target
    table = Table(title=f"{domain}: {target.name} on the test, {judgement.windows.span()}")
    for column in ("ahead", "MAPE %", "naive", f"RMSE {target.unit}", "naive", "skill", "90 % interval holds"):
        table.add_column(column, justify="right")
    for horizon, figures in judgement.by_horizon.items():
        table.add_row(
            horizon,
            f"{figures['mape']:.2f}",
            f"{figures['naive_mape']:.2f}",
            _error(figures["rmse"]),
            _error(figures["naive_rmse"]),
            f"{figures['skill']:+.1%}",
            f"{figures['coverage_90']:.1%}",
        )
    low, high = judgement.skill_90
    skill = f"mean skill {judgement.by_horizon['mean']['skill']:+.1%}, 90 % interval [{low:+.1%}, {high:+.1%}]"
    return (
        table,
        skill,
        "",
        render_verdict(trained.verdict),
        outcome_line(domain, target.name, trained.registered, trained.verdict, trained.outcome),
    )
