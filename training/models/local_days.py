"""Windows on whole local days: 24 hours by the wall clock, counted from the last local midnight up to the origin.

A reading is valid at the end of its hour, so the hour from 23 to 24 belongs to the day that it ends. At the change to
daylight saving time one hour of the day is missing; at the change back the hour that comes twice is averaged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.vocabulary import Domain
from training.models.window_graph import known_or_zero

DAY_HOURS = 24
WEEK_DAYS = 7


class Places(NamedTuple):
    """Where the hours of some local days lie in a window, and where the steps ahead lie in those days.

    Attributes:
        position: Two candidates for each hour of the days, which differ on the day of a change alone (B, 2, days * 24).
        inside: Whether a candidate is in the window and has that local time (B, 2, days * 24).
        ahead: Hour of each step ahead, counted from midnight of the first day ahead (B, H).
        end: Day ahead in which the horizon ends (B, 1).
        weekday: Of the first day ahead, Monday 0 (B, 1).
    """

    position: Tensor
    inside: Tensor
    ahead: Tensor
    end: Tensor
    weekday: Tensor


class LocalDays(nn.Module):
    """Finds local days in windows.

    The day of the origin is the first day ahead: what was measured of it is in its grid. Where the origin is a local
    midnight nothing was.

    Args:
        domain: Gives lengths and channels; its steps are hours.

    Attributes:
        behind: Days before the first day ahead, whole weeks.
        ahead: Days that the steps ahead can touch.
    """

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        assert domain.step_s == 3600, f"local days are made of hours, not of steps of {domain.step_s} s"
        self.length, self.horizon = domain.history_steps, domain.horizon_steps
        self.behind = domain.history_steps // domain.season_steps * WEEK_DAYS
        assert self.behind >= 2 * WEEK_DAYS, f"two weeks of history are needed, not {self.behind} days"
        # From an origin after midnight the steps reach into one more day.
        self.ahead = math.ceil(domain.horizon_steps / DAY_HOURS) + 1
        names = ("hour_of_day", "day_number", "day_of_week")
        self.in_history = [domain.history_channels.index(name) for name in names]
        self.in_future = [domain.future_channels.index(name) for name in names]

    def forward(self, history: Tensor, future: Tensor) -> Places:
        """Places of the days of windows (B, L, K) and (B, H, C)."""
        hour, day = (
            known_or_zero(torch.cat([history[:, :, then], future[:, :, later]], dim=1))
            for then, later in zip(self.in_history[:2], self.in_future[:2], strict=True)
        )
        midnight = day[:, self.length - 1 : self.length]
        ends = (day - midnight) * DAY_HOURS + torch.floor(hour)
        # An hour begins when the one before it ends; the clock may change in between.
        begins = torch.cat([ends[:, :1] - 1, ends[:, :-1]], dim=1)
        # Constant but for changes of the clock, and of two values at most: those of winter and of summer.
        shift = begins - torch.arange(self.length + self.horizon, device=begins.device, dtype=begins.dtype)
        first, last = -self.behind * DAY_HOURS, self.ahead * DAY_HOURS
        hours = torch.arange(first, last, device=begins.device, dtype=begins.dtype)
        candidates = torch.stack([shift.amin(dim=1), shift.amax(dim=1)], dim=1)[:, :, None]
        position = hours[None, None, :] - candidates
        in_window = (position >= 0) & (position < self.length + self.horizon)
        position = torch.clamp(position, 0, self.length + self.horizon - 1).to(torch.int64)
        both = torch.gather(shift[:, None, :].expand(-1, 2, -1), 2, position)
        return Places(
            position=position,
            inside=in_window & (both == candidates),
            ahead=torch.clamp(begins[:, self.length :], 0, last - 1).to(torch.int64),
            end=torch.clamp(torch.floor(ends[:, -1:] / DAY_HOURS), 0, self.ahead - 1).to(torch.int64),
            weekday=known_or_zero(history[:, self.length - 1 :, self.in_history[2]]),
        )

    def grid(self, series: Tensor, places: Places) -> Tensor:
        """A series over history and horizon (B, L + H) on the days (B, days, 24), NaN where missing."""
        found = torch.gather(series[:, None, :].expand(-1, 2, -1), 2, places.position)
        known = places.inside & torch.isfinite(found)
        count = known.sum(dim=1)
        mean = torch.where(known, found, torch.zeros_like(found)).sum(dim=1) / torch.clamp(count, min=1)
        mean = torch.where(count > 0, mean, torch.full_like(mean, math.nan))
        return mean.reshape(-1, self.behind + self.ahead, DAY_HOURS)

    def holidays(self, history: Tensor, future: Tensor, places: Places, channels: tuple[int, int, int]) -> Tensor:
        """Whether each day, and the one after the last, is a holiday: (B, days + 1), 0 or 1.

        Args:
            history: Shape (B, L, K).
            future: Shape (B, H, C).
            places: Of their days.
            channels: Of `holiday` in the history and in the future, and of `holiday_tomorrow` in the future.
        """
        flags = torch.cat([history[:, :, channels[0]], future[:, :, channels[1]]], dim=1)
        # The calendar is that of the end of an hour; a day is made of the hours that begin in it.
        flags = torch.cat([flags[:, :1], flags[:, :-1]], dim=1)
        days = known_or_zero(self.grid(flags, places)).amax(dim=2)
        days = torch.cat([days, torch.zeros_like(days[:, :1])], dim=1)
        number = torch.arange(self.behind + self.ahead + 1, device=days.device)[None]
        end = self.behind + places.end
        # Not by a list of channels: an index that is a constant cannot be exported inside a branch of a graph.
        last, tomorrow = (known_or_zero(future[:, -1:, channel]) for channel in channels[1:])
        on_last = torch.where(number == end, last, torch.zeros_like(days))
        after_last = torch.where(number == end + 1, tomorrow, torch.zeros_like(days))
        return torch.maximum(days, torch.maximum(on_last, after_last))

    def steps(self, days: Tensor, places: Places) -> Tensor:
        """Values of the hours of the days ahead (B, ahead, 24), taken for each step ahead: (B, H)."""
        return torch.gather(days.reshape(-1, self.ahead * DAY_HOURS), 1, places.ahead)
