"""The core behind every API: a place and a horizon in, a forecast and all that must be said about it out. No HTTP."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from features.errors import ArtifactError, InvalidParameterError
from features.vocabulary import Domain, Forecast, Site
from serving.artifacts import Artifact
from serving.explanation import FeatureImportance, importances, occluded_windows, occlusions
from serving.memory import Prepared, WindowMemory
from serving.runtimes.failover import FailoverRuntime

_LOG = logging.getLogger(__name__)
_HOUR_S = 3600.0
_EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What a reader of a forecast must know about it.

    Attributes:
        runtime: Which runtime made it.
        distance_km: How far the site is from the coordinates that were asked for; None where it was named [km].
        origin_s: The forecast starts here [s since 1970].
        last_reading_s: Moment of the target's last reading [s since 1970].
        reading_age_h: Age of that reading at the moment of the request [h].
        stale: Whether it is too old for a forecast from now: then the forecast starts from that reading.
        missing_share: Share of the target's steps of the last day that are missing (0 to 1).
        out_of_range: Inputs that left, in the last day, the range that the model was trained on.
        unseen_site: Whether the model was trained without this site.
        memory_age_s: How long ago the online store was last read, if longer than it should be [s].
    """

    runtime: str
    distance_km: float | None
    origin_s: int
    last_reading_s: int
    reading_age_h: float
    stale: bool
    missing_share: float
    out_of_range: tuple[str, ...]
    unseen_site: bool
    memory_age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastResult:
    """An answer.

    Attributes:
        site: The place that it is for.
        forecast: One forecast over the steps of the horizon that was asked for, levels lower, median, upper.
        confidence: Probability between lower and upper.
        quality: What must be said about it.
        explanation: Most important inputs, None where not asked for.
        timing_s: Time that each stage took [s].
    """

    site: Site
    forecast: Forecast
    confidence: float
    quality: Quality
    explanation: tuple[FeatureImportance, ...] | None
    timing_s: dict[str, float]


