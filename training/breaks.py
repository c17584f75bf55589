"""Breaks: moments from which on a site's week looks so different that what was measured before only misleads.

A forecaster that builds on the usual week of the last months takes months to believe in another one. After a break the
usual week of the few weeks since is the better guide; that is how a break is found.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.calendar import calendar_features
from features.vocabulary import CALENDAR_CHANNELS, Domain, Float32Array, Int64Array, Quantity, Site
from features.windows import Panel

# A usual week is the median of at most so many: as the seasonal profile has it.
_SEASONS = 8
# Besides one season that the usual week of after the break is made of, so much of it is forecast by it [d].
_LEAST_DAYS = 3
# The error with the usual week of after the break, as a share of that with all weeks; below this it may be one.
_LARGEST_RATIO = 0.7
_NEARLY_BEST = 1.2
_PROMISING_RATIO = 0.85
_DAY_S = 86400
_OFFSET = CALENDAR_CHANNELS.index("utc_offset_h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """A moment from which on a site is another.

    Attributes:
        site: Which.
        since_s: What was measured at or before it misleads; the first step of a local day [s since 1970].
        ratio: Error with the usual week of after it, as a share of the error with that of all weeks.
    """

    site: str
    since_s: int
    ratio: float


def find_breaks(panel: Panel, *, until: int, target: Quantity | None = None) -> tuple[Break, ...]:
    """The sites of a panel that broke in the weeks before a moment.

    Args:
        panel: Readings on the grid.
        until: Grid index of the last hour that is looked at.
        target: By default the domain's first.
    """
    values = panel.target_ST(target)
    first = max(0, until + 1 - (_SEASONS + 1) * panel.domain.season_steps)
    moments_s = panel.moments_s[first : until + 1]
    found = []
    for index, site in enumerate(panel.sites):
        one = _break_of(site, values[index, first : until + 1], moments_s, panel.domain)
        if one is not None:
            found.append(one)
    return tuple(found)


def _break_of(site: Site, value_T: Float32Array, moments_s: Int64Array, domain: Domain) -> Break | None:
    known = value_T[-domain.season_steps :][np.isfinite(value_T[-domain.season_steps :])]
    day = _DAY_S // domain.step_s
    # A sensor that stands still is broken, not another world.
    last = known[-day:]
    if len(known) < domain.season_steps // 2 or float(last.max()) == float(last.min()):
        return None
    lag_WT = _same_hours(value_T, moments_s, site, domain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of hours without any value
        usual_T = np.nanmedian(lag_WT, axis=0)
        days = _midnights(site, moments_s, day)
        # After a break any later moment does well too: a look at one day of each week tells whether there is one.
        glance = [_ratio(value_T, usual_T, lag_WT, since, domain) for since in days[::-7]]
        if not np.nanmin([*glance, np.inf]) <= _PROMISING_RATIO:
            return None
        ratios = {since: _ratio(value_T, usual_T, lag_WT, since, domain) for since in days}
    held = {since: ratio for since, ratio in ratios.items() if np.isfinite(ratio)}
    best = min(held.values(), default=np.inf)
    if best > _LARGEST_RATIO:
        return None
    # The earliest that is nearly as good: it leaves the most readings.
    since = min(since for since, ratio in held.items() if ratio <= best * _NEARLY_BEST)
    return Break(site=site.name, since_s=int(moments_s[since]), ratio=float(held[since]))


def _midnights(site: Site, moments_s: Int64Array, day: int) -> list[int]:
    """Places of each local day's first step that leave at least ten days."""
    hour_T = calendar_features(moments_s, site)[:, CALENDAR_CHANNELS.index("hour_of_day")]
    places = np.flatnonzero(hour_T < 24 / day)
    return [int(place) for place in places if len(moments_s) - 1 - place >= (7 + _LEAST_DAYS) * day]


def _same_hours(value_T: Float32Array, moments_s: Int64Array, site: Site, domain: Domain) -> npt.NDArray[np.float32]:
    """Values of the same local hour of the weeks before, shape (weeks, T): a change of the clock is no break."""
    season = domain.season_steps
    offset_T = calendar_features(moments_s, site)[:, _OFFSET]
    shift_T = np.rint((offset_T - offset_T[-1]) * 3600 / domain.step_s).astype(np.int64)
    places = np.arange(len(value_T))
    lag_WT = np.full((_SEASONS, len(value_T)), np.nan, dtype=np.float32)
    for week in range(1, _SEASONS + 1):
        source = places - week * season
        inside = np.flatnonzero(source >= 0)
        moved = source[inside] - (shift_T[source[inside]] - shift_T[inside])
        kept = (moved >= 0) & (moved < len(value_T))
        lag_WT[week - 1, inside[kept]] = value_T[moved[kept]]
    return lag_WT


def _ratio(
    value_T: Float32Array, usual_T: Float32Array, lag_WT: npt.NDArray[np.float32], since: int, domain: Domain
) -> float:
    """Error by the usual week of after a moment, as a share of that by all weeks; NaN where too little is known."""
    season = domain.season_steps
    places = np.arange(since + season + 1, len(value_T))
    after_WT = lag_WT[:, places].copy()
    for week in range(1, _SEASONS + 1):
        after_WT[week - 1, places - week * season <= since] = np.nan
    after_T = np.nanmedian(after_WT, axis=0)
    known = np.isfinite(after_T) & np.isfinite(usual_T[places]) & np.isfinite(value_T[places])
    if known.sum() < _LEAST_DAYS * _DAY_S / domain.step_s * 0.7:
        return float("nan")
    error = np.abs(value_T[places] - after_T)[known].mean()
    usual_error = np.abs(value_T[places] - usual_T[places])[known].mean()
    return float(error / max(usual_error, 1e-9))
