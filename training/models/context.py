"""What drifting, weather-driven demand needs besides its profile: levels, yesterday, and weather as an anomaly.

An anomaly is the weather of an hour minus the mean weather of the hours that its profile is the median of: the profile
has seen those, so only the difference is news.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.vocabulary import CALENDAR_CHANNELS, Domain
from training.models.window_graph import SeasonalLags, day_profiles, known_or_zero, median_known

LEVEL_STEPS = (6, 24, 72, 168, 336)
_DAY, _WEEK = 24, 7
_FLOOR = 0.03
# Inputs beyond this are an extrapolation that a network should not follow.
_LARGEST = 6.0


class ContextFeatures(nn.Module):
    """Extra inputs of a network's head.

    Args:
        domain: Gives lengths and channels.
        channel: Channel of the target.
        weather: Channels of the covariates.
    """

    def __init__(self, domain: Domain, channel: int, weather: list[int]) -> None:
        super().__init__()
        self.channel, self.weather = channel, weather
        self.horizon = domain.horizon_steps
        self.lags = SeasonalLags(domain, recent_steps=LEVEL_STEPS[-1])
        self.ahead = list(range(len(CALENDAR_CHANNELS), len(CALENDAR_CHANNELS) + len(domain.known_ahead)))
        measured = [domain.inputs[index].name for index in weather]
        self.in_weather = [measured.index(name) for name in domain.known_ahead]
        self.state_size = len(LEVEL_STEPS) + 1 + 4 + 4 + 3 * len(weather)
        self.ahead_size = 3 + 4 + 2 + 3 * len(weather) + 5 * len(self.ahead)

    def forward(
        self, history: Tensor, future: Tensor, daily: Tensor, scale: Tensor, mean: Tensor, gain: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The extra inputs.

        Args:
            history: Shape (B, L, K).
            future: Shape (B, H, C).
            daily: The target at each hour ahead on the days before, shape (B, D, H).
            scale: Mean of the site's history, shape (B, 1).
            mean: Mean of each covariate, shape (W,).
            gain: One over its standard deviation, 0 for what never varies, shape (W,).

        Returns:
            State at the origin (B, state_size), and inputs of each hour ahead (B, H, ahead_size).
        """
        weather = [self._scaled(history[:, :, index], mean[place], gain[place])
                   for place, index in enumerate(self.weather)]  # fmt: skip
        behind = self._behind(history, future, mean, gain)
        state = [*self._levels(history, scale), *self._weather_now(history, weather, mean, gain)]
        ahead = [*self._days_before(daily, scale), *self._weather_before(behind, future, mean, gain)]
        return (
            torch.clamp(torch.stack(state, dim=1), -_LARGEST, _LARGEST),
            torch.clamp(torch.stack(ahead, dim=2), -_LARGEST, _LARGEST),
        )

    def _scaled(self, values: Tensor, mean: Tensor, gain: Tensor) -> Tensor:
        return (values - mean) * gain

    def _levels(self, history: Tensor, scale: Tensor) -> list[Tensor]:
        """Demand over its profile for several lengths, the trend, and the last hours as they are."""
        longest = LEVEL_STEPS[-1]
        target = history[:, -longest:, self.channel]
        profile, weeks = median_known(self.lags.before_recent(history, self.channel), dim=1)
        both = torch.isfinite(target) & (weeks > 0)
        measured, expected = (torch.where(both, part, torch.zeros_like(part)) for part in (target, profile))
        floor = _FLOOR * scale[:, 0]
        parts = []
        for steps in LEVEL_STEPS:
            slack = steps * floor
            parts.append(
                torch.log((measured[:, -steps:].sum(dim=1) + slack) / (expected[:, -steps:].sum(dim=1) + slack))
            )
        known = torch.isfinite(target).sum(dim=1)
        parts.append(
            torch.log((known_or_zero(target).sum(dim=1) + floor) / (torch.clamp(known, min=1) * scale[:, 0] + floor))
        )
        parts += [(measured - expected)[:, -age] / scale[:, 0] for age in (1, 2, 3, 4)]
        parts += [known_or_zero(target[:, -age]) / scale[:, 0] for age in (1, 2, 3, _DAY)]
        return parts

    def _weather_now(self, history: Tensor, weather: list[Tensor], mean: Tensor, gain: Tensor) -> list[Tensor]:
        """Anomaly now, and the last day's mean weather and anomaly."""
        parts = []
        for place, (values, index) in enumerate(zip(weather, self.weather, strict=True)):
            before = self.lags.before_recent(history, index)[:, :, -_DAY:]
            usual = self._scaled(_mean_known(before), mean[place], gain[place])
            anomaly = known_or_zero(values[:, -_DAY:] - usual)
            parts += [anomaly[:, -1], anomaly.mean(dim=1), known_or_zero(values[:, -_DAY:]).mean(dim=1)]
        return parts

    def _days_before(self, daily: Tensor, scale: Tensor) -> list[Tensor]:
        """The same hour on the days before against the profile of those days, as ratios and as differences."""
        profiles = day_profiles(daily)
        floor = _FLOOR * scale
        days = daily[:, :_WEEK]
        ratio = known_or_zero(
            torch.log((torch.clamp(days, min=0.0) + floor[:, :, None]) / (profiles + floor[:, :, None]))
        )
        difference = known_or_zero((days - profiles) / scale[:, :, None])
        weeks = daily[:, 6::7]
        low = torch.where(torch.isfinite(weeks), weeks, torch.full_like(weeks, torch.inf)).amin(dim=1)
        high = torch.where(torch.isfinite(weeks), weeks, torch.full_like(weeks, -torch.inf)).amax(dim=1)
        return [
            ratio[:, 0],
            ratio[:, 1],
            ratio.mean(dim=1),
            difference[:, 0],
            difference[:, -1],
            difference.mean(dim=1),
            known_or_zero(days[:, 0]) / scale,
            known_or_zero(low / scale),
            known_or_zero(high / scale),
        ]

    def _behind(self, history: Tensor, future: Tensor, mean: Tensor, gain: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each covariate: the mean of the hours behind the profile, and the hour a day before, scaled (B, H)."""
        parts = []
        for place, index in enumerate(self.weather):
            daily = self.lags.before_ahead(history, future, index)
            usual = self._scaled(_mean_known(daily[:, 6::7]), mean[place], gain[place])
            parts.append((usual, self._scaled(daily[:, 0], mean[place], gain[place])))
        return parts

    def _weather_before(
        self, behind: list[tuple[Tensor, Tensor]], future: Tensor, mean: Tensor, gain: Tensor
    ) -> list[Tensor]:
        """Usual weather and yesterday's; of what is known ahead: anomalies over some spans, and the change of a day."""
        parts = []
        for usual, yesterday in behind:
            parts += [known_or_zero(usual), known_or_zero(yesterday), known_or_zero(yesterday - usual)]
        steps = torch.arange(1, self.horizon + 1, device=future.device, dtype=future.dtype)
        for channel, place in zip(self.ahead, self.in_weather, strict=True):
            usual, yesterday = behind[place]
            given = self._scaled(future[:, :, channel], mean[place], gain[place])
            anomaly = known_or_zero(given - usual)
            before = torch.cat([anomaly[:, :1], anomaly[:, :-1]], dim=1)
            earlier = torch.cat([anomaly[:, :1], before[:, :-1]], dim=1)
            parts += [anomaly, before, (anomaly + before + earlier) / 3, known_or_zero(given - yesterday)]
            parts.append(torch.cumsum(anomaly, dim=1) / steps)
        return parts


def _mean_known(values: Tensor) -> Tensor:
    """Mean of the finite values along the second axis, NaN where there is none."""
    known = torch.isfinite(values).sum(dim=1)
    total = known_or_zero(values).sum(dim=1)
    return torch.where(known > 0, total / torch.clamp(known, min=1), torch.full_like(total, torch.nan))
