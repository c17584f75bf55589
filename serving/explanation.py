"""Why a forecast is what it is: Shapley values of groups of inputs, by paired permutations.

The inputs of a window are put into at most seven groups. The value of a set of groups is the median that the model
forecasts when the other groups are hidden, and the Shapley value of a group is its mean effect over the orders in which
groups can be shown. The mean is taken over drawn orders (Castro, Gómez and Tejada 2009, doi:10.1016/j.cor.2008.04.004;
for models Lundberg and Lee 2017, arXiv:1705.07874), each together with its reverse (antithetic sampling: Mitchell,
Cooper, Frank and Holmes 2022, JMLR 23(43)): one pair is exact for every model whose groups interact by twos at most.
It asks only the runtime, so it is the same for every model family.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.domains.weather import WEATHER
from features.vocabulary import Domain, Float32Array, Forecast, Int64Array, Quantity, Window

_DAY_S = 86400
# The most windows that one explanation may run. Trees take nearly as long for each window of a batch as for one alone,
# and an explained forecast may take ten times as long as a plain one.
BUDGET_WINDOWS = 14
_MOST_GROUPS = BUDGET_WINDOWS // 2
_MOST_PAIRS = 12
# What is smaller would be written as 0.
_SMALLEST_SHARE = 5e-5
# Feature names of the API, and the calendar channels behind them with the constant that hides them.
_CALENDAR_GROUPS: dict[str, dict[str, float]] = {
    "hour_of_day": {"hour_of_day": 12.0},
    "day_of_week": {"day_of_week": 2.0},
    "calendar_date": {
        "day_of_year": 183.0,
        "holiday": 0.0,
        "holiday_tomorrow": 0.0,
        "holiday_yesterday": 0.0,
        "holiday_kind": 0.0,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureImportance:
    """A group of inputs, and its share of all that moves the median (0 to 1)."""

    feature: str
    importance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureGroup:
    """Inputs that are shown and hidden together.

    Attributes:
        feature: What replies call it.
        measured: Channels of the history that are hidden as missing.
        steps: First step of the history of which that is so, and the first of which it is not.
        ahead: Channels of the future that are hidden as missing.
        constants: Calendar channels of the history and of the future, and the constant that hides both.
    """

    feature: str
    measured: tuple[int, ...] = ()
    steps: tuple[int | None, int | None] = (None, None)
    ahead: tuple[int, ...] = ()
    constants: tuple[tuple[int, int, float], ...] = ()

    def hide(self, history_BLK: Float32Array, future_BHK: Float32Array, rows: npt.NDArray[np.bool_]) -> None:
        """Hide the group in some windows, in place."""
        for channel in self.measured:
            history_BLK[rows, slice(*self.steps), channel] = np.nan
        for channel in self.ahead:
            future_BHK[rows, :, channel] = np.nan
        for past, ahead, constant in self.constants:
            history_BLK[rows, :, past] = constant
            future_BHK[rows, :, ahead] = constant

    def is_in(self, window: Window) -> bool:
        """Whether hiding the group changes the first window."""
        history, future = window.history_BLK[0], window.future_BHK[0]
        return (
            any(np.isfinite(history[slice(*self.steps), channel]).any() for channel in self.measured)
            or any(np.isfinite(future[:, channel]).any() for channel in self.ahead)
            or any(
                (history[:, past] != constant).any() or (future[:, ahead] != constant).any()
                for past, ahead, constant in self.constants
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coalitions:
    """Which groups are shown in which window, and the orders that windows are compared in.

    Attributes:
        shown_CG: Whether a window shows a group; all in the first window, none in the second.
        order_PG: Orders in which groups are shown.
        window_PS: Index of the window that shows the first S groups of an order, S from 0 to all.
    """

    shown_CG: npt.NDArray[np.bool_]
    order_PG: Int64Array
    window_PS: Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapleyValues:
    """What each group adds to the median, over the steps of the horizon.

    Attributes:
        features: Names of the groups.
        value_GH: Their Shapley values; with `hidden_H` they sum to the forecast [unit of the target].
        hidden_H: The median with all groups hidden [unit of the target].
    """

    features: tuple[str, ...]
    value_GH: npt.NDArray[np.float64]
    hidden_H: npt.NDArray[np.float64]


def feature_groups(domain: Domain, target: Quantity) -> tuple[FeatureGroup, ...]:
    """The groups of a model of `target`: its recent and older history, calendar, other inputs, weather, neighbours."""
    names = [quantity.name for quantity in domain.inputs]
    own = names.index(target.name)
    weather = {quantity.name for quantity in WEATHER}
    others = [index for index, name in enumerate(names) if name not in weather and index != own]
    near = [domain.history_channels.index(name) for name in domain.neighbour_channels]
    day = _DAY_S // domain.step_s
    measured = (
        *_measured_group(domain, "weather", [index for index, name in enumerate(names) if name in weather]),
        *_measured_group(domain, f"other_{domain.name}", others),
        *_measured_group(domain, f"nearby_{domain.name}", near),
    )
    calendar = dict(_CALENDAR_GROUPS)
    if 2 + len(calendar) + len(measured) > _MOST_GROUPS:
        # A date says which day of the week it is.
        calendar["calendar_date"] = calendar["calendar_date"] | calendar.pop("day_of_week")
    history = target.name if len(domain.targets) > 1 else domain.name
    return (
        FeatureGroup(feature=f"historical_{history}_24h", measured=(own,), steps=(-day, None)),
        # All that is older than a day; its last week is what matters most, and what the API names it by.
        FeatureGroup(feature=f"historical_{history}_168h", measured=(own,), steps=(None, -day)),
        *(
            FeatureGroup(
                feature=feature,
                constants=tuple(
                    (domain.history_channels.index(name), domain.future_channels.index(name), constant)
                    for name, constant in constants.items()
                ),
            )
            for feature, constants in calendar.items()
        ),
        *measured,
    )


def _measured_group(domain: Domain, feature: str, channels: list[int]) -> tuple[FeatureGroup, ...]:
    """The group of some channels, if there are any."""
    if not channels:
        return ()
    names = [domain.history_channels[channel] for channel in channels]
    ahead = tuple(domain.future_channels.index(name) for name in names if name in domain.known_ahead)
    return (FeatureGroup(feature=feature, measured=tuple(channels), ahead=ahead),)


@functools.lru_cache(maxsize=32)
def coalitions(groups: int, *, budget: int = BUDGET_WINDOWS) -> Coalitions:
    """As many paired orders of some groups as a number of windows allows, one pair at least; always the same.

    Args:
        groups: How many there are, one at least.
        budget: The most windows.
    """
    rng = np.random.default_rng(0)
    rows: dict[bytes, int] = {}
    shown: list[npt.NDArray[np.bool_]] = []
    orders: list[Int64Array] = []
    windows: list[list[int]] = []
    for pair in range(_MOST_PAIRS):
        order = rng.permutation(groups).astype(np.int64)
        prefixes = [_prefixes(order), _prefixes(order[::-1])]
        new = {row.tobytes() for prefix in prefixes for row in prefix} - rows.keys()
        if pair and len(rows) + len(new) > budget:
            break
        for one, prefix in zip((order, order[::-1]), prefixes, strict=True):
            # Largest first, so that the window that shows all is the first of all.
            for row in (prefix[-1], *prefix):
                if row.tobytes() not in rows:
                    rows[row.tobytes()] = len(shown)
                    shown.append(row)
            orders.append(one)
            windows.append([rows[row.tobytes()] for row in prefix])
    return Coalitions(
        shown_CG=np.stack(shown), order_PG=np.stack(orders), window_PS=np.asarray(windows, dtype=np.int64)
    )


def _prefixes(order: Int64Array) -> npt.NDArray[np.bool_]:
    """Which groups the first S of an order are, S from none to all: shape (G + 1, G)."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    shown: npt.NDArray[np.bool_] = rank[None, :] < np.arange(len(order) + 1)[:, None]
    return shown


