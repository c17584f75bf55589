"""What the log holds of a forecast, and of an answer that gave it; as lines of JSON on their way into the store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from features.vocabulary import Float32Array

if TYPE_CHECKING:
    from serving.kept import Run

_LOG = logging.getLogger(__name__)
# Quantiles as they are kept.
FLOAT = np.dtype("<f4")
# What is decoded without a pause, in which requests wait [byte]: a hundred answers take a tenth of a millisecond.
_PIECE_BYTES = 32 * 1024


class ForecastRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="forecast", tag_field="kind"):
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


class AnswerRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="answer", tag_field="kind"):
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


def forecast_record(run: Run, *, domain: str, role: str, made_s: float) -> ForecastRecord:
    """The record of what a model made of a window, over its whole horizon."""
    forecast = run.forecast
    return ForecastRecord(
        name=run.name,
        made_s=made_s,
        domain=domain,
        target=forecast.quantity,
        unit=forecast.unit,
        site=run.prepared.window.sites[0],
        origin_s=int(forecast.origins[0]),
        step_s=forecast.step_s,
        window=run.prepared.version,
        model_version=forecast.model,
        role=role,
        runtime=run.runtime,
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
    first = number = 0
    end = lines.rfind(b"\n") + 1
    while first < end:
        following = lines.find(b"\n", min(first + _PIECE_BYTES, end - 1)) + 1
        piece = lines[first:following]
        yield from _records_of(piece, number)
        first, number = following, number + piece.count(b"\n")


def _records_of(piece: bytes, number: int) -> Iterator[tuple[int, Record]]:
    """The records in some whole lines, of which the first has a number."""
    try:
        # Together they take a third of the time that each takes by itself.
        records = _DECODER.decode_lines(piece)
    except msgspec.DecodeError:
        records = []
        for line in filter(None, piece.split(b"\n")):
            try:
                records.append(_DECODER.decode(line))
            except msgspec.DecodeError as error:
                # A disk that was full took a part of a line, and the next began behind it.
                _LOG.error("A line of the prediction journal is lost: %s", error)
    yield from enumerate(records, number)
