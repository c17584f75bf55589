"""Weather of the days ahead against that of the days behind: what day networks learn from where it is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.vocabulary import Domain
from training.models.day_features import mean_known
from training.models.local_days import DAY_HOURS, LocalDays, Places

_USUAL_DAYS, _SEASON_DAYS, _WEEK = 28, 42, 7
# A day whose weather is known for fewer hours counts as unknown.
_LEAST_HOURS = DAY_HOURS // 2
_TEMPERATURE_HOURS, _RAIN_HOURS = 3, 4


class WeatherDays(NamedTuple):
    """Inputs about the weather.

    Attributes:
        ahead: Of each day ahead, 0 where its weather is unknown (B, A, `DayWeather.size`).
        known: Whether it is known, 0 or 1 (B, A).
        hours: Of each quantity its hours on all days without gaps, NaN where nothing is known of its usual course
            (B, days, 24).
    """

    ahead: Tensor
    known: Tensor
    hours: dict[str, Tensor]


class DayWeather(nn.Module):
    """Daily figures of temperature, rain and humidity, as far as a domain knows them ahead, and their changes.

    Args:
        domain: Gives lengths and channels.
        local: Its days.
    """

    def __init__(self, domain: Domain, local: LocalDays) -> None:
        super().__init__()
        self.local = local
        self.names: list[str] = [name for name in ("temperature", "rainfall", "humidity") if name in domain.known_ahead]
        inputs = [quantity.name for quantity in domain.inputs]
        self.in_history = [inputs.index(name) for name in self.names]
        self.in_future = [domain.future_channels.index(name) for name in self.names]
        self.figures = sum({"temperature": 2, "rainfall": 2, "humidity": 1}[name] for name in self.names)
        blocks = {"temperature": DAY_HOURS // _TEMPERATURE_HOURS, "rainfall": DAY_HOURS // _RAIN_HOURS}
        self.size = 7 * self.figures + sum(blocks.get(name, 0) for name in self.names)

    def forward(self, history: Tensor, future: Tensor, places: Places) -> WeatherDays:
        """Inputs from windows (B, L, K) and (B, H, C); only for a domain with such weather."""
        behind = self.local.behind
        hours: dict[str, Tensor] = {}
        filled: dict[str, Tensor] = {}
        count = []
        for name, then, later in zip(self.names, self.in_history, self.in_future, strict=True):
            series = torch.cat([history[:, :, then], future[:, :, later]], dim=1)
            if name == "rainfall":
                # Not a clamp: whether one keeps NaN differs between runtimes.
                series = torch.log1p(torch.where(series < 0, torch.zeros_like(series), series))
            grid = self.local.grid(series, places)
            count.append(torch.isfinite(grid).sum(dim=2))
            filled[name], hours[name] = self._filled(grid)
        known = (torch.stack(count).amax(dim=0)[:, behind:] >= _LEAST_HOURS).to(history.dtype)
        values = torch.cat([*self._changes(self._daily(filled)), *self._parts_of_day(filled)], dim=2)
        return WeatherDays(ahead=values * known[:, :, None], known=known, hours=hours)

    def _filled(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Hours (B, days, 24) without gaps: the usual course of the day, moved by what is known of that day.

        The second answer has NaN where neither is known.
        """
        behind = self.local.behind
        before = grid[:, max(behind - _USUAL_DAYS, 0) : behind]
        usual = mean_known(before, 1.0, dim=1)[:, None]
        anomaly = mean_known(grid - usual, 1.0, dim=2)[:, :, None]
        filled = torch.where(torch.isfinite(grid), grid, usual + anomaly)
        told = torch.isfinite(grid).any(dim=2)[:, :, None] | torch.isfinite(before).any(dim=1)[:, None]
        return filled, torch.where(told, filled, torch.full_like(filled, math.nan))

    def _daily(self, hours: dict[str, Tensor]) -> Tensor:
        """Figures of each day (B, days, figures), each about 1 in size."""
        figures = []
        for name, values in hours.items():
            match name:
                case "temperature":
                    figures += [values.mean(dim=2) / 10, values.amax(dim=2) / 10]
                case "rainfall":
                    figures += [values.sum(dim=2), (values > 0).to(values.dtype).sum(dim=2) / 8]
                case _:
                    figures.append(values.mean(dim=2) / 50)
        return torch.stack(figures, dim=2)

    def _changes(self, daily: Tensor) -> list[Tensor]:
        """Each day ahead, against yesterday, last week and six weeks; and the days before it, as demand lags behind."""
        behind, ahead = self.local.behind, self.local.ahead
        total = torch.cat([torch.zeros_like(daily[:, :1]), torch.cumsum(daily, dim=1)], dim=1)
        yesterday = daily[:, behind - 1 : behind]
        week, season = (
            daily[:, max(behind - days, 0) : behind].mean(dim=1, keepdim=True) for days in (_WEEK, _SEASON_DAYS)
        )
        until = total[:, behind : behind + ahead]
        three, seven = ((until - total[:, behind - days : behind - days + ahead]) / days for days in (3, _WEEK))
        target = daily[:, behind:]
        return [target, target - yesterday, target - week, target - season, three, three - season, seven - season]

    def _parts_of_day(self, hours: dict[str, Tensor]) -> list[Tensor]:
        behind, ahead = self.local.behind, self.local.ahead
        parts = []
        if "temperature" in hours:
            values = hours["temperature"]
            usual = values[:, max(behind - _USUAL_DAYS, 0) : behind].mean(dim=1, keepdim=True)
            anomaly = (values[:, behind:] - usual) / 5
            parts.append(anomaly.reshape(-1, ahead, DAY_HOURS // _TEMPERATURE_HOURS, _TEMPERATURE_HOURS).mean(dim=3))
        if "rainfall" in hours:
            values = hours["rainfall"][:, behind:]
            parts.append(values.reshape(-1, ahead, DAY_HOURS // _RAIN_HOURS, _RAIN_HOURS).sum(dim=3))
        return parts
