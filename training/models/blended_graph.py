"""The blend as one graph: day networks over the hour-of-week profile, a Prophet that sees it too, a nowcast, intervals.

Forecasts are made for whole local days from the last midnight and cut to the steps after the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from features.vocabulary import Domain, Quantity
from training.models.additive import ProphetConfig, ProphetTable, Regressor
from training.models.conformal import LeadOffsets
from training.models.day_features import LEVEL_CHANNEL, DayProfile, DayState
from training.models.day_networks import DayInputs, DayNetwork, HourNetwork, InputSizes, NetworkConfig, make_network
from training.models.day_weather import DayWeather, WeatherDays
from training.models.local_days import DAY_HOURS, Places
from training.models.nowcast import Nowcast
from training.models.site_table import site_place
from training.models.window_graph import known_or_zero

# Residual level of the last day, and of the last same weekdays, among the channels.
_YESTERDAY, _SAME_WEEKDAY = 0, 6
_FADING_PER_DAY = 0.6
_NETWORKS = (
    NetworkConfig(weight=0.7 / 3),
    NetworkConfig(weight=0.7 / 3),
    NetworkConfig(kernel=1, noise=0.7, weight=0.7 / 3),
    NetworkConfig(kind="day", width=128, noise=1.0, epochs=10, weight=0.3),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig:
    """What is blended, and how it is fitted.

    Attributes:
        networks: The residual networks.
        prophet: The Prophet; None for none.
        prophet_weight: Its share in the forecast.
        learning_rate: Peak of the one-cycle schedule (Smith and Topin 2018, arXiv:1708.07120).
        weight_decay: Of AdamW.
        batch_size: Days ahead per step.
        hide_weather: Share of the training days whose weather is hidden, so that one set of networks answers with and
            without it.
        most_windows: At most so many midnights are cut for training, and origins for calibration; all if None.
        refit: Whether networks and Prophet are fitted again with the validation days, once these have calibrated the
            intervals and the nowcast.
        accelerator: `cpu`, `gpu`, or `auto` for a GPU where there is one.
    """

    networks: tuple[NetworkConfig, ...] = _NETWORKS
    prophet: ProphetConfig | None = field(default_factory=lambda: ProphetConfig(yearly="auto"))
    prophet_weight: float = 0.05
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    batch_size: int = 512
    hide_weather: float = 0.5
    most_windows: int | None = 20_000
    refit: bool = True
    accelerator: str = "auto"


def blend_regressors(domain: Domain) -> tuple[Regressor, ...]:
    """The columns of the blend's Prophet: the document's, and what the profile and its residuals say."""
    weather = [name for name in ("temperature", "rainfall") if name in domain.known_ahead]
    own = ("profile", "level", "yesterday", "fading", "same_weekday")
    return (
        *(Regressor(name=name) for name in (*weather, "holiday")),
        *(Regressor(name=name, mode="additive") for name in own),
    )


class Days(NamedTuple):
    """A window on local days.

    Attributes:
        places: Where they lie in it.
        state: The last weeks.
        weather: Where a domain knows some.
        day: Local time at the end of each hour ahead, float64 (B, A * 24) [days since 2000-01-01].
    """

    places: Places
    state: DayState
    weather: WeatherDays | None
    day: Tensor


class FromMidnight(NamedTuple):
    """A forecast from the last midnight, on the steps ahead.

    Attributes:
        median: Shape (B, H) [unit of the target].
        spread: Size of an ordinary error (B, 1) [unit of the target].
        unit: The same by the hour of the day (B, H) [unit of the target].
        known: Whether the weather of a step's day is known, 0 or 1 (B, H).
        averages: Of the errors since midnight, in `spread`, see `Nowcast.averages`.
    """

    median: Tensor
    spread: Tensor
    unit: Tensor
    known: Tensor
    averages: Tensor


class BlendGraph(nn.Module):
    """Raw windows in, quantiles in physical units out.

    Args:
        domain: Gives lengths and channels.
        target: What is forecast.
        levels: Quantile levels, ascending, with 0.5 among them.
        config: What is blended.
        sites: How many sites are fitted.
    """

    def __init__(
        self, domain: Domain, target: Quantity, levels: tuple[float, ...], config: BlendConfig, *, sites: int
    ) -> None:
        super().__init__()
        self.domain = domain
        self.profile = DayProfile(domain, target)
        self.local = self.profile.local
        weather = DayWeather(domain, self.local)
        self.weather = weather if weather.names else None
        sizes = InputSizes(days=self.profile.size, weather=weather.size, sites=sites)
        self.networks = nn.ModuleList([make_network(sizes, network) for network in config.networks])
        total = sum(network.weight for network in config.networks)
        self.shares = [network.weight / total for network in config.networks]
        self.regressors = blend_regressors(domain)
        self.prophet: ProphetTable | None = None
        self.prophet_weight = config.prophet_weight
        self.nowcast = Nowcast(domain.horizon_steps)
        self.intervals = LeadOffsets(domain, target, levels)
        self.register_buffer("site_code", torch.full((sites,), -1.0))
        # Of the sites that had enough readings for a Prophet; the last place stands for sites that were not fitted.
        self.register_buffer("has_prophet", torch.zeros(sites + 1))
        self.day_channel = domain.history_channels.index("day_number")

    site_code: Tensor
    has_prophet: Tensor

    def forward(self, history: Tensor, future: Tensor, static: Tensor) -> Tensor:
        """Windows (B, L, K), (B, H, C), (B, S) to quantiles (B, H, Q) [unit of the target]."""
        quantiles: Tensor = self.intervals(*self.point(history, future, static))
        return quantiles

    def point(self, history: Tensor, future: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Median (B, H) and size of an ordinary error (B, H) [unit of the target]; whether weather is known (B, H)."""
        found = self.from_midnight(history, future, static)
        return self.corrected(found), found.unit, found.known

    def from_midnight(self, history: Tensor, future: Tensor, static: Tensor) -> FromMidnight:
        """The forecast without what was measured since midnight, and what calibration learns from."""
        days = self.days(history, future)
        state, places = days.state, days.places
        ahead = self.blend(days, static)
        spread = state.spread * state.scale
        known = torch.zeros_like(ahead[:, :, 0]) if days.weather is None else days.weather.known
        today = (state.today - ahead[:, 0]) / state.spread
        return FromMidnight(
            median=self.local.steps(ahead, places) * state.scale,
            spread=spread,
            unit=self.local.steps(state.hourly_spread[:, None].expand_as(ahead), places) * spread,
            known=self.local.steps(known[:, :, None].expand_as(ahead), places),
            averages=self.nowcast.averages(today, places.ahead[:, :1]),
        )

    def corrected(self, found: FromMidnight) -> Tensor:
        """The forecast with the errors since midnight (B, H) [unit of the target]."""
        median = found.median + self.nowcast.effect(found.averages) * found.spread
        return torch.clamp(median, self.intervals.lower, self.intervals.upper)

    def days(self, history: Tensor, future: Tensor) -> Days:
        """A window on local days."""
        places = self.local(history, future)
        hours = torch.arange(1, self.local.ahead * DAY_HOURS + 1, device=history.device, dtype=torch.float64)
        midnight = known_or_zero(history[:, -1:, self.day_channel]).to(torch.float64)
        return Days(
            places=places,
            state=self.profile(history, future, places),
            weather=None if self.weather is None else self.weather(history, future, places),
            day=midnight + hours[None] / DAY_HOURS,
        )

    def blend(self, days: Days, static: Tensor) -> Tensor:
        """The forecast from midnight, relative to the scale: (B, A, 24)."""
        state, site = days.state, self.site(static)
        inputs = self.inputs(days, site)
        residual = torch.stack(
            [share * network(inputs) for share, network in zip(self.shares, self.networks, strict=True)]
        ).sum(dim=0)
        ahead = state.profile + residual.reshape(state.profile.shape) * state.spread[:, :, None]
        if self.prophet is None:
            return ahead
        row = torch.where(site < len(self.site_code), site, torch.zeros_like(site))
        additive: Tensor = self.prophet(row, days.day, self.columns(days).flatten(1, 2))
        return ahead + self.weight_of_prophet(site) * (additive.reshape(ahead.shape) - ahead)

    def weight_of_prophet(self, site: Tensor) -> Tensor:
        """Share of the Prophet in the forecast of each window, from the place of its site: (B, 1, 1)."""
        return self.prophet_weight * self.has_prophet[site][:, None, None]

    def members(self) -> list[DayNetwork | HourNetwork]:
        """The networks."""
        return [network for network in self.networks if isinstance(network, DayNetwork | HourNetwork)]

    def inputs(self, days: Days, site: Tensor) -> DayInputs:
        """Inputs of the networks, a row for each window and day ahead."""
        state, count = days.state, self.local.ahead
        nothing = torch.zeros_like(state.profile[:, :, 0])
        weather = days.weather
        return DayInputs(
            channels=state.channels.flatten(0, 1),
            days=state.days.flatten(0, 1),
            weather=(nothing[:, :, None][:, :, :0] if weather is None else weather.ahead).flatten(0, 1),
            known=(nothing if weather is None else weather.known).flatten(),
            site=site[:, None].expand(-1, count).flatten(),
        )

    def site(self, static: Tensor) -> Tensor:
        """Place of each window's site among the fitted ones, their number for any other: (B,)."""
        return site_place(static, self.site_code)

    def columns(self, days: Days) -> Tensor:
        """Regressors of the Prophet, in the order of `blend_regressors`: (B, A, 24, R)."""
        state, behind = days.state, self.local.behind
        spread = state.spread[:, :, None]
        lead = torch.arange(self.local.ahead, device=spread.device, dtype=spread.dtype)
        yesterday = state.channels[:, :, _YESTERDAY] * spread
        found = {
            "holiday": state.holiday[:, :, None].expand_as(state.profile),
            "profile": state.profile,
            "level": state.channels[:, :, LEVEL_CHANNEL] * spread,
            "yesterday": yesterday,
            "fading": yesterday * torch.pow(_FADING_PER_DAY, lead)[None, :, None],
            "same_weekday": state.channels[:, :, _SAME_WEEKDAY] * spread,
        }
        if days.weather is not None:
            found |= {name: hours[:, behind:] for name, hours in days.weather.hours.items()}
        return torch.stack([found[regressor.name] for regressor in self.regressors], dim=3)
