"""From when on monitoring says that something is wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DetectionSettings(BaseSettings):
    """Thresholds of monitoring, from variables named `TOWNCAST_*`.

    Attributes:
        feature_drift_threshold: From which distance on an input is said to have drifted.
        prediction_drift_threshold: The same for forecasts.
        suspect_rise: Share by which the error of a week must be above the usual before anything is said of a site.
        harm_ratio: Error of a week over its usual that counts as harm.
        reference_weeks: So many weeks before a week say what is usual in it.
        fewest_reference_weeks: With fewer of them there is no verdict.
        calibration_weeks: So many weeks of all sites are looked back on to find what healthy weeks show.
        false_alarm_share: Share of the healthy weeks of a site in which an alarm is tolerated.
        look_every_h: Time between two looks at the errors [h].
        fewest_window_share: A look needs this share of the actuals that its last day usually has.
        stale_after_days: Without an actual for so long, there is no verdict [days].
        data_trigger_weeks: So many new weeks of readings ask for a retraining; 0 for never.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    feature_drift_threshold: float = Field(default=0.1, gt=0)
    prediction_drift_threshold: float = Field(default=0.15, gt=0)
    suspect_rise: float = Field(default=0.1, ge=0)
    harm_ratio: float = Field(default=1.5, gt=1)
    reference_weeks: int = Field(default=26, ge=2)
    fewest_reference_weeks: int = Field(default=4, ge=2)
    calibration_weeks: int = Field(default=52, ge=4)
    false_alarm_share: float = Field(default=0.02, gt=0, lt=1)
    look_every_h: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 6
    fewest_window_share: float = Field(default=0.5, gt=0, le=1)
    stale_after_days: int = Field(default=7, ge=1)
    data_trigger_weeks: int = Field(default=4, ge=0)
