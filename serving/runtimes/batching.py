"""Micro-batches: whatever waits when the runtime is free runs as one, and nothing waits for company.

A row of a batch costs about half of what a run of its own does, and a run in a thread lets the event loop read on. So
the calls of one turn of the loop are gathered, and those that come while a batch runs are the next one. A graph that is
fast has no use for the thread: handing a batch over and back costs more than a few more rows do, so many calls run as
several short batches on the loop, which reads and writes in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from features.errors import RuntimeUnavailableError
from features.vocabulary import Float32Array

# A larger batch is no faster, and would make others wait.
MOST_WINDOWS = 32
# From so many windows in a short batch on, a larger one in the thread saves less than the way to it and back costs.
_WORTH_ITS_WHILE = 4
# Sizes that are warmed when a graph is loaded; on a GPU a batch is filled up to one of them.
BUCKETS = (1, 2, 4, 8, 16, 32)
Inputs = Mapping[str, Float32Array]


def bucket_of(windows: int) -> int:
    """The smallest size that is warmed and holds so many windows; `windows` itself above the largest."""
    return next((size for size in BUCKETS if size >= windows), windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """The outcome of one call.

    Attributes:
        quantiles_BHQ: The graph's output for the windows of the call.
        queue_s: Time that they waited [s].
        inference_s: Time that their batch ran [s].
        batch: Windows in that batch.
    """

    quantiles_BHQ: Float32Array
    queue_s: float
    inference_s: float
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    inputs: Inputs
    windows: int
    since_s: float
    done: asyncio.Future[Ran]


class MicroBatches:
    """A queue before a graph; to be used on one event loop.

    Args:
        run: Runs the graph over a batch; in `executor`, or on the event loop where that is short.
        short: How many windows a batch may have to run on the event loop; 0 where even one would hold it for too long.
        executor: One thread.
    """

    def __init__(self, run: Callable[[Inputs], Float32Array], *, short: Callable[[], int], executor: Executor) -> None:
        self._run = run
        self._short = short
        self._executor = executor
        self._waiting: deque[_Call] = deque()
        self._pending: set[asyncio.Future[Ran]] = set()
        self._busy = self._closed = False

    async def submit(self, inputs: Inputs, windows: int) -> Ran:
        """Run some windows, `MOST_WINDOWS` at most, together with whatever else waits.

        Raises:
            RuntimeUnavailableError: It is closed.
            Exception: What the graph raises for these windows alone.
        """
        if self._closed:
            raise RuntimeUnavailableError(
                "The in-process runtime is closed", remedy="Ask the version that took its place."
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Ran] = loop.create_future()
        self._waiting.append(_Call(inputs=inputs, windows=windows, since_s=time.perf_counter(), done=done))
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        if not self._busy:
            self._busy = True
            # Not at once: other calls of this turn of the loop join.
            loop.call_soon(self._begin)
        return await done

    def _begin(self) -> None:
        """Run the next batch; called only while none runs."""
        calls = self._next_batch()
        windows = sum(call.windows for call in calls)
        if not calls:
            self._busy = False
        elif windows <= self._short():
            self._end(calls, self._run_calls(calls))
        else:
            running = asyncio.get_running_loop().run_in_executor(self._executor, self._run_calls, calls)
            running.add_done_callback(lambda finished: self._end(calls, finished.result()))

    def _next_batch(self) -> list[_Call]:
        calls: list[_Call] = []
        short = self._short()
        room = short if short >= _WORTH_ITS_WHILE else MOST_WINDOWS
        while self._waiting and (self._waiting[0].windows <= room or not calls):
            call = self._waiting.popleft()
            if not call.done.done():  # its caller may have gone
                calls.append(call)
                room -= call.windows
        return calls

    def _run_calls(self, calls: Sequence[_Call]) -> list[Ran | Exception]:
        """What each call gets. One that the graph cannot take must not spoil the others: then each runs alone."""
        began = time.perf_counter()
        try:
            quantiles = self._run(_joined([call.inputs for call in calls]))
        except Exception as error:  # whatever ONNX Runtime raises is the caller's, not this thread's
            return [error] if len(calls) == 1 else [self._run_calls([call])[0] for call in calls]
        inference_s = time.perf_counter() - began
        outcomes: list[Ran | Exception] = []
        first = 0
        for call in calls:
            last = first + call.windows
            outcomes.append(
                Ran(
                    quantiles_BHQ=quantiles[first:last],
                    queue_s=began - call.since_s,
                    inference_s=inference_s,
                    batch=len(quantiles),
                )
            )
            first = last
        return outcomes

    def _end(self, calls: Sequence[_Call], outcomes: Sequence[Ran | Exception]) -> None:
        for call, outcome in zip(calls, outcomes, strict=True):
            if call.done.done():
                continue
            if isinstance(outcome, Exception):
                call.done.set_exception(outcome)
            else:
                call.done.set_result(outcome)
        # In the next turn of the loop, so that it reads and writes between two batches that ran on it.
        asyncio.get_running_loop().call_soon(self._begin)

    async def close(self) -> None:
        """Take no more calls, and wait for those that are there."""
        self._closed = True
        if self._pending:
            await asyncio.wait(self._pending)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Several calls' inputs as one batch."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
