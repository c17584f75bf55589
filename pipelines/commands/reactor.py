"""The commands `towncast reactor` and `towncast reactor-plant`."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio

    from rich.console import Console
    from rich.table import Table

    from serving.reactor_twin.service import ReactorService
    from serving.reactor_twin.settings import ReactorSettings
    from serving.reactor_twin.tally import Tally

_LINE_EVERY_S = 60.0
_Nats = Annotated[str | None, typer.Option(help="Address of the broker. Default: nats://127.0.0.1:4222.")]
_Prefix = Annotated[
    str | None,
    typer.Option(help="Beginning of the reactor's subjects. Default: enterprise.site.area.line.reactor."),
]
_RateHz = Annotated[float, typer.Option(help="Temperatures in a second.", min=0.1, max=50.0)]
_FoulsAfter = Annotated[
    float, typer.Option(help="Seconds after which the plant's cooling wall begins to foul.", min=0.0)
]


def reactor(
    nats: _Nats = None,
    prefix: _Prefix = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Start a broker and a plant too: nothing else is needed to see it work.")
    ] = False,
) -> None:
    """Run the reactor's digital twin: what should be, beside what is.

    It reads the Protobuf messages of the reactor's sensors (serving/messages/sensor_data.proto) from NATS JetStream,
    PREFIX.temp and, as inputs of the model, PREFIX.flow and PREFIX.coolant. It answers each temperature on PREFIX and

        .temp.predicted           what the living model expected, one step ahead
        .concentration.predicted  the concentration, which nobody measures
        .temp.ideal               what a reactor without a fault would have
        .temp.deviation           measured minus ideal
        .alert                    when the deviation is too large, and when it ends

    What cannot be used goes to PREFIX.deadletter, with the reason in a header. Each message is answered once, also when
    the broker or the twin are restarted; both wait for each other. Ctrl-C ends it.

    To see it work: towncast reactor --demo. The plant begins to foul after a minute, and the alert follows.

    All settings can also be set as variables, such as TOWNCAST_NATS_URL or TOWNCAST_REACTOR_ALERT_RAISE_K.
    """
    import asyncio
    import os

    # Before the numerical libraries are loaded: threads that wait by spinning take both cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    from serving.reactor_twin.settings import read_settings

    console = Console()
    with contextlib.ExitStack() as stack:
        if demo:
            nats = stack.enter_context(_demo_broker(console))
        settings = read_settings(nats_url=nats, reactor_prefix=prefix)
        console.print(f"twin of [bold]{settings.reactor_prefix}[/bold] on {settings.shown_url}", soft_wrap=True)
        tally = asyncio.run(_run_twin(settings, console, demo=demo))
    console.print(status_table(tally))


def reactor_plant(
    nats: _Nats = None,
    prefix: _Prefix = None,
    rate: _RateHz = 10.0,
    fouls_after: _FoulsAfter = 60.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same plant.")] = 0,
) -> None:
    """Publish what the sensors of a simulated reactor measure, for the twin to follow.

    Its temperature comes RATE times a second, flow and coolant once a second, all with noise. After a while its wall
    fouls and it grows hotter than it should: start `towncast reactor` beside it and see the alert. Ctrl-C ends it.
    """
    import asyncio

    from rich.console import Console

    from serving.reactor_twin.settings import read_settings

    settings = read_settings(nats_url=nats, reactor_prefix=prefix)
    console = Console()
    console.print(f"plant of [bold]{settings.reactor_prefix}[/bold] on {settings.shown_url}", soft_wrap=True)
    sent = asyncio.run(_run_plant(settings, console, rate_hz=rate, fouls_after_s=fouls_after, seed=seed))
    console.print(f"{sent} messages were sent")


@contextlib.contextmanager
def _demo_broker(console: Console) -> Iterator[str]:
    """A broker that lives as long as the demonstration; its address."""
    import tempfile
    from pathlib import Path

    from serving.reactor_twin.local_broker import LocalBroker

    with tempfile.TemporaryDirectory(prefix="towncast-nats-") as folder, LocalBroker(Path(folder)) as broker:
        console.print("[dim]a broker and a plant run along; both end with the twin[/dim]")
        yield broker.url


async def _run_twin(settings: ReactorSettings, console: Console, *, demo: bool) -> Tally:
    """Run the twin, and the plant of a demonstration, until a signal ends both."""
    import asyncio

    from serving.reactor_twin.service import ReactorService
    from sim_env.process import PROCESSES

    service = ReactorService(settings, process=PROCESSES["reactor"])

    async def work(stop: asyncio.Event) -> None:
        with _shown(service, console):
            await service.run(stop)

    async def plant(stop: asyncio.Event) -> None:
        while not (service.opened.is_set() or stop.is_set()):
            await asyncio.sleep(0.1)
        await _publish(settings, stop, rate_hz=10.0, fouls_after_s=60.0, seed=0)

    await _until_signal([work, plant] if demo else [work])
    return service.tally


async def _run_plant(
    settings: ReactorSettings, console: Console, *, rate_hz: float, fouls_after_s: float, seed: int
) -> int:
    sent = 0

    async def work(stop: asyncio.Event) -> None:
        nonlocal sent
        with _logging(console):
            sent = await _publish(settings, stop, rate_hz=rate_hz, fouls_after_s=fouls_after_s, seed=seed)

    await _until_signal([work])
    return sent


async def _publish(
    settings: ReactorSettings, stop: asyncio.Event, *, rate_hz: float, fouls_after_s: float, seed: int
) -> int:
    """Connect a plant to the broker, keep it running until `stop`, and return the number of its messages."""
    import numpy as np

    from serving.reactor_twin.plant import Fouling, run_plant
    from sim_env.process import PROCESSES

    return await run_plant(
        settings,
        process=PROCESSES["reactor"],
        rng=np.random.default_rng(seed),
        fouling=Fouling(begins_s=fouls_after_s),
        rate_hz=rate_hz,
        stop=stop,
    )


async def _until_signal(works: list[Callable[[asyncio.Event], Awaitable[None]]]) -> None:
    """Run all until one ends or fails or a signal comes; then tell the others to stop, and wait for them."""
    import asyncio
    import signal

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    tasks = [asyncio.ensure_future(work(stop)) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            raise end


@contextlib.contextmanager
def _logging(console: Console) -> Iterator[None]:
    """Show our own warnings on the console, above what is live."""
    import logging

    from rich.logging import RichHandler

    handler = RichHandler(console=console, show_path=False, markup=False)
    log = logging.getLogger("serving.reactor_twin")
    log.addHandler(handler)
    # What the client of the broker says of each try is in our own words already.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextlib.contextmanager
def _shown(service: ReactorService, console: Console) -> Iterator[None]:
    """Show the twin's figures: a live table on a terminal, a line a minute elsewhere."""
    from rich.live import Live

    with _logging(console):
        if console.is_terminal:
            table: Callable[[], Table] = lambda: status_table(service.tally)  # noqa: E731
            with Live(get_renderable=table, console=console, refresh_per_second=2, transient=True):
                yield
            return
        import asyncio

        lines = asyncio.ensure_future(_print_lines(service, console))
        try:
            yield
        finally:
            lines.cancel()


