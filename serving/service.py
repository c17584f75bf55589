"""The core behind every API: a place and a horizon in, a forecast and all that must be said about it out. No HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from features.card import Card
from features.errors import ArtifactError, InvalidParameterError, TowncastError
from features.vocabulary import Domain, Forecast, Site, Window
from serving.artifacts import Artifact
from serving.explanation import FeatureImportance, importances
from serving.kept import Came, Cut, KeptRuns, Run, WindowKey
from serving.maker import RunMaker, outcomes_of
from serving.memory import Prepared
from serving.places import Place, locate
from serving.probe import channels_read_ahead
from serving.quality import Quality, judge_quality, weather_ahead
from serving.runtimes.failover import FailoverRuntime
from serving.shared_forecasts import SharedForecasts, SharingMaker
from serving.window_source import WindowSource

# The most windows that one call of a runtime gets: a larger batch is no faster, and would make others wait.
_MOST_WINDOWS = 32
# Ages are written to hundredths of an hour: what was told a moment ago of a kept forecast is as good as new [s].
_JUDGED_FOR_S = 1.0


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
        run: What the model made of the window, over its whole horizon.
        came: How the answer came by it.
        card: Of the model that made it.
        quality: What must be said about it.
        explanation: Most important inputs, None where not asked for.
        timing_s: Time that each stage took [s].
    """

    site: Site
    forecast: Forecast
    confidence: float
    run: Run
    came: Came
    card: Card
    quality: Quality
    explanation: tuple[FeatureImportance, ...] | None
    timing_s: dict[str, float]

    @property
    def window(self) -> Window:
        """What it was made from."""
        return self.run.prepared.window


