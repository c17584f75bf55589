"""The twin at a real broker: every message is answered once, whatever comes and whoever goes."""

import asyncio
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.messages.sensor_data_pb2 import QUALITY_GOOD, QUALITY_UNCERTAIN, Alert
from serving.reactor_twin.broker import MessagingError
from serving.reactor_twin.health import ailment
from serving.reactor_twin.local_broker import LocalBroker
from serving.reactor_twin.measurements import Kind, Measurement
from serving.reactor_twin.service import LONGEST_DEAD_LETTER
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.stream import ReactorStream
from serving.reactor_twin.twin import ReactorTwin
from sim_env.process import PROCESSES
from sim_env.process.system import ConvergenceError

STEADY_K = 324.475443431599
Helper = Callable[..., Any]


def test_each_temperature_is_answered_with_what_gekko_expected(
    settings: ReactorSettings, running: Helper, plant_side: Helper, sensor_data: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with running(settings, PROCESSES["reactor"]) as twin, plant_side(settings.nats_url) as plant:
            await plant.raw("flow", sensor_data(100.0 / 60.0, at_s=0, kind="flow"))
            await plant.raw("coolant", sensor_data(300.0, at_s=0, kind="coolant"))
            for second in range(5):
                await plant.temp(STEADY_K + 0.5, at_s=second, sequence=second + 1)
            await until(lambda: twin.tally.predictions == 5)
            predicted = [message.data for message in await plant.stored("temp.predicted")]
            assert [message.sequence for message in predicted] == [1, 2, 3, 4, 5]
            assert [message.valid_at.seconds for message in predicted] == [1_790_000_000 + s for s in range(5)]
            assert {message.timestamp.seconds for message in predicted} == {1_790_010_000}
            assert {message.unit for message in predicted} == {"K"}
            assert predicted[0].quality == QUALITY_UNCERTAIN
            assert predicted[-1].quality == QUALITY_GOOD
            assert predicted[0].source.startswith("sim:gekko:reactor@")
            assert abs(predicted[-1].value - STEADY_K) < 1.0
            concentrations = [message.data for message in await plant.stored("concentration.predicted")]
            assert {message.unit for message in concentrations} == {"mol/m3"}
            assert all(800.0 < message.value < 950.0 for message in concentrations)
            ideal = [message.data.value for message in await plant.stored("temp.ideal")]
            deviations = [message.data.value for message in await plant.stored("temp.deviation")]
            assert deviations == pytest.approx([STEADY_K + 0.5 - value for value in ideal])
            assert twin.tally.inputs == 2
            assert twin.tally.figures()["solve_p99_ms"] > 0

    asyncio.run(work())


def test_what_cannot_be_used_is_kept_with_its_reason_and_the_next_is_served(
    settings: ReactorSettings, running: Helper, plant_side: Helper, sensor_data: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with running(settings) as twin, plant_side(settings.nats_url) as plant:
            garbage = b"\xff" * (LONGEST_DEAD_LETTER + 1)
            await plant.raw("temp", garbage)
            await plant.raw("temp", sensor_data(float("nan"), at_s=0))
            await plant.raw("temp", sensor_data(51.0, at_s=0, unit="degC"))
            await plant.raw("temp", sensor_data(STEADY_K, at_s=10**8))
            await plant.raw("pressure", sensor_data(1.0, at_s=0))
            await plant.temp(STEADY_K, at_s=0, sequence=6)
            await until(lambda: twin.tally.predictions == 1)
            assert twin.tally.dead_letters == 5
            assert await plant.answered() == [6]
            letters = await plant.stored("deadletter")
            reasons = [letter.headers["Towncast-Reason"] for letter in letters]
            expected = ("no SensorData", "not finite", "another unit", "in the future", "Nothing that the twin knows")
            assert all(part in reason for part, reason in zip(expected, reasons, strict=True)), reasons
            subjects = [letter.headers["Towncast-Subject"].rpartition(".")[2] for letter in letters]
            assert subjects == ["temp", "temp", "temp", "temp", "pressure"]
            assert letters[0].payload == garbage[:LONGEST_DEAD_LETTER]
            assert letters[0].headers["Towncast-Length"] == str(len(garbage))
            assert letters[2].data.value == 51.0
            # The consumer's filter lets them through: they are not eaten again.
            await until(lambda: twin.tally.passed_over == 5)

    asyncio.run(work())


def test_repeated_and_overtaken_messages_do_not_disturb_the_model(
    settings: ReactorSettings, running: Helper, plant_side: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with running(settings) as twin, plant_side(settings.nats_url) as plant:
            for second, sequence in ((0, 1), (1, 2), (1, 2), (3, 4), (2, 3), (2, 3), (4, 5)):
                await plant.temp(STEADY_K + (50.0 if sequence == 3 else 0.0), at_s=second, sequence=sequence)
            await until(lambda: twin.tally.received == 7 and twin.tally.predictions == 4)
            assert (twin.tally.late, twin.tally.duplicates, twin.tally.dead_letters) == (1, 2, 0)
            assert await plant.answered() == [1, 2, 4, 5]
            assert twin.tally.deviation_k == pytest.approx(0.0, abs=0.01)

    asyncio.run(work())


def test_a_solver_that_fails_costs_one_message(
    settings: ReactorSettings, native_reactor: Helper, running: Helper, plant_side: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with running(settings, reactor) as twin, plant_side(settings.nats_url) as plant:
            await plant.temp(STEADY_K, at_s=0, sequence=1)
            await until(lambda: twin.tally.predictions == 1)
            reactor.before_step = fail
            await plant.temp(STEADY_K, at_s=1, sequence=2)
            await until(lambda: twin.tally.dead_letters == 1)
            reactor.before_step = lambda: None
            await plant.temp(STEADY_K, at_s=2, sequence=3)
            await until(lambda: twin.tally.predictions == 2)
            assert await plant.answered() == [1, 3]
            (letter,) = await plant.stored("deadletter")
            assert "No solution" in letter.headers["Towncast-Reason"]
            assert twin.tally.begun_anew == 2

    def fail() -> None:
        raise ConvergenceError("No solution", remedy="None.")

    reactor = native_reactor()
    asyncio.run(work())


def test_a_deviation_raises_an_alert_and_clears_it(
    settings: ReactorSettings, running: Helper, plant_side: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with running(settings) as twin, plant_side(settings.nats_url) as plant:
            for second in range(20):
                hot = 4 <= second < 12
                await plant.temp(STEADY_K + (3.0 if hot else 0.0), at_s=second, sequence=second + 1)
            await until(lambda: twin.tally.predictions == 20)
            raised, cleared = [Alert.FromString(message.payload) for message in await plant.stored("alert")]
            assert (raised.state, cleared.state) == (Alert.STATE_RAISED, Alert.STATE_CLEARED)
            assert raised.value == pytest.approx(3.0, abs=0.05)
            assert (raised.threshold, cleared.threshold) == (2.0, 1.0)
            assert raised.valid_at.seconds == 1_790_000_000 + 4 + settings.reactor_alert_messages - 1
            assert cleared.valid_at.seconds == 1_790_000_012
            assert "beyond 2 K" in raised.text
            assert (twin.tally.alerts, twin.tally.alert_raised) == (1, False)

    asyncio.run(work())


def test_a_solve_does_not_hold_up_the_loop(
    settings: ReactorSettings, native_reactor: Helper, running: Helper, plant_side: Helper, until: Helper
) -> None:
    """The solver waits for the loop to do something else: were the loop waiting for the solver, neither would end."""

    async def work() -> None:
        async with running(settings, reactor) as twin, plant_side(settings.nats_url) as plant:
            await plant.temp(STEADY_K, at_s=0)
            await until(lambda: twin.tally.predictions == 1)
            reactor.before_step = solve
            await plant.temp(STEADY_K, at_s=1)
            await until(solving.is_set)
            turned.set()
            await until(lambda: twin.tally.predictions == 2)

    solving, turned = threading.Event(), threading.Event()

    def solve() -> None:
        solving.set()
        assert turned.wait(30), "the loop did not turn while the model was solved"

    reactor = native_reactor()
    asyncio.run(work())


def test_nothing_is_lost_or_answered_twice_when_the_broker_is_killed(
    broker: LocalBroker,
    settings: ReactorSettings,
    running: Helper,
    plant_side: Helper,
    sensor_data: Helper,
    until: Helper,
) -> None:
    total = 40

    async def work() -> None:
        async with running(settings) as twin, plant_side(settings.nats_url) as plant:
            sending = asyncio.ensure_future(send(plant))
            for after in (10, 25):
                await until(lambda after=after: twin.tally.predictions >= after)
                broker.kill()
                await asyncio.sleep(0.3)
                await asyncio.to_thread(broker.start)
            await sending
            await until(lambda: twin.tally.predictions == total)
            assert await plant.answered() == list(range(1, total + 1))
            for end in ("concentration.predicted", "temp.ideal", "temp.deviation"):
                assert [message.data.sequence for message in await plant.stored(end)] == list(range(1, total + 1))
            assert twin.tally.begun_anew == 1

    async def send(plant: Any) -> None:
        """A gateway that repeats what it was not told is stored, under the same id."""
        for sequence in range(1, total + 1):
            payload = sensor_data(STEADY_K, at_s=sequence, sequence=sequence)
            while True:
                try:
                    await plant.jetstream.publish(
                        "enterprise.site.area.line.reactor.temp",
                        payload,
                        timeout=0.5,
                        headers={"Nats-Msg-Id": f"probe:{sequence}"},
                    )
                    break
                except Exception as error:
                    logging.getLogger(__name__).debug("sending again: %s", error)
                    await asyncio.sleep(0.05)

    asyncio.run(work())


def test_a_twin_that_is_started_again_goes_on_where_it_was(
    settings: ReactorSettings,
    native_reactor: Helper,
    running: Helper,
    plant_side: Helper,
    sensor_data: Helper,
    until: Helper,
) -> None:
    async def work() -> None:
        async with plant_side(settings.nats_url) as plant:
            async with running(settings) as first:
                await plant.raw("coolant", sensor_data(301.0, at_s=0, kind="coolant"))
                for second in range(3):
                    await plant.temp(STEADY_K + 3.0, at_s=second, sequence=second + 1)
                await until(lambda: first.tally.predictions == 3)
            for second in range(3, 6):
                await plant.temp(STEADY_K + 3.0, at_s=second, sequence=second + 1)
            # What was late stays late.
            await plant.temp(STEADY_K, at_s=1, sequence=99)
            async with running(settings) as second_twin:
                await until(lambda: second_twin.tally.received == 4 and second_twin.tally.late == 1)
                assert second_twin.tally.begun_anew == 0
                assert second_twin.tally.predictions == 3
            assert await plant.answered() == [1, 2, 3, 4, 5, 6]
            said = [message.data.value for message in await plant.stored("temp.predicted")]
            assert said == pytest.approx(never_stopped(), abs=1e-9)

    def never_stopped() -> list[float]:
        twin = ReactorTwin(native_reactor(), settings)
        twin.start()
        twin.take_input(measured("coolant", 0, 301.0))
        return [twin.take_temperature(measured("temp", s, STEADY_K + 3.0)).predicted_temp_k for s in range(6)]

    def measured(kind: Kind, second: int, value: float) -> Measurement:
        return Measurement(kind=kind, sensor_id="", value=value, measured_at_ns=second * 10**9, sequence=0)

    asyncio.run(work())


def test_a_crash_between_answer_and_acknowledgement_gives_no_second_answer(
    settings: ReactorSettings,
    running: Helper,
    plant_side: Helper,
    until: Helper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also after the broker has forgotten the ids of messages: its window is a tenth of a second here."""
    settings = settings.model_copy(update={"reactor_duplicate_window_s": 0.1})

    async def crash(stream: ReactorStream, memory: bytes) -> None:
        raise MessagingError("The power is gone", remedy="Wait.")

    async def answer_one(plant: Any) -> None:
        async with running(settings) as crashed:
            await plant.temp(STEADY_K, at_s=1, sequence=2)
            await until(lambda: crashed.tally.predictions == 1)

    async def work() -> None:
        async with plant_side(settings.nats_url) as plant:
            async with running(settings) as first:
                await plant.temp(STEADY_K, at_s=0, sequence=1)
                await until(lambda: first.tally.predictions == 1)
            with monkeypatch.context() as patch:
                patch.setattr(ReactorStream, "remember", crash)
                with pytest.raises(MessagingError, match="power"):
                    await answer_one(plant)
                # Longer than the broker remembers ids.
                await asyncio.sleep(0.2)
            await plant.temp(STEADY_K, at_s=2, sequence=3)
            async with running(settings) as third:
                await until(lambda: third.tally.predictions == 2)
            assert await plant.answered() == [1, 2, 3]
            assert len(await plant.stored("temp.deviation")) == 3

    asyncio.run(work())


def test_a_broker_that_lost_its_store_is_used_anew(
    broker: LocalBroker,
    settings: ReactorSettings,
    running: Helper,
    plant_side: Helper,
    until: Helper,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with running(settings) as twin:
            async with plant_side(settings.nats_url) as plant:
                for second in range(3):
                    await plant.temp(STEADY_K, at_s=second, sequence=second + 1)
                await until(lambda: twin.tally.predictions == 3)
            broker.kill()
            shutil.rmtree(Path(broker.folder) / "store")
            await asyncio.to_thread(broker.start)
            await until(lambda: "was made anew" in caplog.text)
            async with plant_side(settings.nats_url) as plant:
                for second in range(3, 6):
                    await plant.temp(STEADY_K, at_s=second, sequence=second + 1)
                await until(lambda: twin.tally.predictions == 6)
                assert await plant.answered() == [4, 5, 6]
                assert twin.tally.begun_anew == 1, "the living model need not forget"

    asyncio.run(work())


def test_of_two_twins_on_one_consumer_one_gives_way(
    settings: ReactorSettings, running: Helper, plant_side: Helper, until: Helper
) -> None:
    async def work() -> None:
        async with plant_side(settings.nats_url) as plant, running(settings) as first, running(settings) as second:
            for sequence in range(1, 11):
                await plant.temp(STEADY_K, at_s=sequence, sequence=sequence)
            await until(lambda: first.tally.predictions + second.tally.predictions >= 11)
            assert await plant.answered() == list(range(1, 11))

    with pytest.raises(MessagingError, match="Another twin"):
        asyncio.run(work())


def test_a_broker_without_a_store_is_refused_with_the_remedy(tmp_path: Path, running: Helper) -> None:
    async def work(url: str) -> None:
        async with running(ReactorSettings(nats_url=url)):
            pass

    with LocalBroker(tmp_path, jetstream=False) as bare, pytest.raises(MessagingError, match="-js -sd"):
        asyncio.run(work(bare.url))


def test_a_broker_that_does_not_know_us_is_told_without_the_password(tmp_path: Path, running: Helper) -> None:
    async def work(url: str) -> None:
        async with running(ReactorSettings(nats_url=url.replace("://", "://plant:wrong@"))):
            pass

    options = ("--user", "plant", "--pass", "right")
    with LocalBroker(tmp_path, options=options) as closed, pytest.raises(MessagingError, match="let us in") as told:
        asyncio.run(work(closed.url))
    assert "wrong" not in str(told.value)


def test_names_that_are_taken_for_something_else_are_told(
    settings: ReactorSettings, running: Helper, plant_side: Helper
) -> None:
    async def work() -> None:
        async with plant_side(settings.nats_url) as plant:
            await plant.jetstream.add_stream(name="reactor", subjects=["something.else"])
            with pytest.raises(MessagingError, match="TOWNCAST_REACTOR_STREAM"):
                async with running(settings):
                    pass
            await plant.jetstream.update_stream(name="reactor", subjects=["enterprise.site.area.line.reactor.temp"])
            with pytest.raises(MessagingError, match="not all kept by one stream"):
                async with running(settings):
                    pass
            await plant.jetstream.update_stream(name="reactor", subjects=["enterprise.>"])
            await plant.jetstream.add_consumer("reactor", durable_name="reactor-twin", ack_policy="none")
            with pytest.raises(MessagingError, match="does something else"):
                async with running(settings):
                    pass
            await plant.jetstream.delete_consumer("reactor", "reactor-twin")
            async with running(settings) as twin:
                assert not twin.tally.received

    asyncio.run(work())


def test_a_twin_that_is_alive_says_so_in_its_file(
    settings: ReactorSettings, running: Helper, until: Helper, tmp_path: Path
) -> None:
    status_file = tmp_path / "status" / "twin.json"
    assert "there is no" in ailment(status_file, now_s=0.0)

    async def work() -> None:
        async with running(settings.model_copy(update={"reactor_status_file": status_file})):
            await until(status_file.exists)
            renewed_s = status_file.stat().st_mtime
            assert ailment(status_file, now_s=renewed_s + 5.0) == ""
            assert "not renewed for 60 s" in ailment(status_file, now_s=renewed_s + 60.0)

    asyncio.run(work())
    assert "TOWNCAST_REACTOR_STATUS_FILE" in ailment(None, now_s=0.0)
