"""The twin's own clock: predict, step, tell; again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from serving.traffic_twin.document import state_message
from serving.traffic_twin.engine_process import EngineProcess, Stepped
from serving.traffic_twin.multipliers import MultiplierSource
from sim_env.traffic.engine import FloatArray, TrafficState

_LOG = logging.getLogger(__name__)
# Time by which it may be late before that is said, and time between two such remarks [s].
_LATE_S, _REMARK_EVERY_S = 5.0, 60.0


class TwinLoop:
    """Drives an engine by multipliers, one control interval after the other.

    Args:
        engine: The engine; started by `run`.
        multipliers: Gives each interval's multipliers; made when the engine's controls are known.
        publish: Takes each message.
        began_s: The simulated moment at which the run begins [s since 1970].
        interval_s: Length of a control interval [s].
        speed: How many times real time it runs; 0 is as fast as it can.
        clock: Seconds that never go back.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        engine: EngineProcess,
        multipliers: MultiplierSource,
        publish: Callable[[bytes], None],
        *,
        began_s: int,
        interval_s: float = 60.0,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._engine = engine
        self._multipliers = multipliers
        self._publish = publish
        self._began_s = began_s
        self._interval_s = interval_s
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._remarked_s = -float("inf")

    async def run(
        self, state: TrafficState, *, steps: int | None = None, on_step: Callable[[Stepped], None] | None = None
    ) -> None:
        """Tell the first state, then step and tell at each interval's end.

        A step begins when its interval is over by the clock, so what is told is never of the future. Where steps take
        longer than their intervals the run falls behind, and says so; it does not catch up by hurrying.

        Args:
            state: That of the engine's start.
            steps: How many to make; by default without end.
            on_step: Called after each step, when its message is on its way.

        Raises:
            EngineError: The engine failed.
            TowncastError: No multipliers can be had.
        """
        multiplier_P = await self._multipliers.at(self._began_s)
        self._tell(state, multiplier_P)
        due_s, made = self._clock(), 0
        while steps is None or made < steps:
            due_s = await self._wait(due_s)
            begin_s = self._began_s + int(state.sim_time_s)
            multiplier_P = await self._multipliers.at(begin_s)
            stepped = await self._engine.step(multiplier_P, duration_s=self._interval_s)
            state = stepped.state
            self._tell(state, multiplier_P)
            self._multipliers.record(begin_s, state.injected_P)
            if on_step is not None:
                on_step(stepped)
            made += 1

    def _tell(self, state: TrafficState, multiplier_P: FloatArray) -> None:
        message = state_message(
            state,
            moment_s=self._began_s + state.sim_time_s,
            edges=self._engine.edges,
            controls=self._engine.controls,
            multiplier_P=multiplier_P,
        )
        self._publish(message)

    async def _wait(self, due_s: float) -> float:
        """Sleep until the next interval is over; returns when it was due, or now where that is long past."""
        if self._speed == 0:
            await self._sleep(0)
            return self._clock()
        due_s += self._interval_s / self._speed
        now_s = self._clock()
        if now_s - due_s > _LATE_S:
            if now_s - self._remarked_s > _REMARK_EVERY_S:
                late_s = now_s - due_s
                _LOG.warning("Steps take longer than %g times real time allows: %.0f s behind", self._speed, late_s)
                self._remarked_s = now_s
            return now_s
        await self._sleep(max(0.0, due_s - now_s))
        return due_s