Outcome = ForecastResult | TowncastError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A question whose place and horizon are found."""

    site: Site
    distance_km: float | None
    steps: int
    explain: bool


class ForecastService:
    """Forecasts of one target of a domain, from one artifact.

    Args:
        artifact: The model.
        windows: Where windows come from; started with the service, may be shared, closed by who opened them.
        runtime: What runs the model.
        nearest_within_km: How far a site may be from the coordinates of a request [km].
        confidence: Probability of the interval.
        keep_s: How long a forecast is kept while its window stays the same [s]; 0 keeps none.
        shared: Forecasts that other workers made; None where there is one worker. Closed by who opened them.
    """

    def __init__(
        self,
        *,
        artifact: Artifact,
        windows: WindowSource,
        runtime: FailoverRuntime,
        nearest_within_km: float = 50.0,
        confidence: float = 0.95,
        keep_s: float = 0.0,
        shared: SharedForecasts | None = None,
    ) -> None:
        self.domain = windows.domain
        self.target = self.domain.quantity(artifact.card.target)
        self.artifact = artifact
        self.windows = windows
        self.runtime = runtime
        self.nearest_within_km = nearest_within_km
        self.confidence = confidence
        self.levels = (round((1 - confidence) / 2, 6), 0.5, round((1 + confidence) / 2, 6))
        self._known_sites = {site.name for site in artifact.card.sites}
        self._read_ahead: tuple[str, ...] = ()
        maker = RunMaker(artifact=artifact, windows=windows, runtime=runtime, levels=self.levels)
        self._maker = maker if shared is None else SharingMaker(maker, shared)
        self._kept = KeptRuns(keep_s=keep_s)
        self._making: dict[tuple[str, WindowKey], asyncio.Task[Run]] = {}

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
        """Close the runtime; the windows may be another service's too, and are closed by who opened them."""
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
        if not question.explain:
            run, came = await self._run_of(found.site.name)
            return self._result(found, run, came, {"total": time.perf_counter() - began})
        prepared = await self._maker.prepared(found.site.name)
        run = await self._maker.explained(prepared)
        return self._result(found, run, "made", {"total": time.perf_counter() - began})

    def kept(self, question: Question) -> ForecastResult | None:
        """The forecast of a named place, if it is kept: a look-up, which waits for nothing.

        Raises:
            InvalidParameterError: The horizon is not one of the domain's.
        """
        site = self.windows.memory.sites.get(question.place.name or "")
        if site is None or question.explain or question.place.coordinates is not None:
            return None
        run = self._kept.find(site.name, self.windows.key(site.name))
        if run is None:
            return None
        told, moment_s = run.told.get(question.horizon), time.monotonic()
        if told is not None and moment_s - told[0] < _JUDGED_FOR_S:
            result: ForecastResult = told[1]
            return result
        steps = pick_horizon(self.domain, question.horizon)
        result = self._result(_Found(site=site, distance_km=None, steps=steps, explain=False), run, "kept", {})
        run.told[question.horizon] = (moment_s, result)
        return result

    async def make_ahead(self, names: Sequence[str]) -> dict[str, Run]:
        """Make and keep the forecasts of some sites, before anybody asks; those that are kept now, by site.

        Where none is kept, none is made.

        Raises:
            RuntimeUnavailableError: No runtime can answer.
        """
        made: dict[str, Run] = {}
        if self._kept.keep_s == 0:
            return made
        for first in range(0, len(names), _MOST_WINDOWS):
            keys = {name: self.windows.key(name) for name in names[first : first + _MOST_WINDOWS]}
            kept = {name: self._kept.find(name, key) for name, key in keys.items()}
            made |= {name: run for name, run in kept.items() if run is not None}
            wanted = [name for name in keys if name not in made]
            cuts = await outcomes_of(map(self._maker.prepared, wanted))
            together = [cut for cut in cuts if isinstance(cut, Prepared)]
            for prepared, run in zip(together, await self._maker.together(together), strict=True):
                if isinstance(run, Run):
                    name = prepared.window.sites[0]
                    self._kept.keep(name, keys[name], run)
                    made[name] = run
        return made

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
        runs = await self._run_sites(explained)
        timing_s = {"total": time.perf_counter() - began}
        outcomes: list[Outcome] = []
        for place in places:
            if isinstance(place, TowncastError):
                outcomes.append(place)
                continue
            run = runs[place.site.name]
            outcomes.append(run if isinstance(run, TowncastError) else self._result(place, *run, timing_s))
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

    async def _run_of(self, name: str) -> tuple[Run, Came]:
        """The run of a site's present window: kept, or made once for all that ask for it at a time."""
        key = self.windows.key(name)
        run = self._kept.find(name, key)
        if run is not None:
            return run, "kept"
        making = self._making.get((name, key))
        if making is not None:
            return await asyncio.shield(making), "joined"
        making = asyncio.get_running_loop().create_task(self._make(name, key))
        self._making[name, key] = making
        making.add_done_callback(lambda _: self._making.pop((name, key), None))
        # Shielded: a caller who hangs up must not spoil it for those who joined.
        return await asyncio.shield(making), "made"

    async def _make(self, name: str, key: WindowKey) -> Run:
        run = await self._maker.plain(await self._maker.prepared(name))
        self._kept.keep(name, key, run)
        return run

    async def _run_sites(self, explained: Mapping[str, bool]) -> dict[str, tuple[Run, Came] | TowncastError]:
        """A run for each site; those that are neither kept nor explained in as few calls of the runtime as can be."""
        runs: dict[str, tuple[Run, Came] | TowncastError] = {}
        keys = {name: self.windows.key(name) for name in explained}
        for name, key in keys.items():
            kept = None if explained[name] else self._kept.find(name, key)
            if kept is not None:
                runs[name] = kept, "kept"
        wanted = [name for name in explained if name not in runs]
        plain: list[Prepared] = []
        for name, prepared in zip(wanted, await outcomes_of(map(self._maker.prepared, wanted)), strict=True):
            if isinstance(prepared, TowncastError):
                runs[name] = prepared
            elif explained[name]:
                # One after the other: the windows of one explanation are several megabytes.
                (run,) = await outcomes_of([self._maker.explained(prepared)])
                runs[name] = run if isinstance(run, TowncastError) else (run, "made")
            else:
                plain.append(prepared)
        for first in range(0, len(plain), _MOST_WINDOWS):
            together = plain[first : first + _MOST_WINDOWS]
            for prepared, run in zip(together, await self._maker.together(together), strict=True):
                name = prepared.window.sites[0]
                runs[name] = run if isinstance(run, TowncastError) else (run, "made")
                if isinstance(run, Run):
                    self._kept.keep(name, keys[name], run)
        return runs

    def _result(self, found: _Found, run: Run, came: Came, timing_s: dict[str, float]) -> ForecastResult:
        explanation = None
        if found.explain:
            explanation = () if run.values is None else importances(run.values, steps=found.steps)
        cut = run.cuts.get(found.steps) or self._cut(run, found.steps)
        return ForecastResult(
            site=found.site,
            forecast=cut.forecast,
            confidence=self.confidence,
            run=run,
            came=came,
            card=self.artifact.card,
            quality=self._quality(found, run, cut),
            explanation=explanation,
            timing_s=timing_s,
        )

    def _cut(self, run: Run, steps: int) -> Cut:
        ahead = weather_ahead(self.domain, run.prepared, used=self._read_ahead, steps=steps)
        forecast = replace(run.forecast, value_BHQ=run.forecast.value_BHQ[:, :steps])
        run.cuts[steps] = Cut(forecast=forecast, weather_ahead=ahead)
        return run.cuts[steps]

    def _quality(self, found: _Found, run: Run, cut: Cut) -> Quality:
        """What is to be said now."""
        return judge_quality(
            self.artifact.card,
            run.prepared,
            season_s=self.domain.season_steps * self.domain.step_s,
            now_s=self.windows.now(),
            stale_after_s=self.windows.stale_after_s,
            unseen_site=found.site.name not in self._known_sites,
            weather_ahead=cut.weather_ahead,
            runtime=run.runtime,
            distance_km=found.distance_km,
            memory_age_s=self.windows.overdue_s,
        )


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
