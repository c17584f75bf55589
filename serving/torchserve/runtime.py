"""The runtime that asks TorchServe over HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus

import numpy as np

from features.card import Card
from features.errors import RuntimeUnavailableError
from features.vocabulary import Float32Array, Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import forecast_of, graph_inputs, static_width
from serving.torchserve.connections import Connections

_FLOAT = np.dtype("<f4")


class TorchServeRuntime:
    """Sends windows as raw float32, in the layout of `serving.torchserve.handler`.

    Args:
        artifact: The model that TorchServe hosts.
        url: TorchServe's inference address.
        timeout_s: Longest wait for an answer [s].
    """

    name = "torchserve"

    def __init__(self, artifact: Artifact, *, url: str, timeout_s: float = 2.0) -> None:
        self.artifact = artifact
        self.path = f"/predictions/{artifact.name}/{artifact.version}"
        self._connections = Connections(url, timeout_s=timeout_s)

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """Quantiles of the target for each window.

        Raises:
            RuntimeUnavailableError: TorchServe is away, too slow, or refuses.
            ArtifactError: The window and the card do not fit together.
            InvalidParameterError: The model has no such level.
        """
        return forecast_of(self.artifact, window, await self._quantiles(window), levels=levels)

    async def _quantiles(self, window: Window) -> Float32Array:
        card = self.artifact.card
        body = await self._post(_body(card, window))
        shape = (len(window), card.horizon_steps, len(card.levels))
        if len(body) != math.prod(shape) * _FLOAT.itemsize:
            raise _unavailable(f"{len(body)} bytes for a forecast of shape {shape}")
        return np.frombuffer(body, dtype=_FLOAT).reshape(shape).astype(np.float32, copy=False)

    async def _post(self, body: bytes) -> bytes:
        try:
            reply = await self._connections.post(self.path, body)
        except (OSError, ValueError) as error:
            raise _unavailable(f"{type(error).__name__} {error}".strip()) from error
        if reply.status != HTTPStatus.OK:
            raise _unavailable(f"status {reply.status}: {reply.body[:200].decode('utf-8', 'replace')}")
        return reply.body

    async def ready(self) -> bool:
        """Whether TorchServe answers a window; its own `/ping` is healthy before the model is there."""
        card = self.artifact.card
        nothing = Window(
            history_BLK=np.full((1, card.history_steps, len(card.history_channels)), np.nan, dtype=np.float32),
            future_BHK=np.zeros((1, card.horizon_steps, len(card.future_channels)), dtype=np.float32),
            static_BS=np.full((1, static_width(card)), np.nan, dtype=np.float32),
            sites=("",),
            origins=np.zeros(1, dtype=np.int64),
        )
        try:
            await self._quantiles(nothing)
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


def _unavailable(found: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        "TorchServe did not answer with a forecast",
        found=found,
        remedy="See its log folder; the in-process runtime answers meanwhile.",
    )
