"""Prophet alone as a forecaster, in the configuration of the design document: the bar for everything that is added."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from torch import Tensor, nn

from features.errors import NotEnoughDataError
from features.vocabulary import CALENDAR_CHANNELS, Domain, Float32Array, Forecast, Quantity, Window
from training.explain import Attribution, additive_shap
from training.forecaster import LEVELS, predict_with
from training.models.additive import ProphetConfig, ProphetTable, Regressor, fit_prophet, table_of, terms_of
from training.models.additive_attribution import prophet_terms
from training.models.conformal import LeadOffsets, score_of
from training.models.day_features import DayProfile
from training.models.local_days import DAY_HOURS
from training.models.onnx_graph import as_onnx, window_tensors
from training.models.site_table import site_place
from training.models.training_days import target_hours
from training.models.weights import reading_weights, write_weights
from training.models.window_graph import known_or_zero
from training.window_set import Ahead, Splits, WindowSet

_WEIGHTS_FILE = "weights.pt"
_BATCH = 512
_LEAST_ERROR = 1e-6


def document_regressors(domain: Domain) -> tuple[Regressor, ...]:
    """Temperature and rainfall where a domain measures them, and holidays: those of the design document, 4.2.3."""
    measured = [quantity.name for quantity in domain.covariates]
    weather = [name for name in ("temperature", "rainfall") if name in measured]
    return tuple(Regressor(name=name) for name in (*weather, "holiday"))


class AdditiveGraph(nn.Module):
    """Raw windows in, quantiles in physical units out: Prophet of a fitted site, the seasonal profile of any other.

    Args:
        domain: Gives lengths and channels.
        target: What is forecast.
        levels: Quantile levels, ascending, with 0.5 among them.
        table: The fitted Prophets.
    """

    def __init__(self, domain: Domain, target: Quantity, levels: tuple[float, ...], table: ProphetTable) -> None:
        super().__init__()
        self.table = table
        self.profile = DayProfile(domain, target)
        self.intervals = LeadOffsets(domain, target, levels)
        self.register_buffer("site_code", torch.full((len(table.start),), -1.0))
        # Size of an ordinary error of each site's Prophet, by hour of the day [unit of the target].
        self.register_buffer("error", torch.ones(len(table.start), DAY_HOURS))
        self.channels = [
            domain.future_channels.index(regressor.name) if regressor.name in domain.future_channels else None
            for regressor in table.regressors
        ]
        self.weather = [domain.future_channels.index(name) for name in domain.known_ahead]
        self.clock = [domain.future_channels.index(name) for name in ("day_number", "hour_of_day")]

    site_code: Tensor
    error: Tensor

    def forward(self, history: Tensor, future: Tensor, static: Tensor) -> Tensor:
        """Windows (B, L, K), (B, H, C), (B, S) to quantiles (B, H, Q) [unit of the target]."""
        quantiles: Tensor = self.intervals(*self.point(history, future, static))
        return quantiles

    def point(self, history: Tensor, future: Tensor, static: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Median (B, H) and size of an ordinary error (B, H) [unit of the target]; whether weather is known (B, H)."""
        site = site_place(static, self.site_code)
        fitted = site < len(self.site_code)
        row = torch.where(fitted, site, torch.zeros_like(site))
        median = self.table(row, self.day(future), self.columns(future))
        hour = torch.clamp(known_or_zero(future[:, :, self.clock[1]]), 0, DAY_HOURS - 1).to(torch.int64)
        unit = torch.gather(self.error[row], 1, hour)
        # The profile takes most of the time, and is only for a site that was not fitted.
        parts = (history, future, fitted, median, unit)
        if torch.compiler.is_exporting():
            median, unit = torch.cond(fitted.all(), _as_they_are, self.with_profile, parts)
        elif not bool(fitted.all()):
            median, unit = self.with_profile(*parts)
        median = torch.clamp(median, self.intervals.lower, self.intervals.upper)
        known = torch.isfinite(future[:, :, self.weather]).any(dim=2) if self.weather else torch.zeros_like(median)
        return median, unit, known.to(median.dtype)

    def with_profile(
        self, history: Tensor, future: Tensor, fitted: Tensor, median: Tensor, unit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Median and unit (B, H), the profile's where a site is not fitted."""
        local = self.profile.local
        places = local(history, future)
        state = self.profile(history, future, places)
        profile = local.steps(state.profile, places) * state.scale
        hourly = state.hourly_spread[:, None].expand_as(state.profile)
        spread = local.steps(hourly, places) * state.spread * state.scale
        return torch.where(fitted[:, None], median, profile), torch.where(fitted[:, None], unit, spread)

    def day(self, future: Tensor) -> Tensor:
        """Local time of each step ahead, float64 (B, H) [days since 2000-01-01]."""
        day, hour = (known_or_zero(future[:, :, channel]).to(torch.float64) for channel in self.clock)
        return day + hour / 24

    def columns(self, future: Tensor) -> Tensor:
        """Regressors of each step ahead, NaN where unknown (B, H, R)."""
        unknown = torch.full_like(future[:, :, 0], torch.nan)
        return torch.stack([unknown if place is None else future[:, :, place] for place in self.channels], dim=2)


def _as_they_are(
    history: Tensor, future: Tensor, fitted: Tensor, median: Tensor, unit: Tensor
) -> tuple[Tensor, Tensor]:
    # A branch may not answer with what it was given.
    return median.clone(), unit.clone()


class AdditiveForecaster:
    """Prophet as a forecaster, one for each site.

    Args:
        domain: Gives lengths and channels.
        target: What it forecasts, by default the domain's first target.
        levels: Quantile levels.
        config: How each Prophet is set up.
    """

    name = "prophet"
    saw_validation = False

    def __init__(
        self,
        domain: Domain,
        *,
        target: Quantity | None = None,
        levels: tuple[float, ...] = LEVELS,
        config: ProphetConfig | None = None,
    ) -> None:
        self.domain = domain
        self.target = target or domain.target
        self.levels = levels
        self.config = config or ProphetConfig()
        self._graph: AdditiveGraph | None = None

    def fit(self, splits: Splits, *, seed: int) -> None:
        """Fit a Prophet on the training hours of each site, and calibrate its intervals on the validation weeks.

        A site with fewer than two weeks of readings gets none: its seasonal profile answers, as for a site never seen.

        Raises:
            NotEnoughDataError: No site has as much.
        """
        panel = splits.train.panel
        regressors = document_regressors(self.domain)
        allowed = target_hours(splits.train)
        fitted, refused = {}, None
        for site in range(len(panel.sites)):
            hours = np.flatnonzero(allowed[site])
            try:
                model = fit_prophet(
                    _local_days(splits.train, site, hours),
                    splits.train.target_ST[site, hours],
                    _columns(splits.train, site, hours, regressors),
                    config=self.config,
                    regressors=regressors,
                    seed=seed,
                )
            except NotEnoughDataError as error:
                refused = error
                continue
            fitted[site] = terms_of(model)
        if refused is not None and not fitted:
            raise refused
        table = table_of(fitted, regressors, sites=len(panel.sites))
        graph = AdditiveGraph(self.domain, self.target, self.levels, table)
        places = list(fitted)
        graph.site_code[places] = torch.from_numpy(panel.static_SS[places, 0])
        for site in fitted:
            graph.error[site] = _hourly_error(table, splits.train, site, np.flatnonzero(allowed[site]))
        self._graph = graph.eval()
        sights: list[Ahead] = ["known", "observed"] if self.domain.known_ahead else ["known"]
        for ahead in sights:
            graph.intervals.fit(self._scores(splits.validation.seen(ahead)), known=ahead == "observed")
        if not self.domain.known_ahead:
            graph.intervals.without_weather()

    def _scores(self, windows: WindowSet) -> Float32Array:
        scores = []
        with torch.inference_mode():
            for begin in range(0, len(windows), _BATCH):
                rows = np.arange(begin, min(begin + _BATCH, len(windows)))
                median, unit, _ = self._fitted().point(*window_tensors(windows.windows(rows)))
                scores.append(score_of(median, unit, torch.from_numpy(windows.targets(rows))))
        return np.concatenate(scores)

    def predict(self, windows: Window) -> Forecast:
        """Quantiles of the target [its unit]."""
        return predict_with(self, self._fitted(), windows)

    def graph(self) -> AdditiveGraph:
        """The module that is exported."""
        return self._fitted()

    def onnx_model(self, sample: Window) -> ModelProto:
        """The graph, exported."""
        return as_onnx(self._fitted(), sample)

    def explain(self, windows: Window, *, rng: np.random.Generator) -> Attribution:
        """Trend, seasonalities and regressors, see `training.explain`."""
        graph = self._fitted()
        steps = [steps - 1 for steps in self.domain.horizons.values()]
        _, future, static = window_tensors(windows)
        site = torch.clamp(site_place(static, graph.site_code), max=len(graph.site_code) - 1)
        terms = prophet_terms(graph.table, site, graph.day(future), graph.columns(future))
        features, value_NBF = additive_shap({name: term[:, steps].T.numpy() for name, term in terms.items()})
        level = torch.stack([term.mean(dim=1) for term in terms.values()], dim=1)
        return Attribution(
            explains="the median forecast",
            method="additive terms",
            unit=self.target.unit,
            features=features,
            horizons=tuple(self.domain.horizons),
            value_NBF=value_NBF,
            level_BF=level.numpy().astype(np.float32),
        )

    def _fitted(self) -> AdditiveGraph:
        assert self._graph is not None, "fit or load comes first"
        return self._graph

    def save(self, folder: Path) -> None:
        """Write the fitted numbers.

        Raises:
            StorageError: The folder cannot be written or the disk is full.
        """
        table = self._fitted().table
        content = {
            "config": asdict(self.config),
            "sites": len(table.start),
            "waves": table.waves,
            "regressors": [asdict(regressor) for regressor in table.regressors],
            "changepoints": table.changepoint.shape[1],
            "state": self._fitted().state_dict(),
        }
        write_weights(folder / _WEIGHTS_FILE, content)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            ArtifactError: It is missing, damaged, or of another domain.
        """
        with reading_weights(folder / _WEIGHTS_FILE) as saved:
            regressors = [Regressor(**regressor) for regressor in saved["regressors"]]
            table = ProphetTable(saved["sites"], saved["waves"], regressors, changepoints=saved["changepoints"])
            graph = AdditiveGraph(self.domain, self.target, self.levels, table)
            graph.load_state_dict(saved["state"])
            config = ProphetConfig(**saved["config"])
        self.config = config
        self._graph = graph.eval()


def _calendar(windows: WindowSet, name: str) -> int:
    return len(windows.panel.domain.measured_channels) + CALENDAR_CHANNELS.index(name)


def _local_days(windows: WindowSet, site: int, hours: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Local time of some hours of a site [days since 2000-01-01]."""
    rows = windows.panel.value_STK[site, hours].astype(np.float64)
    return np.asarray(rows[:, _calendar(windows, "day_number")] + rows[:, _calendar(windows, "hour_of_day")] / 24)


def _columns(
    windows: WindowSet, site: int, hours: npt.NDArray[np.int64], regressors: tuple[Regressor, ...]
) -> dict[str, npt.NDArray[np.floating]]:
    """The regressors at some hours of a site, NaN where unmeasured."""
    inputs = [quantity.name for quantity in windows.panel.domain.inputs]
    found: dict[str, npt.NDArray[np.floating]] = {}
    for regressor in regressors:
        if regressor.name in inputs:
            found[regressor.name] = windows.panel.final_ST(inputs.index(regressor.name))[site, hours]
        else:
            found[regressor.name] = windows.panel.value_STK[site, hours, _calendar(windows, regressor.name)]
    return found


def _hourly_error(table: ProphetTable, windows: WindowSet, site: int, hours: npt.NDArray[np.int64]) -> Tensor:
    """Mean absolute error of a fitted Prophet by hour of the day (24) [unit of the target]."""
    day = _local_days(windows, site, hours)
    columns = _columns(windows, site, hours, table.regressors)
    column = np.stack([columns[regressor.name] for regressor in table.regressors], axis=1).astype(np.float32)
    with torch.inference_mode():
        fitted = table(torch.tensor([site]), torch.from_numpy(day)[None], torch.from_numpy(column)[None])[0]
    error = np.abs(windows.target_ST[site, hours] - fitted.numpy())
    hour = windows.panel.value_STK[site, hours, _calendar(windows, "hour_of_day")].astype(np.int64)
    measured = np.isfinite(error)
    total = np.bincount(hour[measured], weights=error[measured], minlength=DAY_HOURS)
    count = np.bincount(hour[measured], minlength=DAY_HOURS)
    mean = np.where(count > 0, total / np.maximum(count, 1), error[measured].mean())
    return torch.from_numpy(np.maximum(mean, _LEAST_ERROR).astype(np.float32))
