"""The runtime that asks TorchServe over HTTP."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import numpy as np

from features.card import Card
from features.errors import RuntimeUnavailableError
from features.vocabulary import Float32Array, Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import Answer, ModelNotHostedError, forecast_of, graph_inputs
from serving.runtimes.session import nothing
from serving.torchserve.connections import Connections, Reply
from serving.torchserve.keys import KeyFile

_FLOAT = np.dtype("<f4")
# Header of an answer with what its run took; lower-case, as `Connections` gives names.
RUN_HEADER = "x-towncast-run"
# A replaced key ends in TorchServe's memory some moments before its file has the new one [s].
_KEY_WAITS_S = (0.0, 0.02, 0.1)


class TorchServeRuntime:
    """Sends windows as raw float32, in the layout of `serving.torchserve.handler`.

    Args:
        artifact: The model that TorchServe hosts.
        url: TorchServe's inference address.
        timeout_s: Longest wait for an answer [s].
        keys: TorchServe's key file; None, or a file that is not there, sends no token.
    """

    name = "torchserve"

    def __init__(self, artifact: Artifact, *, url: str, timeout_s: float = 2.0, keys: Path | None = None) -> None:
        self.artifact = artifact
        self.path = f"/predictions/{artifact.name}/{artifact.version}"
        self._connections = Connections(url, timeout_s=timeout_s)
        self._keys = None if keys is None else KeyFile(keys)

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        """Quantiles of the target for each window, and what they took.

        Raises:
            RuntimeUnavailableError: TorchServe is away, too slow, or refuses.
            ModelNotHostedError: TorchServe has not this version of the model.
            ArtifactError: The window and the card do not fit together.
            InvalidParameterError: The model has no such level.
        """
        began = time.perf_counter()
        quantiles, run = await self._quantiles(window)
        inference_s, batch = _stages(run, windows=len(window))
        return Answer(
            forecast=forecast_of(self.artifact, window, quantiles, levels=levels),
            runtime=self.name,
            # The way there and back is part of it.
            queue_s=max(time.perf_counter() - began - inference_s, 0.0),
            inference_s=inference_s,
            batch=batch,
        )

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """The forecast of `answer`."""
        return (await self.answer(window, levels=levels)).forecast

    async def _quantiles(self, window: Window) -> tuple[Float32Array, str]:
        """Quantiles, and what the handler says about its run."""
        card = self.artifact.card
        reply = await self._post(_body(card, window))
        shape = (len(window), card.horizon_steps, len(card.levels))
        if len(reply.body) != math.prod(shape) * _FLOAT.itemsize:
            raise _unavailable(f"{len(reply.body)} bytes for a forecast of shape {shape}")
        quantiles = np.frombuffer(reply.body, dtype=_FLOAT).reshape(shape).astype(np.float32, copy=False)
        return quantiles, reply.headers.get(RUN_HEADER, "")

    async def _post(self, body: bytes) -> Reply:
        try:
            reply = await self._authorised(body)
        except (OSError, ValueError) as error:
            raise _unavailable(f"{type(error).__name__} {error}".strip()) from error
        if reply.status == HTTPStatus.NOT_FOUND:
            raise ModelNotHostedError(
                "TorchServe does not host this model",
                found=self.path,
                remedy="The in-process runtime answers; start TorchServe again to have it host what is new.",
            )
        if reply.status != HTTPStatus.OK:
            raise _unavailable(f"status {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}")
        return reply

    async def _authorised(self, body: bytes) -> Reply:
        """The reply to a key that holds: one that has just been replaced is read again, where there is another."""
        reply = await self._connections.post(self.path, body, self._header())
        for wait_s in _KEY_WAITS_S:
            if self._keys is None or not _refused(reply):
                return reply
            await asyncio.sleep(wait_s)
            reply = await self._connections.post(self.path, body, self._header())
        return reply

    def _header(self) -> dict[str, str]:
        return {} if self._keys is None else self._keys.header("inference")

    async def ready(self) -> bool:
        """Whether TorchServe answers a window; its own `/ping` is healthy before the model is there.

        Raises:
            ModelNotHostedError: TorchServe has not this version of the model.
        """
        card = self.artifact.card
        inputs = nothing(card, 1)
        window = Window(
            history_BLK=inputs["history"],
            future_BHK=inputs["future"],
            static_BS=inputs["static"],
            sites=("",),
            origins=np.zeros(1, dtype=np.int64),
        )
        try:
            await self._quantiles(window)
        except ModelNotHostedError:
            raise
        except RuntimeUnavailableError:
            return False
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()


def _body(card: Card, window: Window) -> bytes:
    """The windows in the layout of the handler, one after the other."""
    inputs = graph_inputs(card, window)
    rows = [inputs[name].reshape(len(window), -1) for name in ("history", "future", "static")]
    return np.concatenate(rows, axis=1).astype(_FLOAT, copy=False).tobytes()


def _refused(reply: Reply) -> bool:
    """Whether the key was not accepted: TorchServe 0.12 says so with 400 and a type."""
    if reply.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return True
    return reply.status == HTTPStatus.BAD_REQUEST and b"InvalidKeyException" in reply.body


def _stages(run: str, *, windows: int) -> tuple[float, int]:
    """Time of the run [s] and windows in it, as the handler gives them: `0.00123;32`."""
    seconds, _, batch = run.partition(";")
    try:
        return float(seconds), int(batch)
    except ValueError:
        return 0.0, windows


def _unavailable(found: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        "TorchServe did not answer with a forecast",
        found=found,
        remedy="See its log folder; the in-process runtime answers meanwhile.",
    )
