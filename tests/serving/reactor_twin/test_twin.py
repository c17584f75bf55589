"""The twin without a broker: what it predicts, what it learns, and what it does not."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from features.errors import UnknownNameError
from serving.reactor_twin.measurements import Kind, Measurement
from serving.reactor_twin.plant import Fouling, Plant
from serving.reactor_twin.settings import ReactorSettings
from serving.reactor_twin.twin import Answer, ReactorTwin
from sim_env.process import PROCESSES
from sim_env.process.system import ConvergenceError, Process

REACTOR = PROCESSES["reactor"]
STEADY_K, STEADY_CONCENTRATION = 324.475443431599, 877.25294608097


def _measured(at_s: float, value: float, kind: Kind = "temp") -> Measurement:
    return Measurement(kind=kind, sensor_id="probe", value=value, measured_at_ns=round(1e9 * at_s), sequence=0)


@pytest.fixture
def make_twin(native_reactor: Callable[..., Process]) -> Iterator[Callable[..., ReactorTwin]]:
    made = []

    def make(process: Process | None = None, **settings: Any) -> ReactorTwin:
        twin = ReactorTwin(process or native_reactor(), ReactorSettings(**settings))
        made.append(twin)
        twin.start()
        return twin

    yield make
    for twin in made:
        twin.close()


def _follow(twin: ReactorTwin, plant: Plant, *, seconds: int) -> list[Answer]:
    answers = []
    for _ in range(seconds):
        flow, coolant, temp = plant.step(1.0, at_ns=round(1e9 * (plant.time_s + 1.0)))
        twin.take_input(flow)
        twin.take_input(coolant)
        answers.append(twin.take_temperature(temp))
    return answers


def test_gekko_and_the_native_model_tell_the_same_story(
    make_twin: Callable[..., ReactorTwin],
) -> None:
    """With GEKKO as the living model: its predictions are those of the compiled equations."""
    twins = [make_twin(REACTOR), make_twin()]
    for second, coolant_k in enumerate((300.0, 302.0, 302.0, 298.0, 298.0, 300.0)):
        answers = []
        for twin in twins:
            twin.take_input(_measured(second, coolant_k, "coolant"))
            answers.append(twin.take_temperature(_measured(second, 324.5 + 0.1 * second)))
        assert answers[0].predicted_temp_k == pytest.approx(answers[1].predicted_temp_k, abs=5e-3)
        assert answers[0].predicted_concentration == pytest.approx(answers[1].predicted_concentration, abs=0.1)
        assert answers[0].ideal_temp_k == pytest.approx(answers[1].ideal_temp_k, abs=1e-9)
    assert answers[0].solve_ms > 0


def test_the_first_temperature_begins_a_life_in_balance(make_twin: Callable[..., ReactorTwin]) -> None:
    twin = make_twin()
    first = twin.take_temperature(_measured(0.0, STEADY_K))
    assert (first.predicted_temp_k, first.deviation_k) == (STEADY_K, 0.0)
    assert first.predicted_concentration == pytest.approx(STEADY_CONCENTRATION, rel=1e-5)
    assert "first temperature" in first.begun_anew
    assert not first.certain
    later = twin.take_temperature(_measured(300.0, STEADY_K))
    assert later.predicted_temp_k == pytest.approx(STEADY_K, abs=1e-3)


def test_a_prediction_is_made_before_the_measurement_is_taken_in(make_twin: Callable[..., ReactorTwin]) -> None:
    surprised, calm = make_twin(), make_twin()
    for twin in (surprised, calm):
        twin.take_temperature(_measured(0.0, STEADY_K))
    there = surprised.take_temperature(_measured(1.0, STEADY_K + 3.0))
    here = calm.take_temperature(_measured(1.0, STEADY_K))
    assert there.predicted_temp_k == here.predicted_temp_k
    # After a second at 0.1/s a share of 1 - exp(-0.1) is taken in.
    learnt = surprised.state().living["T"] - calm.state().living["T"]
    assert learnt == pytest.approx(3.0 * (1.0 - np.exp(-0.1)), rel=1e-6)
    assert surprised.state().ideal == calm.state().ideal


def test_learning_does_not_depend_on_how_often_is_measured(make_twin: Callable[..., ReactorTwin]) -> None:
    often, seldom = make_twin(), make_twin()
    for twin, step_s in ((often, 0.1), (seldom, 1.0)):
        for count in range(round(20 / step_s) + 1):
            twin.take_temperature(_measured(count * step_s, STEADY_K + (2.0 if count else 0.0)))
    assert often.state().living["T"] == pytest.approx(seldom.state().living["T"], abs=0.05)


def test_a_fault_stays_visible_in_the_deviation_while_the_living_model_follows(
    make_twin: Callable[..., ReactorTwin],
) -> None:
    twin = make_twin()
    fouling = Fouling(begins_s=60.0, lasts_s=30.0, loss=0.06)
    plant = Plant(REACTOR, rng=np.random.default_rng(3), noise_k=0.1, fouling=fouling)
    answers = _follow(twin, plant, seconds=360)
    healthy, faulty = answers[20:60], answers[-60:]
    assert max(abs(answer.deviation_k) for answer in healthy) < 1.0
    assert min(answer.deviation_k for answer in faulty) > 2.0
    surprise = [answer.deviation_k + answer.ideal_temp_k - answer.predicted_temp_k for answer in faulty]
    assert abs(np.mean(surprise)) < 0.7, "the living model did not follow"
    assert [answer.change for answer in answers if answer.change] == ["raised"]
    assert twin.raised


def test_flow_and_coolant_drive_both_models(make_twin: Callable[..., ReactorTwin]) -> None:
    twin = make_twin(reactor_correction_per_s=0.0)
    twin.take_temperature(_measured(0.0, STEADY_K))
    before = twin.take_temperature(_measured(1.0, STEADY_K))
    assert not before.certain, "no input was measured yet"
    twin.take_input(_measured(1.0, 295.0, "coolant"))
    cooled = twin.take_temperature(_measured(31.0, STEADY_K))
    assert cooled.predicted_temp_k < before.predicted_temp_k - 1.0
    assert cooled.ideal_temp_k == pytest.approx(cooled.predicted_temp_k, abs=1e-9)
    twin.take_input(_measured(31.0, 2.0, "flow"))
    flooded = twin.take_temperature(_measured(61.0, STEADY_K))
    assert flooded.predicted_concentration > cooled.predicted_concentration
    assert flooded.certain


def test_a_gap_is_bridged_in_steps_and_a_long_one_begins_anew(
    make_twin: Callable[..., ReactorTwin], native_reactor: Callable[..., Any]
) -> None:
    reactor = native_reactor()
    twin = make_twin(reactor, reactor_resync_after_s=5000.0)
    twin.take_temperature(_measured(0.0, STEADY_K))
    reactor.steps.clear()
    bridged = twin.take_temperature(_measured(1500.0, STEADY_K + 1.0))
    assert reactor.steps == [500.0, 500.0, 500.0]
    assert bridged.predicted_temp_k == pytest.approx(STEADY_K, abs=1e-2)
    assert not bridged.begun_anew
    anew = twin.take_temperature(_measured(7000.0, STEADY_K + 1.0))
    assert "no temperature for 5500 s" in anew.begun_anew
    assert anew.predicted_temp_k == STEADY_K + 1.0
    assert len(reactor.steps) == 3


def test_two_temperatures_within_a_millisecond_are_both_answered(make_twin: Callable[..., ReactorTwin]) -> None:
    twin = make_twin()
    twin.take_temperature(_measured(0.0, STEADY_K))
    first = twin.take_temperature(_measured(1.0, STEADY_K + 1.0))
    second = twin.take_temperature(_measured(1.0 + 1e-6, STEADY_K + 1.0))
    assert first.predicted_temp_k < second.predicted_temp_k < STEADY_K + 1.0


def test_a_solver_that_fails_costs_one_answer(
    make_twin: Callable[..., ReactorTwin], native_reactor: Callable[..., Any]
) -> None:
    reactor = native_reactor()
    twin = make_twin(reactor)
    twin.take_temperature(_measured(0.0, STEADY_K))

    def fail() -> None:
        raise ConvergenceError("No solution", remedy="None.")

    reactor.before_step = fail
    with pytest.raises(ConvergenceError):
        twin.take_temperature(_measured(1.0, STEADY_K))
    assert twin.state().at_ns is None, "who goes on from here must begin anew"
    reactor.before_step = lambda: None
    anew = twin.take_temperature(_measured(2.0, STEADY_K + 1.0))
    assert "could not be solved" in anew.begun_anew
    assert not twin.take_temperature(_measured(3.0, STEADY_K + 1.0)).begun_anew


def test_a_runaway_that_no_model_can_follow_is_a_failed_step_and_not_the_end(
    make_twin: Callable[..., ReactorTwin],
) -> None:
    """With GEKKO: a temperature at the upper bound, where the feed keeps the fire alive."""
    twin = make_twin(REACTOR, reactor_parameters={"reaction_heat": 1e5, "feed_concentration": 2000.0})
    twin.take_input(_measured(0.0, 5.0, "flow"))
    twin.take_temperature(_measured(0.0, 1500.0))
    answered = 0
    for second in range(1, 6):
        try:
            twin.take_temperature(_measured(float(second), 1400.0))
            answered += 1
        except ConvergenceError:
            continue
    assert answered > 0


def test_another_twin_goes_on_exactly_from_a_kept_state(make_twin: Callable[..., ReactorTwin]) -> None:
    plant = Plant(REACTOR, rng=np.random.default_rng(5), fouling=Fouling(begins_s=0.0, lasts_s=10.0, loss=0.3))
    first, second = make_twin(), make_twin()
    _follow(first, plant, seconds=30)
    second.restore(type(first.state()).model_validate_json(first.state().model_dump_json()))
    flow, coolant, temp = plant.step(1.0, at_ns=round(1e9 * (plant.time_s + 1.0)))
    answers = []
    for twin in (first, second):
        twin.take_input(flow)
        twin.take_input(coolant)
        answers.append(twin.take_temperature(temp))
    assert answers[0].predicted_temp_k == answers[1].predicted_temp_k
    assert answers[0].deviation_k == answers[1].deviation_k
    assert first.raised
    assert second.raised


def test_the_source_tells_reactors_apart_and_not_their_flows(make_twin: Callable[..., ReactorTwin]) -> None:
    twin = make_twin()
    before = twin.source
    twin.take_input(_measured(0.0, 2.0, "flow"))
    assert twin.source == before
    assert make_twin(reactor_parameters={"volume": 0.2}).source != before


def test_a_parameter_that_the_reactor_lacks_is_named(native_reactor: Callable[..., Process]) -> None:
    twin = ReactorTwin(native_reactor(), ReactorSettings(reactor_parameters={"heat_transfr": 800.0}))
    with pytest.raises(UnknownNameError, match="heat_transfer"):
        twin.start()
