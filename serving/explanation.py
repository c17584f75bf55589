"""Why a forecast is what it is: occlusion. Hide a group of inputs, and see how far the median moves.

Zeiler and Fergus 2014, doi:10.1007/978-3-319-10590-1_53, with groups of channels in place of patches of an image. It
asks only the runtime, so it is the same for every model family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from features.vocabulary import Domain, Float32Array, Forecast, Window

_DAY_S = 86400
# Feature names of the API, and the calendar channels behind them with the constant that hides them.
_CALENDAR_GROUPS: dict[str, dict[str, float]] = {
    "hour_of_day": {"hour_of_day": 12.0},
    "day_of_week": {"day_of_week": 2.0},
    "month": {"day_of_year": 183.0},
    "holiday": {"holiday": 0.0, "holiday_tomorrow": 0.0, "holiday_yesterday": 0.0, "holiday_kind": 0.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureImportance:
    """A group of inputs, and its share of all movement of the median (0 to 1)."""

    feature: str
    importance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Occlusion:
    """A group of inputs that is hidden together."""

    feature: str
    hide: Callable[[Float32Array, Float32Array], None]


def occlusions(domain: Domain) -> list[Occlusion]:
    """The groups of a domain: recent and older history, calendar, each covariate, neighbours."""
    day = _DAY_S // domain.step_s
    inputs = {quantity.name: index for index, quantity in enumerate(domain.inputs)}
    groups = [
        Occlusion(feature=f"historical_{domain.name}_24h", hide=_hide_measured([0], slice(-day, None))),
        # All that is older than a day; its last week is what matters most, and what the API names it by.
        Occlusion(feature=f"historical_{domain.name}_168h", hide=_hide_measured([0], slice(None, -day))),
    ]
    for feature, constants in _CALENDAR_GROUPS.items():
        groups.append(Occlusion(feature=feature, hide=_hide_calendar(domain, constants)))
    for name, index in inputs.items():
        if index > 0:
            ahead = [domain.future_channels.index(name)] if name in domain.known_ahead else []
            groups.append(Occlusion(feature=name, hide=_hide_measured([index], slice(None), ahead=ahead)))
    if domain.neighbour_count:
        channels = [domain.history_channels.index(name) for name in domain.neighbour_channels]
        groups.append(Occlusion(feature=f"nearby_{domain.name}", hide=_hide_measured(channels, slice(None))))
    return groups


def _hide_measured(
    channels: list[int], steps: slice, *, ahead: list[int] | None = None
) -> Callable[[Float32Array, Float32Array], None]:
    def hide(history_LK: Float32Array, future_HK: Float32Array) -> None:
        for channel in channels:
            history_LK[steps, channel] = np.nan
        for channel in ahead or []:
            future_HK[:, channel] = np.nan

    return hide


def _hide_calendar(domain: Domain, constants: dict[str, float]) -> Callable[[Float32Array, Float32Array], None]:
    positions = [
        (domain.history_channels.index(name), domain.future_channels.index(name), constant)
        for name, constant in constants.items()
    ]

    def hide(history_LK: Float32Array, future_HK: Float32Array) -> None:
        for past, ahead, constant in positions:
            history_LK[:, past] = constant
            future_HK[:, ahead] = constant

    return hide


def occluded_windows(window: Window, groups: list[Occlusion]) -> Window:
    """A window repeated: first as it is, then once per group with that group hidden."""
    copies = 1 + len(groups)
    history = np.repeat(window.history_BLK, copies, axis=0)
    future = np.repeat(window.future_BHK, copies, axis=0)
    for index, group in enumerate(groups, start=1):
        group.hide(history[index], future[index])
    return Window(
        history_BLK=history,
        future_BHK=future,
        static_BS=np.repeat(window.static_BS, copies, axis=0),
        sites=window.sites * copies,
        origins=np.repeat(window.origins, copies),
    )


def importances(
    forecast: Forecast, groups: list[Occlusion], *, steps: int, most: int = 5
) -> tuple[FeatureImportance, ...]:
    """Each group's share of the movement of the median, largest first.

    Args:
        forecast: Of `occluded_windows`; holds the level 0.5.
        groups: The same groups.
        steps: How many steps of the horizon count.
        most: How many to name; those that move nothing are left out.

    Returns:
        Shares over all groups sum to 1 (those that are named to at most that).
    """
    median_BH = forecast.at_level(0.5)[:, :steps]
    moved = np.abs(median_BH[1:] - median_BH[0]).mean(axis=1, dtype=np.float64)
    total = float(moved.sum())
    if total <= 0.0:
        return ()
    order = np.argsort(-moved, kind="stable")[:most]
    return tuple(
        FeatureImportance(feature=groups[index].feature, importance=float(moved[index] / total))
        for index in order
        if moved[index] > 0
    )
