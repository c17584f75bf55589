"""How each domain's data set is scored: hours ahead, means over hours, daily totals, categories of air quality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.fitting import Fitted
from benchmarks.peers import LightGbmResidual, hour_of_week_median
from features.air_quality import category, sub_index
from features.air_quality_standards import STANDARDS
from features.vocabulary import CALENDAR_CHANNELS, Domain, Float32Array
from training.calibrate import adapt_to_test
from training.evaluate import judge
from training.forecaster import predict_set
from training.models.seasonal import SeasonalForecaster
from training.train import draw, judge_forecaster
from training.window_set import Ahead, WindowSet, join_windows

# By horizon and metric.
Figures = dict[str, dict[str, float]]
_DAY = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecasts:
    """A test's forecasts: as the graph gives them, with adaptive intervals, the naive profile, and what was measured.

    Attributes:
        windows: The test.
        adjusted_BHQ: Quantiles with adaptive intervals [unit].
        naive_BHQ: The seasonal profile's [unit].
        target_BH: What was measured [unit].
        levels: Quantile levels.
    """

    windows: WindowSet
    adjusted_BHQ: Float32Array
    naive_BHQ: Float32Array
    target_BH: Float32Array
    levels: tuple[float, ...]

    def at(self, chosen: npt.NDArray[np.bool_], lead: int) -> dict[str, float]:
        """Figures of some windows at one lead."""
        middle = self.levels.index(0.5)
        naive = self.naive_BHQ[chosen][:, :, middle]
        return judge(self.adjusted_BHQ[chosen], self.target_BH[chosen], naive, levels=self.levels, lead=lead)


_KEPT = ("mape", "rmse", "mae", "r2", "naive_mape", "naive_rmse", "skill", "coverage_90", "width_90")


def forecast_test(fitted: Fitted, *, ahead: Ahead, chosen: npt.NDArray[np.int64] | None = None) -> Forecasts:
    """Forecast the test, day after day, with intervals that began on the validation weeks."""
    forecaster, splits = fitted.forecaster, fitted.splits
    validation, test = splits.validation.seen(ahead), splits.test.seen(ahead)
    if chosen is not None:
        test = test.subset(chosen)
    if fitted.quick:
        validation, test = (part.subset(np.arange(0, len(part), 7)) for part in (validation, test))
    _, adjusted = adapt_to_test(forecaster, replace(splits, validation=validation, test=test))
    naive = SeasonalForecaster(forecaster.domain, target=forecaster.target, levels=forecaster.levels)
    return Forecasts(
        windows=test,
        adjusted_BHQ=adjusted,
        naive_BHQ=predict_set(naive, test),
        target_BH=test.targets(),
        levels=forecaster.levels,
    )


def _round(figures: dict[str, float], names: tuple[str, ...] = _KEPT) -> dict[str, float]:
    return {name: round(figures[name], 4) for name in names if np.isfinite(figures[name])}


def _suffix(ahead: Ahead) -> str:
    return "_weather" if ahead == "observed" else ""


def score_hourly(data_set: str, fitted: dict[str, Fitted], pictures: Path | None) -> dict[str, Figures]:
    """Each named horizon over all sites, with LightGBM beside it: traffic and demand."""
    found: dict[str, Figures] = {}
    (only,) = fitted.values()
    domain = only.forecaster.domain
    sights: list[Ahead] = ["known", "observed"] if domain.known_ahead else ["known"]
    for ahead in sights:
        forecasts = forecast_test(only, ahead=ahead)
        every = np.ones(len(forecasts.windows), dtype=bool)
        figures = {name: _round(forecasts.at(every, lead)) for name, lead in domain.horizons.items()}
        if ahead == "known":
            static = hour_of_week_median(join_windows(only.splits.train, only.splits.validation), forecasts.windows)
            for name, lead in domain.horizons.items():
                mape, rmse = errors(static[:, lead - 1], forecasts.windows, lead)
                figures[name] |= {"hour_of_week_mape": round(mape, 4), "hour_of_week_rmse": round(rmse, 4)}
                figures[name] |= _lightgbm(only, forecasts.windows, lead)
        found[data_set + _suffix(ahead)] = figures
    if pictures is not None and domain.name == "traffic":
        draw(judge_forecaster(only.forecaster, only.splits.test), pictures)
    return found


def _lightgbm(fitted: Fitted, test: WindowSet, lead: int) -> dict[str, float]:
    peer = LightGbmResidual(lead)
    peer.fit(join_windows(fitted.splits.train, fitted.splits.validation))
    mape, rmse = errors(peer.predict(test), test, lead)
    return {"lightgbm_mape": round(mape, 4), "lightgbm_rmse": round(rmse, 4)}


def errors(forecast: npt.NDArray[np.floating], windows: WindowSet, lead: int) -> tuple[float, float]:
    """MAPE [%] and RMSE [unit] of a forecast of one lead."""
    target = windows.targets()[:, lead - 1].astype(np.float64)
    known = np.isfinite(target) & np.isfinite(forecast)
    error = target[known] - forecast[known]
    positive = target[known] > 0
    mape = 100 * float(np.mean(np.abs(error[positive]) / target[known][positive]))
    return mape, float(np.sqrt(np.mean(error**2)))


def score_stations(data_set: str, fitted: dict[str, Fitted], pictures: Path | None) -> dict[str, Figures]:
    """Each station and pollutant at 24 and 48 hours and on average over the first day, and AQI categories."""
    found: dict[str, Figures] = {}
    place = data_set.removesuffix("_multisite")
    sights: list[Ahead] = ["known", "observed"]
    for ahead in sights:
        by_target = {}
        for target, one in fitted.items():
            forecasts = by_target[target] = forecast_test(one, ahead=ahead)
            for index, site in enumerate(forecasts.windows.panel.sites):
                chosen = forecasts.windows.site_index_B == index
                found[f"{place}_{site.name.lower()}_{target}{_suffix(ahead)}"] = _station(forecasts, chosen)
        if set(by_target) == {"pm2_5", "pm10"}:
            found |= {
                f"{place}_{name}_aqi{_suffix(ahead)}": {"24h_mean": figures}
                for name, figures in _categories(by_target).items()
            }
    return found


def _station(forecasts: Forecasts, chosen: npt.NDArray[np.bool_]) -> Figures:
    day, two_days = (_round(forecasts.at(chosen, lead)) for lead in (_DAY, 2 * _DAY))
    return {"24h": day, "48h": two_days, "mean_1_24h": _first_day(forecasts, chosen)}


def _first_day(forecasts: Forecasts, chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Figures of the mean concentration of the next 24 hours, and the mean of the 24 hours' own RMSE.

    The bars that were measured before are of the former: their RMSE and R2 fit its spread.
    """
    middle = forecasts.levels.index(0.5)
    truth = _day_mean(forecasts.target_BH[chosen, :_DAY])
    error, naive_error = (
        part[chosen, :_DAY, middle].mean(axis=1) - truth for part in (forecasts.adjusted_BHQ, forecasts.naive_BHQ)
    )
    known = np.isfinite(truth)
    hours = [forecasts.at(chosen, lead)["rmse"] for lead in range(1, _DAY + 1)]
    return {
        "rmse": round(float(np.sqrt(np.mean(error[known] ** 2))), 4),
        "r2": round(float(1 - np.mean(error[known] ** 2) / np.var(truth[known])), 4),
        "naive_rmse": round(float(np.sqrt(np.mean(naive_error[known] ** 2))), 4),
        "mean_of_hourly_rmse": round(float(np.mean(hours)), 4),
    }


