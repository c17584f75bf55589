"""The twin as a whole: engine, multipliers, clients, and how each is opened and closed."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from websockets.asyncio.server import serve

from features.domains.demand import DEMAND
from features.errors import InvalidParameterError, TowncastError
from features.feast_repository import open_repository
from serving.artifacts import Artifact
from serving.runtimes.in_process import InProcessRuntime
from serving.traffic_twin.broadcast import Broadcaster
from serving.traffic_twin.document import network_message
from serving.traffic_twin.engine_process import EngineProcess, Stepped
from serving.traffic_twin.histories import read_demand
from serving.traffic_twin.loop import TwinLoop
from serving.traffic_twin.multipliers import ConstantMultipliers, DemandMultipliers, MultiplierSource
from serving.traffic_twin.pages import Pages
from serving.traffic_twin.settings import TwinSettings
from sim_env.traffic.engine import Control, TrafficEngine

_LOG = logging.getLogger(__name__)
_GOING_AWAY = 1001
_KERNEL_BYTES = 131_072
_HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinPlan:
    """What a twin is made of.

    Attributes:
        engine: What the engine is called, for people.
        build: Makes it, in another process.
        artifact: The demand model; None for multipliers of 1.
        began_s: The simulated moment at which it begins [s since 1970].
        seed: Of the engine's run.
    """

    engine: str
    build: Callable[[], TrafficEngine]
    artifact: Artifact | None
    began_s: int
    seed: int = 0


async def run_twin(
    plan: TwinPlan,
    settings: TwinSettings,
    *,
    ready: Callable[[str], None] = lambda address: None,
    steps: int | None = None,
    on_step: Callable[[Stepped], None] | None = None,
) -> None:
    """Run a twin until it is cancelled or fails; then nothing of it is left.

    Args:
        plan: What it is made of.
        settings: The environment.
        ready: Called with the address of the page, such as `127.0.0.1:8765`, once clients are served.
        steps: How many control intervals to run for; by default without end.
        on_step: Called after each.

    Raises:
        EngineError: The engine cannot be started, or failed; clients have been told.
        InvalidParameterError: The port is taken, or the interval cannot be.
        ArtifactError: The model is not one of demand.
        NotEnoughDataError: There are no readings of demand.
    """
    engine = EngineProcess(plan.build)
    async with contextlib.AsyncExitStack() as closing:
        listener = closing.enter_context(listen(settings.twin_host, settings.twin_port))
        closing.push_async_callback(engine.close)
        state = await engine.start(seed=plan.seed)
        multipliers = _multipliers(plan.artifact, settings, engine.controls)
        closing.push_async_callback(multipliers.close)
        # Before anybody is let in: what is wrong with model or readings is to end the command at once.
        await multipliers.at(plan.began_s)
        pages = Pages(functools.partial(_network, plan, settings, engine, multipliers))
        pages.load()
        broadcaster = Broadcaster(outbox_messages=settings.twin_outbox_messages)
        await closing.enter_async_context(served(broadcaster, pages, listener, settings))
        host, port = listener.getsockname()[:2]
        ready(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        loop = TwinLoop(
            engine,
            multipliers,
            broadcaster.publish,
            began_s=plan.began_s,
            interval_s=settings.twin_interval_s,
            speed=settings.twin_speed,
        )
        await loop.run(state, steps=steps, on_step=on_step)


def begin_of(moment_s: float, *, interval_s: float) -> int:
    """The beginning of the control interval that a moment lies in, counted from its hour [s since 1970]."""
    hour_s = int(moment_s // _HOUR_S) * _HOUR_S
    return hour_s + int((moment_s - hour_s) // interval_s * interval_s)


def _multipliers(artifact: Artifact | None, settings: TwinSettings, controls: Sequence[Control]) -> MultiplierSource:
    if artifact is None:
        return ConstantMultipliers(len(controls))
    repository = open_repository(settings, DEMAND)
    return DemandMultipliers(
        controls,
        runtime=InProcessRuntime(artifact, device=settings.device),
        artifact=artifact,
        read=functools.partial(read_demand, repository),
        interval_s=settings.twin_interval_s,
        stale_after_s=settings.stale_after_h * _HOUR_S,
    )


def _network(plan: TwinPlan, settings: TwinSettings, engine: EngineProcess, multipliers: MultiplierSource) -> bytes:
    return network_message(
        edges=engine.edges,
        controls=engine.controls,
        kinds=multipliers.kinds,
        engine=plan.engine,
        model=multipliers.model,
        interval_s=settings.twin_interval_s,
        speed=settings.twin_speed,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; taken first, because it is what fails most often and costs least.

    Raises:
        InvalidParameterError: Another program has the port, or the address is not of this machine.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Left to itself the kernel keeps megabytes for a client that does not read, and nobody would notice it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        return listener
    except (OSError, OverflowError) as error:
        raise InvalidParameterError(
            parameter="port",
            provided=f"{host}:{port}",
            allowed="an address of this machine and a free port",
            fact=f"The twin cannot listen: {error}",
            remedy="Stop what listens there, or name another with --port.",
        ) from error


@contextlib.asynccontextmanager
async def served(
    broadcaster: Broadcaster, pages: Pages, listener: socket.socket, settings: TwinSettings
) -> AsyncIterator[None]:
    """Serve clients; at the end, each is told why it ends."""
    quiet = logging.getLogger(f"{__name__}.websockets")
    # It logs a traceback for every scanner that knocks.
    quiet.setLevel(logging.CRITICAL)
    async with serve(
        broadcaster.handle,
        sock=listener,
        process_request=pages,
        # Compressing for each client would cost more than all the rest; the twin is usually looked at from near by.
        compression=None,
        max_size=settings.twin_inbox_bytes,
        max_queue=4,
        ping_interval=settings.twin_ping_s,
        ping_timeout=settings.twin_ping_s,
        close_timeout=1,
        server_header=None,
        logger=quiet,
    ):
        try:
            yield
        except TowncastError as error:
            _LOG.error("The twin ends: %s", error)
            await broadcaster.fail(error.fact)
            raise
        except Exception:
            await broadcaster.fail("internal error")
            raise
        finally:
            await broadcaster.close(_GOING_AWAY, "the twin was stopped")
