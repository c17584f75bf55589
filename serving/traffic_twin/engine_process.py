"""A traffic engine in a process of its own, spoken to from an event loop.

SUMO's library holds the interpreter for as long as it simulates: in this process it would keep every client waiting.
In one of its own it may also die without taking the twin along.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from features.errors import TowncastError
from sim_env.traffic.engine import Control, Edge, EngineError, FloatArray, TrafficEngine, TrafficState

# How long an engine may take to end a step and close before its process is killed.
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """What a step gave.

    Attributes:
        state: The state after it.
        ended_ns: When the engine had it, by the clock that all processes share (`time.monotonic_ns`) [ns].
    """

    state: TrafficState
    ended_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    """An error, as plain text: most exceptions do not survive the way between processes."""

    fact: str
    found: str | None
    remedy: str


class EngineProcess:
    """An engine that lives in a child; one call at a time.

    Args:
        build: Makes the engine, in the child; must be importable there.
    """

    def __init__(self, build: Callable[[], TrafficEngine]) -> None:
        self._build = build
        self._process: Any = None
        self._pipe: Any = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self.edges: tuple[Edge, ...] = ()
        self.controls: tuple[Control, ...] = ()

    async def start(self, *, seed: int) -> TrafficState:
        """Start the child and a run, and learn the network.

        Raises:
            EngineError: The engine cannot be started.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, inner = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._build, inner), name="traffic-engine", daemon=True)
        self._process.start()
        # Kept open here, the child's end would hide that the child is gone.
        inner.close()
        self.edges, self.controls, state = await self._call("reset", seed)
        started: TrafficState = state
        return started

    async def step(self, multiplier_P: FloatArray, *, duration_s: float) -> Stepped:
        """Run for one control interval.

        Raises:
            EngineError: The engine failed, or its process is gone.
        """
        state, ended_ns = await self._call("step", multiplier_P, duration_s)
        return Stepped(state=state, ended_ns=ended_ns)

    @property
    def process_id(self) -> int | None:
        """The child's process id; None before the start and after the end."""
        return None if self._process is None else self._process.pid

    async def close(self) -> None:
        """End the run and the child; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(EngineError, TimeoutError):
            await asyncio.wait_for(self._call("close"), timeout=_GRACE_S)
        await asyncio.get_running_loop().run_in_executor(None, _end, process)
        self._thread.shutdown(wait=True)
        self._pipe.close()

    async def _call(self, *words: Any) -> Any:
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, words)
        if isinstance(answer, _Failed):
            raise EngineError(answer.fact, found=answer.found, remedy=answer.remedy)
        return answer

    def _exchange(self, words: tuple[Any, ...]) -> Any:
        try:
            self._pipe.send(words)
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise EngineError(
                "The engine's process is gone",
                found=f"{words[0]}: {type(error).__name__}",
                remedy="Look above for its last words, and whether memory ran out; then start the twin again.",
            ) from error


def _end(process: Any) -> None:
    process.join(timeout=1.0)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _serve(build: Callable[[], TrafficEngine], pipe: multiprocessing.connection.Connection) -> None:
    """The child: answer until told to close, or until the parent is gone."""
    # Ctrl-C and a service's stop reach the whole group; the parent decides, and its end is seen in the pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    engine: TrafficEngine | None = None
    try:
        while True:
            words = pipe.recv()
            if words[0] == "close":
                break
            try:
                engine = engine or build()
                answer = _answer(engine, words)
            except TowncastError as error:
                found = None if error.found is None else str(error.found)
                answer = _Failed(fact=error.fact, found=found, remedy=error.remedy)
            except Exception as error:  # whatever it is, the parent must hear of it
                last = traceback.extract_tb(error.__traceback__)[-1]
                answer = _Failed(
                    fact="The engine failed",
                    found=f"{type(error).__name__}: {error}, in {last.name}",
                    remedy="This is a fault of the engine: please report it, with the command that was run.",
                )
            pipe.send(answer)
    except (EOFError, BrokenPipeError):
        pass
    finally:
        if engine is not None:
            engine.close()
    with contextlib.suppress(BrokenPipeError):
        pipe.send(None)


def _answer(engine: TrafficEngine, words: tuple[Any, ...]) -> Any:
    match words:
        case ("reset", seed):
            state = engine.reset(seed=seed)
            return engine.edges, engine.controls, state
        case ("step", multiplier_P, duration_s):
            state = engine.step(multiplier_P, duration_s=duration_s)
            return state, time.monotonic_ns()
    raise AssertionError(f"no such word: {words[0]}")
