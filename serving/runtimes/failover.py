"""Several runtimes as one: the first that is up answers, and says who it is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from features.errors import RuntimeUnavailableError, TowncastError
from features.vocabulary import Forecast, Window
from serving.runtimes.base import Runtime

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A forecast, and the runtime that made it."""

    forecast: Forecast
    runtime: str


class FailoverRuntime:
    """Asks runtimes in order of preference.

    A runtime that fails once is passed over at once; a look in the background, at most every `retry_s`, brings it back.
    No request waits for one that is known to be down.

    Args:
        runtimes: The preferred one first; the last one should be one that cannot be away.
        retry_s: Shortest time between two looks at a runtime that is down [s].
        clock: Seconds that never go back.
    """

    name = "failover"

    def __init__(
        self, runtimes: Sequence[Runtime], *, retry_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runtimes = tuple(runtimes)
        self.retry_s = retry_s
        self._clock = clock
        self._up = {runtime.name: False for runtime in self.runtimes}
        self._looked: dict[str, float] = {}
        self._looks: set[asyncio.Task[None]] = set()

    def states(self) -> dict[str, bool]:
        """Which runtimes are up, as far as is known."""
        return dict(self._up)

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        """The forecast of the first runtime that can give it.

        Raises:
            RuntimeUnavailableError: None can.
            InvalidParameterError: The model has no such level.
        """
        for runtime in self.runtimes:
            if not self._up[runtime.name]:
                self._look_soon(runtime)
                continue
            try:
                forecast = await runtime.predict(window, levels=levels)
            except RuntimeUnavailableError as error:
                _LOG.warning("Runtime %s is down: %s", runtime.name, error)
                self._up[runtime.name] = False
                self._looked[runtime.name] = self._clock()
                continue
            return Answer(forecast=forecast, runtime=runtime.name)
        raise RuntimeUnavailableError(
            "No runtime can answer",
            found=", ".join(self._up),
            remedy="Try again in a moment; the log says why each is down.",
        )

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        """The forecast of `answer`."""
        return (await self.answer(window, levels=levels)).forecast

    async def ready(self) -> bool:
        """Whether any runtime is up; looks at those that are down.

        Raises:
            ArtifactError: A runtime cannot load the model.
            DeviceError: A device was asked for and is not there.
        """
        await asyncio.gather(*(self._look(runtime) for runtime in self.runtimes if not self._up[runtime.name]))
        return any(self._up.values())

    def _look_soon(self, runtime: Runtime) -> None:
        """Look at a runtime in the background, unless that was done a moment ago."""
        if self._clock() - self._looked.get(runtime.name, -float("inf")) < self.retry_s:
            return
        self._looked[runtime.name] = self._clock()
        task = asyncio.get_running_loop().create_task(self._look_quietly(runtime))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _look(self, runtime: Runtime) -> None:
        self._looked[runtime.name] = self._clock()
        if await runtime.ready():
            self._up[runtime.name] = True
            _LOG.info("Runtime %s is up", runtime.name)

    async def _look_quietly(self, runtime: Runtime) -> None:
        try:
            await self._look(runtime)
        except TowncastError as error:
            _LOG.error("Runtime %s stays down: %s", runtime.name, error)

    async def close(self) -> None:
        """Close every runtime."""
        looks = list(self._looks)
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        for runtime in self.runtimes:
            await runtime.close()
