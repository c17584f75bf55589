"""One training from window set to judged artifact; the pipelines wrap it with readings before and a registry after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from features.card import Card, ParityCertificate
from features.vocabulary import Float32Array, Site
from features.windows import Panel
from training.evaluate import Metrics, judge_horizons, judge_leads, pick_horizons, site_scales, skill_interval
from training.export import export_graph
from training.forecaster import Forecaster, predict_set
from training.half_precision import export_half
from training.models.seasonal import SeasonalForecaster
from training.plots import plot_error_by_lead, plot_forecast, save_figure
from training.speed_relation import fit_speed_relation
from training.window_set import Splits, WindowSet

_PARITY_WINDOWS = 64
_PICTURE_HISTORY = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A forecaster's figures on held-out windows.

    Attributes:
        windows: The windows.
        levels: Quantile levels of the forecasts.
        quantiles_BHQ: The forecasts [unit].
        target_BH: What was measured [unit].
        naive_BH: The seasonal profile [unit].
        by_lead: Figures of every lead.
        by_horizon: Figures of the named horizons and `mean`.
        by_site: Figures of the mean horizon of each site.
        skill_90: 90 % interval of the mean skill.
    """

    windows: WindowSet
    levels: tuple[float, ...]
    quantiles_BHQ: Float32Array
    target_BH: Float32Array
    naive_BH: Float32Array
    by_lead: list[Metrics]
    by_horizon: dict[str, Metrics]
    by_site: dict[str, Metrics]
    skill_90: tuple[float, float]


def judge_forecaster(forecaster: Forecaster, windows: WindowSet) -> Judgement:
    """Forecast every window of a set and compare with what was measured and with the seasonal profile."""
    return judge_quantiles(predict_set(forecaster, windows), windows, levels=forecaster.levels)


def judge_quantiles(quantiles_BHQ: Float32Array, windows: WindowSet, *, levels: tuple[float, ...]) -> Judgement:
    """Compare forecasts of a window set with what was measured and with the seasonal profile.

    Args:
        quantiles_BHQ: Forecasts of every window [unit of the target].
        windows: The windows.
        levels: Quantile levels of the forecasts, 0.5 among them.
    """
    domain, quantiles = windows.panel.domain, quantiles_BHQ
    naive = predict_set(SeasonalForecaster(domain, target=windows.target, levels=(0.5,)), windows)[:, :, 0]
    target = windows.targets()
    scale = site_scales(windows)[windows.site_index_B]
    by_site = {}
    for index, site in enumerate(windows.panel.sites):
        chosen = windows.site_index_B == index
        if chosen.any():
            table = judge_horizons(
                domain, quantiles[chosen], target[chosen], naive[chosen], levels=levels, scale_B=scale[chosen]
            )
            by_site[site.name] = table["mean"]
    by_lead = judge_leads(quantiles, target, naive, levels=levels, scale_B=scale)
    order = np.argsort(windows.origin_B, kind="stable")
    absolute = np.nanmean(np.abs(target - quantiles[:, :, levels.index(0.5)])[order], axis=1)
    naive_absolute = np.nanmean(np.abs(target - naive)[order], axis=1)
    return Judgement(
        windows=windows,
        levels=levels,
        quantiles_BHQ=quantiles,
        target_BH=target,
        naive_BH=naive,
        by_lead=by_lead,
        by_horizon=pick_horizons(domain, by_lead),
        by_site=by_site,
        skill_90=skill_interval(
            absolute,
            naive_absolute,
            block=domain.season_steps * max(len(by_site), 1),
            rng=np.random.default_rng(0),
        ),
    )


def export_with_card(
    forecaster: Forecaster,
    splits: Splits,
    judgement: Judgement,
    folder: Path,
    *,
    speeds: dict[str, Float32Array],
    trained: dict[str, str],
) -> Card:
    """Write graph, the graph in half precision where there is one, and card into `folder`; the card last.

    Args:
        forecaster: Fitted.
        splits: What it was fitted on.
        judgement: Its figures.
        folder: Where the artifact goes.
        speeds: Measured speeds by site on the panel's grid [km/h], where there are any.
        trained: Where it comes from: code version, data hash, feature service, recipe, spans.

    Raises:
        ParityError: The graph differs from the forecaster.
    """
    domain, panel = forecaster.domain, splits.train.panel
    chosen = np.linspace(0, len(splits.test) - 1, _PARITY_WINDOWS).astype(int)
    sample = splits.test.windows(chosen)
    parity: ParityCertificate = export_graph(forecaster, sample, folder)
    card = Card(
        model=_model_name(forecaster),
        domain=domain.name,
        family=forecaster.name,
        target=forecaster.target.name,
        unit=forecaster.target.unit,
        step_s=domain.step_s,
        history_steps=domain.history_steps,
        horizon_steps=domain.horizon_steps,
        history_channels=domain.history_channels,
        future_channels=domain.future_channels,
        static_channels=domain.static_channels,
        levels=forecaster.levels,
        sites=panel.sites,
        input_range=_input_range(panel, until=int(splits.train.origin_B.max()) + 1),
        parity=parity,
        metrics=judgement.by_horizon,
        speed={
            site.name: fit_speed_relation(
                site,
                panel.value_STK[index, :, 0].astype(np.float64),
                speeds[site.name].astype(np.float64) if site.name in speeds else None,
            )
            for index, site in enumerate(panel.sites)
            if any(quantity.name == "speed" for quantity in domain.auxiliaries)
        },
        trained=trained,
        half_precision=export_half(forecaster, sample, folder),
    )
    card.save(folder)
    return card


