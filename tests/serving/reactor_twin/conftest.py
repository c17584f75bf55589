"""A real broker on a free port, and the plant's side of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext

from serving.messages.sensor_data_pb2 import QUALITY_GOOD, SensorData
from serving.reactor_twin.local_broker import LocalBroker
from serving.reactor_twin.measurements import timestamp
from serving.reactor_twin.service import ReactorService
from serving.reactor_twin.settings import ReactorSettings
from sim_env.process import PROCESSES
from sim_env.process.system import Process, ProcessModel, Variable

PREFIX = "enterprise.site.area.line.reactor"
BEGAN_S = 1_790_000_000
UNITS = {"temp": "K", "coolant": "K", "flow": "L/s"}


@dataclass
class NativeReactor:
    """The reactor with its fast model in the living one's place, for tests that are not about the solver."""

    steps: list[float] = field(default_factory=list)
    before_step: Callable[[], None] = lambda: None
    name: str = "reactor"

    @property
    def states(self) -> tuple[Variable, ...]:
        return PROCESSES["reactor"].states

    @property
    def control(self) -> Variable:
        return PROCESSES["reactor"].control

    @property
    def parameters(self) -> tuple[Variable, ...]:
        return PROCESSES["reactor"].parameters

    @property
    def longest_step_s(self) -> float:
        return PROCESSES["reactor"].longest_step_s

    def native(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        return PROCESSES["reactor"].native(parameters=parameters, state=state)

    def gekko(
        self, *, parameters: Mapping[str, float] | None = None, state: Mapping[str, float] | None = None
    ) -> ProcessModel:
        return _Observed(self.native(parameters=parameters, state=state), self)


class _Observed:
    def __init__(self, model: ProcessModel, process: NativeReactor) -> None:
        self._model = model
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, control: float, *, delta_time_s: float) -> dict[str, float]:
        self._process.before_step()
        self._process.steps.append(delta_time_s)
        return self._model.step(control, delta_time_s=delta_time_s)


def _sensor_data(value: float, *, at_s: float, kind: str = "temp", sequence: int = 0, **changes: Any) -> bytes:
    message = SensorData(
        sensor_id=f"probe.{kind}",
        value=value,
        unit=UNITS[kind],
        timestamp=timestamp(round(1e9 * (BEGAN_S + at_s))),
        quality=QUALITY_GOOD,
        sequence=sequence,
        source="sensor:test",
    )
    for name, change in changes.items():
        if name == "timestamp":
            message.timestamp.CopyFrom(change)
        else:
            setattr(message, name, change)
    return message.SerializeToString()


@dataclass
class Stored:
    """A message as the stream keeps it."""

    subject: str
    payload: bytes
    headers: dict[str, str]

    @property
    def data(self) -> SensorData:
        return SensorData.FromString(self.payload)


@dataclass
class PlantSide:
    """Publishes what sensors would, and reads what is in the stream."""

    jetstream: JetStreamContext

    async def temp(self, value: float, *, at_s: float, sequence: int = 0) -> None:
        await self.raw("temp", _sensor_data(value, at_s=at_s, sequence=sequence))

    async def raw(self, kind: str, payload: bytes) -> None:
        await self.jetstream.publish(f"{PREFIX}.{kind}", payload)

    async def stored(self, end: str) -> list[Stored]:
        """All messages of one subject, oldest first."""
        last = (await self.jetstream.stream_info("reactor")).state
        kept = []
        for sequence in range(last.first_seq, last.last_seq + 1):
            message = await self.jetstream.get_msg("reactor", sequence)
            if message.subject == f"{PREFIX}.{end}":
                kept.append(Stored(message.subject, message.data or b"", dict(message.headers or {})))
        return kept

    async def answered(self) -> list[int]:
        """The sequences that sensors gave to what was predicted for, in order."""
        return [message.data.sequence for message in await self.stored("temp.predicted")]


@contextlib.asynccontextmanager
async def _plant_side(url: str) -> AsyncIterator[PlantSide]:
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    try:
        yield PlantSide(client.jetstream())
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def _running(settings: ReactorSettings, process: Process | None = None) -> AsyncIterator[ReactorService]:
    """A twin at work, until the block ends."""
    service = ReactorService(settings, process=process or NativeReactor(), now_ns=lambda: (BEGAN_S + 10_000) * 10**9)
    stop = asyncio.Event()
    work = asyncio.ensure_future(service.run(stop))
    opened = asyncio.ensure_future(service.opened.wait())
    try:
        await asyncio.wait({work, opened}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        yield service
        stop.set()
        await work
    finally:
        for task in (work, opened):
            task.cancel()
        await asyncio.gather(work, opened, return_exceptions=True)


async def _until(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait for what must come about; far longer than it takes anywhere."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path / "nats") as started:
        yield started


@pytest.fixture
def settings(broker: LocalBroker) -> ReactorSettings:
    return ReactorSettings(nats_url=broker.url, reactor_ack_wait_s=1.0)


@pytest.fixture
def native_reactor() -> type[NativeReactor]:
    """The class of reactors without GEKKO."""
    return NativeReactor


@pytest.fixture
def sensor_data() -> Callable[..., bytes]:
    """Encodes what a sensor measures, some seconds after the beginning."""
    return _sensor_data


@pytest.fixture
def plant_side() -> Callable[[str], contextlib.AbstractAsyncContextManager[PlantSide]]:
    """Connects the plant to a broker."""
    return _plant_side


@pytest.fixture
def running() -> Callable[..., contextlib.AbstractAsyncContextManager[ReactorService]]:
    """Keeps a twin at work."""
    return _running


@pytest.fixture
def until() -> Callable[..., Coroutine[Any, Any, None]]:
    """Waits for what must come about."""
    return _until