class ForecastService:
    """Forecasts of one domain, from one artifact.

    Args:
        domain: What is forecast.
        artifact: The model.
        memory: Where windows come from.
        runtime: What runs the model.
        window_refresh_s: Time between two reads of the online store [s].
        stale_after_h: Oldest last reading that a forecast from now may build on [h].
        nearest_within_km: How far a site may be from the coordinates of a request [km].
        confidence: Probability of the interval.
        now: The moment of a request [s since 1970].
    """

    def __init__(
        self,
        *,
        domain: Domain,
        artifact: Artifact,
        memory: WindowMemory,
        runtime: FailoverRuntime,
        window_refresh_s: float = 5.0,
        stale_after_h: float = 6.0,
        nearest_within_km: float = 50.0,
        confidence: float = 0.95,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.domain = domain
        self.artifact = artifact
        self.memory = memory
        self.runtime = runtime
        self.window_refresh_s = window_refresh_s
        self.stale_after_s = stale_after_h * _HOUR_S
        self.nearest_within_km = nearest_within_km
        self.confidence = confidence
        self.levels = (round((1 - confidence) / 2, 6), 0.5, round((1 + confidence) / 2, 6))
        self._now = now
        self._groups = occlusions(domain)
        self._known_sites = {site.name for site in artifact.card.sites}
        # One window per site: the key says at which origin and from which read of the online store.
        self._windows: dict[str, tuple[tuple[int, int], asyncio.Future[Prepared]]] = {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="window-memory")
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the histories, load the model, and keep the histories fresh from now on.

        Raises:
            ArtifactError: The model does not fit the domain or the confidence, or cannot be loaded.
            DeviceError: A device was asked for and is not there.
            NotEnoughDataError: The online store was never filled.
        """
        self._check_artifact()
        await self._in_reader(self.memory.refresh)
        await self._in_reader(self.memory.warm)
        await self.runtime.ready()
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._keep_fresh())

    def _check_artifact(self) -> None:
        card, domain = self.artifact.card, self.domain
        expected = (domain.step_s, domain.history_channels, domain.future_channels, domain.static_channels)
        found = (card.step_s, card.history_channels, card.future_channels, card.static_channels)
        missing = [level for level in self.levels if not any(abs(level - known) < 1e-9 for known in card.levels)]
        if found != expected:
            raise ArtifactError(
                f"The model {card.model} was trained for another layout of the domain {domain.name}",
                found=found,
                remedy="Train it again, with `make train`.",
            )
        if missing:
            raise ArtifactError(
                f"The model {card.model} has no interval of {self.confidence:.0%}",
                found=f"levels {', '.join(map(str, card.levels))}",
                remedy="Set TOWNCAST_CONFIDENCE to an interval that these levels hold, or train it again.",
            )

    async def _in_reader(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._reader, work)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self.window_refresh_s)
            try:
                await self._in_reader(self.memory.refresh)
            except Exception:  # Feast raises unrelated types; the old histories serve on, and `quality` gives their age
                _LOG.exception("The online store of %s cannot be read", self.domain.name)

    async def close(self) -> None:
        """Stop reading and close the runtime."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        self._reader.shutdown(wait=True)
        await self.runtime.close()

    async def forecast(
        self,
        *,
        site: str | None = None,
        coordinates: tuple[float, float] | None = None,
        horizon: str,
        explain: bool = False,
    ) -> ForecastResult:
        """The forecast of a place.

        Args:
            site: Its name; decides where both are given.
            coordinates: Latitude and longitude [degrees]; the nearest site answers.
            horizon: One of the domain's horizons, such as "24h".
            explain: Whether to name the most important inputs.

        Raises:
            InvalidParameterError: The horizon is not one of the domain's, or the coordinates are off the globe or far
                from every site, or there is neither name nor coordinates.
            UnknownNameError: There is no site of this name.
            NotEnoughDataError: The site has no readings.
            RuntimeUnavailableError: No runtime can answer.
            ArtifactError: The model and its window do not fit together.
        """
        began = time.perf_counter()
        steps = self._steps(horizon)
        found, distance_km = self._locate(site, coordinates)
        prepared = await self._prepared(found.name)
        cut = time.perf_counter()
        window = occluded_windows(prepared.window, self._groups) if explain else prepared.window
        answer = await self.runtime.answer(window, levels=self.levels)
        ran = time.perf_counter()
        explanation = importances(answer.forecast, self._groups, steps=steps) if explain else None
        return ForecastResult(
            site=found,
            forecast=_first(answer.forecast, steps),
            confidence=self.confidence,
            quality=self._quality(prepared, runtime=answer.runtime, distance_km=distance_km),
            explanation=explanation,
            timing_s={"window": cut - began, "run": ran - cut},
        )

    def _steps(self, horizon: str) -> int:
        known = self.domain.horizons
        if horizon not in known:
            raise InvalidParameterError(
                parameter="forecast_horizon",
                provided=horizon,
                allowed=list(known),
                fact="The horizon is not one that is forecast",
                remedy=f"Use one of {', '.join(known)}.",
            )
        return known[horizon]

    def _locate(self, name: str | None, coordinates: tuple[float, float] | None) -> tuple[Site, float | None]:
        """The site, and its distance from the coordinates where these decided [km]."""
        if coordinates is not None:
            _check_globe(coordinates)
        if name is not None:
            return self.memory.site(name), None
        entity = self.domain.entity
        if coordinates is None:
            raise InvalidParameterError(
                parameter="location",
                provided=None,
                allowed=f"the name of a {entity}, or coordinates",
                fact="The request names no place",
                remedy=f"Give the name of a {entity}, or coordinates.",
            )
        distances_km = {site.name: _distance_km(coordinates, site) for site in self.memory.sites.values()}
        near = min((name for name in distances_km), key=lambda name: distances_km[name], default=None)
        if near is None or not distances_km[near] <= self.nearest_within_km:
            raise InvalidParameterError(
                parameter="location.coordinates",
                provided=list(coordinates),
                allowed=f"a point within {self.nearest_within_km:g} km of a known {entity}",
                fact=f"There is no {entity} near these coordinates",
                remedy=f"Name a {entity}, or give a point nearer to one.",
            )
        return self.memory.sites[near], distances_km[near]

    async def _prepared(self, name: str) -> Prepared:
        """The window of a site, cut off the event loop once per step and per news; equal requests share the cut."""
        now_s = self._now()
        key = (int(now_s) // self.domain.step_s, self.memory.version)
        held = self._windows.get(name)
        if held is not None and held[0] == key:
            return await asyncio.shield(held[1])
        cut = asyncio.get_running_loop().run_in_executor(
            self._reader, lambda: self.memory.prepare(name, now_s=now_s, stale_after_s=self.stale_after_s)
        )
        self._windows[name] = (key, cut)
        try:
            return await asyncio.shield(cut)
        except Exception:
            self._windows.pop(name, None)
            raise

    def _quality(self, prepared: Prepared, *, runtime: str, distance_km: float | None) -> Quality:
        ranges = self.artifact.card.input_range
        age_s = self._now() - prepared.last_reading_s
        memory_age_s = self.memory.age_s
        return Quality(
            runtime=runtime,
            distance_km=distance_km,
            origin_s=prepared.origin_s,
            last_reading_s=prepared.last_reading_s,
            reading_age_h=age_s / _HOUR_S,
            stale=age_s > self.stale_after_s,
            missing_share=prepared.missing_share,
            out_of_range=tuple(
                name
                for name, (low, high) in prepared.extremes.items()
                if name in ranges and (low < ranges[name][0] or high > ranges[name][1])
            ),
            unseen_site=prepared.window.sites[0] not in self._known_sites,
            # Two missed reads are a fault; one late read is not.
            memory_age_s=memory_age_s if memory_age_s > 3 * self.window_refresh_s else None,
        )


def _first(forecast: Forecast, steps: int) -> Forecast:
    """The first window's forecast, cut to a horizon."""
    return Forecast(
        quantity=forecast.quantity,
        unit=forecast.unit,
        sites=forecast.sites[:1],
        origins=forecast.origins[:1],
        step_s=forecast.step_s,
        levels=forecast.levels,
        value_BHQ=forecast.value_BHQ[:1, :steps],
        model=forecast.model,
    )


def _check_globe(coordinates: tuple[float, float]) -> None:
    latitude, longitude = coordinates
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise InvalidParameterError(
            parameter="location.coordinates",
            provided=list(coordinates),
            allowed="latitude -90 to 90 and longitude -180 to 180, in degrees, in this order",
            fact="The coordinates are off the globe",
            remedy="Give latitude first, then longitude.",
        )


def _distance_km(coordinates: tuple[float, float], site: Site) -> float:
    """Great-circle distance by the haversine formula (Sinnott 1984), infinite where the site's place is unknown."""
    if math.isnan(site.latitude) or math.isnan(site.longitude):
        return math.inf
    first, second = np.radians(coordinates), np.radians((site.latitude, site.longitude))
    half = np.sin((second - first) / 2) ** 2
    chord = half[0] + math.cos(first[0]) * math.cos(second[0]) * half[1]
    return float(2 * _EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(chord))))
