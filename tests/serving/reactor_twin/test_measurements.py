"""What a message must be to be believed, and which messages are news."""

import math
from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from serving.messages.sensor_data_pb2 import QUALITY_BAD, QUALITY_UNCERTAIN, SensorData
from serving.reactor_twin.alert import DeviationWatch
from serving.reactor_twin.arrivals import REMEMBERED, Arrivals
from serving.reactor_twin.measurements import (
    Computed,
    Measurement,
    RefusedMessageError,
    decode,
    encode_computed,
    encode_measurement,
)
from sim_env.process.system import Variable

TEMPERATURE = Variable(name="T", unit="K", default=324.0, lower=200.0, upper=1500.0, description="")
LATEST_NS = 2_000_000_000 * 10**9


def _measured(at_ns: int, *, sequence: int = 0, value: float = 324.0) -> Measurement:
    return Measurement(kind="temp", sensor_id="probe", value=value, measured_at_ns=at_ns, sequence=sequence)


def test_what_a_sensor_sends_is_what_arrives() -> None:
    sent = _measured(1_790_000_000_123_456_789, sequence=7, value=324.5)
    assert (
        decode(encode_measurement(sent, unit="K", source="sensor:x"), "temp", TEMPERATURE, latest_ns=LATEST_NS) == sent
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": math.nan}, "not finite"),
        ({"value": math.inf}, "not finite"),
        ({"value": 1e6}, "out of bounds"),
        ({"value": -1.0}, "out of bounds"),
        ({"unit": "degC"}, "another unit"),
        ({"unit": ""}, "another unit"),
        ({"quality": QUALITY_BAD}, "value is bad"),
        ({"timestamp": Timestamp(seconds=2_000_000_001)}, "in the future"),
        ({"timestamp": Timestamp(seconds=2**62)}, "in the future"),
        ({"timestamp": Timestamp(seconds=-5)}, "cannot be"),
        ({"timestamp": Timestamp(seconds=5, nanos=-1)}, "cannot be"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_reason(
    sensor_data: Callable[..., bytes], changes: dict[str, object], reason: str
) -> None:
    payload = sensor_data(**{"value": 324.0, "at_s": 0, **changes})
    with pytest.raises(RefusedMessageError, match=reason):
        decode(payload, "temp", TEMPERATURE, latest_ns=LATEST_NS)


def test_a_message_without_a_timestamp_is_refused() -> None:
    with pytest.raises(RefusedMessageError, match="no timestamp"):
        decode(SensorData(value=324.0, unit="K").SerializeToString(), "temp", TEMPERATURE, latest_ns=LATEST_NS)


@given(payload=st.binary(max_size=200))
def test_any_bytes_are_a_measurement_or_refused(payload: bytes) -> None:
    try:
        measured = decode(payload, "temp", TEMPERATURE, latest_ns=LATEST_NS)
    except RefusedMessageError:
        return
    assert TEMPERATURE.lower <= measured.value <= TEMPERATURE.upper


def test_a_prediction_says_what_it_answers_and_whether_it_is_certain() -> None:
    payload = encode_computed(
        Computed(name="reactor.temp.predicted", value=325.0, unit="K", certain=False),
        answered=_measured(5_000_000_001, sequence=9),
        published_at_ns=7_000_000_002,
        source="sim:gekko:reactor@00000000",
    )
    message = SensorData.FromString(payload)
    assert (message.sequence, message.quality, message.value) == (9, QUALITY_UNCERTAIN, 325.0)
    assert (message.valid_at.seconds, message.valid_at.nanos) == (5, 1)
    assert (message.timestamp.seconds, message.timestamp.nanos) == (7, 2)


def test_repeated_and_overtaken_messages_are_told_from_new_ones() -> None:
    arrivals = Arrivals()
    assert arrivals.judge(_measured(100, sequence=1)) == "new"
    assert arrivals.judge(_measured(100, sequence=1)) == "duplicate"
    assert arrivals.judge(_measured(300, sequence=3)) == "new"
    assert arrivals.judge(_measured(200, sequence=2)) == "late"
    assert arrivals.judge(_measured(200, sequence=2)) == "duplicate"
    assert arrivals.judge(_measured(300, sequence=4)) == "late"
    assert arrivals.newest_ns == {"temp": 300}


def test_a_sensor_that_counts_from_one_again_is_not_repeating_itself() -> None:
    arrivals = Arrivals()
    assert arrivals.judge(_measured(100, sequence=1)) == "new"
    assert arrivals.judge(_measured(200, sequence=1)) == "new"


def test_a_repetition_that_is_no_longer_remembered_is_late() -> None:
    arrivals = Arrivals()
    for moment in range(REMEMBERED + 2):
        arrivals.judge(_measured(moment, sequence=moment))
    assert arrivals.judge(_measured(0, sequence=0)) == "late"
    assert arrivals.judge(_measured(REMEMBERED, sequence=REMEMBERED)) == "duplicate"


def test_an_alert_needs_several_large_deviations_and_ends_with_a_small_one() -> None:
    watch = DeviationWatch(raise_k=2.0, clear_k=1.0, messages=3)
    told = [watch.judge(deviation) for deviation in (2.5, -2.5, 1.9, 2.1, -2.2, 2.3, 9.0, 1.5, -1.1, 0.9, 0.1, 5.0)]
    assert told == [None, None, None, None, None, "raised", None, None, None, "cleared", None, None]
