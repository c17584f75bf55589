"""The recurrent family: an LSTM or a GRU that learns the residual over the seasonal profile, at several quantiles.

Two recurrent stages read the recent history; a head reads their last state together with what is known of each hour
ahead (calendar, profile, the same hour of last week, weather). Everything is relative to the site's own mean, so that
one model serves roads of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from features.vocabulary import CALENDAR_CHANNELS, Domain, Quantity
from training.models.context import ContextFeatures
from training.models.window_graph import (
    SEASONS,
    CalendarFeatures,
    SeasonalLags,
    day_profiles,
    known_or_zero,
    median_known,
    sunday_profile,
)

# Added to volumes before a ratio is taken, as a share of the site's mean, so that empty hours do not dominate.
_RATIO_FLOOR = 0.03
# Log ratios per unit of network output: about their standard deviation on measured roads.
_OUTPUT_SCALE = 0.3
_SHORT, _DAY = 6, 24
# The latest residuals that the head sees one by one.
_DIRECT = 12
_NEAR_STEPS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentConfig:
    """Sizes of the network; the defaults are those of the design document, 4.2.1.

    Attributes:
        cell: Kind of the recurrent cells.
        recent_steps: History steps that they read.
        hidden: Width of the first stage.
        layers: Layers of the first stage.
        hidden_second: Width of the second stage.
        head: Width of the head.
        dropout: Share of activations that training drops.
        members: Networks whose forecasts are averaged.
        second: Whether there is a second recurrent stage.
        context: Whether the head gets the inputs of `training.models.context` too.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    recent_steps: int = 24
    hidden: int = 128
    layers: int = 2
    hidden_second: int = 64
    head: int = 32
    dropout: float = 0.2
    members: int = 1
    second: bool = True
    context: bool = False


