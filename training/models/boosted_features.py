"""What boosted trees learn from, as one graph part: a raw window to a row of features for each step ahead.

Levels of what is forecast and of other concentrations (logarithms: last value, means, changes, extremes), weather up
to the origin, calendar, and, where somebody forecasts it, the weather on the way to each step: trailing means, the
mean since the origin, how long ago a strong wind from the north was. A domain's trees see what its channels give.

Trees compare features with values that they saw in training, so a last digit that differs between torch and ONNX
Runtime would send a row down another branch. All is computed in float64; what is transcendental is rounded at once to
a power of two, after which sums are exact in any order; and the features themselves are rounded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from features.domains.weather import WEATHER
from features.vocabulary import Domain, Quantity
from training.models.gapped_series import (
    largest_known,
    largest_so_far,
    last_known,
    latest,
    log_on_grid,
    mean_known,
    on_grid,
    picked,
    ratio_of,
    span_totals,
)
from training.models.window_graph import SeasonalLags, used
from training.window_set import WindowSet

# Spans are in steps, which are hours in every domain; the features' names call them so.
_DAY = 24
_LATEST = 6
_MEANS = (3, 6, 12, 24, 72)
# Means over three steps that end this many steps ago.
_EARLIER = (3, 6, 24)
_RECENT = max(_MEANS)
_LONG = 672
_CLEAN_MEMORY = 168
_PROFILE_DAYS = 28
# History that trailing means of the weather reach back into.
_WEATHER_PAST = 96
# Added before a logarithm, and below which the air counts as clean: shares of the median of the training span.
_OFFSET_SHARE, _CLEAN_SHARE = 0.1, 0.6
_STRONG_WIND_M_PER_S = 2.0
_GRID = 2.0**10
# The exporter writes a plain number as float32: these are numbers that float32 holds.
_MAGNUS_FACTOR, _MAGNUS_DEGREES = 17.625, float(np.float32(243.04))
_RADIAN, _TURN = float(np.float32(math.pi / 180)), float(np.float32(2 * math.pi / _DAY))
_WEATHER_NAMES = tuple(quantity.name for quantity in WEATHER)
_SLOW = ("temperature", "pressure", "dew_point", "humidity")
_WIND = ("wind_speed", "eastward_wind", "northward_wind")
_STILL = ("wind_from_north", "calm", "moist_calm")
_SUMMED = ("rainfall", "northward_wind", "wind_from_north")
_SPANS_BEFORE: dict[str, tuple[int, ...]] = {"rainfall": (24, 72), "temperature": (3, 24)}
_SPANS_AHEAD: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_WIND, (3, 6, 12, 24, 48)),
    **dict.fromkeys(_STILL, (12, 24, 72)),
}
_EVERY_SPAN_AHEAD = (3, 6, 12, 24, 48, 72)
BASE_NAMES = ("last", "mean_3h", "mean_12h", "mean_24h", "mean_72h", "mean_672h", "profile", "same_hour")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFeatures:
    """Features of some windows, by what they depend on; NaN where nothing is known.

    Attributes:
        origin: Known at the origin, the same for all steps (B, O).
        step: Of each step ahead (B, H, P).
        ahead: Of the weather on the way to each step (B, H, A).
        base_origin: Inputs of the linear base that are the same for all steps (B, 6), in the order of `BASE_NAMES`.
        base_step: Those of each step (B, H, 2).
        sight: Whether the weather on the way is known well enough to go by, see `BoostedFeatures.sees_ahead` (B, H).
    """

    origin: Tensor
    step: Tensor
    ahead: Tensor
    base_origin: Tensor
    base_step: Tensor
    sight: Tensor


class BoostedFeatures(nn.Module):
    """Raw windows to features of each step ahead.

    Args:
        domain: Gives lengths and channels.
        target: What is forecast.
    """

    def __init__(self, domain: Domain, target: Quantity) -> None:
        super().__init__()
        self.domain = domain
        self.target = target
        self.lags = SeasonalLags(domain, recent_steps=_DAY)
        self.weather = [quantity.name for quantity in domain.covariates if quantity.name in _WEATHER_NAMES]
        self.levels = [quantity for quantity in domain.inputs if quantity.name not in self.weather]
        channels = [quantity.name for quantity in self.levels] + list(domain.neighbour_channels)
        self.level_channels = [domain.history_channels.index(name) for name in channels]
        # Neighbours are measured in the first target's unit.
        self.offset_of_channel = [*range(len(self.levels)), *(0 for _ in domain.neighbour_channels)]
        self.register_buffer("offset", torch.ones(len(self.levels), dtype=torch.float64))
        self.register_buffer("clean", torch.zeros((), dtype=torch.float64))

    offset: Tensor
    clean: Tensor

    def fit_scale(self, train: WindowSet) -> None:
        """Take the offsets of the logarithms from the medians of the training span."""
        panel = train.panel
        until = int(train.origin_B.max()) + 1
        for index, quantity in enumerate(self.levels):
            values = panel.value_STK[:, :until, self.domain.inputs.index(quantity)]
            known = values[np.isfinite(values)]
            median = float(np.median(known)) if len(known) else 0.0
            self.offset[index] = _OFFSET_SHARE * median if median > 0 else 1.0
            if index == 0:
                self.clean.fill_(_CLEAN_SHARE * median)

    @property
    def target_offset(self) -> Tensor:
        """What is added to the target before its logarithm [its unit]."""
        return self.offset[self.levels.index(self.target)]

    @functools.cached_property
    def plain_names(self) -> tuple[str, ...]:
        """Names of the features that need no weather ahead: the first columns of a row."""
        origin, step, _ = self._names
        return (*origin, *step)

    @functools.cached_property
    def ahead_names(self) -> tuple[str, ...]:
        """Names of those that need it: the columns after them."""
        return self._names[2]

    @functools.cached_property
    def _names(self) -> tuple[tuple[str, ...], ...]:
        domain = self.domain
        history = torch.zeros(1, domain.history_steps, len(domain.history_channels))
        future = torch.zeros(1, domain.horizon_steps, len(domain.future_channels))
        tables = (self._origin(history)[0], self._step(history, future)[0], self._ahead(history, future))
        return tuple(tuple(table.names) for table in tables)

    def forward(self, history: Tensor, future: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Windows to features (B, H, F), inputs of the base (B, H, 8), and where the weather ahead is known (B, H)."""
        parts = self.parts(history, future)
        steps = self.domain.horizon_steps
        rows = torch.cat([_each(parts.origin, steps), parts.step, parts.ahead], dim=2)
        base = torch.cat([_each(parts.base_origin, steps), parts.base_step], dim=2)
        return used(rows, static), base, parts.sight.to(base.dtype)

    def at_steps(self, history: Tensor, future: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for N chosen steps of each window, of index (B, N): (B, N, F), (B, N, 8), (B, N)."""
        parts, count = self.parts(history, future), step.shape[1]
        index = step[:, :, None]
        chosen = [
            part.gather(1, index.expand(-1, -1, part.shape[2])) for part in (parts.step, parts.ahead, parts.base_step)
        ]
        rows = torch.cat([_each(parts.origin, count), chosen[0], chosen[1]], dim=2)
        base = torch.cat([_each(parts.base_origin, count), chosen[2]], dim=2)
        return rows, base, parts.sight.gather(1, step)

    def parts(self, history: Tensor, future: Tensor) -> WindowFeatures:
        """Windows (B, L, K), (B, H, C) to their features."""
        origin, base_origin = self._origin(history)
        step, base_step = self._step(history, future)
        return WindowFeatures(
            origin=origin.rounded(history),
            step=step.rounded(future),
            ahead=self._ahead(history, future).rounded(future),
            base_origin=base_origin,
            base_step=base_step,
            sight=self.sees_ahead(future),
        )

    def sees_ahead(self, future: Tensor) -> Tensor:
        """Whether to go by the weather ahead: it is known at the step, and at half of the steps up to it: (B, H).

        It is known at a step where at least half of its quantities are.
        """
        given = future[:, :, len(self.domain.future_channels) - len(self.domain.known_ahead) :]
        if given.shape[2] == 0:
            return torch.isfinite(future[:, :, 0]) & False
        known = 2 * torch.isfinite(given).to(torch.float64).sum(dim=2) >= given.shape[2]
        steps = torch.arange(1, future.shape[1] + 1, dtype=torch.float64, device=future.device)
        return known & (2 * known.to(torch.float64).cumsum(dim=1) >= steps)

    def _origin(self, history: Tensor) -> tuple[_Columns, Tensor]:
        recent = latest(history, _RECENT)
        names = [self.domain.history_channels[channel] for channel in self.level_channels]
        logs = log_on_grid(picked(recent, self.level_channels).to(torch.float64), self.offset[self.offset_of_channel])
        weather = _weather_channels(self._measured(recent, self.domain.history_channels, self.weather))
        every = torch.cat([logs, *(values.unsqueeze(2) for values in weather.values())], dim=2)
        mean = _Means(every, [*names, *weather])
        last = last_known(logs, _LATEST)
        columns = _Columns()
        levels = len(self.levels)
        columns.add([f"{name}_last" for name in names[:levels]], last.narrow(1, 0, levels))
        columns.add(*mean.chosen(self._wanted_means(names, list(weather))))
        changes = [(name, 24) for name in [*names[: len(self.domain.targets)], *weather] if name != "rainfall"]
        changes += [(name, 3) for name in names[: len(self.domain.targets)]]
        changes += [(name, 6) for name in ("pressure", "dew_point") if name in weather]
        columns.add(*mean.changes(changes))
        self._add_extremes(columns, every, [*names, *weather])
        if len(self.domain.targets) > 1:
            columns.add(["ratio_of_targets_6h"], (mean.of(names[0], 6) - mean.of(names[1], 6))[:, None])
        columns.add(["hours_since_clean"], self._since_clean(history)[:, None])
        if "northward_wind" in weather:
            product = (logs.select(2, 0) - mean.of(names[0], _RECENT)[:, None]) * weather["northward_wind"]
            columns.add(["target_with_northward_wind"], mean_known(product)[:, None])
        own = self.levels.index(self.target)
        long = log_on_grid(
            latest(history, _LONG).select(2, self.level_channels[own]).to(torch.float64), self.target_offset
        )
        base = [last[:, own], *(mean.of(self.target.name, span) for span in (3, 12, 24, 72)), mean_known(long)]
        return columns, torch.stack(base, dim=1).to(history.dtype)

    def _wanted_means(self, levels: list[str], weather: list[str]) -> list[tuple[str, int]]:
        """Channels and the spans over which their means count."""
        wanted = []
        for index, name in enumerate(levels):
            spans = _MEANS if index < len(self.domain.targets) else (24, 72) if index < len(self.levels) else (3, 24)
            wanted += [(name, span) for span in spans]
        for name in weather:
            wanted += [(name, span) for span in _SPANS_BEFORE.get(name, (3, 24, 72))]
        return wanted

    def _add_extremes(self, columns: _Columns, every: Tensor, names: list[str]) -> None:
        """Largest and smallest of the targets, the strongest wind and the strongest from the north."""
        targets = [quantity.name for quantity in self.domain.targets]
        wanted = [(name, sign, span) for name in targets for sign in (1, -1) for span in (24, 72)]
        if "northward_wind" in names:
            wanted += [("wind_speed", 1, 24), ("northward_wind", -1, 24)]
        for span in (24, 72):
            chosen = [(name, sign) for name, sign, length in wanted if length == span]
            sign = torch.tensor([sign for _, sign in chosen], dtype=every.dtype, device=every.device)
            values = picked(latest(every, span), [names.index(name) for name, _ in chosen])
            labels = [f"{name}_{'max' if sign > 0 else 'min'}_{span}h" for name, sign in chosen]
            columns.add(labels, largest_known(values * sign) * sign)

    def _measured(self, values: Tensor, channels: tuple[str, ...], names: list[str]) -> dict[str, Tensor]:
        """Some channels of (B, T, K) by name: (B, T) each."""
        # Readings have few decimals: on the grid their sums are exact.
        chosen = on_grid(picked(values, [channels.index(name) for name in names]).to(torch.float64))
        return dict(zip(names, chosen.unbind(dim=2), strict=True))

    def _since_clean(self, history: Tensor) -> Tensor:
        values = latest(history, _CLEAN_MEMORY).select(2, self.level_channels[0]).to(torch.float64)
        steps = values.shape[1]
        ago = torch.arange(steps - 1, -1, -1, dtype=torch.float64, device=values.device)
        return torch.where(values < self.clean, ago, float(_CLEAN_MEMORY)).amin(dim=1)

    def _step(self, history: Tensor, future: Tensor) -> tuple[_Columns, Tensor]:
        columns, steps = _Columns(), self.domain.horizon_steps
        hour, weekday, holiday = (
            future.select(2, self.domain.future_channels.index(name)).to(torch.float64)
            for name in ("hour_of_day", "day_of_week", "holiday")
        )
        turn = hour * _TURN
        lead = torch.arange(1, steps + 1, dtype=torch.float64, device=future.device).expand(future.shape[0], -1)
        calendar = [lead, hour, on_grid(torch.sin(turn)), on_grid(torch.cos(turn)), weekday, holiday]
        names = ["lead", "hour", "hour_sin", "hour_cos", "day_of_week", "holiday"]
        columns.add(names, torch.stack(calendar, dim=2))
        targets = self.domain.targets
        lags = torch.cat(
            [self.lags.before_ahead(history, future, self.level_channels[index]) for index in range(len(targets))],
            dim=2,
        ).narrow(1, 0, _PROFILE_DAYS)
        offset = self.offset[: len(targets)].repeat_interleave(steps)
        logs = log_on_grid(lags.to(torch.float64), offset).reshape(-1, _PROFILE_DAYS, len(targets), steps)
        level = mean_known(logs.transpose(2, 3).flatten(1, 2))
        profile = mean_known(logs) - level.unsqueeze(2)
        # The last day whose same hour was before the origin.
        day = torch.tensor([min(step // _DAY, _PROFILE_DAYS - 1) for step in range(steps)], device=future.device)
        same_hour = logs.gather(1, day.expand(logs.shape[0], 1, len(targets), -1)).squeeze(1)
        for part, name in ((profile, "profile"), (same_hour, "same_hour")):
            columns.add([f"{quantity.name}_{name}" for quantity in targets], part.transpose(1, 2))
        own = targets.index(self.target)
        return columns, torch.stack([profile.select(1, own), same_hour.select(1, own)], dim=2).to(future.dtype)

    def _ahead(self, history: Tensor, future: Tensor) -> _Columns:
        """Weather at each step and on the way to it."""
        columns, known = _Columns(), list(self.domain.known_ahead)
        if not known:
            return columns
        then = self._measured(latest(history, _WEATHER_PAST), self.domain.history_channels, known)
        now = self._measured(future, self.domain.future_channels, known)
        channels = _weather_channels({name: torch.cat([then[name], now[name]], dim=1) for name in known}, ahead=True)
        names, every = list(channels), torch.stack(list(channels.values()), dim=2)
        steps, past = self.domain.horizon_steps, every.shape[1] - self.domain.horizon_steps
        ends = range(past + 1, past + 1 + steps)
        spans = [(end - span, end) for span in _EVERY_SPAN_AHEAD for end in ends]
        spans += [(past, end) for end in ends] + [(past - 3, past)] * steps
        total, count = (
            part.reshape(-1, len(_EVERY_SPAN_AHEAD) + 2, steps, len(names)).permute(0, 2, 1, 3).flatten(2)
            for part in span_totals(every, spans)
        )
        mean, since, before = ratio_of(total, count), len(_EVERY_SPAN_AHEAD), len(_EVERY_SPAN_AHEAD) + 1

        def add(suffix: str, table: Tensor, wanted: Collection[str], *, span: int = 0) -> None:
            chosen = [place for place, name in enumerate(names) if name in wanted]
            places = [span * len(names) + place for place in chosen]
            columns.add([f"ahead_{names[place]}{suffix}" for place in chosen], picked(table, places))

        now_known = every.narrow(1, past, steps)
        add("", now_known, _SLOW + _WIND)
        add("_change_24h", now_known - every.narrow(1, past - _DAY, steps), _SLOW)
        slow = [place for place, name in enumerate(names) if name in _SLOW]
        current, earlier = ([span * len(names) + place for place in slow] for span in (0, before))
        columns.add([f"ahead_{names[place]}_change" for place in slow], picked(mean, current) - picked(mean, earlier))
        for index, span in enumerate(_EVERY_SPAN_AHEAD):
            wanted = [name for name in names if span in _SPANS_AHEAD.get(name, (6, 24))]
            add(f"_mean_{span}h", mean, wanted, span=index)
        add("_mean_since_origin", mean, set(names) - {"temperature", "pressure"}, span=since)
        add("_sum", total, _SUMMED, span=since)
        if "wind_from_north" in names:
            _add_north_wind(columns, channels["wind_from_north"], past)
        return columns


def _add_north_wind(columns: _Columns, north: Tensor, past: int) -> None:
    """The strongest wind from the north on the way, and the hours since the last strong one."""
    length = north.shape[1]
    total, count = span_totals(north.unsqueeze(2), [(max(end - 3, 0), end) for end in range(1, length + 1)])
    strong = ratio_of(total, count).squeeze(2) > _STRONG_WIND_M_PER_S
    time = torch.arange(length, dtype=torch.float64, device=north.device)
    since = time.narrow(0, past, length - past) - largest_so_far(torch.where(strong, time, 0.0), past)
    strongest = largest_so_far(north.narrow(1, past, length - past), 0)
    columns.add(["ahead_wind_from_north_max", "ahead_hours_since_north_wind"], torch.stack([strongest, since], dim=2))


class _Columns:
    """Features by name, in order: tables whose last axis is theirs."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.tables: list[Tensor] = []

    def add(self, names: list[str], table: Tensor) -> None:
        assert table.shape[-1] == len(names), f"{table.shape[-1]} columns for {names}"
        self.names += names
        self.tables.append(table)

    def rounded(self, like: Tensor) -> Tensor:
        """All of them along the last axis, in the type of the windows."""
        if not self.tables:
            return like[:, :, :0]
        return (torch.round(torch.cat(self.tables, dim=-1) * _GRID) / _GRID).to(like.dtype)


class _Means:
    """Means of all channels of (B, T, C) over the last steps, and over three steps a while ago, all at once."""

    def __init__(self, values: Tensor, names: list[str]) -> None:
        self.names = names
        self.windows = [(span, 0) for span in _MEANS] + [(3, ago) for ago in _EARLIER]
        steps = values.shape[1]
        totals = span_totals(values, [(steps - ago - span, steps - ago) for span, ago in self.windows])
        self.table = ratio_of(*totals).flatten(1)

    def _place(self, name: str, span: int, ago: int = 0) -> int:
        return self.windows.index((span, ago)) * len(self.names) + self.names.index(name)

    def of(self, name: str, span: int) -> Tensor:
        """One mean (B)."""
        return self.table[:, self._place(name, span)]

    def chosen(self, wanted: list[tuple[str, int]]) -> tuple[list[str], Tensor]:
        """Some means, with names."""
        places = [self._place(name, span) for name, span in wanted]
        return [f"{name}_mean_{span}h" for name, span in wanted], picked(self.table, places)

    def changes(self, wanted: list[tuple[str, int]]) -> tuple[list[str], Tensor]:
        """The latest three steps less three steps some steps before, with names."""
        now = [self._place(name, 3) for name, _ in wanted]
        before = [self._place(name, 3, ago) for name, ago in wanted]
        return [f"{name}_change_{ago}h" for name, ago in wanted], picked(self.table, now) - picked(self.table, before)


def _weather_channels(measured: dict[str, Tensor], *, ahead: bool = False) -> dict[str, Tensor]:
    """Channels of the weather (B, T) with those that follow from them; `ahead` adds what disperses or holds dirt.

    Relative humidity from the dew point: Magnus form of Alduchov and Eskridge 1996,
    doi:10.1175/1520-0450(1996)035<0601:IMFAOS>2.0.CO;2, equation 25. Wind components point where the wind goes.
    """
    channels = {name: values for name, values in measured.items() if name != "wind_direction"}
    if "humidity" not in channels and {"temperature", "dew_point"} <= channels.keys():
        dew, air = measured["dew_point"], measured["temperature"]
        exponent = _MAGNUS_FACTOR * (dew / (_MAGNUS_DEGREES + dew) - air / (_MAGNUS_DEGREES + air))
        channels["humidity"] = on_grid(100 * torch.exp(exponent))
    if {"wind_speed", "wind_direction"} <= measured.keys():
        speed, angle = measured["wind_speed"], measured["wind_direction"] * _RADIAN
        channels["eastward_wind"] = on_grid(-speed * torch.sin(angle))
        northward = channels["northward_wind"] = on_grid(-speed * torch.cos(angle))
        if ahead:
            channels["wind_from_north"] = torch.where(northward < 0, -northward, 0.0 * northward)
    if ahead and "wind_speed" in measured:
        channels["calm"] = on_grid(1 / (measured["wind_speed"] + 0.5))
        if "humidity" in channels:
            channels["moist_calm"] = on_grid(channels["humidity"] * channels["calm"] / 100)
    return channels


def _each(values: Tensor, steps: int) -> Tensor:
    return values[:, None, :].expand(-1, steps, -1)
