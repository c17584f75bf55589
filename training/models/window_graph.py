"""Graph parts that turn a raw window into what models learn from: they are exported with every model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from features.calendar import HOLIDAY_KINDS
from features.vocabulary import CALENDAR_CHANNELS, Domain

SEASONS = 8
_DAYS = 7
_SUNDAY = 6.0


def median_known(values: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Median of the finite values along `dim`, and how many there are; 0 where there is none.

    The mean of the two middle ones where their number is even, as `numpy.nanmedian` does.
    """
    known = torch.isfinite(values)
    count = known.sum(dim=dim, keepdim=True)
    ordered = torch.sort(torch.where(known, values, torch.full_like(values, math.inf)), dim=dim).values
    low = torch.gather(ordered, dim, torch.clamp((count - 1) // 2, min=0))
    high = torch.gather(ordered, dim, torch.clamp(count // 2, max=values.shape[dim] - 1))
    # With all values known of an even count the upper middle exists; with none both are infinite.
    middle = torch.where(count > 0, (low + torch.where(count % 2 == 0, high, low)) / 2, torch.zeros_like(low))
    return middle.squeeze(dim), count.squeeze(dim)


def known_or_zero(values: Tensor) -> Tensor:
    """`values` with 0 for what is missing."""
    return torch.where(torch.isfinite(values), values, torch.zeros_like(values))


def used(values: Tensor, *inputs: Tensor) -> Tensor:
    """`values`, so that a graph keeps inputs that it has no use for: all families have the same signature."""
    for part in inputs:
        values = values + 0.0 * torch.nan_to_num(part).sum()
    return values


class SeasonalLags(nn.Module):
    """The target at the same local hour on days and weeks before, for the last history steps and for those ahead.

    A week before, on the wall clock, is 168 hours before unless daylight saving changed between; the windows' channel
    `utc_offset_h` tells. Values that lie after the origin, or before the history, are missing (NaN).

    Args:
        domain: Gives lengths and channels.
        recent_steps: How many of the last history steps are wanted (E).
    """

    def __init__(self, domain: Domain, *, recent_steps: int) -> None:
        super().__init__()
        self.length = domain.history_steps
        self.horizon = domain.horizon_steps
        self.recent = recent_steps
        self.offset_channel = domain.history_channels.index("utc_offset_h")
        self.offset_ahead = domain.future_channels.index("utc_offset_h")
        self.steps_per_hour = 3600 // domain.step_s
        self.day = domain.season_steps // _DAYS
        self.season = domain.season_steps

    def before_recent(self, history: Tensor, channel: int) -> Tensor:
        """The same hour of each of the last weeks, for each recent step: (B, SEASONS, E)."""
        then = history[:, :, self.offset_channel].contiguous()
        now = then[:, self.length - self.recent :]
        weekly = [self.season * week for week in range(1, SEASONS + 1)]
        return self._lagged(history[:, :, channel], then, now, first=self.length - self.recent, lags=weekly)

    def before_ahead(self, history: Tensor, future: Tensor, channel: int) -> Tensor:
        """The same hour of each of the last days, for each step ahead: (B, 7 * SEASONS, H)."""
        daily = [self.day * day for day in range(1, _DAYS * SEASONS + 1)]
        now = future[:, :, self.offset_ahead]
        then = history[:, :, self.offset_channel].contiguous()
        return self._lagged(history[:, :, channel], then, now, first=self.length, lags=daily)

    def _lagged(self, values: Tensor, then: Tensor, now: Tensor, *, first: int, lags: list[int]) -> Tensor:
        steps = torch.arange(now.shape[1], device=values.device) + first
        plain = steps[None, :] - torch.tensor(lags, device=values.device)[:, None]
        flat = plain.reshape(-1)
        inside = torch.clamp(flat, 0, self.length - 1)
        shape = (-1, len(lags), now.shape[1])
        shift = (now[:, None, :] - then[:, inside].reshape(shape)) * self.steps_per_hour
        position = plain[None] + torch.round(shift).to(torch.int64)
        found = torch.gather(values, 1, torch.clamp(position, 0, self.length - 1).reshape(values.shape[0], -1))
        valid = (position >= 0) & (position < self.length) & (plain[None] >= 0)
        return torch.where(valid, found.reshape(shape), torch.full_like(now[:, None, :], math.nan))


def day_profiles(daily_lags: Tensor) -> Tensor:
    """Median over the weeks of each weekday's lags: (B, 7 * SEASONS, H) to (B, 7, H); the last is the same weekday."""
    shape = (-1, SEASONS, _DAYS, daily_lags.shape[2])
    return median_known(daily_lags.reshape(shape), dim=1)[0]


def sunday_profile(profiles: Tensor, weekday: Tensor) -> Tensor:
    """The profile of Sundays at the hour of each step ahead: (B, 7, H), weekday (B, H) to (B, H)."""
    days_before = torch.arange(1, _DAYS + 1, device=profiles.device)[None, :, None]
    is_sunday = torch.remainder(weekday[:, None, :] - days_before - _SUNDAY, _DAYS) == 0
    return torch.where(is_sunday, profiles, torch.zeros_like(profiles)).sum(dim=1)


class CalendarFeatures(nn.Module):
    """Cyclical hour, day and month, weekday as one-hot, holidays with a learned vector for each kind.

    Args:
        kind_size: Length of a holiday kind's vector.
    """

    def __init__(self, *, kind_size: int = 4) -> None:
        super().__init__()
        self.kinds = nn.Embedding(HOLIDAY_KINDS + 1, kind_size)
        self.size = 4 + 2 + _DAYS + 3 + kind_size

    def forward(self, calendar: Tensor) -> Tensor:
        """Calendar channels (B, T, C) to features (B, T, size)."""
        # A calendar is never missing in a real window; a server that warms up with an empty one must not fail.
        filled = known_or_zero(calendar)
        hour, weekday, day, *flags, kind = (
            filled[:, :, CALENDAR_CHANNELS.index(name)]
            for name in (
                "hour_of_day",
                "day_of_week",
                "day_of_year",
                "holiday",
                "holiday_tomorrow",
                "holiday_yesterday",
                "holiday_kind",
            )
        )
        turn, year = hour * (2 * math.pi / 24), day * (2 * math.pi / 365.25)
        cycles = [
            torch.sin(turn),
            torch.cos(turn),
            torch.sin(2 * turn),
            torch.cos(2 * turn),
            torch.sin(year),
            torch.cos(year),
        ]
        days = [(weekday == float(number)).to(calendar.dtype) for number in range(_DAYS)]
        known = torch.clamp(kind, 0, HOLIDAY_KINDS).to(torch.int64)
        is_holiday = (kind > 0).to(calendar.dtype)[:, :, None]
        return torch.cat([torch.stack([*cycles, *days, *flags], dim=2), self.kinds(known) * is_holiday], dim=2)
