"""The core behind every API: a place and a horizon in, a forecast and all that must be said about it out. No HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from features.card import Card
from features.errors import ArtifactError, InvalidParameterError, TowncastError
from features.vocabulary import Domain, Forecast, Site, Window
from serving.artifacts import Artifact
from serving.explanation import (
    FeatureImportance,
    ShapleyValues,
    coalition_windows,
    coalitions,
    feature_groups,
    importances,
    shapley_values,
)
from serving.intervals import adapt, keep_levels
from serving.memory import Prepared, no_reading
from serving.places import Place, locate
from serving.probe import channels_read_ahead
from serving.quality import Quality, judge_quality, weather_ahead
from serving.runtimes.failover import Answer, FailoverRuntime
from serving.window_source import WindowSource

# The most windows that one call of a runtime gets: a larger batch is no faster, and would make others wait.
_MOST_WINDOWS = 64
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a service.

    Attributes:
        place: Where.
        horizon: How far ahead: one of the domain's horizons, such as "24h".
        explain: Whether to name the most important inputs.
    """

    place: Place
    horizon: str
    explain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    """An answer.

    Attributes:
        site: The place that it is for.
        forecast: One forecast over the steps of the horizon that was asked for, levels lower, median, upper.
        confidence: Probability between lower and upper.
        window: What it was made from.
        card: Of the model that made it.
        quality: What must be said about it.
        explanation: Most important inputs, None where not asked for.
        timing_s: Time that each stage took [s].
    """

    site: Site
    forecast: Forecast
    confidence: float
    window: Window
    card: Card
    quality: Quality
    explanation: tuple[FeatureImportance, ...] | None
    timing_s: dict[str, float]


Outcome = ForecastResult | TowncastError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A question whose place and horizon are found."""

    site: Site
    distance_km: float | None
    steps: int
    explain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What a runtime made of one window: its forecast over the whole horizon, and its explanation."""

    prepared: Prepared
    forecast: Forecast
    runtime: str
    values: ShapleyValues | None = None


