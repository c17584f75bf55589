"""Peers of the traffic forecaster, on the same windows: what a data scientist would try first."""

from __future__ import annotations

import lightgbm
import numpy as np
import numpy.typing as npt
import torch

from features.vocabulary import Float32Array
from training.models.window_graph import SEASONS, SeasonalLags, day_profiles, median_known
from training.window_set import WindowSet

_FLOOR_SHARE = 0.03
_PARAMETERS = {
    "n_estimators": 600,
    "learning_rate": 0.03,
    "num_leaves": 31,
    "min_child_samples": 40,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.5,
    "reg_lambda": 5.0,
    "objective": "l1",
    "verbose": -1,
    "n_jobs": 2,
    "random_state": 0,
}
_RECENT = 24


class LightGbmResidual:
    """LightGBM on the log ratio to the trailing eight-week hour-of-week median, one model per lead.

    The strongest of the peers that were tried (plain, residual, regularised): it sees the last 24 residuals, the last
    volumes, the last two weeks' same hours, weather at the origin, calendar and holidays of the target hour.

    Args:
        lead: Steps ahead.
    """

    def __init__(self, lead: int) -> None:
        self.lead = lead
        self.model = lightgbm.LGBMRegressor(**_PARAMETERS)

    def fit(self, windows: WindowSet) -> None:
        """Fit on every window whose target is measured."""
        features, profile, scale = self._features(windows)
        target = windows.targets()[:, self.lead - 1]
        known = np.isfinite(target) & (profile > 0)
        floor = _FLOOR_SHARE * scale
        ratio = np.log((target + floor) / (profile + floor))
        self.model.fit(features[known], ratio[known])

    def predict(self, windows: WindowSet) -> npt.NDArray[np.float64]:
        """Median forecasts, shape (B,) [unit of the target]."""
        features, profile, scale = self._features(windows)
        floor = _FLOOR_SHARE * scale
        forecast: npt.NDArray[np.float64] = (profile + floor) * np.exp(self.model.predict(features)) - floor
        return forecast

    def _features(self, windows: WindowSet) -> tuple[Float32Array, Float32Array, Float32Array]:
        parts = [self._batch(windows, begin) for begin in range(0, len(windows), 1024)]
        features, profile, scale = (np.concatenate([part[index] for part in parts]) for index in range(3))
        return features, profile, scale

    def _batch(self, windows: WindowSet, begin: int) -> tuple[Float32Array, Float32Array, Float32Array]:
        domain = windows.panel.domain
        window = windows.windows(np.arange(begin, min(begin + 1024, len(windows))))
        history, future = torch.from_numpy(window.history_BLK), torch.from_numpy(window.future_BHK)
        lags = SeasonalLags(domain, recent_steps=_RECENT)
        weekly, _ = median_known(lags.before_recent(history, 0), dim=1)
        daily = lags.before_ahead(history, future, 0)
        profiles = day_profiles(daily)
        volume = history[:, -_RECENT:, 0].numpy()
        scale = np.nanmean(window.history_BLK[:, :, 0], axis=1)
        floor = (_FLOOR_SHARE * scale)[:, None]
        residual = np.log((volume + floor) / (weekly.numpy() + floor))
        at = self.lead - 1
        weeks = daily[:, 6::7, at].numpy()
        profile = profiles[:, -1, at].numpy()
        weather = window.history_BLK[:, -1, 1 : 1 + len(domain.covariates)]
        with np.errstate(invalid="ignore"):
            last_weeks = np.log((weeks[:, :2] + floor) / (profile[:, None] + floor))
            spread = np.nanstd(weeks, axis=1)[:, None] if SEASONS > 1 else weeks[:, :1]
            rolling = np.stack([np.nanmean(residual[:, -steps:], axis=1) for steps in (3, 6, 24)], axis=1)
        columns = [residual, rolling, volume[:, -3:], last_weeks, profiles[:, :, at].numpy(), spread, weather]
        columns.append(window.future_BHK[:, at])
        return np.concatenate(columns, axis=1).astype(np.float32), profile, scale.astype(np.float32)


def hour_of_week_median(fitted_on: WindowSet, windows: WindowSet) -> Float32Array:
    """The median by local hour of the week over the training span, for every step ahead: shape (B, H)."""
    panel = fitted_on.panel
    measured = len(panel.domain.measured_channels)
    until = int(fitted_on.origin_B.max()) + 1
    result = np.full((len(windows), panel.domain.horizon_steps), np.nan, dtype=np.float32)
    for index in range(len(panel.sites)):
        calendar = panel.value_STK[index, :, measured:]
        hour_of_week = (calendar[:, 1] * 24 + np.floor(calendar[:, 0])).astype(int)
        target = fitted_on.target_ST[index]
        table = np.array([np.nanmedian(target[:until][hour_of_week[:until] == hour]) for hour in range(168)])
        rows = np.flatnonzero(windows.site_index_B == index)
        ahead = windows.origin_B[rows][:, None] + np.arange(1, panel.domain.horizon_steps + 1)
        result[rows] = table[hour_of_week[ahead]]
    return result