async def _print_lines(service: ReactorService, console: Console) -> None:
    import asyncio

    while True:
        await asyncio.sleep(_LINE_EVERY_S)
        figures = service.tally.figures()
        told = ", ".join(f"{name} {value}" for name, value in figures.items() if value not in (0, None, False))
        console.print(told, soft_wrap=True, highlight=False)


def status_table(tally: Tally) -> Table:
    """What the twin has done so far, and what it last said."""
    from rich.table import Table

    figures = tally.figures()
    table = Table(
        show_header=False, title="broker is there" if tally.connected else "[yellow]waiting for the broker[/]"
    )
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, text in (
        ("messages in", str(tally.received)),
        ("predictions", str(tally.predictions)),
        ("flow and coolant", str(tally.inputs)),
        ("late", str(tally.late)),
        ("duplicates", str(tally.duplicates)),
        ("delivered again", str(tally.redelivered)),
        ("dead letters", f"[red]{tally.dead_letters}[/]" if tally.dead_letters else "0"),
        ("measured", _with_unit(tally.measured_k, "K")),
        ("predicted", _with_unit(tally.predicted_k, "K")),
        ("concentration", _with_unit(tally.concentration, "mol/m3")),
        ("deviation", f"{_with_unit(tally.deviation_k, 'K')}{' [bold red]ALERT[/]' if tally.alert_raised else ''}"),
        ("solve p50 / p99", _pair(figures["solve_p50_ms"], figures["solve_p99_ms"])),
        ("answer p50 / p99", _pair(figures["answer_p50_ms"], figures["answer_p99_ms"])),
    ):
        table.add_row(name, text)
    return table


def _with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f} {unit}"


def _pair(middle: float | None, tail: float | None) -> str:
    return "-" if middle is None or tail is None else f"{middle:.1f} / {tail:.1f} ms"
