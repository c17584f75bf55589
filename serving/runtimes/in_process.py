"""ONNX Runtime in the process of the API: nothing to start, nothing to lose."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from features.vocabulary import Float32Array, Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import Answer, forecast_of, graph_inputs
from serving.runtimes.batching import MOST_WINDOWS, Inputs, MicroBatches, Ran
from serving.runtimes.session import GraphSession, open_session
from serving.settings import Device

# The longest that one batch may hold the event loop: about what reading and writing a request's JSON takes.
INLINE_BELOW_S = 1e-3


class InProcessRuntime:
    """Runs the graph over micro-batches, where that costs least: short ones on the event loop, all else in a thread.

    A run of 0.2 ms holds the loop no longer than writing the reply does, and handing it to a thread and back costs two
    switches that on a busy machine take longer than the run. A large batch, or a slow graph, would hold every other
    request and the health checks: it goes to the thread, where ONNX Runtime lets go of the interpreter's lock. How
    long a batch takes is measured, size by size, when the graph is loaded.

    Args:
        artifact: The model.
        device: Where the graph runs.
        threads: Threads within one run.
    """

    name = "in_process"

    def __init__(self, artifact: Artifact, *, device: Device = "cpu", threads: int = 1) -> None:
        self.artifact = artifact
        self.device = device
        self.threads = threads
        self._session: GraphSession | None = None
        # The most windows that are known to be over before a waiting request would notice.
        self._short = 0
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")
        self._batches = MicroBatches(self._run, short=lambda: self._short, executor=self._executor)

    def load(self) -> None:
        """Read the graph, check it against the card, and warm it; a second call does nothing.

        Raises:
            ArtifactError: The graph is damaged, has changed, or is not what the card says.
            DeviceError: The device was asked for and is not there.
        """
        if self._session is None:
            session = open_session(self.artifact, device=self.device, threads=self.threads)
            took_s = session.warm()
            self._short = max((size for size, seconds in took_s.items() if seconds < INLINE_BELOW_S), default=0)
            self._session = session

    def _run(self, inputs: Inputs) -> Float32Array:
        self.load()
        assert self._session is not None
        return self._session.run(inputs)

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        """Quantiles of the target for each window, and what they took; the first call loads the graph.

        Raises:
            ArtifactError: The graph, the window and the card do not fit together.
            DeviceError: The device was asked for and is not there.
            InvalidParameterError: The model has no such level.
            RuntimeUnavailableError: It is closed.
        """
        inputs = graph_inputs(self.artifact.card, window)
        parts: list[Ran] = []
        # One part after the other: other calls' windows come between, and wait for no more than one batch.
        for first in range(0, max(len(window), 1), MOST_WINDOWS):
            part = {name: array[first : first + MOST_WINDOWS] for name, array in inputs.items()}
            parts.append(await self._batches.submit(part, len(part["history"])))
        quantiles = parts[0].quantiles_BHQ
        if len(parts) > 1:
            quantiles = np.concatenate([part.quantiles_BHQ for part in parts])
        return Answer(
            forecast=forecast_of(self.artifact, window, quantiles, levels=levels),
            runtime=self.name,
            queue_s=sum(part.queue_s for part in parts),
            inference_s=sum(part.inference_s for part in parts),
            batch=max(part.batch for part in parts),
        )

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """The forecast of `answer`."""
        return (await self.answer(window, levels=levels)).forecast

    async def ready(self) -> bool:
        """Whether the graph is loaded; loads it.

        Raises:
            ArtifactError: The graph is damaged, has changed, or is not what the card says.
            DeviceError: The device was asked for and is not there.
        """
        if self._session is None:
            await asyncio.get_running_loop().run_in_executor(self._executor, self.load)
        return True

    async def close(self) -> None:
        """Answer what has been asked, then stop the thread and free the session."""
        await self._batches.close()
        self._executor.shutdown(wait=True)
        self._session = None
