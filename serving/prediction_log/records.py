"""What the log holds of a forecast, and of an answer that gave it; as lines of JSON on their way into the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np

from features.vocabulary import Float32Array
from serving.service import ForecastResult

_LOG = logging.getLogger(__name__)
# Quantiles as they are kept.
FLOAT = np.dtype("<f4")


class ForecastRecord(msgspec.Struct, frozen=True, kw_only=True, tag="forecast", tag_field="kind"):
    """A forecast, written once however many answers give it.

    Attributes:
        name: Names it: of site, window and model, the same in every process.
        made_s: When it was made [s since 1970].
        domain: What is forecast.
        target: Its quantity.
        unit: Unit of the values.
        site: Where.
        origin_s: It starts here [s since 1970].
        step_s: Length of a step [s].
        window: Version of the window: a hash of all readings in it.
        model_version: What made it.
        role: The role that the model had, such as `champion` or `shadow`.
        runtime: What ran the model.
        levels: Quantile levels (Q).
        values: Quantiles, little-endian float32, shape (H, Q) [unit].
    """

    name: str
    made_s: float
    domain: str
    target: str
    unit: str
    site: str
    origin_s: int
    step_s: int
    window: str
    model_version: str
    role: str
    runtime: str
    levels: tuple[float, ...]
    values: bytes

    def value_HQ(self) -> Float32Array:
        """The quantiles, shape (H, Q) [unit]."""
        return np.frombuffer(self.values, dtype=FLOAT).reshape(-1, len(self.levels)).astype(np.float32)


class AnswerRecord(msgspec.Struct, frozen=True, kw_only=True, tag="answer", tag_field="kind"):
    """One forecast in one answer.

    Attributes:
        request_id: Of the request.
        answered_s: When [s since 1970].
        caller: Who asked.
        forecast: Name of the forecast.
        steps: Steps of the horizon that was asked for.
        latency_ms: From the parsed request to the forecast [ms].
        came: Whether the forecast was kept, joined or made.
        lowered_by: What `quality` says of it.
    """

    request_id: str
    answered_s: float
    caller: str
    forecast: str
    steps: int
    latency_ms: float
    came: str
    lowered_by: tuple[str, ...]


Record = ForecastRecord | AnswerRecord
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Record)


def forecast_record(result: ForecastResult, *, role: str, made_s: float) -> ForecastRecord:
    """The record of the forecast behind a result, over its whole horizon."""
    forecast = result.run.forecast
    return ForecastRecord(
        name=result.run.name,
        made_s=made_s,
        domain=result.card.domain,
        target=forecast.quantity,
        unit=forecast.unit,
        site=result.site.name,
        origin_s=int(forecast.origins[0]),
        step_s=forecast.step_s,
        window=result.run.prepared.version,
        model_version=forecast.model,
        role=role,
        runtime=result.run.runtime,
        levels=forecast.levels,
        values=forecast.value_BHQ[0].astype(FLOAT, copy=False).tobytes(),
    )


def to_lines(records: Iterable[Record]) -> bytes:
    """Records as lines of JSON."""
    return _ENCODER.encode_lines(records)


def from_lines(lines: bytes) -> Iterator[tuple[int, Record]]:
    """The records in lines, with the number of each line.

    The last line of a process that was killed may be cut off: it was never acknowledged, and is left out.
    """
    whole, _, _ = lines.rpartition(b"\n")
    try:
        # All at once takes a third of the time.
        yield from enumerate(_DECODER.decode_lines(whole))
    except msgspec.DecodeError:
        yield from _one_by_one(whole)


def _one_by_one(whole: bytes) -> Iterator[tuple[int, Record]]:
    """The records of those lines that hold one."""
    for number, line in enumerate(whole.split(b"\n")):
        if line:
            try:
                yield number, _DECODER.decode(line)
            except msgspec.DecodeError as error:
                # A disk that was full took a part of a line, and the next began behind it.
                _LOG.error("A line of the prediction journal is lost: %s", error)
