"""`towncast schedule`: monitoring and retraining by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.schedule_settings import ScheduleSettings


def schedule(
    once: Annotated[bool, typer.Option("--once", help="Run what is due now, then end: for cron.")] = False,
    prefect: Annotated[
        bool,
        typer.Option("--prefect", help="Serve the jobs to a Prefect server, with its pages, in place of the loop."),
    ] = False,
) -> None:
    """Look at the champions and retrain them by themselves, until it is stopped.

    Each domain is looked at hourly and retrained weekly, and sooner where errors grow, sites are new or a person asks
    with `towncast retrain`. Runs that were missed are caught up once. It needs no server; end it with Ctrl-C or
    SIGTERM, and what runs then comes to its end.

    Settings: TOWNCAST_MONITOR_CRON, TOWNCAST_RETRAIN_CRON, TOWNCAST_RETRAIN_COOLDOWN_DAYS, TOWNCAST_ALERT_URLS, ...
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    import logging

    from rich.console import Console

    from pipelines.schedule_settings import ScheduleSettings

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pipelines").setLevel(logging.INFO)
    settings, console = ScheduleSettings(), Console()
    if prefect:
        _serve(settings)
        return
    from pipelines.schedule import Schedule, domains_of, stopped_by_signals
    from pipelines.scheduled_jobs import jobs_of

    monitor, retrain = jobs_of(settings, console)
    loop = Schedule(settings, lambda: domains_of(settings), monitor=monitor, retrain=retrain, console=console)
    if once:
        count = loop.once()
        console.print(f"Jobs that were due: {count}")
        return
    console.print(
        f"Monitoring `{settings.monitor_cron}`, retraining `{settings.retrain_cron}` ({settings.schedule_timezone}). "
        "Ctrl-C ends it."
    )
    with stopped_by_signals() as stop:
        loop.run(stop)
    console.print("Stopped.")


def _serve(settings: ScheduleSettings) -> None:
    from pipelines.prefect_server import prefect_server, prepare_environment

    home = settings.data_dir / "prefect"
    prepare_environment(home)
    typer.echo("Prefect's server starts; the first time takes half a minute.")
    with prefect_server(log=home / "server.log") as url:
        from pipelines.flows import serve_deployments

        typer.echo(f"Its pages: {url.removesuffix('/api')}   Ctrl-C ends it.")
        serve_deployments(settings)
