"""`towncast simulate`: rollouts of the simulators, in parallel, as readings in the store and in Feast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sim_env.traffic.town_scenario import TownScenario

simulate_commands = typer.Typer(
    help="Roll out simulators, week by week and in parallel, as readings in the store and in Feast.",
    no_args_is_help=True,
)
_Scenarios = Annotated[int, typer.Option("--scenarios", "-n", help="Weeks of one run; each is a scenario of its own.")]
_Workers = Annotated[int | None, typer.Option(help="Processes. Default: one for each core.")]
_Seed = Annotated[int, typer.Option(help="Of everything random: the same seed gives the same readings.")]
_Start = Annotated[str | None, typer.Option(help="First moment of the run, ISO 8601, a whole hour UTC.")]


@simulate_commands.command()
def traffic(
    scenarios: _Scenarios = 40,
    workers: _Workers = None,
    seed: _Seed = 0,
    start: _Start = None,
    sumo_cfg: Annotated[
        Path | None, typer.Option(help="Any .sumocfg, for its network. Default: the built-in town.")
    ] = None,
    controls: Annotated[
        Path | None,
        typer.Option(help="Where vehicles enter, JSON; default: proposed, see `towncast controls make`."),
    ] = None,
    counters: Annotated[
        str | None,
        typer.Option(help="Edges with a counter, with commas between, or `all`. Default: the busiest twelve."),
    ] = None,
    mesoscopic: Annotated[
        bool, typer.Option(help="Queues with junctions in place of single vehicles: many times as fast.")
    ] = True,
) -> None:
    """Roll out SUMO: traffic at counters, demand at control points, and the air above (a dispersion model).

    Each scenario is a week: demand with daily shapes, events and slow noise, weather, incidents, sensors that err, fail
    and report late. Stopped with Ctrl-C, the same command goes on with the weeks that are missing.

    Example: towncast simulate traffic --scenarios 12 --sumo-cfg ../shared/data/sumo/bologna/acosta/run.sumocfg
    """
    _simulate(
        "traffic",
        _town(sumo_cfg, controls, counters, mesoscopic=mesoscopic, start=start),
        scenarios=scenarios,
        workers=workers,
        seed=seed,
    )


@simulate_commands.command()
def process(
    scenarios: _Scenarios = 40,
    workers: _Workers = None,
    seed: _Seed = 0,
    start: _Start = None,
    gekko: Annotated[
        bool, typer.Option("--gekko", help="Let GEKKO solve each step: the reference, thousands of times as slow.")
    ] = False,
) -> None:
    """Roll out water towers and the zones that draw from them: tank levels and what each zone draws.

    Each scenario is a week. The tank's equation is that of `towncast`'s GEKKO model, integrated by compiled code that
    is tested to be equal to it.
    """
    from dataclasses import replace

    from sim_env.process.zone_tanks import ZonesScenario

    usual = ZonesScenario(integrator="gekko" if gekko else "native")
    _simulate(
        "process",
        usual if start is None else replace(usual, start=start),
        scenarios=scenarios,
        workers=workers,
        seed=seed,
    )


@simulate_commands.command()
def judge(
    domain: Annotated[str, typer.Argument(help="What is forecast; see `towncast domains`.")],
    data: Annotated[Path, typer.Option(help="Folder with the published files to judge on.")],
    weeks: Annotated[int, typer.Option(help="Length of the rollouts.", min=10)] = 30,
    recipe: Annotated[str, typer.Option(help="How to train: quick, full, ...")] = "quick",
    picture: Annotated[Path | None, typer.Option(help="Write the gains as a PNG file.")] = None,
) -> None:
    """Say whether simulated rows help: train with 0, 25, 50 and 100 % of them, judge on measured rows alone.

    The rollouts end where the test of the measured rows begins. Nothing is registered, and the stores stay as they are.

    Example: towncast simulate judge traffic --data ../shared/data --picture gains.png
    """
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    import tempfile

    from rich.console import Console

    from pipelines.settings import Settings
    from pipelines.sim_to_real import judge_simulated, plot_sim_to_real, render_sim_to_real
    from training.plots import save_figure

    console = Console()
    with tempfile.TemporaryDirectory(prefix="towncast-judge-") as folder:
        settings = Settings(data_dir=Path(folder))
        result = judge_simulated(domain, data=data, weeks=weeks, settings=settings, console=console, recipe_name=recipe)
    console.print(render_sim_to_real(result))
    share = f"a share of {result.recommended:.0%} helps" if result.recommended else "simulated rows do not help"
    console.print(f"By the validation weeks, {share}; the recipe uses {result.recipe.simulated_share:.0%}.")
    if picture is not None:
        console.print(f"Picture: {save_figure(plot_sim_to_real([result]), picture)}")


def _town(
    sumo_cfg: Path | None, controls: Path | None, counters: str | None, *, mesoscopic: bool, start: str | None
) -> TownScenario:
    from sim_env.traffic.town_scenario import make_scenario

    names = None if counters is None else () if counters == "all" else tuple(counters.split(","))
    return make_scenario(sumo_cfg, controls, names, mesoscopic=mesoscopic, start=start)


def _simulate(kind: str, usual: Any, *, scenarios: int, workers: int | None, seed: int) -> None:
    from pipelines.quiet import quiet_libraries

    quiet_libraries()
    from rich.console import Console

    from pipelines.settings import Settings
    from pipelines.simulate import plan_run, raise_failed, simulate, usable_cores

    console, settings = Console(), Settings()
    run = plan_run(kind, weeks=scenarios, settings=settings, seed=seed, usual=usual)
    try:
        simulated = simulate(run, workers=workers or usable_cores(), settings=settings, console=console)
    except KeyboardInterrupt:
        done = run.weeks - len(run.missing)
        message = f"Stopped. {done} of {run.weeks} weeks are kept; the same command goes on with the others."
        typer.secho(message, fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130) from None
    _show(console, kind, simulated.summaries, found=simulated.found)
    raise_failed(simulated)


def _show(console: Console, kind: str, summaries: Any, *, found: int) -> None:
    from pipelines.ingest import render_summary

    if found:
        console.print(f"{found} weeks were rolled out before.")
    for summary in summaries:
        console.print(render_summary(summary))
    domains = " or ".join(f"[bold]make train DOMAIN={summary.domain}[/]" for summary in summaries)
    console.print(f"In the store and in Feast. Next: {domains}")
