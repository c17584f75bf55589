"""What the day networks learn from: residuals over the hour-of-week profile, on whole local days, and the weather.

Everything is relative: demand to its mean of four weeks, residuals to their mean size. So one network serves zones of
any size, and its inputs stay in the range that it was fitted on when a zone grows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.vocabulary import Domain, Quantity
from training.models.local_days import DAY_HOURS, WEEK_DAYS, LocalDays, Places
from training.models.window_graph import known_or_zero, median_known

HALF_LIVES_DAYS = (1.0, 3.0, 7.0, 14.0)
# The channel that the networks correct: the residual level of about three days.
LEVEL_CHANNEL = HALF_LIVES_DAYS.index(3.0)
# Channels of the day: levels, three of the same weekday, yesterday, the day before, the profile.
CHANNELS = len(HALF_LIVES_DAYS) + 6
# Without the same weekday and the profile: what a network over whole days does not need.
LEAN_CHANNELS = (*range(len(HALF_LIVES_DAYS)), CHANNELS - 4, CHANNELS - 3, CHANNELS - 2)
_SAME_WEEKDAY_HALF_LIFE_WEEKS = 2.0
_LARGEST_RESIDUAL = 8.0
_SCALE_DAYS, _SPREAD_DAYS, _LEVEL_DAYS = 28, 42, 14
_SUNDAY = 6.0
_LEAST_SCALE, _LEAST_SPREAD = 1e-3, 5e-3


class DayState(NamedTuple):
    """What the last weeks of a zone look like; A days ahead.

    Attributes:
        profile: Demand of each hour ahead by the hour of the week, relative to `scale` (B, A, 24).
        spread: Mean size of the residuals, relative to `scale` (B, 1).
        hourly_spread: The same by hour of the day, relative to `spread` (B, 24).
        scale: Mean demand of four weeks [unit of the target] (B, 1).
        today: Demand of the first day ahead as far as it is known, relative to `scale`, NaN elsewhere (B, 24).
        holiday: Whether each day ahead is one, 0 or 1 (B, A).
        channels: Inputs with an hour axis, see `CHANNELS` (B, A, CHANNELS, 24).
        days: Inputs of each day ahead (B, A, `DayProfile.size`).
    """

    profile: Tensor
    spread: Tensor
    hourly_spread: Tensor
    scale: Tensor
    today: Tensor
    holiday: Tensor
    channels: Tensor
    days: Tensor


def mean_known(values: Tensor, weight: Tensor | float, *, dim: int) -> Tensor:
    """Weighted mean of the finite values along `dim`; 0 where there is none."""
    known = torch.isfinite(values).to(values.dtype) * weight
    return (known_or_zero(values) * known).sum(dim=dim) / torch.clamp(known.sum(dim=dim), min=1e-6)


class DayProfile(nn.Module):
    """The hour-of-week profile of the last weeks, and residuals over it, for each day ahead.

    A holiday teaches no profile and gets Sunday's.

    Args:
        domain: Gives lengths and channels.
        target: What is forecast.
    """

    def __init__(self, domain: Domain, target: Quantity) -> None:
        super().__init__()
        self.local = LocalDays(domain)
        self.channel = domain.inputs.index(target)
        self.horizon = domain.horizon_steps
        self.holiday = (
            domain.history_channels.index("holiday"),
            domain.future_channels.index("holiday"),
            domain.future_channels.index("holiday_tomorrow"),
        )
        self.weeks = self.local.behind // WEEK_DAYS
        self.leads = min(WEEK_DAYS, self.local.ahead - 1)
        self.size = _LEVEL_DAYS + 1 + WEEK_DAYS + self.leads + 3

    def forward(self, history: Tensor, future: Tensor, places: Places) -> DayState:
        """The state at the last midnight of windows (B, L, K) and (B, H, C)."""
        behind = self.local.behind
        demand = self.local.grid(self.series(history, future), places)
        holiday = self.local.holidays(history, future, places, self.holiday)
        scale = torch.clamp(
            mean_known(demand[:, max(behind - _SCALE_DAYS, 0) : behind].flatten(1), 1.0, dim=1), min=_LEAST_SCALE
        )
        relative = demand / scale[:, None, None]
        past = relative[:, :behind]
        past = torch.where(holiday[:, :behind, None] > 0, torch.full_like(past, math.nan), past)
        by_week = past.reshape(-1, self.weeks, WEEK_DAYS, DAY_HOURS)
        median, count = median_known(by_week, dim=1)
        # An hour of the week that was never measured gets the mean of its hour of the day.
        median = torch.where(count > 0, median, mean_known(past, 1.0, dim=1)[:, None].expand_as(median))
        residual = by_week - median[:, None]
        residual = residual.reshape(-1, behind, DAY_HOURS)
        recent = residual[:, -_SPREAD_DAYS:].abs()
        spread = torch.clamp(mean_known(recent.flatten(1), 1.0, dim=1), min=_LEAST_SPREAD)
        residual = residual / spread[:, None, None]
        hourly_spread = torch.clamp(mean_known(recent, 1.0, dim=1) / spread[:, None], 0.2, 5.0)

        weekday_slot = self._slots(holiday, places)
        profile = _pick(median, weekday_slot)
        return DayState(
            profile=profile,
            spread=spread[:, None],
            hourly_spread=hourly_spread,
            scale=scale[:, None],
            today=relative[:, behind],
            holiday=holiday[:, behind : behind + self.local.ahead],
            channels=self._channels(residual, weekday_slot, profile),
            days=self._days(residual, spread, holiday, places),
        )

    def series(self, history: Tensor, future: Tensor) -> Tensor:
        """The target over history and horizon (B, L + H): NaN after the origin."""
        unknown = torch.full_like(future[:, :, 0], math.nan)
        return torch.cat([history[:, :, self.channel], unknown], dim=1)

    def _slots(self, holiday: Tensor, places: Places) -> Tensor:
        """Which day of the week, counted from the first day ahead, each day ahead takes its profile from (B, A)."""
        behind, ahead = self.local.behind, self.local.ahead
        days = torch.arange(ahead, device=holiday.device) % WEEK_DAYS
        sunday = torch.remainder(_SUNDAY - places.weekday, WEEK_DAYS).to(torch.int64)
        free = holiday[:, behind : behind + ahead] > 0
        return torch.where(free, sunday.expand(-1, ahead), days[None, :].expand(sunday.shape[0], -1))

    def _channels(self, residual: Tensor, slots: Tensor, profile: Tensor) -> Tensor:
        """Inputs of each hour of each day ahead: (B, A, CHANNELS, 24)."""
        days = residual.shape[1]
        age = torch.arange(days - 1, -1, -1, device=residual.device, dtype=residual.dtype)
        weeks = residual.reshape(-1, self.weeks, WEEK_DAYS, DAY_HOURS)
        week_age = torch.arange(self.weeks - 1, -1, -1, device=residual.device, dtype=residual.dtype)
        week_weight = torch.pow(0.5, week_age / _SAME_WEEKDAY_HALF_LIFE_WEEKS)[None, :, None, None]
        levels = [mean_known(residual, torch.pow(0.5, age / half)[None, :, None], dim=1) for half in HALF_LIVES_DAYS]
        same_weekday = [weeks[:, -1], weeks[:, -2], mean_known(weeks, week_weight, dim=1)]

        def of_every_day(values: Tensor) -> Tensor:
            return _bounded(values)[:, None].expand_as(profile)

        return torch.stack(
            [
                *(of_every_day(level) for level in levels),
                *(_bounded(_pick(values, slots)) for values in same_weekday),
                of_every_day(residual[:, -1]),
                of_every_day(residual[:, -2]),
                profile - 1,
            ],
            dim=2,
        )

    def _days(self, residual: Tensor, spread: Tensor, holiday: Tensor, places: Places) -> Tensor:
        """Inputs of each day ahead: (B, A, size)."""
        behind, ahead = self.local.behind, self.local.ahead
        daily = _bounded(mean_known(residual[:, -_LEVEL_DAYS:], 1.0, dim=2))
        state = torch.cat([daily, torch.log(spread)[:, None] + 3], dim=1)
        lead = torch.arange(ahead, device=residual.device)
        weekday = torch.remainder(places.weekday.to(torch.int64) + lead[None, :], WEEK_DAYS)
        far = functional.one_hot(torch.clamp(lead, max=self.leads - 1), self.leads).to(residual.dtype)
        flags = [holiday[:, behind + shift : behind + shift + ahead] for shift in (0, -1, 1)]
        return torch.cat(
            [
                state[:, None].expand(-1, ahead, -1),
                functional.one_hot(weekday, WEEK_DAYS).to(residual.dtype),
                far[None].expand(state.shape[0], -1, -1),
                torch.stack(flags, dim=2),
            ],
            dim=2,
        )


def _pick(by_weekday: Tensor, slots: Tensor) -> Tensor:
    """Values (B, 7, 24) of the weekday of each slot (B, A): (B, A, 24)."""
    return torch.gather(by_weekday, 1, slots[:, :, None].expand(-1, -1, DAY_HOURS))


def _bounded(residual: Tensor) -> Tensor:
    return torch.clamp(known_or_zero(residual), -_LARGEST_RESIDUAL, _LARGEST_RESIDUAL)