def coalition_windows(window: Window, groups: tuple[FeatureGroup, ...], drawn: Coalitions) -> Window:
    """One window repeated, each time with the groups hidden that a coalition does not show; first as it is."""
    copies = len(drawn.shown_CG)
    history = np.repeat(window.history_BLK, copies, axis=0)
    future = np.repeat(window.future_BHK, copies, axis=0)
    for index, group in enumerate(groups):
        group.hide(history, future, ~drawn.shown_CG[:, index])
    return Window(
        history_BLK=history,
        future_BHK=future,
        static_BS=np.repeat(window.static_BS, copies, axis=0),
        sites=window.sites * copies,
        origins=np.repeat(window.origins, copies),
    )


def shapley_values(forecast: Forecast, groups: tuple[FeatureGroup, ...], drawn: Coalitions) -> ShapleyValues:
    """The Shapley values of groups.

    Args:
        forecast: Of `coalition_windows`; holds the level 0.5.
        groups: The same groups.
        drawn: The same coalitions.
    """
    median_CH = forecast.at_level(0.5).astype(np.float64)
    added_PGH = np.diff(median_CH[drawn.window_PS], axis=1)
    value_GH = np.zeros((len(groups), median_CH.shape[1]))
    for order, added_GH in zip(drawn.order_PG, added_PGH, strict=True):
        value_GH[order] += added_GH
    return ShapleyValues(
        features=tuple(group.feature for group in groups),
        value_GH=value_GH / len(drawn.order_PG),
        hidden_H=median_CH[1],
    )


def importances(values: ShapleyValues, *, steps: int, most: int = 5) -> tuple[FeatureImportance, ...]:
    """Each group's share of the mean absolute Shapley value, largest first.

    Args:
        values: Of all groups.
        steps: How many steps of the horizon count.
        most: How many to name; those that move nothing are left out.

    Returns:
        Shares over all groups sum to 1 (those that are named to at most that).
    """
    size_G = np.abs(values.value_GH[:, :steps]).mean(axis=1)
    total = float(size_G.sum())
    # Rounding differs a little from one window of a batch to the next.
    if total <= 1e-6 * float(np.abs(values.hidden_H).max()):
        return ()
    order = np.argsort(-size_G, kind="stable")[:most]
    return tuple(
        FeatureImportance(feature=values.features[index], importance=float(size_G[index] / total))
        for index in order
        if size_G[index] > _SMALLEST_SHARE * total
    )