def _categories(by_target: dict[str, Forecasts]) -> dict[str, dict[str, float]]:
    """Share of right categories of the mean of the next 24 hours [%], by station, ours and persistence's."""
    first = by_target["pm2_5"]
    domain = first.windows.panel.domain
    truth, ours, last_day, known = {}, {}, {}, np.ones(len(first.windows), dtype=bool)
    for name, forecasts in by_target.items():
        rows = _same_rows(first.windows, forecasts.windows)
        channel = [quantity.name for quantity in domain.targets].index(name)
        truth[name] = _day_mean(forecasts.target_BH[rows, :_DAY])
        ours[name] = forecasts.adjusted_BHQ[rows, :_DAY, forecasts.levels.index(0.5)].mean(axis=1)
        back = first.windows.origin_B[:, None] - np.arange(_DAY)
        series = first.windows.panel.final_ST(channel)
        last_day[name] = _day_mean(series[first.windows.site_index_B[:, None], back])
        known &= np.isfinite(truth[name]) & np.isfinite(last_day[name])
    ranks = [_category_rank(means) for means in (truth, ours, last_day)]
    found = {}
    for index, site in enumerate(first.windows.panel.sites):
        chosen = known & (first.windows.site_index_B == index)
        right, given, naive = (rank[chosen] for rank in ranks)
        found[site.name.lower()] = {
            "category_right": round(100 * float(np.mean(given == right)), 2),
            "category_within_one": round(100 * float(np.mean(np.abs(given - right) <= 1)), 2),
            "naive_category_right": round(100 * float(np.mean(naive == right)), 2),
        }
    return found


