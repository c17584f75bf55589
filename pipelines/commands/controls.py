"""`towncast controls`: propose and check the control points of a road network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from sim_env.traffic.engine import Control

controls_commands = typer.Typer(
    help="Propose and check control points: where vehicles are injected into a road network, and how many.",
    no_args_is_help=True,
)


@controls_commands.command()
def make(
    network: Annotated[Path, typer.Argument(help="A .sumocfg, or a .net.xml.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("controls.json"),
    most: Annotated[int, typer.Option(help="Largest number of control points; the busiest are kept.", min=1)] = 50,
) -> None:
    """Propose control points for a network: the ways into town, else roads at its rim.

    The baseline is what the configuration's own demand lets begin there, or, without one, what roads of such lanes and
    speeds usually carry: have a look, and change what you know better.

        towncast controls make town.sumocfg --out controls.json
    """
    from rich.console import Console

    from sim_env.traffic.controls import write_controls
    from sim_env.traffic.sumo import own_vehicles_per_hour, propose_controls

    console = Console()
    with console.status(f"Reading {network}"):
        proposed = propose_controls(network, most=most)
        own = own_vehicles_per_hour(network)
    write_controls(out, proposed)
    console.print(_table(f"Control points of {network.name}", proposed))
    total = sum(control.baseline_veh_per_hour for control in proposed)
    console.print(f"{len(proposed)} control points, {total:,.0f} veh/h, written to [bold]{out}[/bold]", soft_wrap=True)
    if own > 0:
        console.print(
            f"They stand for {total / own:.0%} of the configuration's own demand ({own:,.0f} veh/h): run them in its "
            "place, not beside it.",
            soft_wrap=True,
        )


@controls_commands.command()
def check(
    file: Annotated[Path, typer.Argument(help="The controls JSON.", show_default=False)],
    network: Annotated[Path, typer.Argument(help="A .sumocfg, or a .net.xml.", show_default=False)],
) -> None:
    """Check that control points fit a network: every edge is there, every destination can be reached.

    towncast controls check controls.json town.sumocfg
    """
    from rich.console import Console

    from sim_env.traffic.controls import check_controls, read_controls
    from sim_env.traffic.sumo import road_network

    console = Console()
    given = read_controls(file)
    roads = road_network(network)
    check_controls(given, roads.edges, connected=roads.connected)
    console.print(_table(f"Control points of {file.name}", given))
    console.print(f"{len(given)} control points fit [bold]{network}[/bold] ({len(roads.edges)} edges)", soft_wrap=True)


def _table(title: str, rows: Sequence[Control]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    table.add_column("control point", overflow="fold")
    table.add_column("edge", overflow="fold")
    table.add_column(r"baseline \[veh/h]", justify="right")
    table.add_column("destinations", overflow="fold")
    for control in rows:
        table.add_row(
            escape(control.control_id),
            escape(control.edge_id),
            f"{control.baseline_veh_per_hour:,.0f}",
            escape(", ".join(control.destinations)) or "any way out",
        )
    return table
