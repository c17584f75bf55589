"""Fitted Prophets as part of a graph: trend, Fourier terms and regressors of every site, looked up by its code.

Prophet (Taylor and Letham 2018, doi:10.1080/00031305.2017.1380080) fits; its point forecast is a closed formula, which
a graph computes as `Prophet.predict` does: yhat = trend (1 + multiplicative terms) + additive terms.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from features.errors import NotEnoughDataError

Mode = Literal["multiplicative", "additive"]
_DAY_S = 86400
# Windows count days from 2000, Prophet's Fourier terms from 1970.
_FIRST_DAY = pd.Timestamp("2000-01-01")
_DAYS_FROM_1970 = 10957.0
# A trend is held after so many days without a reading: a slope is no forecast for years.
_TREND_DAYS = 90.0
# How far beyond the values that it was fitted on a regressor may reach, in their range.
_REGRESSOR_MARGIN = 1.0
_NEVER = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetConfig:
    """How Prophet is set up; the defaults are those of the design document, 4.2.3.

    Attributes:
        yearly: Whether there is a yearly seasonality; `auto` where a site has two years of readings.
        changepoint_prior_scale: How freely the trend bends.
        monthly_order: Fourier terms of the monthly seasonality, 0 for none.
        last_days: At most so many last days are fitted, all if None.
    """

    yearly: bool | Literal["auto"] = True
    changepoint_prior_scale: float = 0.05
    monthly_order: int = 5
    last_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Regressor:
    """One column besides time.

    Attributes:
        name: Of the column.
        mode: Whether it moves the trend by a share or by an amount.
    """

    name: str
    mode: Mode = "multiplicative"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProphetTerms:
    """The numbers of one fitted Prophet; days are counted from 2000-01-01, local time.

    Attributes:
        start_day: Where its time begins [day].
        span_days: Length of its time [day].
        size: What its values are relative to [unit of the target].
        rate: Slope of the trend at the start, over the whole span.
        level: Trend at the start.
        changepoints: Where the slope changes, as shares of the span.
        deltas: By how much.
        waves: Of each seasonality its period [day] and the weights of its sines and cosines, shape (order, 2).
        regressors: Of each column `fill` (its training mean), `low`, `high` (its training range), `mean`, `deviation`,
            `weight`.
    """

    start_day: float
    span_days: float
    size: float
    rate: float
    level: float
    changepoints: npt.NDArray[np.float64]
    deltas: npt.NDArray[np.float64]
    waves: dict[str, tuple[float, npt.NDArray[np.float64]]]
    regressors: dict[str, dict[str, float]] = field(default_factory=dict)


def moments_of(day: npt.ArrayLike) -> pd.DatetimeIndex:
    """Local moments from days since 2000-01-01, exact to the second."""
    seconds = np.round(np.asarray(day, dtype=np.float64) * _DAY_S).astype("timedelta64[s]")
    return pd.DatetimeIndex(_FIRST_DAY.to_datetime64() + seconds)


def fit_prophet(
    day: npt.NDArray[np.float64],
    values: npt.NDArray[np.floating],
    columns: dict[str, npt.NDArray[np.floating]],
    *,
    config: ProphetConfig,
    regressors: Sequence[Regressor],
    seed: int,
) -> Any:
    """Fit a Prophet.

    Args:
        day: Local time of each row [days since 2000-01-01].
        values: What is forecast; rows without it are passed over.
        columns: The regressors; a gap gets the column's mean.
        config: Its configuration.
        regressors: Which columns, and how they act.
        seed: Of Stan.

    Returns:
        The fitted `prophet.Prophet`.

    Raises:
        NotEnoughDataError: Fewer than two weeks of hours are measured.
    """
    measured = np.isfinite(values)
    if config.last_days is not None and measured.any():
        measured &= day > day[measured].max() - config.last_days
    if measured.sum() < 14 * 24:
        raise NotEnoughDataError(
            "There are too few readings to fit a Prophet",
            found=f"{int(measured.sum())} hours",
            remedy="Ingest two weeks of hourly readings of every site, or more.",
        )
    frame = pd.DataFrame({"ds": moments_of(day[measured]), "y": np.asarray(values, dtype=np.float64)[measured]})
    for regressor in regressors:
        frame[regressor.name] = _without_gaps(np.asarray(columns[regressor.name], dtype=np.float64)[measured])
    # An optional import of its pictures fails, which it reports as an error.
    logging.getLogger("prophet.plot").setLevel(logging.CRITICAL)
    from cmdstanpy import disable_logging
    from prophet import Prophet

    # It sets its own level when it is imported; what it says is which seasonalities are on.
    logging.getLogger("prophet").setLevel(logging.ERROR)
    model = Prophet(
        growth="linear",
        yearly_seasonality=config.yearly,
        weekly_seasonality=True,
        daily_seasonality=True,
        seasonality_mode="multiplicative",
        changepoint_prior_scale=config.changepoint_prior_scale,
        uncertainty_samples=0,
    )
    if config.monthly_order:
        model.add_seasonality("monthly", 30.5, config.monthly_order)
    for regressor in regressors:
        model.add_regressor(regressor.name, mode=regressor.mode)
    with disable_logging():
        return model.fit(frame, seed=seed)


def _without_gaps(column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = np.isfinite(column)
    return np.where(known, column, column[known].mean() if known.any() else 0.0)


def terms_of(model: Any) -> ProphetTerms:
    """The numbers of a fitted `prophet.Prophet` with linear growth."""
    parameters = {name: np.asarray(value).reshape(-1) for name, value in model.params.items()}
    columns, beta = model.train_component_cols, parameters["beta"]
    history, span_days = model.history, model.t_scale / pd.Timedelta(days=1)
    assert np.all(history["floor"] == 0), "a Prophet without a floor is asked for"
    waves = {
        name: (float(wave["period"]), beta[columns[name].to_numpy() == 1].reshape(-1, 2))
        for name, wave in model.seasonalities.items()
    }
    assert all(wave["mode"] == "multiplicative" for wave in model.seasonalities.values())
    regressors = {}
    for name, entry in model.extra_regressors.items():
        values = history[name].to_numpy() * entry["std"] + entry["mu"]
        regressors[name] = {
            "fill": float(values.mean()),
            "low": float(values.min()),
            "high": float(values.max()),
            "mean": float(entry["mu"]),
            "deviation": float(entry["std"]),
            "weight": float(beta[columns[name].to_numpy() == 1][0]),
        }
    return ProphetTerms(
        start_day=(model.start - _FIRST_DAY) / pd.Timedelta(days=1),
        span_days=float(span_days),
        size=float(model.y_scale),
        rate=float(parameters["k"][0]),
        level=float(parameters["m"][0]),
        changepoints=np.asarray(model.changepoints_t, dtype=np.float64),
        deltas=parameters["delta"],
        waves=waves,
        regressors=regressors,
    )


class ProphetTable(nn.Module):
    """The fitted Prophets of some sites.

    Args:
        sites: How many.
        waves: Of each seasonality its period [day] and how many sines it has.
        regressors: The columns besides time.
        changepoints: At most so many changes of the trend.
    """

    def __init__(
        self,
        sites: int,
        waves: dict[str, tuple[float, int]],
        regressors: Sequence[Regressor],
        *,
        changepoints: int = 25,
    ) -> None:
        super().__init__()
        self.waves, self.regressors = dict(waves), tuple(regressors)
        turns = [order / period for period, orders in waves.values() for order in range(1, orders + 1)]
        self.register_buffer("turns_per_day", torch.tensor(turns, dtype=torch.float64))
        is_share = [float(regressor.mode == "multiplicative") for regressor in regressors]
        self.register_buffer("is_share", torch.tensor(is_share))
        self.register_buffer("start", torch.zeros(sites, dtype=torch.float64))
        self.register_buffer("span", torch.ones(sites, dtype=torch.float64))
        for name, width in (("size", 1), ("rate", 1), ("level", 1), ("sine", len(turns)), ("cosine", len(turns))):
            self.register_buffer(name, torch.zeros(sites, width))
        self.register_buffer("changepoint", torch.full((sites, changepoints), _NEVER))
        self.register_buffer("delta", torch.zeros(sites, changepoints))
        for name in ("fill", "low", "high", "mean", "weight"):
            self.register_buffer(name, torch.zeros(sites, len(regressors)))
        self.register_buffer("deviation", torch.ones(sites, len(regressors)))

    turns_per_day: Tensor
    is_share: Tensor
    start: Tensor
    span: Tensor
    size: Tensor
    rate: Tensor
    level: Tensor
    sine: Tensor
    cosine: Tensor
    changepoint: Tensor
    delta: Tensor
    fill: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    weight: Tensor
    deviation: Tensor

    def forward(self, site: Tensor, day: Tensor, columns: Tensor) -> Tensor:
        """The point forecast, `yhat`, shape (B, T) [unit of the target].

        Args:
            site: Place of each row's site, shape (B,).
            day: Local time, float64, shape (B, T) [days since 2000-01-01].
            columns: The regressors, NaN where unknown, shape (B, T, R).
        """
        since = day - self.start[site][:, None]
        # What comes after the readings keeps their last trend for a while, then their last level.
        span = self.span[site][:, None]
        time = torch.minimum(torch.clamp(since, min=0.0), span + _TREND_DAYS) / span
        after = torch.clamp(time.to(torch.float32)[:, :, None] - self.changepoint[site][:, None], min=0.0)
        trend = self.rate[site] * time.to(torch.float32) + self.level[site]
        trend = trend + (after * self.delta[site][:, None]).sum(dim=2)
        turns = (day + _DAYS_FROM_1970)[:, :, None] * self.turns_per_day
        # Whole turns are taken off while numbers are exact enough to tell.
        angle = ((turns - torch.floor(turns)) * (2 * math.pi)).to(torch.float32)
        waves = torch.sin(angle) * self.sine[site][:, None] + torch.cos(angle) * self.cosine[site][:, None]
        effect = self._effects(site, columns)
        share = waves.sum(dim=2) + (effect * self.is_share).sum(dim=2)
        return (trend * (1 + share) + (effect * (1 - self.is_share)).sum(dim=2)) * self.size[site]

    def _effects(self, site: Tensor, columns: Tensor) -> Tensor:
        """Effect of each regressor (B, T, R), a gap counting as the mean, and extremes as a little more than seen."""
        low, high = self.low[site][:, None], self.high[site][:, None]
        margin = _REGRESSOR_MARGIN * (high - low)
        known = torch.where(torch.isfinite(columns), columns, self.fill[site][:, None].expand_as(columns))
        known = torch.minimum(torch.maximum(known, low - margin), high + margin)
        return (known - self.mean[site][:, None]) / self.deviation[site][:, None] * self.weight[site][:, None]

    def put(self, site: int, terms: ProphetTerms) -> None:
        """Take up a site's fitted Prophet."""
        self.start[site], self.span[site] = terms.start_day, terms.span_days
        self.size[site], self.rate[site], self.level[site] = terms.size, terms.rate, terms.level
        count = len(terms.changepoints)
        self.changepoint[site, :count] = torch.from_numpy(terms.changepoints).to(torch.float32)
        self.delta[site, : len(terms.deltas)] = torch.from_numpy(terms.deltas).to(torch.float32)
        column = 0
        for name, (_, orders) in self.waves.items():
            if name in terms.waves:
                weights = torch.from_numpy(terms.waves[name][1]).to(torch.float32)
                self.sine[site, column : column + orders] = weights[:, 0]
                self.cosine[site, column : column + orders] = weights[:, 1]
            column += orders
        for position, regressor in enumerate(self.regressors):
            for key, value in terms.regressors[regressor.name].items():
                getattr(self, key)[site, position] = value


def table_of(fitted: Mapping[int, ProphetTerms], regressors: Sequence[Regressor], *, sites: int) -> ProphetTable:
    """The table of `sites` sites, with the fitted Prophets at their places; a row without one forecasts 0."""
    waves = {
        name: (period, len(weights)) for terms in fitted.values() for name, (period, weights) in terms.waves.items()
    }
    changepoints = max(1, *(len(terms.deltas) for terms in fitted.values()))
    table = ProphetTable(sites, waves, regressors, changepoints=changepoints)
    for site, terms in fitted.items():
        table.put(site, terms)
    return table
