"""A plant to look at: a reactor that fouls, its noisy sensors, and their messages on the broker."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.reactor_twin.broker import Broker
from serving.reactor_twin.measurements import Kind, Measurement, encode_measurement
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.subjects import Subjects, checked_prefix
from serving.reactor_twin.twin import CONCENTRATION, FLOW, TEMPERATURE
from sim_env.process.system import Process, ProcessModel

HEAT_TRANSFER = "heat_transfer"
SOURCE = "sim:native:fouling_reactor@00000000"
_COOLANT_SENSOR_K = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Fouling:
    """How the reactor's wall loses its heat transfer, in time.

    Attributes:
        begins_s: When it begins [s].
        lasts_s: How long it grows [s].
        loss: Share of the heat transfer that is lost in the end.
    """

    begins_s: float = 60.0
    lasts_s: float = 60.0
    loss: float = 0.06

    def left(self, time_s: float) -> float:
        """Share of the heat transfer that is left."""
        grown = min(max((time_s - self.begins_s) / self.lasts_s, 0.0), 1.0)
        return 1.0 - self.loss * grown


class Plant:
    """A reactor with three sensors; flow and coolant wander a little about their nominal values.

    Args:
        process: The reactor.
        rng: Draws noise and wandering.
        noise_k: Standard deviation of the temperature sensor's noise [K].
        fouling: What goes wrong with it.
    """

    def __init__(
        self, process: Process, *, rng: np.random.Generator, noise_k: float = 0.2, fouling: Fouling | None = None
    ) -> None:
        self._process = process
        self._rng = rng
        self._noise_k = noise_k
        self._fouling = fouling or Fouling(loss=0.0)
        self._nominal = {variable.name: variable.default for variable in process.parameters}
        self._model: ProcessModel | None = None
        self._wander = np.zeros(2)
        self._sequence = 0
        self.time_s = 0.0

    def step(self, delta_time_s: float, *, at_ns: int) -> list[Measurement]:
        """What the sensors measure after a time, at a moment of the wall clock: flow, coolant, then temperature."""
        if self._model is None:
            self._model = self._process.native()
        keep = np.exp(-delta_time_s / 30.0)
        self._wander = keep * self._wander + np.sqrt(1.0 - keep**2) * self._rng.normal(size=2)
        flow = self._nominal[FLOW] * (1.0 + 0.002 * self._wander[0])
        coolant_k = self._process.control.default + 0.1 * self._wander[1]
        heat_transfer = self._nominal[HEAT_TRANSFER] * self._fouling.left(self.time_s)
        self._model.update_parameters({FLOW: flow, HEAT_TRANSFER: heat_transfer})
        state = self._model.step(coolant_k, delta_time_s=delta_time_s)
        self.time_s += delta_time_s
        self._sequence += 1
        noise = self._rng.normal(size=2)
        values: dict[Kind, float] = {
            "flow": flow,
            "coolant": coolant_k + _COOLANT_SENSOR_K * noise[0],
            "temp": state[TEMPERATURE] + self._noise_k * noise[1],
        }
        return [self._measured(kind, float(value), at_ns) for kind, value in values.items()]

    def _measured(self, kind: Kind, value: float, at_ns: int) -> Measurement:
        return Measurement(
            kind=kind, sensor_id=f"reactor.{kind}", value=value, measured_at_ns=at_ns, sequence=self._sequence
        )

    @property
    def concentration(self) -> float:
        """What nobody measures [mol/m3]; 0 before the first step."""
        return 0.0 if self._model is None else self._model.state[CONCENTRATION]


async def run_plant(
    settings: ReactorSettings,
    *,
    process: Process,
    rng: np.random.Generator,
    fouling: Fouling | None = None,
    rate_hz: float,
    stop: asyncio.Event,
    now_ns: Callable[[], int] = time.time_ns,
) -> int:
    """Publish what a plant measures until `stop` is set, and return how many messages that were.

    Flow and coolant are sent once a second. While the broker is away, or nobody has made the stream yet, messages wait
    and are then sent with the time at which they were measured.

    Args:
        settings: Where the broker is, and the names of subjects and stream.
        process: The reactor.
        rng: Draws noise and wandering.
        fouling: What goes wrong with the plant.
        rate_hz: Temperatures in a second.
        stop: Ends it.
        now_ns: The clock of the sensors.

    Raises:
        MessagingError: The broker cannot be used as it is set up.
    """
    subjects = Subjects(prefix=checked_prefix(settings.reactor_prefix))
    broker = Broker(settings.nats_url, shown_url=settings.shown_url, name="reactor-plant")
    plant = Plant(process, rng=rng, fouling=fouling)
    sent = 0

    async def work() -> None:
        nonlocal sent
        units = plant_units(process)
        await broker.connect()
        began_ns, began_s = now_ns(), time.monotonic()
        for count in itertools.count():
            await asyncio.sleep(max(0.0, began_s + plant.time_s - time.monotonic()))
            at_ns = began_ns + round(1e9 * plant.time_s)
            for measurement in plant.step(1.0 / rate_hz, at_ns=at_ns):
                if measurement.kind == "temp" or count % math.ceil(rate_hz) == 0:
                    await send(broker, subjects, measurement, unit=units[measurement.kind])
                    sent += 1

    working = asyncio.ensure_future(work())
    stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        return sent
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        await broker.close()


async def send(broker: Broker, subjects: Subjects, measurement: Measurement, *, unit: str) -> None:
    """Store a measurement in the reactor's stream, once, waiting for the broker for as long as it takes."""
    payload = encode_measurement(measurement, unit=unit, source=SOURCE)
    message_id = f"{measurement.sensor_id}:{measurement.measured_at_ns}:{measurement.sequence}"

    async def attempt() -> None:
        subject = f"{subjects.prefix}.{measurement.kind}"
        await broker.jetstream.publish(subject, payload, headers={"Nats-Msg-Id": message_id})

    await broker.persist(attempt)


def plant_units(process: Process) -> dict[Kind, str]:
    """The unit of each kind of measurement."""
    flow = next(variable.unit for variable in process.parameters if variable.name == FLOW)
    temperature = next(variable.unit for variable in process.states if variable.name == TEMPERATURE)
    return {"temp": temperature, "flow": flow, "coolant": process.control.unit}
