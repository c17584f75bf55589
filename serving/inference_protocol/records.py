"""What the prediction log holds of forecasts of windows that came in requests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from features.vocabulary import Window
from serving.inference_protocol.endpoint import Asked, Ran
from serving.prediction_log.records import AnswerRecord, ForecastRecord, Record
from serving.request_context import CALLER, REQUEST_ID

_FLOAT = np.dtype("<f4")


def inference_records(
    asked: Asked, ran: Ran, *, request_id: str, latency_s: float, role: str, is_new: Callable[[str], bool]
) -> list[Record]:
    """An answer for each window, and before it its forecast if that is new; without a site it has "" for one.

    Args:
        asked: The windows.
        ran: Their forecasts.
        request_id: Identifier that the request gave; the transport's is taken where it is "".
        latency_s: From the parsed request to the forecasts [s].
        role: Of the version that answered.
        is_new: Says whether no record of a forecast was made yet, by its name.
    """
    now_s, forecast = time.time(), ran.forecast
    caller = CALLER.get()
    records: list[Record] = []
    for index, version in enumerate(_versions(asked.window)):
        name = hashlib.blake2b(f"{forecast.model}|{version}".encode(), digest_size=8).hexdigest()
        if is_new(name):
            records.append(
                ForecastRecord(
                    name=name,
                    made_s=now_s,
                    domain=ran.domain,
                    target=forecast.quantity,
                    unit=forecast.unit,
                    site=forecast.sites[index],
                    origin_s=int(forecast.origins[index]),
                    step_s=forecast.step_s,
                    window=version,
                    model_version=forecast.model,
                    role=role,
                    runtime=ran.answer.runtime,
                    levels=forecast.levels,
                    values=forecast.value_BHQ[index].astype(_FLOAT, copy=False).tobytes(),
                )
            )
        records.append(
            AnswerRecord(
                request_id=request_id or REQUEST_ID.get(),
                answered_s=now_s,
                caller="" if caller is None else caller.name,
                forecast=name,
                steps=forecast.value_BHQ.shape[1],
                latency_ms=round(latency_s * 1e3, 3),
                came="made",
                lowered_by=ran.lowered_by,
            )
        )
    return records


def _versions(window: Window) -> Iterator[str]:
    """Names each window by its values, the same in every process."""
    for index in range(len(window)):
        digest = hashlib.blake2b(f"{window.sites[index]}@{window.origins[index]}".encode(), digest_size=8)
        for array in (window.history_BLK, window.future_BHK, window.static_BS):
            digest.update(np.ascontiguousarray(array[index]).data)
        yield digest.hexdigest()