class ForecastService:
    """Forecasts of one target of a domain, from one artifact.

    Args:
        artifact: The model.
        windows: Where windows come from; started and closed with the service, and may be shared with others.
        runtime: What runs the model.
        nearest_within_km: How far a site may be from the coordinates of a request [km].
        confidence: Probability of the interval.
    """

    def __init__(
        self,
        *,
        artifact: Artifact,
        windows: WindowSource,
        runtime: FailoverRuntime,
        nearest_within_km: float = 50.0,
        confidence: float = 0.95,
    ) -> None:
        self.domain = windows.domain
        self.target = self.domain.quantity(artifact.card.target)
        self.artifact = artifact
        self.windows = windows
        self.runtime = runtime
        self.nearest_within_km = nearest_within_km
        self.confidence = confidence
        self.levels = (round((1 - confidence) / 2, 6), 0.5, round((1 + confidence) / 2, 6))
        self._groups = feature_groups(self.domain, self.target)
        self._known_sites = {site.name for site in artifact.card.sites}
        self._hour = self.domain.future_channels.index("hour_of_day")
        self._read_ahead: tuple[str, ...] = ()

    async def start(self) -> None:
        """Read the histories, load the model, and keep the histories fresh from now on.

        Raises:
            ArtifactError: The model does not fit the domain or the confidence, or cannot be loaded.
            DeviceError: A device was asked for and is not there.
            NotEnoughDataError: The online store was never filled.
        """
        self._check_artifact()
        await self.windows.start()
        await self.runtime.ready()
        self._read_ahead = await channels_read_ahead(self.domain, self.artifact.card, self.runtime)

    def _check_artifact(self) -> None:
        card, domain = self.artifact.card, self.domain
        expected = (domain.step_s, domain.history_channels, domain.future_channels, domain.static_channels)
        found = (card.step_s, card.history_channels, card.future_channels, card.static_channels)
        missing = [level for level in self.levels if not any(abs(level - known) < 1e-9 for known in card.levels)]
        if found != expected:
            raise ArtifactError(
                f"The model {card.model} was trained for another layout of the domain {domain.name}",
                found=found,
                remedy=f"Train it again, with `towncast train {domain.name}`.",
            )
        if missing:
            raise ArtifactError(
                f"The model {card.model} has no interval of {self.confidence:.0%}",
                found=f"levels {', '.join(map(str, card.levels))}",
                remedy="Set TOWNCAST_CONFIDENCE to an interval that these levels hold, or train it again.",
            )

    async def close(self) -> None:
        """Stop reading and close the runtime."""
        await self.windows.close()
        await self.runtime.close()

    async def forecast(self, question: Question) -> ForecastResult:
        """The forecast of a place.

        Raises:
            InvalidParameterError: The horizon is not one of the domain's, or the coordinates are off the globe or far
                from every site, or there is neither name nor coordinates.
            UnknownNameError: There is no site of this name.
            NotEnoughDataError: The site has no readings.
            RuntimeUnavailableError: No runtime can answer.
            ArtifactError: The model and its window do not fit together.
        """
        began = time.perf_counter()
        found = self._find(question)
        prepared = await self._prepared(found.site.name)
        cut = time.perf_counter()
        run = await (self._explained(prepared) if question.explain else self._plain(prepared))
        timing_s = {"window": cut - began, "run": time.perf_counter() - cut}
        return self._result(found, run, timing_s)

    async def forecast_many(self, questions: Sequence[Question]) -> list[Outcome]:
        """The forecasts of several places: each site's window is cut and run once, all windows together.

        Returns:
            For each question its forecast, or the error that `forecast` would raise.
        """
        began = time.perf_counter()
        places = [self._find_or_error(question) for question in questions]
        explained: dict[str, bool] = {}
        for place in places:
            if isinstance(place, _Found):
                explained[place.site.name] = explained.get(place.site.name, False) or place.explain
        cuts = dict(zip(explained, await outcomes_of(map(self._prepared, explained)), strict=True))
        cut = time.perf_counter()
        runs = await self._run_sites(cuts, explained)
        timing_s = {"window": cut - began, "run": time.perf_counter() - cut}
        outcomes: list[Outcome] = []
        for place in places:
            if isinstance(place, TowncastError):
                outcomes.append(place)
                continue
            run = runs[place.site.name]
            outcomes.append(self._result(place, run, timing_s) if isinstance(run, _Run) else run)
        return outcomes

    def _find(self, question: Question) -> _Found:
        steps = pick_horizon(self.domain, question.horizon)
        site, distance_km = locate(self.windows.memory, question.place, within_km=self.nearest_within_km)
        return _Found(site=site, distance_km=distance_km, steps=steps, explain=question.explain)

    def _find_or_error(self, question: Question) -> _Found | TowncastError:
        try:
            return self._find(question)
        except TowncastError as error:
            return error

    async def _prepared(self, name: str) -> Prepared:
        """The window of a site that has readings of the target."""
        prepared = await self.windows.prepared(name)
        if self.target.name not in prepared.records:
            raise no_reading(self.domain, self.target.name, name)
        return prepared

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

    async def _plain(self, prepared: Prepared) -> _Run:
        answer = await self._answer(prepared.window)
        forecast = self._served(answer.forecast, prepared.window)
        return _Run(prepared=prepared, forecast=forecast, runtime=answer.runtime)

    async def _explained(self, prepared: Prepared) -> _Run:
        groups = tuple(group for group in self._groups if group.is_in(prepared.window))
        if not groups:
            return await self._plain(prepared)
        drawn = coalitions(len(groups))
        answer = await self._answer(coalition_windows(prepared.window, groups, drawn))
        return _Run(
            prepared=prepared,
            forecast=self._served(_of_window(answer.forecast, 0), prepared.window),
            runtime=answer.runtime,
            values=shapley_values(answer.forecast, groups, drawn),
        )

    async def _run_sites(
        self, cuts: Mapping[str, Prepared | TowncastError], explained: Mapping[str, bool]
    ) -> dict[str, _Run | TowncastError]:
        """A run for each site; those that are not explained in as few calls of the runtime as can be."""
        runs: dict[str, _Run | TowncastError] = {}
        plain: list[Prepared] = []
        for name, prepared in cuts.items():
            if isinstance(prepared, TowncastError):
                runs[name] = prepared
            elif explained[name]:
                # One after the other: the windows of one explanation are several megabytes.
                runs[name], *_ = await outcomes_of([self._explained(prepared)])
            else:
                plain.append(prepared)
        for first in range(0, len(plain), _MOST_WINDOWS):
            together = plain[first : first + _MOST_WINDOWS]
            for prepared, run in zip(together, await self._run_together(together), strict=True):
                runs[prepared.window.sites[0]] = run
        return runs

    async def _run_together(self, together: Sequence[Prepared]) -> Sequence[_Run | TowncastError]:
        window = _joined([one.window for one in together])
        try:
            answer = await self._answer(window)
        except ArtifactError as error:
            if len(together) == 1:
                return [error]
            # One window that the graph cannot forecast must not spoil the others.
            return await outcomes_of(map(self._plain, together))
        except TowncastError as error:
            return [error] * len(together)
        forecast = self._served(answer.forecast, window)
        return [
            _Run(prepared=prepared, forecast=_of_window(forecast, index), runtime=answer.runtime)
            for index, prepared in enumerate(together)
        ]

    def _result(self, found: _Found, run: _Run, timing_s: dict[str, float]) -> ForecastResult:
        prepared, card = run.prepared, self.artifact.card
        ahead = weather_ahead(self.domain, prepared, used=self._read_ahead, steps=found.steps)
        explanation = None
        if found.explain:
            explanation = () if run.values is None else importances(run.values, steps=found.steps)
        return ForecastResult(
            site=found.site,
            forecast=replace(run.forecast, value_BHQ=run.forecast.value_BHQ[:, : found.steps]),
            confidence=self.confidence,
            window=prepared.window,
            card=card,
            quality=judge_quality(
                card,
                prepared,
                season_s=self.domain.season_steps * self.domain.step_s,
                now_s=self.windows.now(),
                stale_after_s=self.windows.stale_after_s,
                unseen_site=found.site.name not in self._known_sites,
                weather_ahead=ahead,
                runtime=run.runtime,
                distance_km=found.distance_km,
                memory_age_s=self.windows.overdue_s,
            ),
            explanation=explanation,
            timing_s=timing_s,
        )


async def outcomes_of(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result | TowncastError]:
    """What each coroutine gives, or the expected error that it raises; all run at a time."""
    done = await asyncio.gather(*work, return_exceptions=True)
    outcomes: list[Result | TowncastError] = []
    for outcome in done:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TowncastError):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def pick_horizon(domain: Domain, horizon: str) -> int:
    """Steps of a horizon by its name.

    Raises:
        InvalidParameterError: The domain has no such horizon.
    """
    known = domain.horizons
    if horizon not in known:
        raise InvalidParameterError(
            parameter="forecast_horizon",
            provided=horizon,
            allowed=list(known),
            fact="The horizon is not one that is forecast",
            remedy=f"Use one of {', '.join(known)}.",
        )
    return known[horizon]


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
