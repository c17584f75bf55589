"""Two small networks that correct the residual level of a zone for a whole local day, from the last midnight on.

`HourNetwork` shares its weights between the hours and sees each hour's own residuals; `DayNetwork` sees the whole day
at once. Noise on their inputs is what keeps them from learning the few years of one town by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.models.day_features import CHANNELS, LEAN_CHANNELS, LEVEL_CHANNEL
from training.models.local_days import DAY_HOURS

# A feature that hardly ever varies is not blown up.
_LEAST_DEVIATION = 0.05
_HOUR_DEVIATION = 0.3
_SITE_SIZE = 8


class DayInputs(NamedTuple):
    """Inputs of N days ahead.

    Attributes:
        channels: With an hour axis (N, CHANNELS, 24).
        days: Of the day (N, D).
        weather: Weather of the day (N, W), any value where it is unknown; W is 0 where a domain knows none.
        known: Whether it is known, 0 or 1 (N).
        site: Place of the site in the table of the fitted ones, their number for any other (N).
    """

    channels: Tensor
    days: Tensor
    weather: Tensor
    known: Tensor
    site: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """One network.

    Attributes:
        kind: `hour` shares weights between the hours of a day, `day` sees all at once.
        width: Of its hidden layers.
        dropout: Share of activations that training drops.
        noise: Standard deviation of what training adds to its standardised inputs.
        kernel: Hours that a convolution of an `hour` network sees, odd.
        epochs: Passes over the training days.
        weight: Its share in the forecast, before shares are scaled to a sum of 1.
    """

    kind: Literal["hour", "day"] = "hour"
    width: int = 64
    dropout: float = 0.2
    noise: float = 0.5
    kernel: int = 3
    epochs: int = 6
    weight: float = 1.0


class InputSizes(NamedTuple):
    """Widths of `DayInputs`: of `days` and `weather`, and the number of fitted sites."""

    days: int
    weather: int
    sites: int


class Standardise(nn.Module):
    """Inputs by the mean and the standard deviation of the training days; noise on them in training."""

    def __init__(self, *shape: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("gain", torch.ones(shape))

    mean: Tensor
    gain: Tensor

    def forward(self, values: Tensor) -> Tensor:
        """The values, each about 1 in size."""
        scaled = (values - self.mean) * self.gain
        return scaled + self.noise * torch.randn_like(scaled) if self.training else scaled

    def fit(self, values: Tensor) -> None:
        """Take mean and deviation from values with one row for each day."""
        if len(values) > 1:
            self.mean.copy_(values.mean(dim=0).reshape(self.mean.shape))
            self.gain.copy_((1 / torch.clamp(values.std(dim=0), min=_LEAST_DEVIATION)).reshape(self.gain.shape))


class DayVector(nn.Module):
    """What is the same for all hours of a day, standardised: calendar and levels, weather, site."""

    def __init__(self, sizes: InputSizes, *, noise: float) -> None:
        super().__init__()
        self.days = Standardise(sizes.days, noise=noise)
        self.weather = Standardise(sizes.weather, noise=noise)
        # The last row is for any site that was not fitted, and stays 0.
        self.sites = nn.Embedding(sizes.sites + 1, _SITE_SIZE, padding_idx=sizes.sites)
        self.noise = noise
        self.has_weather = sizes.weather > 0
        self.size = sizes.days + _SITE_SIZE + (sizes.weather + 1 if self.has_weather else 0)

    def forward(self, inputs: DayInputs) -> Tensor:
        """Shape (N, size)."""
        site = self.sites(inputs.site)
        if self.training:
            site = site + self.noise * torch.randn_like(site)
        parts = [self.days(inputs.days), site]
        if self.has_weather:
            known = inputs.known[:, None]
            parts += [self.weather(inputs.weather) * known, 2 * known - 1]
        return torch.cat(parts, dim=1)

    def fit(self, inputs: DayInputs) -> None:
        """Take means and deviations from the training days."""
        self.days.fit(inputs.days)
        self.weather.fit(inputs.weather[inputs.known > 0])


class DayNetwork(nn.Module):
    """A perceptron over a whole day.

    Args:
        sizes: Widths of its inputs.
        config: Its own.
    """

    def __init__(self, sizes: InputSizes, config: NetworkConfig) -> None:
        super().__init__()
        self.day = DayVector(sizes, noise=config.noise)
        self.hours = Standardise(len(LEAN_CHANNELS), DAY_HOURS, noise=config.noise)
        width = config.width
        self.first = nn.Linear(len(LEAN_CHANNELS) * DAY_HOURS + self.day.size, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, DAY_HOURS)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.out.weight)

    def forward(self, inputs: DayInputs) -> Tensor:
        """Residuals of each hour of N days, in units of their spread (N, 24)."""
        hours = self.hours(inputs.channels[:, list(LEAN_CHANNELS)]).flatten(1)
        hidden = self.dropout(functional.gelu(self.first(torch.cat([hours, self.day(inputs)], dim=1))))
        hidden = self.dropout(functional.gelu(self.second(hidden)))
        residual: Tensor = inputs.channels[:, LEVEL_CHANNEL] + self.out(hidden)
        return residual

    def fit_scaling(self, inputs: DayInputs) -> None:
        """Take means and deviations of the inputs from the training days."""
        self.day.fit(inputs)
        self.hours.fit(inputs.channels[:, list(LEAN_CHANNELS)])


class HourNetwork(nn.Module):
    """Two convolutions over the hours of a day, with a learned vector for each hour and one for the day.

    Args:
        sizes: Widths of its inputs.
        config: Its own.
    """

    def __init__(self, sizes: InputSizes, config: NetworkConfig) -> None:
        super().__init__()
        width, around = config.width, config.kernel // 2
        self.day = DayVector(sizes, noise=config.noise)
        self.hours = Standardise(CHANNELS, 1, noise=config.noise)
        self.first = nn.Conv1d(CHANNELS, width, config.kernel, padding=around)
        self.second = nn.Conv1d(width, width, config.kernel, padding=around)
        self.of_hour_first, self.of_hour_second = (
            nn.Parameter(_HOUR_DEVIATION * torch.randn(width, DAY_HOURS)) for _ in range(2)
        )
        self.day_first = nn.Linear(CHANNELS + self.day.size, 2 * width)
        self.day_second = nn.Linear(width, width)
        self.out = nn.Conv1d(width, 1, 1)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.zeros_(self.out.weight)

    def forward(self, inputs: DayInputs) -> Tensor:
        """Residuals of each hour of N days, in units of their spread (N, 24)."""
        hours = self.hours(inputs.channels)
        of_day = torch.cat([hours.mean(dim=2), self.day(inputs)], dim=1)
        to_first, to_second = functional.gelu(self.day_first(of_day)).chunk(2, dim=1)
        hidden = self.dropout(functional.gelu(self.first(hours) + self.of_hour_first + to_first[:, :, None]))
        to_second = self.day_second(self.dropout(to_second))[:, :, None]
        hidden = hidden + functional.gelu(self.second(hidden) + self.of_hour_second + to_second)
        residual: Tensor = inputs.channels[:, LEVEL_CHANNEL] + self.out(self.dropout(hidden))[:, 0]
        return residual

    def fit_scaling(self, inputs: DayInputs) -> None:
        """Take means and deviations of the inputs from the training days, the same for all hours."""
        self.day.fit(inputs)
        self.hours.fit(inputs.channels.transpose(1, 2).reshape(-1, CHANNELS))


def make_network(sizes: InputSizes, config: NetworkConfig) -> DayNetwork | HourNetwork:
    """The network of a configuration, unfitted."""
    return HourNetwork(sizes, config) if config.kind == "hour" else DayNetwork(sizes, config)
