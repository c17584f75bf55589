"""The twin at work: each message of the plant is answered once, and the loop never waits for a solver."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from nats.aio.msg import Msg
from pydantic import BaseModel, ConfigDict, ValidationError

from features.errors import TowncastError
from features.files import whole_file
from serving.reactor_twin.arrivals import Arrivals
from serving.reactor_twin.broker import Broker
from serving.reactor_twin.measurements import (
    Computed,
    Kind,
    Measurement,
    RefusedMessageError,
    decode,
    encode_alert,
    encode_computed,
)
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.stream import (
    LENGTH_HEADER,
    REASON_HEADER,
    SUBJECT_HEADER,
    ReactorStream,
    StreamIdentity,
)
from serving.reactor_twin.subjects import Subjects, checked_prefix
from serving.reactor_twin.tally import Tally
from serving.reactor_twin.twin import Answer, ReactorTwin, TwinState
from sim_env.process.system import ConvergenceError, Process

_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")
_GRACE_S = 5.0
_STATUS_EVERY_S = 1.0
# A dead letter with its headers must fit where the message itself did.
LONGEST_DEAD_LETTER = 65536


class Memory(BaseModel):
    """What is kept on the broker after each message, so that another twin goes on from there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stream: str
    created: str
    sequence: int
    newest_ns: dict[Kind, int]
    twin: TwinState


