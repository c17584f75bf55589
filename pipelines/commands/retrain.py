"""`towncast retrain`: train again on all readings, and release what passes the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipelines.retraining_outcome import RetrainOutcome

_COLOURS = {"champion": "green", "canary": "green", "shadow": "cyan", "awaiting approval": "yellow", "refused": "red"}


def retrain(
    domain: Annotated[str, typer.Argument(help="What to retrain; see `towncast domains`.")] = "traffic",
    now: Annotated[bool, typer.Option("--now", help="Here and now; else a running `towncast schedule` does.")] = False,
    reason: Annotated[str, typer.Option(help="Why; the history keeps it.")] = "",
    data: Annotated[Path | None, typer.Option(help="A published data set that is ingested first.")] = None,
    recipe: Annotated[str, typer.Option(help="How to train; by default as the champion was.")] = "",
    tune: Annotated[int, typer.Option(help="Trials of a search for a better recipe that comes first.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu; a GPU that is asked for must be there.")] = "auto",
    wait: Annotated[float, typer.Option(help="How long to wait for another retraining of the domain [s].")] = 0.0,
    prefect: Annotated[bool, typer.Option("--prefect", help="As a flow of Prefect, with its retries.")] = False,
) -> None:
    """Train a domain's models again on all readings; what passes the gate becomes canary, or champion.

    Killed or failed, the same command goes on where it stopped. The champion serves until another takes its place:
    as a canary where an API answers, at once where none does (TOWNCAST_RETRAIN_RELEASE says otherwise).

    Example: towncast retrain traffic --now --reason "the new bridge is open"
    """
    from pipelines.quiet import quiet_libraries

    if not now:
        _ask(domain, reason)
        return
    quiet_libraries()
    from rich.console import Console

    from pipelines.commands.train import checked_device
    from pipelines.retrain import retrain as run
    from pipelines.schedule_settings import ScheduleSettings
    from serving.monitoring.report import Trigger

    accelerator = checked_device(device)
    settings = ScheduleSettings()
    settings = settings.model_copy(update={"retrain_wait_s": max(wait, settings.retrain_wait_s)})
    console = Console()
    trigger = Trigger(kind="manual", sites=(), reason=reason or "asked for on the command line")
    try:
        if prefect:
            from pipelines.prefect_server import prepare_environment

            prepare_environment(settings.data_dir / "prefect")
            from pipelines.flows import retrain_flow

            outcome = retrain_flow(
                domain,
                kind=trigger.kind,
                reason=trigger.reason,
                data=str(data or ""),
                recipe=recipe,
                trials=tune,
                device=accelerator,
            )
        else:
            outcome = run(
                domain,
                trigger=trigger,
                settings=settings,
                console=console,
                data=data,
                recipe_name=recipe,
                trials=tune,
                accelerator=accelerator,
            )
    except KeyboardInterrupt:
        typer.secho("Stopped. The same command goes on where it stopped.", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    for part in render_outcome(outcome):
        console.print(part)
    if any(one.release == "refused" for one in outcome.targets):
        raise typer.Exit(1)


def _ask(domain: str, reason: str) -> None:
    from features.alias_history import who
    from pipelines.schedule import is_running
    from pipelines.schedule_requests import ask_for_retraining
    from pipelines.schedule_settings import ScheduleSettings

    settings = ScheduleSettings()
    ask_for_retraining(domain, reason, by=who(), settings=settings)
    typer.echo(f"Asked for: the retraining of {domain}.")
    if is_running(settings):
        typer.echo("The schedule that is running takes it up within a minute, or when its present job is done.")
    else:
        typer.secho(
            "No schedule is running here: it waits for one (towncast schedule). To retrain here: "
            f"towncast retrain {domain} --now",
            fg=typer.colors.YELLOW,
        )


def render_outcome(outcome: RetrainOutcome) -> list[RenderableType]:
    """What became of each target, with the gate's table, and what to type next."""
    from rich.markup import escape

    from pipelines.commands.promote import render_verdict

    parts: list[RenderableType] = []
    for one in outcome.targets:
        release = f"[{_COLOURS[one.release]}]{one.release}[/]"
        parts += ["", render_verdict(one.verdict)]
        parts.append(f"{one.target}: version {one.version} (recipe {one.recipe}) is {release}: {escape(one.note)}")
        parts.append(_next(outcome.domain, one.target, one.version, one.release))
    parts.append(f"{outcome.seconds:.0f} s; because of: {outcome.trigger.kind}, {escape(outcome.trigger.reason)}")
    return parts


def _next(domain: str, target: str, version: int, release: str) -> str:
    option = f"{domain} --target {target}"
    return {
        "champion": f"Next: [bold]towncast rollback {option}[/] takes it back",
        "canary": f"Next: [bold]towncast release status {domain}[/] shows how it does; it ends by itself",
        "shadow": f"Next: [bold]towncast monitor {domain}[/] compares it with the champion, and acts on that",
        "awaiting approval": f"Next: [bold]towncast promote {option} --version {version} --approved-by NAME[/]",
        "refused": "Next: nothing is lost, the champion serves on; "
        f'to overrule: [bold]towncast promote {option} --version {version} --force --reason "..."[/]',
    }[release]