def _model_name(forecaster: Forecaster) -> str:
    """Such as `traffic-lstm`, or `pollution-boosted-pm10` for another than the first target."""
    domain, target = forecaster.domain, forecaster.target
    suffix = "" if target == domain.target else f"-{target.name}"
    return f"{domain.name}-{forecaster.name}{suffix}"


def _input_range(panel: Panel, *, until: int) -> dict[str, tuple[float, float]]:
    ranges = {}
    for channel, name in enumerate(panel.domain.measured_channels):
        values = panel.value_STK[:, :until, channel]
        known = values[np.isfinite(values)]
        if len(known):
            ranges[name] = (float(known.min()), float(known.max()))
    return ranges


def draw(judgement: Judgement, folder: Path) -> list[Path]:
    """Pictures of a judgement: error and coverage by lead, and three ordinary forecasts, from good to poor."""
    figures = {"error_by_lead.png": lead_figure(judgement)}
    for number, figure in enumerate(forecast_figures(judgement), start=1):
        figures[f"forecast_{number}.png"] = figure
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def lead_figure(judgement: Judgement) -> Figure:
    """Error and coverage by lead."""
    figures = judgement.by_lead
    return plot_error_by_lead(
        title="Error on held-out readings",
        unit=judgement.windows.target.unit,
        ours=[figure["mae"] for figure in figures],
        naive=[figure["naive_mae"] for figure in figures],
        coverage_90=[figure["coverage_90"] for figure in figures],
    )


def forecast_figures(judgement: Judgement) -> list[Figure]:
    """Three ordinary forecasts, from good to poor; none where no morning was measured."""
    return [_forecast_figure(judgement, position) for position in _ordinary_mornings(judgement)]


def _ordinary_mornings(judgement: Judgement) -> list[int]:
    """Windows whose origin is six in the morning, at a quarter, half and three quarters of the errors' order."""
    windows = judgement.windows
    hour = windows.panel.domain.future_channels.index("hour_of_day")
    ahead = windows.panel.value_STK[windows.site_index_B, windows.origin_B]
    measured = np.isfinite(judgement.target_BH).all(axis=1)
    # Where the clock differs from UTC by half an hour, that is half past six.
    local = np.floor(ahead[:, len(windows.panel.domain.measured_channels) + hour])
    chosen = np.flatnonzero((local == 6) & measured)
    if len(chosen) == 0:
        return []
    middle = judgement.quantiles_BHQ.shape[2] // 2
    error = np.abs(judgement.target_BH[chosen] - judgement.quantiles_BHQ[chosen, :, middle]).mean(axis=1)
    order = chosen[np.argsort(error, kind="stable")]
    return [int(order[int(len(order) * share)]) for share in (0.25, 0.5, 0.75)]


def _forecast_figure(judgement: Judgement, position: int) -> Figure:
    windows = judgement.windows
    panel = windows.panel
    site: Site = panel.sites[int(windows.site_index_B[position])]
    origin = int(windows.origin_B[position])
    past = np.arange(origin - _PICTURE_HISTORY + 1, origin + 1)
    ahead = np.arange(origin + 1, origin + 1 + panel.domain.horizon_steps)
    return plot_forecast(
        title=f"{site.name}: {windows.target.name}, forecast for the next {panel.domain.horizon_steps} hours",
        unit=windows.target.unit,
        history_s=panel.moments_s[past],
        history=windows.target_ST[windows.site_index_B[position], past],
        valid_s=panel.moments_s[ahead],
        quantiles_HQ=judgement.quantiles_BHQ[position],
        measured_H=judgement.target_BH[position],
        naive_H=judgement.naive_BH[position],
        levels=judgement.levels,
        timezone=site.timezone,
    )