class ReactorService:
    """One reactor's twin between the plant's messages and its own. The constructor connects and solves nothing.

    Args:
        settings: Broker, names, thresholds.
        process: The reactor.
        now_ns: The clock that publications carry, in UTC since 1970 [ns].

    Attributes:
        tally: What it did so far.
        opened: Set once it is connected and takes messages.
    """

    def __init__(
        self, settings: ReactorSettings, *, process: Process, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.tally = Tally()
        self.opened = asyncio.Event()
        self.settings = settings
        self.subjects = Subjects(prefix=checked_prefix(settings.reactor_prefix))
        self._now_ns = now_ns
        self._twin = ReactorTwin(process, settings)
        self._expected = self._twin.expected
        self._arrivals = Arrivals()
        self._broker = Broker(settings.nats_url, shown_url=settings.shown_url, name=settings.reactor_durable)
        self._stream = ReactorStream(self._broker, self.subjects, settings)
        self._identity: StreamIdentity | None = None
        self._done = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reactor-model")

    async def run(self, stop: asyncio.Event) -> None:
        """Answer messages until `stop` is set; the message in hand is finished, the models are closed.

        Raises:
            MessagingError: The broker cannot be used as it is set up.
            UnknownNameError: The settings name a parameter that the reactor has not.
            InvalidParameterError: A parameter cannot be.
        """
        working = asyncio.create_task(self._work(stop), name="reactor-twin")
        telling = asyncio.create_task(self._tell(), name="reactor-status")
        stopping = asyncio.create_task(stop.wait(), name="reactor-stop")
        tasks: set[asyncio.Task[Any]] = {working, telling, stopping}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                # Where the broker is away it cannot be finished: it comes again.
                await asyncio.wait({working}, timeout=_GRACE_S)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    async def _work(self, stop: asyncio.Event) -> None:
        await self._in_worker(self._twin.start)
        await self._broker.connect()
        await self._stream.open()
        self._identity = self._stream.identity
        await self._recall(await self._stream.recall())
        self.opened.set()
        while not stop.is_set():
            message = await self._next_message(stop)
            if self._stream.identity != self._identity:
                await self._begin_stream()
            if message is not None:
                await self._handle(message)

    async def _next_message(self, stop: asyncio.Event) -> Msg | None:
        """The next message; None where there is none yet, or `stop` was set meanwhile."""
        fetching = asyncio.ensure_future(self._stream.next_message())
        stopping = asyncio.ensure_future(stop.wait())
        tasks: set[asyncio.Future[Any]] = {fetching, stopping}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return fetching.result() if fetching.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin_stream(self) -> None:
        """Count from the beginning: the broker came back without what it had kept, and the stream was made anew."""
        self._identity = self._stream.identity
        _LOG.warning("The stream %s was made anew; what was in it is gone", self._identity.name)
        self._done = 0
        await self._stream.recall()

    async def _recall(self, stored: bytes | None) -> None:
        if stored is None:
            return
        try:
            memory = Memory.model_validate_json(stored)
            await self._in_worker(self._twin.restore, memory.twin)
        except (ValidationError, TowncastError) as error:
            _LOG.warning("The twin's memory cannot be used, so it begins anew: %s", error)
            return
        self._arrivals = Arrivals(memory.newest_ns)
        self.tally.alert_raised = self._twin.raised
        if (memory.stream, memory.created) == (self._stream.identity.name, self._stream.identity.created):
            self._done = memory.sequence
        _LOG.info("Going on after message %d", self._done)

    async def _handle(self, message: Msg) -> None:
        """Answer a message and acknowledge it, in that order."""
        began = time.perf_counter()
        sequence = message.metadata.sequence.stream
        self.tally.received += 1
        kind = self._kind(message.subject)
        if kind is None and message.subject in self.subjects.written:
            self.tally.passed_over += 1
        elif sequence <= self._done:
            self.tally.redelivered += 1
        else:
            await self._take(message, kind, sequence)
            self._done = sequence
            await self._remember()
        await self._broker.acknowledge(message)
        if kind == "temp":
            self.tally.answer_ms.append(1e3 * (time.perf_counter() - began))

    def _kind(self, subject: str) -> Kind | None:
        kinds: dict[str, Kind] = {
            self.subjects.temp: "temp",
            self.subjects.flow: "flow",
            self.subjects.coolant: "coolant",
        }
        return kinds.get(subject)

    async def _take(self, message: Msg, kind: Kind | None, sequence: int) -> None:
        try:
            measurement = self._decode(message, kind)
            arrival = self._arrivals.judge(measurement)
            if arrival == "new":
                await self._use(measurement, sequence)
            elif arrival == "late":
                self.tally.late += 1
            else:
                self.tally.duplicates += 1
        except (RefusedMessageError, ConvergenceError) as error:
            await self._bury(message, error, sequence)

    def _decode(self, message: Msg, kind: Kind | None) -> Measurement:
        """The measurement in a message.

        Raises:
            RefusedMessageError: It is none.
        """
        if kind is None:
            raise RefusedMessageError(
                "Nothing that the twin knows is measured on this subject",
                found=message.subject,
                remedy=f"Publish on {self.subjects.temp}, {self.subjects.flow} or {self.subjects.coolant}.",
            )
        latest_ns = self._now_ns() + int(1e9 * self.settings.reactor_clock_tolerance_s)
        return decode(message.data, kind, self._expected[kind], latest_ns=latest_ns)

    async def _use(self, measurement: Measurement, sequence: int) -> None:
        """Tell the models of a new measurement, and the plant what they say to it.

        Raises:
            ConvergenceError: They could not be solved.
        """
        if measurement.kind != "temp":
            await self._in_worker(self._twin.take_input, measurement)
            self.tally.inputs += 1
            return
        answer = await self._in_worker(self._twin.take_temperature, measurement)
        if answer.begun_anew:
            _LOG.warning("The models begin from %.2f K: %s", measurement.value, answer.begun_anew)
        await self._publish(measurement, answer, sequence)
        self._count(measurement, answer)

    async def _publish(self, measurement: Measurement, answer: Answer, sequence: int) -> None:
        now_ns, name = self._now_ns(), self._twin.process.name
        values = (
            (self.subjects.predicted_temp, "temp.predicted", answer.predicted_temp_k, "K"),
            (
                *(self.subjects.predicted_concentration, "concentration.predicted"),
                *(answer.predicted_concentration, self._twin.concentration_unit),
            ),
            (self.subjects.ideal_temp, "temp.ideal", answer.ideal_temp_k, "K"),
            (self.subjects.deviation, "temp.deviation", answer.deviation_k, "K"),
        )
        source = self._twin.source
        letters = {
            subject: encode_computed(
                Computed(name=f"{name}.{what}", value=value, unit=unit, certain=answer.certain),
                answered=measurement,
                published_at_ns=now_ns,
                source=source,
            )
            for subject, what, value, unit in values
        }
        if answer.change is not None:
            letters[self.subjects.alert] = encode_alert(
                name=f"{name}.temp.deviation",
                raised=answer.change == "raised",
                value=answer.deviation_k,
                threshold=self._twin.threshold_k(answer.change),
                unit="K",
                measured_at_ns=measurement.measured_at_ns,
                published_at_ns=now_ns,
            )
        for subject, letter in letters.items():
            await self._stream.answer(subject, letter, to=sequence)

    def _count(self, measurement: Measurement, answer: Answer) -> None:
        tally = self.tally
        tally.predictions += 1
        tally.begun_anew += bool(answer.begun_anew)
        tally.alerts += answer.change == "raised"
        tally.alert_raised = self._twin.raised
        tally.measured_k, tally.predicted_k = measurement.value, answer.predicted_temp_k
        tally.deviation_k, tally.concentration = answer.deviation_k, answer.predicted_concentration
        if not answer.begun_anew:
            tally.solve_ms.append(answer.solve_ms)

    async def _bury(self, message: Msg, error: TowncastError, sequence: int) -> None:
        """Put a message that cannot be used to the dead letters, with the reason."""
        _LOG.warning("Message %d on %s goes to the dead letters: %s", sequence, message.subject, error)
        headers = {
            REASON_HEADER: _header_text(str(error)),
            SUBJECT_HEADER: message.subject,
            LENGTH_HEADER: str(len(message.data)),
        }
        letter = message.data[:LONGEST_DEAD_LETTER]
        await self._stream.answer(self.subjects.deadletter, letter, to=sequence, headers=headers)
        self.tally.dead_letters += 1

    async def _remember(self) -> None:
        assert self._identity is not None, "open the stream first"
        memory = Memory(
            stream=self._identity.name,
            created=self._identity.created,
            sequence=self._done,
            newest_ns=self._arrivals.newest_ns,
            twin=self._twin.state(),
        )
        await self._stream.remember(memory.model_dump_json().encode())

    async def _in_worker(self, call: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, call, *arguments)

    async def _tell(self) -> None:
        """Renew the status file for as long as the loop turns."""
        while True:
            self.tally.connected = self._broker.connected
            if self.settings.reactor_status_file is not None:
                with whole_file(self.settings.reactor_status_file) as path:
                    path.write_text(json.dumps(self.tally.figures()), encoding="utf-8")
            await asyncio.sleep(_STATUS_EVERY_S)

    async def _close(self) -> None:
        await self._in_worker(self._twin.close)
        self._worker.shutdown()
        await self._broker.flush(timeout_s=1.0)
        await self._broker.close()


def _header_text(text: str) -> str:
    """`text` in one line of printable ASCII, which is what a header can hold."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:512]
