"""Forecasts that one worker made and the others take: in Redis, by the name of the forecast."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from redis.asyncio import Redis
from redis.exceptions import RedisError

from features.errors import TowncastError
from features.vocabulary import Float32Array, Forecast
from serving.kept import Run, forecast_name
from serving.maker import RunMaker
from serving.memory import Prepared

_LOG = logging.getLogger(__name__)
_FLOAT = np.dtype("<f4")
# Asking Redis must not take longer than making a forecast does; and one that is away is left alone for a while [s].
_TIMEOUT_S = 0.05
_LEFT_ALONE_S = 5.0


class SharedForecasts:
    """Values of forecasts in Redis, each for some minutes.

    Where Redis does not answer, nothing is there: forecasts are made as if there were none.

    Args:
        url: Address of Redis.
        keep_s: How long a forecast is kept [s].
        clock: Seconds that never go back.
    """

    def __init__(self, url: str, *, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.keep_s = keep_s
        self._url = url
        self._clock = clock
        self._redis: Redis | None = None
        self._away_until = -float("inf")

    async def get(self, names: Sequence[str]) -> dict[str, tuple[str, Float32Array]]:
        """Runtime and values, flat, of those forecasts that are there."""
        found = await self._asked(lambda redis: redis.mget([_key(name) for name in names])) if names else None
        values = {}
        for name, held in zip(names, found or [None] * len(names), strict=True):
            if held is not None:
                runtime, _, raw = held.partition(b"\0")
                values[name] = (runtime.decode(), np.frombuffer(raw, dtype=_FLOAT).astype(np.float32))
        return values

    async def put(self, runs: Sequence[Run]) -> None:
        """Add what was made here."""

        def add(redis: Redis) -> Any:
            pipeline = redis.pipeline(transaction=False)
            for run in runs:
                raw = run.forecast.value_BHQ[0].astype(_FLOAT).tobytes()
                pipeline.set(_key(run.name), run.runtime.encode() + b"\0" + raw, px=int(self.keep_s * 1000))
            return pipeline.execute()

        if runs:
            await self._asked(add)

    async def _asked(self, ask: Callable[[Redis], Any]) -> Any:
        if self._clock() < self._away_until:
            return None
        if self._redis is None:
            self._redis = Redis.from_url(self._url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        try:
            return await ask(self._redis)
        except (RedisError, OSError) as error:
            self._away_until = self._clock() + _LEFT_ALONE_S
            _LOG.warning("Redis does not share forecasts: %s", error)
            return None

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None


class SharingMaker:
    """A maker of runs that takes from the others what they have made, and gives them what it makes.

    Args:
        maker: Makes what nobody has made.
        shared: What the others have made.
    """

    def __init__(self, maker: RunMaker, shared: SharedForecasts) -> None:
        self.maker = maker
        self.shared = shared

    async def prepared(self, name: str) -> Prepared:
        """See `RunMaker.prepared`."""
        return await self.maker.prepared(name)

    async def explained(self, prepared: Prepared) -> Run:
        """See `RunMaker.explained`."""
        return await self.maker.explained(prepared)

    async def plain(self, prepared: Prepared) -> Run:
        """See `RunMaker.plain`."""
        name = forecast_name(self.maker.artifact, prepared)
        taken = self._run(name, prepared, await self.shared.get([name]))
        if taken is not None:
            return taken
        run = await self.maker.plain(prepared)
        await self.shared.put([run])
        return run

    async def together(self, together: Sequence[Prepared]) -> Sequence[Run | TowncastError]:
        """See `RunMaker.together`."""
        names = [forecast_name(self.maker.artifact, prepared) for prepared in together]
        found = await self.shared.get(names)
        taken = {name: self._run(name, prepared, found) for name, prepared in zip(names, together, strict=True)}
        missing = [prepared for name, prepared in zip(names, together, strict=True) if taken[name] is None]
        made = iter(await self.maker.together(missing))
        runs = [taken[name] or next(made) for name in names]
        await self.shared.put(
            [run for name, run in zip(names, runs, strict=True) if isinstance(run, Run) and not taken[name]]
        )
        return runs

    def _run(self, name: str, prepared: Prepared, found: Mapping[str, tuple[str, Float32Array]]) -> Run | None:
        """What another worker made of a window, if it is there and whole."""
        card, levels = self.maker.artifact.card, self.maker.levels
        runtime, values = found.get(name, ("", None))
        if values is None or len(values) != card.horizon_steps * len(levels):
            return None
        forecast = Forecast(
            quantity=card.target,
            unit=card.unit,
            sites=prepared.window.sites,
            origins=prepared.window.origins,
            step_s=card.step_s,
            levels=levels,
            value_BHQ=values.reshape(1, card.horizon_steps, len(levels)),
            model=self.maker.artifact.model_version,
        )
        return Run(name=name, prepared=prepared, forecast=forecast, runtime=runtime)


def _key(name: str) -> str:
    return f"towncast:forecast:{name}"
