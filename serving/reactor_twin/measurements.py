"""From bytes to a measurement that can be trusted, and from what the twin computed to bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from features.errors import DataError
from serving.messages.sensor_data_pb2 import (
    QUALITY_BAD,
    QUALITY_GOOD,
    QUALITY_UNCERTAIN,
    Alert,
    SensorData,
)
from sim_env.process.system import Variable

Kind = Literal["temp", "flow", "coolant"]


class RefusedMessageError(DataError):
    """A message is no measurement that the model may be told; it belongs to the dead letters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One value from the plant, checked.

    Attributes:
        kind: What was measured.
        sensor_id: By whom.
        value: [unit of the kind].
        measured_at_ns: When, in UTC since 1970 [ns].
        sequence: The sensor's own count; 0 where it does not count.
    """

    kind: Kind
    sensor_id: str
    value: float
    measured_at_ns: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """One value from the twin, ready to be sent.

    Attributes:
        name: What it is, such as `reactor.temp.predicted`.
        value: [unit].
        unit: Its unit.
        certain: Whether it can be used without care.
    """

    name: str
    value: float
    unit: str
    certain: bool = True


def decode(payload: bytes, kind: Kind, expected: Variable, *, latest_ns: int) -> Measurement:
    """The measurement in a message.

    Args:
        payload: A `SensorData` message.
        kind: What the subject says that it is.
        expected: Its unit and bounds.
        latest_ns: Latest moment at which it can have been measured [ns].

    Raises:
        RefusedMessageError: It is malformed, says itself that it is bad, or its value, unit or time cannot be.
    """
    try:
        message = SensorData.FromString(payload)
    except DecodeError as error:
        raise RefusedMessageError(
            "The message is no SensorData",
            found=f"{len(payload)} bytes",
            remedy="Encode it by serving/messages/sensor_data.proto.",
        ) from error
    _check_value(message, expected)
    return Measurement(
        kind=kind,
        sensor_id=message.sensor_id,
        value=message.value,
        measured_at_ns=_checked_time(message, latest_ns),
        sequence=message.sequence,
    )


def _check_value(message: SensorData, expected: Variable) -> None:
    if message.unit != expected.unit:
        raise RefusedMessageError(
            "The message has another unit", found=repr(message.unit[:40]), remedy=f"Send it in {expected.unit!r}."
        )
    if message.quality == QUALITY_BAD:
        raise RefusedMessageError(
            "The sensor says that its value is bad", found=message.value, remedy="Look after the sensor."
        )
    if not math.isfinite(message.value):
        raise RefusedMessageError("The value is not finite", found=message.value, remedy="Look after the sensor.")
    if not expected.lower <= message.value <= expected.upper:
        raise RefusedMessageError(
            "The value is out of bounds",
            found=message.value,
            remedy=f"It must be {expected.lower:g} to {expected.upper:g} {expected.unit}: look after the sensor.",
        )


def _checked_time(message: SensorData, latest_ns: int) -> int:
    if not message.HasField("timestamp"):
        raise RefusedMessageError("The message has no timestamp", remedy="Say when the value was measured.")
    moment = message.timestamp
    at_ns = moment.seconds * 1_000_000_000 + moment.nanos
    if not 0 <= moment.nanos < 1_000_000_000 or at_ns < 0:
        raise RefusedMessageError(
            "The timestamp cannot be", found=f"{moment.seconds} s, {moment.nanos} ns", remedy="Set the sensor's clock."
        )
    # It would be the newest for years, and all that is true after it would come too late.
    if at_ns > latest_ns:
        raise RefusedMessageError(
            "The timestamp is in the future",
            found=f"{(at_ns - latest_ns) / 1e9:g} s later than can be",
            remedy="Set the sensor's clock.",
        )
    return at_ns


def timestamp(at_ns: int) -> Timestamp:
    """A moment as Protobuf writes it."""
    return Timestamp(seconds=at_ns // 1_000_000_000, nanos=at_ns % 1_000_000_000)


def encode_measurement(measurement: Measurement, *, unit: str, source: str) -> bytes:
    """A measurement as a sensor sends it."""
    return SensorData(
        sensor_id=measurement.sensor_id,
        value=measurement.value,
        unit=unit,
        timestamp=timestamp(measurement.measured_at_ns),
        quality=QUALITY_GOOD,
        sequence=measurement.sequence,
        source=source,
    ).SerializeToString()


def encode_computed(computed: Computed, *, answered: Measurement, published_at_ns: int, source: str) -> bytes:
    """What the twin computed for a measurement, with the moment of both."""
    return SensorData(
        sensor_id=computed.name,
        value=computed.value,
        unit=computed.unit,
        timestamp=timestamp(published_at_ns),
        quality=QUALITY_GOOD if computed.certain else QUALITY_UNCERTAIN,
        sequence=answered.sequence,
        source=source,
        valid_at=timestamp(answered.measured_at_ns),
    ).SerializeToString()


def encode_alert(
    *, name: str, raised: bool, value: float, threshold: float, unit: str, measured_at_ns: int, published_at_ns: int
) -> bytes:
    """That a value crossed a threshold, with a sentence for people."""
    text = f"{name} is {value:+.2f} {unit}, " + (
        f"beyond {threshold:g} {unit}" if raised else f"below {threshold:g} {unit} again"
    )
    return Alert(
        alert_id=name,
        state=Alert.STATE_RAISED if raised else Alert.STATE_CLEARED,
        value=value,
        threshold=threshold,
        unit=unit,
        timestamp=timestamp(published_at_ns),
        valid_at=timestamp(measured_at_ns),
        text=text,
    ).SerializeToString()
