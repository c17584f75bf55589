"""From windows to runs: one artifact, its runtime, and the levels that are served."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from features.errors import ArtifactError, TowncastError
from features.vocabulary import Forecast, Window
from serving.artifacts import Artifact
from serving.explanation import coalition_windows, coalitions, feature_groups, shapley_values
from serving.intervals import adapt, keep_levels
from serving.kept import Run, forecast_name
from serving.memory import Prepared, no_reading
from serving.runtimes.failover import Answer, FailoverRuntime
from serving.window_source import WindowSource

Result = TypeVar("Result")


class RunMaker:
    """Makes runs of the windows of a domain's sites.

    Args:
        artifact: The model.
        windows: Where windows come from.
        runtime: What runs the model.
        levels: The levels of a forecast, ascending.
    """

    def __init__(
        self, *, artifact: Artifact, windows: WindowSource, runtime: FailoverRuntime, levels: tuple[float, ...]
    ) -> None:
        self.domain = windows.domain
        self.target = self.domain.quantity(artifact.card.target)
        self.artifact = artifact
        self.windows = windows
        self.runtime = runtime
        self.levels = levels
        self._groups = feature_groups(self.domain, self.target)
        self._hour = self.domain.future_channels.index("hour_of_day")

    async def prepared(self, name: str) -> Prepared:
        """The window of a site that has readings of the target.

        Raises:
            UnknownNameError: The site is not known.
            NotEnoughDataError: The site has no reading of the target.
        """
        prepared = await self.windows.prepared(name)
        if self.target.name not in prepared.records:
            raise no_reading(self.domain, self.target.name, name)
        return prepared

    async def plain(self, prepared: Prepared) -> Run:
        """The run of one window.

        Raises:
            RuntimeUnavailableError: No runtime can answer.
            ArtifactError: The model and the window do not fit together.
        """
        answer = await self._answer(prepared.window)
        return self._run(prepared, self._served(answer.forecast, prepared.window), answer)

    async def explained(self, prepared: Prepared) -> Run:
        """The run of one window with its Shapley values; without them where the window holds nothing to explain.

        Raises:
            RuntimeUnavailableError: No runtime can answer.
            ArtifactError: The model and the window do not fit together.
        """
        groups = tuple(group for group in self._groups if group.is_in(prepared.window))
        if not groups:
            return await self.plain(prepared)
        drawn = coalitions(len(groups))
        answer = await self._answer(coalition_windows(prepared.window, groups, drawn))
        forecast = self._served(_of_window(answer.forecast, 0), prepared.window)
        values = shapley_values(answer.forecast, groups, drawn)
        return replace(self._run(prepared, forecast, answer), values=values)

    async def together(self, together: Sequence[Prepared]) -> Sequence[Run | TowncastError]:
        """The runs of several windows in one call of the runtime, each its own error where it has none."""
        if not together:
            return []
        window = _joined([one.window for one in together])
        try:
            answer = await self._answer(window)
        except ArtifactError as error:
            if len(together) == 1:
                return [error]
            # One window that the graph cannot forecast must not spoil the others.
            return await outcomes_of(map(self.plain, together))
        except TowncastError as error:
            return [error] * len(together)
        forecast = self._served(answer.forecast, window)
        return [self._run(prepared, _of_window(forecast, index), answer) for index, prepared in enumerate(together)]

    def _run(self, prepared: Prepared, forecast: Forecast, answer: Answer) -> Run:
        return Run(
            name=forecast_name(self.artifact, prepared),
            prepared=prepared,
            forecast=forecast,
            runtime=answer.runtime,
            queue_s=answer.queue_s,
            inference_s=answer.inference_s,
            batch=answer.batch,
        )

    async def _answer(self, window: Window) -> Answer:
        """What a runtime makes of windows: of a model with adaptive intervals all levels, see `_served`."""
        return await self.runtime.answer(window, levels=self.levels if self.artifact.intervals is None else None)

    def _served(self, forecast: Forecast, window: Window) -> Forecast:
        """What a runtime made of a window at the levels of the service, its interval adapted."""
        intervals = self.artifact.intervals
        if intervals is None:
            return forecast
        adapted = adapt(intervals, forecast, window, target=self.target, hour_channel=self._hour)
        return keep_levels(adapted, self.levels)


async def outcomes_of(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result | TowncastError]:
    """What each coroutine gives, or the expected error that it raises; all run at a time."""
    done = await asyncio.gather(*work, return_exceptions=True)
    outcomes: list[Result | TowncastError] = []
    for outcome in done:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TowncastError):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def _of_window(forecast: Forecast, index: int) -> Forecast:
    """The forecast of one of several windows."""
    one = slice(index, index + 1)
    return replace(
        forecast, sites=forecast.sites[one], origins=forecast.origins[one], value_BHQ=forecast.value_BHQ[one]
    )


def _joined(windows: Sequence[Window]) -> Window:
    """Several windows as one batch."""
    if len(windows) == 1:
        return windows[0]
    return Window(
        history_BLK=np.concatenate([window.history_BLK for window in windows]),
        future_BHK=np.concatenate([window.future_BHK for window in windows]),
        static_BS=np.concatenate([window.static_BS for window in windows]),
        sites=tuple(name for window in windows for name in window.sites),
        origins=np.concatenate([window.origins for window in windows]),
    )
