"""What a prediction route is made of, and the parts that the replies of all domains share.

Replies are plain dictionaries, of the layouts that their schemas document: making fifty models of an answer that is
right by construction took as long as the forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from features.errors import TowncastError
from serving.quality import Quality
from serving.schemas import PredictionRequest, Reply
from serving.service import ForecastResult, Outcome
from serving.text import utc_text

Asked = TypeVar("Asked", bound=PredictionRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionApi(Generic[Asked]):
    """How one domain is asked and answered.

    Attributes:
        domain: Its name.
        path: Path of its route.
        summary: One line for the documentation.
        description: A paragraph for the documentation.
        request: Layout of a request.
        response: Layout of a reply.
        targets: Which targets' forecasts a request takes.
        content: Predictions, explanation and the domain's own parts of `quality`, from the request and the outcome of
            each target; raises the error of a target that the request cannot do without.
        examples: Requests, by name.
    """

    domain: str
    path: str
    summary: str
    description: str
    request: type[Asked]
    response: type[Reply]
    targets: Callable[[Asked], tuple[str, ...]]
    content: Callable[[Asked, Mapping[str, Outcome]], Content]
    examples: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a domain says in a reply.

    Attributes:
        results: The forecasts behind it.
        quality: What must be known about them.
        place: The field of `quality` that names the place, and its name.
        body: The parts of the reply between its identifier and its explanation.
        explanation: The most important inputs, None where not asked for.
        more_quality: The domain's own parts of `quality`.
    """

    results: tuple[ForecastResult, ...]
    quality: Quality
    place: tuple[str, str]
    body: dict[str, Any]
    explanation: Any = None
    more_quality: dict[str, Any] = field(default_factory=dict)


def found(outcomes: Mapping[str, Outcome], target: str) -> ForecastResult:
    """The forecast of a target.

    Raises:
        TowncastError: There is none; the error says why.
    """
    outcome = outcomes[target]
    if isinstance(outcome, TowncastError):
        raise outcome
    return outcome


def write_head(content: Content) -> dict[str, Any]:
    """The part of a reply that depends on its forecasts alone."""
    head = {**content.body, "model_version": ", ".join(result.forecast.model for result in content.results)}
    if content.explanation is not None:
        head["explanation"] = {"top_features": content.explanation}
    return head


def top_features(result: ForecastResult) -> list[dict[str, Any]] | None:
    """The explanation of a forecast as replies write it, None where there is none."""
    if result.explanation is None:
        return None
    return [{"feature": item.feature, "importance": round(item.importance, 4)} for item in result.explanation]


def stamps(result: ForecastResult) -> Sequence[str]:
    """Moments that a forecast is for: the end of each hour."""
    forecast = result.forecast
    return _stamps(int(forecast.origins[0]), forecast.step_s, forecast.value_BHQ.shape[1])


@lru_cache(maxsize=256)
def _stamps(origin_s: int, step_s: int, steps: int) -> Sequence[str]:
    """They are the same for all sites of a town."""
    return tuple([utc_text(origin_s + step_s * step) for step in range(1, steps + 1)])


def rounded(values: npt.NDArray[np.floating], decimals: int) -> list[float]:
    """Values as replies write them."""
    return np.round(values.astype(np.float64), decimals).tolist()  # type: ignore[no-any-return]


def bounds(result: ForecastResult, decimals: int) -> tuple[list[float], list[float]]:
    """Lower and upper ends of the interval, rounded outwards, so that it is never narrowed."""
    lower_H, _, upper_H = result.forecast.value_BHQ[0].astype(np.float64).T
    scale = 10.0**decimals
    # The thousandth of a step keeps 0.3 in single precision, which is a little more, at 0.3.
    lower = np.floor(lower_H * scale + 1e-3) / scale
    upper = np.ceil(upper_H * scale - 1e-3) / scale
    return lower.tolist(), upper.tolist()


def add_intervals(entries: Sequence[dict[str, Any]], result: ForecastResult, decimals: int) -> None:
    """Add `confidence_interval` to the entry of each hour."""
    for entry, lower, upper in zip(entries, *bounds(result, decimals), strict=True):
        entry["confidence_interval"] = {"lower": lower, "upper": upper, "confidence": result.confidence}


def write_quality(quality: Quality, *, place: tuple[str, str], more: Mapping[str, Any]) -> dict[str, Any]:
    """What a reply says of its forecasts' quality.

    Args:
        quality: Theirs; of several, of each thing the worst.
        place: The field that names the place, and its name.
        more: The domain's own parts.
    """
    field_name, site = place
    reply: dict[str, Any] = {"lowered_by": quality.lowered_by, "runtime": quality.runtime, field_name: site}
    if quality.distance_km is not None:
        reply["distance_km"] = round(quality.distance_km, 3)
    reply |= {
        "origin": utc_text(quality.origin_s),
        "last_reading": utc_text(quality.last_reading_s),
        "reading_age_h": round(quality.reading_age_h, 2),
        "stale": quality.stale,
        "missing_share": round(quality.missing_share, 4),
        "gap_h": round(quality.gap_h, 2),
        "history_h": round(quality.history_h, 2),
        "constant": quality.constant,
        "missing_inputs": {name: round(share, 4) for name, share in quality.missing_inputs.items()},
        "out_of_range": quality.out_of_range,
        "unseen_site": quality.unseen_site,
        "weather_ahead": quality.weather_ahead,
    }
    if quality.memory_age_s is not None:
        reply["memory_age_s"] = round(quality.memory_age_s, 1)
    return reply | dict(more)
