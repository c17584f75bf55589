"""Pollution: concentrations at a station for each hour, and the air quality index that follows from them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from features.air_quality import advisory, aqi_from_hourly, category
from features.air_quality_standards import STANDARDS as INDEX_STANDARDS
from features.domains.pollution import PM2_5, PM10, POLLUTION
from features.errors import InvalidParameterError, TowncastError
from features.registry import nearest_names
from serving.places import Place
from serving.predictions.api import Content, PredictionApi, bounds, found, rounded, stamps, top_features
from serving.quality import worst
from serving.schemas import (
    Coordinates,
    Importance,
    PredictionRequest,
    PredictionResponse,
    QualityReply,
    Reply,
    ShortName,
    SiteName,
    horizon_field,
)
from serving.service import ForecastResult, Outcome

AQI = "AQI"
# Names of the API, and the targets behind them.
CONCENTRATIONS: dict[str, str] = {"PM2.5": PM2_5.name, "PM10": PM10.name}
# Names of the API, and those of `features.air_quality_standards`.
STANDARDS: dict[str, str] = {"IN": "india_2014", "US": "us_epa_2024"}
_PARAMETERS = [*CONCENTRATIONS, AQI]
_HOURS_BEFORE = 24


class PollutionRequest(PredictionRequest):
    """A question about the air at a station. The name decides if coordinates are given too."""

    station_id: SiteName | None = Field(default=None, description="Name of a station.", examples=["P001"])
    coordinates: Coordinates | None = Field(
        default=None, description="Latitude and longitude; the nearest station answers.", examples=[[23.0225, 72.5714]]
    )
    parameters: list[ShortName] = Field(
        default=_PARAMETERS,
        min_length=1,
        max_length=16,
        description="What is wanted.",
        examples=[_PARAMETERS],
        json_schema_extra={"items": {"type": "string", "enum": [*_PARAMETERS]}},
    )
    forecast_horizon: ShortName = horizon_field("pollution")
    include_health_advisory: bool = Field(default=False, description="Whether each AQI gets its advice.")
    aqi_standard: ShortName = Field(
        default="IN",
        description="Whose index: India's or the United States'.",
        json_schema_extra={"enum": [*STANDARDS]},
    )

    def options(self) -> Hashable:
        """The parameters and the index among them."""
        return (super().options(), tuple(self.parameters), self.include_health_advisory, self.aqi_standard)

    def place(self) -> Place:
        """The station, or the point."""
        return Place(
            name=self.station_id,
            coordinates=self.coordinates,
            parameter="station_id",
            coordinates_parameter="coordinates",
        )


class ConcentrationPrediction(Reply):
    """One hour of a concentration."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    value: float = Field(description="Median [ug/m3].")
    confidence_interval: tuple[float, float] | None = Field(
        default=None, description="Lower and upper end [ug/m3]; left out if not asked for.", examples=[[85.2, 105.8]]
    )


class AqiPrediction(Reply):
    """The index at one hour, from the means over the 24 hours up to it."""

    timestamp: str = Field(description="End of the hour, UTC.", examples=["2026-02-06T10:00:00Z"])
    value: int | None = Field(description="None where too many of the hours before are missing.", examples=[175])
    category: str | None = Field(examples=["Moderate"])
    health_advisory: str | None = Field(
        default=None,
        description="Left out if not asked for. For the groups at risk that the standard names; the wording is ours.",
        examples=["Sensitive groups should limit outdoor activity"],
    )


class PollutionPredictions(Reply):
    """What was asked for, one entry an hour."""

    pm2_5: list[ConcentrationPrediction] | None = Field(default=None, alias="PM2.5")
    pm10: list[ConcentrationPrediction] | None = Field(default=None, alias="PM10")
    aqi: list[AqiPrediction] | None = Field(default=None, alias="AQI")


class PollutionExplanation(Reply):
    """The most important groups of inputs of each concentration, by their mean absolute Shapley values."""

    top_features: dict[str, list[Importance]]


class AqiBasis(Reply):
    """What the index is computed from; it is never learnt."""

    standard: str = Field(examples=["IN"])
    source: str = Field(
        description="Who publishes its breakpoints, categories and groups at risk.",
        examples=["National Air Quality Index of India (CPCB 2014)"],
    )
    pollutants: list[str] = Field(examples=[["PM2.5", "PM10"]])
    official: bool = Field(description="Whether these are enough of them for the standard.")
    averaging_complete: bool = Field(description="Whether no hour behind any mean is missing.")
    notes: list[str] = Field(
        description="What keeps it from being the official index, for people.",
        examples=[["Not an official index: the standard takes 3 pollutants, here are 2"]],
    )


class PollutionQuality(QualityReply):
    """What to know before trusting the forecast: of several concentrations the worst of each."""

    station_id: str = Field(description="The station that the forecast is for.")
    aqi: AqiBasis | None = Field(default=None, description="Only if the index was asked for.")


class PollutionResponse(PredictionResponse):
    """The air at a station."""

    predictions: PollutionPredictions
    explanation: PollutionExplanation | None = Field(default=None, description="Left out if not asked for.")  # type: ignore[assignment]
    quality: PollutionQuality


