"""Several runtimes as one: the first that is up answers, and says who it is."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence

from features.errors import RuntimeUnavailableError, TowncastError
from features.vocabulary import Forecast, Window
from serving.runtimes.base import Answer, ModelNotHostedError, Runtime
from serving.runtimes.batching import MOST_WINDOWS
from serving.runtimes.breaker import BreakerRules, CircuitBreaker

__all__ = ["Answer", "FailoverRuntime"]
_LOG = logging.getLogger(__name__)


class FailoverRuntime:
    """Asks runtimes in order of preference, a circuit breaker before each.

    A runtime that fails is passed over at once, one that is slow after some calls; looks in the background, rarer and
    rarer, bring it back. No request waits for one that is known to be down, nor for the whole timeout of one that has
    just stopped to answer: when its patience ends, the next runtime answers.

    Args:
        runtimes: The preferred one first; the last one should be one that cannot be away.
        retry_s: Time until the first look at a runtime that is down [s]; it doubles with each look in vain.
        retry_most_s: Longest time between two such looks [s].
        check_s: Time between two looks at a runtime that is up and not asked [s].
        patience_s: How long a call of one window may take before the next runtime is asked [s]; more windows have
            more. None waits for as long as the runtime itself does.
        slow_calls: So many calls in a row that outlast it, and a runtime is passed over.
        clock: Seconds that never go back.
        rng: Spreads the looks.
    """

    name = "failover"

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        *,
        retry_s: float = 1.0,
        retry_most_s: float = 10.0,
        check_s: float = 10.0,
        patience_s: float | None = None,
        slow_calls: int = 5,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.runtimes = tuple(runtimes)
        self.patience_s = patience_s
        rules = BreakerRules(slow_calls=slow_calls, retry_s=retry_s, retry_most_s=retry_most_s, check_s=check_s)
        self._breakers = {runtime.name: CircuitBreaker(rules, clock=clock, rng=rng) for runtime in self.runtimes}
        self._looks: set[asyncio.Task[None]] = set()
        self._checking: asyncio.Task[None] | None = None

    def states(self) -> dict[str, bool]:
        """Which runtimes are up, as far as is known."""
        return {name: breaker.state == "closed" for name, breaker in self._breakers.items()}

    def breakers(self) -> dict[str, CircuitBreaker]:
        """The breaker before each runtime: its state, and why it is open."""
        return dict(self._breakers)

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        """The forecast of the first runtime that can give it.

        Raises:
            RuntimeUnavailableError: None can.
            InvalidParameterError: The model has no such level.
        """
        for runtime in self.runtimes:
            breaker = self._breakers[runtime.name]
            if breaker.state != "closed":
                self._look_if_due(runtime)
                continue
            try:
                patience_s = self._patience_s(runtime, window)
                if patience_s is None:
                    answer = await runtime.answer(window, levels=levels)
                else:
                    async with asyncio.timeout(patience_s):
                        answer = await runtime.answer(window, levels=levels)
            except TimeoutError:
                self._say(runtime, opened=breaker.was_slow(), why="it is slow")
            except RuntimeUnavailableError as error:
                self._failed(runtime, error)
            else:
                breaker.succeeded()
                return answer
        raise RuntimeUnavailableError(
            "No runtime can answer",
            found=", ".join(self._breakers),
            remedy="Try again in a moment; the log says why each is down.",
        )

    def _patience_s(self, runtime: Runtime, window: Window) -> float | None:
        """The last runtime has nobody to wait for."""
        if self.patience_s is None or runtime is self.runtimes[-1]:
            return None
        return self.patience_s * (1.0 + len(window) / MOST_WINDOWS)

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """The forecast of `answer`."""
        return (await self.answer(window, levels=levels)).forecast

    async def ready(self) -> bool:
        """Whether any runtime is up; waits for a look at those that are down only where none is.

        From the first call on, runtimes are looked at in the background, with requests or without.

        Raises:
            ArtifactError: A runtime cannot load the model.
            DeviceError: A device was asked for and is not there.
        """
        if not any(self.states().values()):
            await asyncio.gather(*(self._look(runtime) for runtime in self.runtimes))
        if self._checking is None:
            self._checking = asyncio.get_running_loop().create_task(self._keep_checking())
        return any(self.states().values())

    async def _keep_checking(self) -> None:
        # The last runtime is looked at where it is down alone: nothing stands between it and us.
        while True:
            for runtime in self.runtimes:
                if runtime is not self.runtimes[-1] or not self.states()[runtime.name]:
                    self._look_if_due(runtime)
            dues_s = [breaker.due_in_s for breaker in self._breakers.values()]
            soonest_s = min((due_s for due_s in dues_s if due_s > 0), default=1.0)
            await asyncio.sleep(min(max(soonest_s, 0.05), 1.0))

    def _look_if_due(self, runtime: Runtime) -> None:
        """Look at a runtime in the background, unless that was done a moment ago."""
        breaker = self._breakers[runtime.name]
        if breaker.due_in_s <= 0:
            breaker.begin_look()
            task = asyncio.get_running_loop().create_task(self._look_quietly(runtime))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look(self, runtime: Runtime) -> None:
        breaker = self._breakers[runtime.name]
        breaker.begin_look()
        try:
            up = await runtime.ready()
        except ModelNotHostedError as error:
            self._failed(runtime, error)
            return
        except BaseException:
            breaker.failed()
            raise
        if not up:
            self._say(runtime, opened=breaker.failed(), why="it does not answer")
        elif breaker.succeeded():
            _LOG.info("Runtime %s is up", runtime.name)

    async def _look_quietly(self, runtime: Runtime) -> None:
        try:
            await self._look(runtime)
        except TowncastError as error:
            _LOG.error("Runtime %s stays down: %s", runtime.name, error)

    def _failed(self, runtime: Runtime, error: RuntimeUnavailableError) -> None:
        breaker = self._breakers[runtime.name]
        if isinstance(error, ModelNotHostedError):
            if breaker.reason != "not_hosted":
                _LOG.info("Runtime %s is passed over for now: %s", runtime.name, error)
            breaker.failed("not_hosted")
        else:
            self._say(runtime, opened=breaker.failed(), why=str(error))

    def _say(self, runtime: Runtime, *, opened: bool, why: str) -> None:
        if opened:
            _LOG.warning("Runtime %s is down: %s", runtime.name, why)

    async def close(self) -> None:
        """Close every runtime."""
        ending = [task for task in (*self._looks, self._checking) if task is not None]
        self._checking = None
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for runtime in self.runtimes:
            await runtime.close()
