"""What a reader of a forecast must know about it before trusting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from features.card import Card
from features.vocabulary import Domain
from serving.memory import Prepared

_HOUR_S = 3600.0
_LONG_GAP_H = 24.0
# A profile of the week needs each of its hours twice.
_SEASONS_NEEDED = 2

WeatherAhead = Literal["known", "partly", "missing", "not used"]
LoweredBy = Literal[
    "stale",
    "missing",
    "long_gap",
    "short_history",
    "constant",
    "missing_inputs",
    "out_of_range",
    "unseen_site",
    "weather_missing",
    "old_features",
]
# From best to worst.
_WEATHER_AHEAD: tuple[WeatherAhead, ...] = ("not used", "known", "partly", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What must be said about a forecast.

    Attributes:
        runtime: Which runtime made it.
        distance_km: How far the site is from the coordinates that were asked for; None where it was named [km].
        origin_s: The forecast starts here [s since 1970].
        last_reading_s: Moment of the target's last reading [s since 1970].
        reading_age_h: Age of that reading at the moment of the request [h].
        stale: Whether it is too old for a forecast from now: then the forecast starts from the last reading.
        missing_share: Share of the target's steps of the last day that are missing (0 to 1).
        gap_h: Longest time without a reading of the target within the last 30 days [h].
        history_h: Time from the first reading of the target that the model sees to the origin [h].
        short_history: Whether that is so short that the model has no profile of the week to go by.
        constant: Whether all readings of the target in the history are equal, as those of a broken sensor are.
        missing_inputs: Of the inputs that the model was trained with, besides the target, those with steps of the last
            day missing, and their share (0 to 1).
        out_of_range: Inputs that left, in the last day, the range that the model was trained on.
        unseen_site: Whether the model was trained without this site.
        weather_ahead: Whether forecasts of the weather that the model reads were there for the hours that were asked
            for.
        memory_age_s: How long ago the online store was last read, if longer than it should be [s].
        lowered_by: Names of all that lowers it; none where a forecast is as good as its model's.
    """

    runtime: str
    distance_km: float | None
    origin_s: int
    last_reading_s: int
    reading_age_h: float
    stale: bool
    missing_share: float
    gap_h: float
    history_h: float
    short_history: bool
    constant: bool
    missing_inputs: dict[str, float]
    out_of_range: tuple[str, ...]
    unseen_site: bool
    weather_ahead: WeatherAhead
    memory_age_s: float | None
    lowered_by: tuple[LoweredBy, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Once: a kept forecast's quality is asked for by the reply, the log and the figures of each request.
        reasons: dict[LoweredBy, bool] = {
            "stale": self.stale,
            "missing": self.missing_share > 0,
            "long_gap": self.gap_h >= _LONG_GAP_H,
            "short_history": self.short_history,
            "constant": self.constant,
            "missing_inputs": bool(self.missing_inputs),
            "out_of_range": bool(self.out_of_range),
            "unseen_site": self.unseen_site,
            "weather_missing": self.weather_ahead in ("partly", "missing"),
            "old_features": self.memory_age_s is not None,
        }
        object.__setattr__(self, "lowered_by", tuple([name for name, holds in reasons.items() if holds]))


def judge_quality(
    card: Card,
    prepared: Prepared,
    *,
    season_s: float,
    now_s: float,
    stale_after_s: float,
    unseen_site: bool,
    weather_ahead: WeatherAhead,
    runtime: str,
    distance_km: float | None,
    memory_age_s: float | None,
) -> Quality:
    """The quality of a forecast of a card's target from a prepared window.

    Args:
        card: Of the model.
        prepared: What the forecast was made from; has a record of the target.
        season_s: Length of the domain's season [s].
        now_s: The moment of the request [s since 1970].
        stale_after_s: Oldest last reading that a forecast from now may build on [s].
        unseen_site: Whether the model was trained without this site.
        weather_ahead: See `weather_ahead`.
        runtime: What made the forecast.
        distance_km: Of the site from the coordinates, None where it was named [km].
        memory_age_s: Age of the features, None where it is as it should be [s].
    """
    record, ranges = prepared.records[card.target], card.input_range
    age_s = now_s - record.last_reading_s
    return Quality(
        runtime=runtime,
        distance_km=distance_km,
        origin_s=prepared.origin_s,
        last_reading_s=record.last_reading_s,
        reading_age_h=age_s / _HOUR_S,
        stale=age_s > stale_after_s,
        missing_share=record.missing_share,
        gap_h=record.gap_h,
        history_h=record.history_h,
        short_history=record.history_h * _HOUR_S < _SEASONS_NEEDED * season_s,
        constant=record.constant,
        missing_inputs={
            name: share
            for name, share in prepared.missing_shares.items()
            if share > 0 and name in ranges and name != card.target
        },
        out_of_range=tuple(
            name
            for name, (low, high) in prepared.extremes.items()
            if name in ranges and (low < ranges[name][0] or high > ranges[name][1])
        ),
        unseen_site=unseen_site,
        weather_ahead=weather_ahead,
        memory_age_s=memory_age_s,
    )


def weather_ahead(domain: Domain, prepared: Prepared, *, used: Sequence[str], steps: int) -> WeatherAhead:
    """How much of the weather that a model reads ahead was there.

    Args:
        domain: Names the channels.
        prepared: The window.
        used: Channels known ahead that the model reads, see `serving.probe`.
        steps: Steps of the horizon that was asked for.
    """
    if not used:
        return "not used"
    channels = [domain.future_channels.index(name) for name in used]
    known = np.isfinite(prepared.window.future_BHK[0, :steps, channels])
    if known.all():
        return "known"
    return "partly" if known.any() else "missing"


def worst(qualities: Sequence[Quality]) -> Quality:
    """What must be said of several forecasts of one site together: of each thing the worst."""
    oldest = min(qualities, key=lambda quality: quality.last_reading_s)
    ages_s = [quality.memory_age_s for quality in qualities if quality.memory_age_s is not None]
    return Quality(
        runtime=", ".join(dict.fromkeys(quality.runtime for quality in qualities)),
        distance_km=oldest.distance_km,
        origin_s=oldest.origin_s,
        last_reading_s=oldest.last_reading_s,
        reading_age_h=oldest.reading_age_h,
        stale=any(quality.stale for quality in qualities),
        missing_share=max(quality.missing_share for quality in qualities),
        gap_h=max(quality.gap_h for quality in qualities),
        history_h=min(quality.history_h for quality in qualities),
        short_history=any(quality.short_history for quality in qualities),
        constant=any(quality.constant for quality in qualities),
        missing_inputs={name: share for quality in qualities for name, share in quality.missing_inputs.items()},
        out_of_range=tuple(dict.fromkeys(name for quality in qualities for name in quality.out_of_range)),
        unseen_site=any(quality.unseen_site for quality in qualities),
        weather_ahead=max((quality.weather_ahead for quality in qualities), key=_WEATHER_AHEAD.index),
        memory_age_s=max(ages_s, default=None),
    )
