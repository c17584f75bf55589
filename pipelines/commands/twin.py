"""The command `towncast twin`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from serving.artifacts import Artifact
    from serving.traffic_twin.live import TwinPlan
    from serving.traffic_twin.settings import TwinSettings
    from sim_env.traffic.engine import TrafficEngine


class EngineName(enum.StrEnum):
    """The traffic engines that a twin can run."""

    mock = "mock"
    sumo = "sumo"


class LinkName(enum.StrEnum):
    """The ways to SUMO."""

    libsumo = "libsumo"
    traci = "traci"


def twin(
    engine: Annotated[
        EngineName, typer.Option(help="What simulates the roads: `mock` is a small town that needs no SUMO.")
    ] = EngineName.mock,
    sumo_cfg: Annotated[
        Path | None, typer.Option(help="A .sumocfg for the engine sumo. Default: the built-in town.")
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(help="Where vehicles begin, JSON; `towncast controls make NET` proposes it.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="The demand model: `champion` of the registry, a folder with model.onnx and card.json, or `none`: "
            "then every multiplier is 1."
        ),
    ] = "champion",
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8765.", min=0, max=65535)] = None,
    interval: Annotated[
        float | None, typer.Option(help="Control interval in seconds, a part of an hour. Default: 60.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="How many times real time; 0 is as fast as it can. Default: 1.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Simulated moment to begin at, ISO 8601, UTC if it says no other. Default: now.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random in the run.", min=0, max=2**31 - 1)] = 0,
    mesoscopic: Annotated[bool, typer.Option(help="SUMO with queues in place of single cars: faster.")] = False,
    own_demand: Annotated[bool, typer.Option(help="The vehicles of the .sumocfg itself drive too.")] = False,
    link: Annotated[LinkName, typer.Option(help="SUMO in a library, or in a process behind TraCI.")] = LinkName.libsumo,
) -> None:
    """Run the live traffic twin: a forecast of demand drives the roads, and everybody may watch.

    At every control interval the demand model gives a multiplier for each control point, the engine injects that many
    vehicles and runs on, and the state goes as JSON to every WebSocket client. The page on the same port shows it.
    Ctrl-C stops all of it.

    The town that `towncast train` learns from, a minute every second, from its morning peak on:

        towncast twin --engine sumo --speed 60 --start 2026-11-23T03:00

    Any SUMO network:

        towncast controls make town.sumocfg --out controls.json

        towncast twin --engine sumo --sumo-cfg town.sumocfg --controls controls.json

    Without a trained model, `--model none` keeps every multiplier at 1. Host, port, interval and speed can also be set
    as variables, such as TOWNCAST_TWIN_PORT.
    """
    import os

    # Before the numerical libraries are loaded: threads that wait by spinning take both cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import time

    from serving.traffic_twin.live import TwinPlan, begin_of

    settings = _settings(host=host, port=port, interval=interval, speed=speed)
    build = _builder(
        engine,
        sumo_cfg,
        controls,
        mesoscopic=mesoscopic,
        own_demand=own_demand,
        link=link,
        town_folder=settings.data_dir / "town",
    )
    moment_s = time.time() if start is None else _moment(start)
    plan = TwinPlan(
        engine=engine.value,
        build=build,
        artifact=_artifact(model, settings),
        began_s=begin_of(moment_s, interval_s=settings.twin_interval_s),
        seed=seed,
    )
    _run(plan, settings)


def _settings(*, host: str | None, port: int | None, interval: float | None, speed: float | None) -> TwinSettings:
    """The environment, and over it what the command line says.

    Raises:
        InvalidParameterError: A value cannot be.
    """
    from pydantic import ValidationError

    from features.errors import InvalidParameterError
    from serving.traffic_twin.settings import TwinSettings

    given = {"twin_host": host, "twin_port": port, "twin_interval_s": interval, "twin_speed": speed}
    try:
        return TwinSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removeprefix("twin_").removesuffix("_s")
        raise InvalidParameterError(
            parameter=name,
            provided=first["input"],
            allowed=first["msg"],
            fact=f"The {name} cannot be: {first['msg']}",
            remedy=f"Change --{name}, or the variable TOWNCAST_{str(first['loc'][0]).upper()}.",
        ) from error


def _moment(start: str) -> float:
    """Seconds since 1970.

    Raises:
        InvalidParameterError: It is no moment.
    """
    import datetime

    from features.errors import InvalidParameterError

    try:
        moment = datetime.datetime.fromisoformat(start)
    except ValueError as error:
        raise InvalidParameterError(
            parameter="start",
            provided=start,
            allowed="ISO 8601",
            fact="The start is no moment",
            remedy="Write it like 2026-11-23T07:00.",
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _builder(
    engine: EngineName,
    sumo_cfg: Path | None,
    controls: Path | None,
    *,
    mesoscopic: bool,
    own_demand: bool,
    link: LinkName,
    town_folder: Path,
) -> Callable[[], TrafficEngine]:
    """What makes the engine, in another process.

    Raises:
        InvalidParameterError: The options do not go together.
        EngineError: The controls cannot be read.
    """
    import functools

    from features.errors import InvalidParameterError
    from sim_env.traffic.controls import read_controls

    if engine is EngineName.mock:
        from sim_env.traffic.mock_engine import MockEngine

        if sumo_cfg is not None:
            raise InvalidParameterError(
                parameter="sumo-cfg",
                provided=str(sumo_cfg),
                allowed="nothing",
                fact="The mock engine takes no .sumocfg",
                remedy="Add --engine sumo, or leave --sumo-cfg out.",
            )
        return functools.partial(MockEngine, controls=None if controls is None else read_controls(controls))
    from sim_env.traffic.sumo import SumoEngine
    from sim_env.traffic.town_network import build_town, town_controls

    if sumo_cfg is not None and controls is None:
        raise InvalidParameterError(
            parameter="controls",
            provided=None,
            allowed="the path of a file",
            fact="A network of one's own needs --controls",
            remedy="Name its control points; `towncast controls make NET --out controls.json` proposes them.",
        )
    return functools.partial(
        SumoEngine,
        sumo_cfg or build_town(town_folder),
        town_controls() if controls is None else read_controls(controls),
        link=link.value,
        mesoscopic=mesoscopic,
        own_demand=own_demand,
    )


def _artifact(model: str, settings: TwinSettings) -> Artifact | None:
    """The demand model that is asked for; None for none.

    Raises:
        ArtifactError: There is no such model, or it is damaged.
    """
    from features.errors import ArtifactError
    from serving.artifacts import open_artifact
    from serving.loading import champion

    if model == "none":
        return None
    if model == "champion":
        return champion(settings, "demand")
    folder = Path(model)
    if not folder.is_dir():
        raise ArtifactError(
            "There is no folder of a demand model here",
            found=model,
            remedy="Name a folder with model.onnx and card.json, or `champion`, or `none` for multipliers of 1.",
        )
    return open_artifact(folder, version="0")


def _run(plan: TwinPlan, settings: TwinSettings) -> None:
    """Run the twin until Ctrl-C or SIGTERM."""
    import asyncio
    import logging
    import signal

    from rich.console import Console

    from serving.traffic_twin.live import run_twin

    console = Console()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    status = console.status("Starting the engine and reading the demand")

    def ready(address: str) -> None:
        status.stop()
        model = "none: every multiplier is 1" if plan.artifact is None else plan.artifact.model_version
        console.print(f"[bold]{plan.engine}[/bold] engine, model {model}", soft_wrap=True, highlight=False)
        console.print(f"page http://{address}/   WebSocket ws://{address}   Ctrl-C stops", soft_wrap=True)

    async def until_stopped() -> bool:
        running = asyncio.ensure_future(run_twin(plan, settings, ready=ready))
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        waiting = asyncio.ensure_future(stopped.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        # Once: a second Ctrl-C must not keep the engine from being closed.
        running.cancel()
        waiting.cancel()
        await asyncio.wait([running])
        if running.cancelled():
            return False
        running.result()
        return True

    with status:
        ended = asyncio.run(until_stopped())
    if not ended:
        console.print("Stopped.")