class ResidualRecurrent(nn.Module):
    """Raw windows in, quantiles in physical units out.

    Args:
        domain: Gives lengths and channels.
        target: What is forecast.
        levels: Quantile levels, ascending, with 0.5 among them.
        config: Sizes.
    """

    def __init__(self, domain: Domain, target: Quantity, levels: tuple[float, ...], config: RecurrentConfig) -> None:
        super().__init__()
        self.domain = domain
        self.target = target
        self.channel = domain.inputs.index(target)
        self.levels = levels
        self.recent = config.recent_steps
        self.lags = SeasonalLags(domain, recent_steps=config.recent_steps)
        self.calendar = CalendarFeatures()
        self.weather = [index for index in range(len(domain.inputs)) if index != self.channel]
        self.ahead = [len(CALENDAR_CHANNELS) + position for position in range(len(domain.known_ahead))]
        measured = [domain.inputs[index].name for index in self.weather]
        self.ahead_in_weather = [measured.index(name) for name in domain.known_ahead]
        self.neighbours = [domain.history_channels.index(name) for name in domain.neighbour_channels]
        self.first_calendar = len(domain.measured_channels)
        past = 5 + len(self.neighbours) + len(self.weather) + self.calendar.size
        state = _DIRECT + 6 + 2 * len(self.neighbours) + len(self.weather)
        self.register_buffer("weather_mean", torch.zeros(len(self.weather)))
        self.register_buffer("weather_gain", torch.zeros(len(self.weather)))
        self.register_buffer("static_mean", torch.zeros(len(domain.static_names)))
        self.register_buffer("static_gain", torch.zeros(len(domain.static_names)))
        # Without and with knowledge of the weather ahead.
        self.register_buffer("interval_offset", torch.zeros(2, domain.horizon_steps, len(levels)))
        ahead = 9 + self.calendar.size + state + 5 + len(domain.static_names)
        if self.ahead:
            ahead += 2 * len(self.ahead) + 1
        self.context = ContextFeatures(domain, self.channel, self.weather) if config.context else None
        if self.context is not None:
            ahead += self.context.state_size + self.context.ahead_size
        self.members = nn.ModuleList([_Member(past, ahead, len(levels), config) for _ in range(config.members)])

    weather_mean: Tensor
    weather_gain: Tensor
    static_mean: Tensor
    static_gain: Tensor
    interval_offset: Tensor

    def forward(self, history: Tensor, future: Tensor, static: Tensor) -> Tensor:
        """Windows (B, L, K), (B, H, C), (B, S) to quantiles (B, H, Q) [unit of the target]."""
        ratio, profile, scale = self.log_ratios(history, future, static)
        offset = self.interval_offset[0]
        if self.ahead:
            offset = torch.where(self.sees_ahead(future)[:, :, None], self.interval_offset[1], offset)
        return torch.sort(self.to_units(ratio + offset, profile, scale), dim=2).values

    def sees_ahead(self, future: Tensor) -> Tensor:
        """Whether the weather of each hour ahead is known: (B, H)."""
        return torch.isfinite(future[:, :, self.ahead]).any(dim=2)

    def log_ratios(self, history: Tensor, future: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The members' mean before calibration (B, H, Q) in log ratios, profile (B, H) and scale (B, 1)."""
        past, ahead, profile, scale = self.inputs(history, future, static)
        return torch.stack([member(past, ahead) for member in self.members]).mean(dim=0), profile, scale

    def member_quantiles(self, history: Tensor, future: Tensor, static: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each member: quantiles (B, H, Q), profile (B, H) and scale (B, 1), unsorted, for training."""
        past, ahead, profile, scale = self.inputs(history, future, static)
        return [(self.to_units(member(past, ahead), profile, scale), profile, scale) for member in self.members]

    def log_ratio(self, values: Tensor, profile: Tensor, scale: Tensor) -> Tensor:
        """Values (B, H) in the space in which the network works, where its quantiles are shifted for calibration."""
        floor = _RATIO_FLOOR * scale
        return torch.log((values + floor) / (profile + floor)) / _OUTPUT_SCALE

    def to_units(self, ratio: Tensor, profile: Tensor, scale: Tensor) -> Tensor:
        """Log ratios (B, H, Q) over profile (B, H) and scale (B, 1) to values [unit of the target]."""
        floor = (_RATIO_FLOOR * scale)[:, :, None]
        values = (profile[:, :, None] + floor) * torch.exp(torch.clamp(ratio * _OUTPUT_SCALE, -6.0, 3.0)) - floor
        return torch.clamp(values, max(self.target.lower, -1e30), min(self.target.upper, 1e30))

    def profile(self, history: Tensor, future: Tensor) -> Tensor:
        """The seasonal profile (B, H): what the network corrects."""
        return day_profiles(self.lags.before_ahead(history, future, self.channel))[:, -1]

    def inputs(self, history: Tensor, future: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of the past (B, E, *), of the hours ahead (B, H, *), profile (B, H) and scale (B, 1).

        `training.models.recurrent_attribution` names each of them, in this order.
        """
        target = history[:, :, self.channel].contiguous()
        scale = _known_mean(target)
        weekly, daily = (
            self.lags.before_recent(history, self.channel),
            self.lags.before_ahead(history, future, self.channel),
        )
        past_profile, _ = median_known(weekly, dim=1)
        residual = self._residual(target[:, -self.recent :], past_profile, scale)
        last_week = self._residual(target[:, -self.recent :], weekly[:, 0], scale)
        recent = known_or_zero(target[:, -self.recent :])
        missing = (~torch.isfinite(target[:, -self.recent :])).to(target.dtype)
        nearby = [self._nearby(history, channel) for channel in self.neighbours]
        weather = known_or_zero((history[:, -self.recent :, self.weather] - self.weather_mean) * self.weather_gain)
        channels = [residual, recent / scale, past_profile / scale, missing, last_week, *nearby]
        calendar = self.calendar(history[:, -self.recent :, self.first_calendar :])
        past = torch.cat([torch.stack(channels, dim=2), weather, calendar], dim=2)

        profiles = day_profiles(daily)
        profile = profiles[:, -1]
        # What a lead of an hour or two needs goes to the head as it is, not only through the LSTM.
        state = [residual[:, -age] for age in range(1, _DIRECT + 1)]
        state += [_mean(residual, _SHORT), _mean(residual, _DAY), last_week[:, -1], last_week[:, -2]]
        state += [missing[:, -1], missing.mean(dim=1), *weather[:, -1].unbind(dim=1)]
        state += [part for near in nearby for part in (near[:, -1], _mean(near, _SHORT))]
        ahead = self._ahead(daily, profiles, scale, future, torch.stack(state, dim=1), static)
        if self.ahead:
            ahead = torch.cat([ahead, self._weather_ahead(future, weather)], dim=2)
        if self.context is not None:
            more = self.context(history, future, daily, scale, self.weather_mean, self.weather_gain)
            each = more[0][:, None].expand(-1, self.domain.horizon_steps, -1)
            ahead = torch.cat([ahead, each, more[1]], dim=2)
        return past, ahead, profile, scale

    def _weather_ahead(self, future: Tensor, weather: Tensor) -> Tensor:
        """The weather of each hour ahead, its change against the last day, and whether it is known: (B, H, *)."""
        mean, gain = self.weather_mean[self.ahead_in_weather], self.weather_gain[self.ahead_in_weather]
        given = future[:, :, self.ahead]
        scaled = (given - mean) * gain
        last_day = weather[:, -_DAY:, self.ahead_in_weather].mean(dim=1)
        known = self.sees_ahead(future).to(future.dtype)[:, :, None]
        return torch.cat([known_or_zero(scaled), known_or_zero(scaled - last_day[:, None]), known], dim=2)

    def _residual(self, values: Tensor, profile: Tensor, scale: Tensor) -> Tensor:
        """Log ratio of values to their profile, 0 where either is missing."""
        floor = _RATIO_FLOOR * scale
        ratio = torch.log((torch.clamp(values, min=0.0) + floor) / (torch.clamp(profile, min=0.0) + floor))
        return known_or_zero(ratio)

    def _nearby(self, history: Tensor, channel: int) -> Tensor:
        """Residual of a neighbour over its own profile (B, E)."""
        values = history[:, :, channel].contiguous()
        scale = _known_mean(values)
        profile, known = median_known(self.lags.before_recent(history, channel), dim=1)
        residual = self._residual(values[:, -self.recent :], profile, scale)
        return torch.where(known > 0, residual, torch.zeros_like(residual))

    def _ahead(
        self, daily: Tensor, profiles: Tensor, scale: Tensor, future: Tensor, state: Tensor, static: Tensor
    ) -> Tensor:
        """Features of each hour ahead (B, H, *)."""
        profile, horizon = profiles[:, -1], self.domain.horizon_steps
        weeks = daily[:, 6::7]
        sunday = sunday_profile(profiles, future[:, :, self.domain.future_channels.index("day_of_week")])
        monthly, _ = median_known(weeks[:, : SEASONS // 2], dim=1)
        spread = known_or_zero(weeks - profile[:, None]).abs().mean(dim=1)
        levels = [profile, monthly, known_or_zero(weeks[:, 0]), known_or_zero(weeks[:, 1]), spread, sunday]
        ratios = [self._residual(part, profile, scale) for part in (sunday, weeks[:, 0], daily[:, 0])]
        lead = torch.arange(1, horizon + 1, device=future.device, dtype=future.dtype)[None, :].expand(
            future.shape[0], -1
        )
        decay = [torch.exp(-lead / 2), torch.exp(-lead / 8)]
        latest = state[:, :1]
        leads = [lead / _DAY, *decay, *(latest * part for part in decay)]
        fixed = known_or_zero((static[:, 1:] - self.static_mean) * self.static_gain)
        return torch.cat(
            [
                torch.stack([*(level / scale for level in levels), *ratios, *leads], dim=2),
                self.calendar(future),
                state[:, None, :].expand(-1, horizon, -1),
                fixed[:, None, :].expand(-1, horizon, -1),
            ],
            dim=2,
        )


class _Member(nn.Module):
    """One network: past (B, E, P) and ahead (B, H, A) to log ratios (B, H, Q)."""

    def __init__(self, past: int, ahead: int, levels: int, config: RecurrentConfig) -> None:
        super().__init__()
        inner = config.dropout if config.layers > 1 else 0.0
        cell: type[nn.LSTM] | type[nn.GRU] = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.first = cell(past, config.hidden, config.layers, dropout=inner, batch_first=True)
        self.second = cell(config.hidden, config.hidden_second, batch_first=True) if config.second else None
        self.head = nn.Linear((config.hidden_second if config.second else config.hidden) + ahead, config.head)
        self.mix = nn.Linear(config.head, config.head)
        self.out = nn.Linear(config.head, levels)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, past: Tensor, ahead: Tensor) -> Tensor:
        read, _ = self.first(past)
        if self.second is not None:
            read, _ = self.second(self.dropout(read))
        else:
            read = self.dropout(read)
        state = read[:, -1:].expand(-1, ahead.shape[1], -1)
        hidden = torch.relu(self.head(torch.cat([state, ahead], dim=2)))
        hidden = torch.relu(self.mix(self.dropout(hidden)))
        ratios: Tensor = self.out(self.dropout(hidden))
        return ratios


def _known_mean(values: Tensor) -> Tensor:
    """Mean of the known values of each row (B, T) to (B, 1), a little above 0 at least."""
    count = torch.isfinite(values).sum(dim=1, keepdim=True)
    return torch.clamp(known_or_zero(values).sum(dim=1, keepdim=True) / torch.clamp(count, min=1), min=1e-3)


def _mean(values: Tensor, steps: int) -> Tensor:
    return values[:, -steps:].mean(dim=1)


def quantile_loss(
    quantiles: Tensor,
    target: Tensor,
    profile: Tensor,
    scale: Tensor,
    levels: Tensor,
    *,
    weight_power: float,
    near_emphasis: float = 0.0,
    squared: float = 0.0,
) -> Tensor:
    """Pinball loss (Koenker and Bassett 1978, doi:10.2307/1913643) over measured targets, relative to the site's mean.

    Args:
        quantiles: Shape (B, H, Q).
        target: Shape (B, H), NaN where unmeasured.
        profile: Shape (B, H).
        scale: Mean of the site's history, shape (B, 1).
        levels: Shape (Q,).
        weight_power: 0 counts each vehicle the same (serves RMSE), 1 each per cent (serves MAPE).
        near_emphasis: How much more the first step ahead counts than a far one; falls off within some steps.
        squared: How much the squared error of the middle level counts besides (serves RMSE).
    """
    known = torch.isfinite(target)
    error = (known_or_zero(target)[:, :, None] - quantiles) / scale[:, :, None]
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=2)
    if squared:
        pinball = pinball + squared * error[:, :, len(levels) // 2].square()
    lead = torch.arange(target.shape[1], device=target.device, dtype=target.dtype)
    near = 1 + near_emphasis * torch.exp(-lead / _NEAR_STEPS)
    weight = (scale / (profile + 3 * _RATIO_FLOOR * scale)) ** weight_power * known * near
    total: Tensor = (pinball * weight).sum() / torch.clamp((known * near).sum(), min=1)
    return total
