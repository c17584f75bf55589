"""The console command `towncast`. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys

import typer

from features.errors import TowncastError
from pipelines.commands.controls import controls_commands
from pipelines.commands.domains import domains
from pipelines.commands.ingest import ingest
from pipelines.commands.keys import keys_commands
from pipelines.commands.materialise import materialise
from pipelines.commands.mlflow_ui import mlflow_ui
from pipelines.commands.monitor import monitor
from pipelines.commands.promote import aliases, promote, rollback
from pipelines.commands.reactor import reactor, reactor_plant
from pipelines.commands.rehearsal import rehearsal
from pipelines.commands.release import release_commands
from pipelines.commands.report import report
from pipelines.commands.retrain import retrain
from pipelines.commands.schedule import schedule
from pipelines.commands.serve import serve
from pipelines.commands.simulate import simulate_commands
from pipelines.commands.train import train
from pipelines.commands.tune import tune
from pipelines.commands.twin import twin

app = typer.Typer(
    help="Forecast a town: ingest readings, train and judge models, serve forecasts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for _command in (
    ingest,
    train,
    tune,
    report,
    promote,
    rollback,
    aliases,
    materialise,
    monitor,
    retrain,
    schedule,
    serve,
    mlflow_ui,
    domains,
    reactor,
    reactor_plant,
    twin,
    rehearsal,
):
    app.command()(_command)
app.add_typer(simulate_commands, name="simulate")
app.add_typer(controls_commands, name="controls")
app.add_typer(release_commands, name="release")
app.add_typer(keys_commands, name="keys")


def main() -> None:
    """Run the command line; an expected error is one clear message and exit status 2."""
    # Idle OpenMP threads that spin take a core from the others: by far the largest slow-down on small machines.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except TowncastError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