def _category_rank(means: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.int64]:
    """Place of the Indian index's category among its categories, from 24-hour means [ug/m3]."""
    index = np.max([sub_index(mean, name) for name, mean in means.items()], axis=0)
    names = category(index)
    order = [entry.name for entry in STANDARDS["india_2014"].categories]
    return np.array([order.index(name) if name else -1 for name in names], dtype=np.int64)


def _same_rows(wanted: WindowSet, held: WindowSet) -> npt.NDArray[np.int64]:
    """Positions in `held` of the windows of `wanted`; the nearest earlier one where it has none."""
    size = held.panel.value_STK.shape[1]
    keys = held.site_index_B * size + held.origin_B
    order = np.argsort(keys)
    place = np.searchsorted(keys[order], wanted.site_index_B * size + wanted.origin_B)
    rows: npt.NDArray[np.int64] = order[np.clip(place, 0, len(order) - 1)]
    return rows


def _day_mean(hours: Float32Array) -> npt.NDArray[np.float64]:
    """Mean over 24 hours, NaN where fewer than 16 are known, as the Indian index asks."""
    known = np.isfinite(hours)
    count = known.sum(axis=1)
    total = np.where(known, hours, 0).sum(axis=1, dtype=np.float64)
    return np.where(count >= 16, total / np.maximum(count, 1), np.nan)


def score_daily_totals(data_set: str, fitted: dict[str, Fitted], pictures: Path | None) -> dict[str, Figures]:
    """Totals of the days that begin 0, 2 and 6 days after a local midnight, by area and of all areas together."""
    (only,) = fitted.values()
    test = only.splits.test
    found: dict[str, Figures] = {}
    hour = test.panel.value_STK[test.site_index_B, test.origin_B, _calendar(test.panel.domain, "hour_of_day")]
    for ahead in ("known", "observed"):
        forecasts = forecast_test(only, ahead=ahead, chosen=np.flatnonzero(hour == 0))
        areas, total = _totals(forecasts)
        found[f"{data_set}_mean_of_areas{_suffix(ahead)}"] = areas
        found[f"{data_set}_total{_suffix(ahead)}"] = total
    return found


def _calendar(domain: Domain, name: str) -> int:
    return len(domain.measured_channels) + CALENDAR_CHANNELS.index(name)


def _totals(forecasts: Forecasts) -> tuple[Figures, Figures]:
    windows, middle = forecasts.windows, forecasts.levels.index(0.5)
    sites = len(windows.panel.sites)
    areas: Figures = {}
    total: Figures = {}
    for name, day in {"1d": 0, "3d": 2, "7d": 6}.items():
        hours = slice(day * _DAY, (day + 1) * _DAY)
        truth = forecasts.target_BH[:, hours].mean(axis=1)
        ours = forecasts.adjusted_BHQ[:, hours, middle].mean(axis=1)
        naive = forecasts.naive_BHQ[:, hours, middle].mean(axis=1)
        by_area = [windows.site_index_B == index for index in range(sites)]
        figures = {
            key: float(np.mean([_mape(truth[area], values[area]) for area in by_area]))
            for key, values in {"mape": ours, "naive_mape": naive}.items()
        }
        inside = [forecasts.at(np.ones(len(windows), dtype=bool), lead)["coverage_90"] for lead in _leads(day)]
        areas[name] = {**{key: round(value, 4) for key, value in figures.items()}, "coverage_90": np.mean(inside)}
        areas[name]["coverage_90"] = round(float(areas[name]["coverage_90"]), 4)
        origins, position = np.unique(windows.origin_B, return_inverse=True)
        table = np.full((3, len(origins), sites), np.nan)
        for row, values in enumerate((truth, ours, naive)):
            table[row, position, windows.site_index_B] = values
        together = table.sum(axis=2)
        total[name] = {
            "mape": round(_mape(together[0], together[1]), 4),
            "naive_mape": round(_mape(together[0], together[2]), 4),
        }
    return areas, total


def _leads(day: int) -> range:
    return range(day * _DAY + 1, (day + 1) * _DAY + 1)


def _mape(truth: npt.NDArray[np.floating], forecast: npt.NDArray[np.floating]) -> float:
    """MAPE [%] over days whose hours were all measured."""
    known = np.isfinite(truth) & np.isfinite(forecast)
    return 100 * float(np.mean(np.abs(forecast[known] / truth[known] - 1)))


Score = Callable[[str, dict[str, Fitted], Path | None], dict[str, Figures]]
SCORES: dict[str, Score] = {
    "traffic": score_hourly,
    "demand": score_hourly,
    "pollution": score_stations,
    "water": score_daily_totals,
}