def _targets(request: PollutionRequest) -> tuple[str, ...]:
    """Those that were asked for; the index takes all.

    Raises:
        InvalidParameterError: A parameter or the standard is not known.
    """
    for name in request.parameters:
        _check("parameters", name, _PARAMETERS)
    _check("aqi_standard", request.aqi_standard, [*STANDARDS])
    wanted = CONCENTRATIONS if AQI in request.parameters else request.parameters
    return tuple(CONCENTRATIONS[name] for name in dict.fromkeys(wanted))


def _check(parameter: str, name: str, allowed: list[str]) -> None:
    if name not in allowed:
        raise InvalidParameterError(
            parameter=parameter,
            provided=name,
            allowed=allowed,
            fact="There is no such value",
            remedy=f"Use {', '.join(allowed)}.",
            nearest=nearest_names(name, allowed),
        )


def _content(request: PollutionRequest, outcomes: Mapping[str, Outcome]) -> Content:
    asked = {name: found(outcomes, CONCENTRATIONS[name]) for name in CONCENTRATIONS if name in request.parameters}
    results = dict(asked)
    if AQI in request.parameters:
        # The index does with those that are there, and `quality` names them.
        for name, target in CONCENTRATIONS.items():
            outcome = outcomes[target]
            if not isinstance(outcome, TowncastError):
                results[name] = outcome
        if not results:
            found(outcomes, PM2_5.name)
    predictions = {name: _concentrations(result, request) for name, result in asked.items()}
    more_quality = {}
    if AQI in request.parameters:
        predictions[AQI], more_quality["aqi"] = _index(results, request)
    explained = {name: top_features(result) for name, result in results.items()}
    first = next(iter(results.values()))
    return Content(
        results=tuple(results.values()),
        quality=worst([result.quality for result in results.values()]),
        place=("station_id", first.site.name),
        body={"predictions": predictions},
        explanation=explained if request.include_explanation else None,
        more_quality=more_quality,
    )


def _concentrations(result: ForecastResult, request: PollutionRequest) -> list[dict[str, Any]]:
    median_H = result.forecast.at_level(0.5)[0]
    entries: list[dict[str, Any]] = [
        {"timestamp": stamp, "value": value} for stamp, value in zip(stamps(result), rounded(median_H, 1), strict=True)
    ]
    if request.include_confidence:
        for entry, interval in zip(entries, zip(*bounds(result, 1), strict=True), strict=True):
            entry["confidence_interval"] = interval
    return entries


def _index(
    results: Mapping[str, ForecastResult], request: PollutionRequest
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The index of each hour, and what it was computed from.

    The means over 24 hours that it takes are of measured hours before the origin and of forecast ones after it.
    """
    standard = STANDARDS[request.aqi_standard]
    channels = {target.name: channel for channel, target in enumerate(POLLUTION.targets)}
    forecasts, history = {}, {}
    for name, result in results.items():
        target = CONCENTRATIONS[name]
        forecasts[target] = result.forecast.at_level(0.5)[0]
        history[target] = result.window.history_BLK[0, -_HOURS_BEFORE:, channels[target]]
    air = aqi_from_hourly(forecasts, history=history, standard=standard)
    known_H = np.isfinite(air.index)
    entries: list[dict[str, Any]] = [
        {"timestamp": stamp, "value": int(index) if known else None, "category": name if known else None}
        for stamp, index, known, name in zip(
            stamps(next(iter(results.values()))),
            air.index.tolist(),
            known_H.tolist(),
            category(air.index, standard=standard).tolist(),
            strict=True,
        )
    ]
    if request.include_health_advisory:
        for entry, advice in zip(entries, advisory(air.index, standard=standard).tolist(), strict=True):
            entry["health_advisory"] = advice or None
    # The first hour's mean is of one forecast hour and of all measured ones but the first.
    complete = all(bool(np.isfinite(values_L[1:]).all()) for values_L in history.values())
    return entries, _basis(request, list(results), official=bool(air.official.all()), complete=complete)


def _basis(request: PollutionRequest, pollutants: list[str], *, official: bool, complete: bool) -> dict[str, Any]:
    """What the index is computed from, as replies write it."""
    standard = INDEX_STANDARDS[STANDARDS[request.aqi_standard]]
    notes = []
    if len(pollutants) < standard.needed_pollutants:
        notes.append(
            f"Not an official index: the standard takes {standard.needed_pollutants} pollutants, here are "
            f"{len(pollutants)}"
        )
    if not complete:
        needed = max(standard.scale(CONCENTRATIONS[name]).needed_h for name in pollutants)
        notes.append(
            f"Averaging is not complete: some of the {_HOURS_BEFORE} hours before the forecast were not measured; an "
            f"hour with fewer than {needed} of {_HOURS_BEFORE} has no index"
        )
    return {
        "standard": request.aqi_standard,
        "source": standard.title,
        "pollutants": pollutants,
        "official": official,
        "averaging_complete": complete,
        "notes": notes,
    }


POLLUTION_API = PredictionApi(
    domain=POLLUTION.name,
    path=POLLUTION.api_path,
    summary="Forecast the air at a station",
    description="PM2.5 and PM10 at a station for each hour from the first to the horizon, with intervals, and the air "
    "quality index that is computed from them, with its category and advice.",
    request=PollutionRequest,
    response=PollutionResponse,
    targets=_targets,
    content=_content,
    examples={
        "station": {
            "summary": "A station, two days ahead",
            "value": {
                "station_id": "P001",
                "parameters": ["PM2.5", "PM10", "AQI"],
                "forecast_horizon": "48h",
                "include_health_advisory": True,
            },
        }
    },
)
