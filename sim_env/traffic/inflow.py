"""From a forecast of demand to what drives a road simulation: a multiplier per control point and control interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.errors import InvalidParameterError
from features.vocabulary import Float32Array, Forecast, Int64Array, Site
from sim_env.traffic.control_points import BASELINE

# A multiplier beyond this would ask a road for more than any counter has seen.
LARGEST_MULTIPLIER = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InflowPlan:
    """Inflow of every control point over some control intervals.

    Attributes:
        control_ids: Control points (P).
        interval_s: Length of a control interval [s].
        begins_s: Beginning of each interval, shape (I,) [s since 1970, UTC].
        baseline_P: Baseline flow [veh/h].
        multiplier_IP: Inflow over the baseline; 1 is the baseline.
    """

    control_ids: tuple[str, ...]
    interval_s: int
    begins_s: Int64Array
    baseline_P: Float32Array
    multiplier_IP: Float32Array


def plan_inflow(forecast: Forecast, sites: list[Site], *, interval_s: int = 60) -> InflowPlan:
    """The inflow that a forecast of hourly trips asks for, interval by interval.

    Within an hour the multiplier runs in a straight line between the middles of the hours, so that no step of demand
    meets the simulation on the hour.

    Args:
        forecast: Trips of each control point from one origin on, with the level 0.5 [trip/h].
        sites: The control points, with the attribute `baseline_veh_per_hour`.
        interval_s: Length of a control interval [s].

    Raises:
        InvalidParameterError: A control point has no baseline, the interval does not divide an hour, or the forecasts
            begin at different moments.
    """
    step_s = forecast.step_s
    if interval_s <= 0 or step_s % interval_s:
        raise InvalidParameterError(
            parameter="interval_s",
            provided=interval_s,
            allowed=f"whole parts of {step_s} s",
            fact="The control interval does not divide a forecast step",
            remedy="Use 60 s, say.",
        )
    if len(set(forecast.origins.tolist())) != 1:
        raise InvalidParameterError(
            parameter="forecast",
            provided=sorted(set(forecast.origins.tolist())),
            allowed="forecasts of all control points from one origin",
            fact="The forecasts begin at different moments",
            remedy="Forecast all control points at the same origin.",
        )
    baseline = _baselines(forecast.sites, sites)
    origin_s, hours = int(forecast.origins[0]), forecast.value_BHQ.shape[1]
    begins_s = origin_s + np.arange(0, hours * step_s, interval_s, dtype=np.int64)
    middles_s = origin_s + (np.arange(hours) + 0.5) * step_s
    trips_PH = forecast.at_level(0.5)
    multiplier = np.stack(
        [np.interp(begins_s + interval_s / 2, middles_s, trips) for trips in trips_PH / baseline[:, None]], axis=1
    )
    return InflowPlan(
        control_ids=forecast.sites,
        interval_s=interval_s,
        begins_s=begins_s,
        baseline_P=baseline,
        multiplier_IP=np.clip(multiplier, 0.0, LARGEST_MULTIPLIER).astype(np.float32),
    )


def _baselines(names: tuple[str, ...], sites: list[Site]) -> Float32Array:
    known = {site.name: site.attributes.get(BASELINE, 0.0) for site in sites}
    missing = [name for name in names if not known.get(name, 0.0) > 0]
    if missing:
        raise InvalidParameterError(
            parameter="sites",
            provided=missing,
            allowed=f"control points with {BASELINE} above 0",
            fact="A control point has no baseline flow",
            remedy=f"Give the attribute {BASELINE} [veh/h] to each.",
        )
    return np.array([known[name] for name in names], dtype=np.float32)
