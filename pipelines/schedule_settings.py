"""The environment of monitoring and retraining: when they run, what a retraining may do, and whom they tell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from pipelines.settings import Settings

ReleaseWay = Literal["auto", "champion", "canary", "shadow"]


class ScheduleSettings(Settings):
    """Settings of the scheduled jobs, from variables named `TOWNCAST_*`.

    Attributes:
        schedule_domains: Which domains are looked after, with commas between; by default those with a model.
        schedule_timezone: IANA name of the clock that cron expressions follow.
        schedule_poll_s: How often the loop looks for what is due, and for requests [s].
        monitor_cron: When each domain's champions are looked at.
        retrain_cron: When each domain is retrained; empty for never.
        retrain_cron_of: The same for single domains, as JSON: `{"water": "0 4 * * 0"}`.
        retrain_recipe: Recipe of retrainings; by default the champion's.
        retrain_test_days: Length of a retraining's test, the last days: it learns from all before them [d].
        retrain_largest_loss: By which share its error there may be above the champion's.
        retrain_release: What a version that passed the gate becomes. `auto`: canary where an API answers, else
            champion at once.
        retrain_cooldown_days: After a retraining no trigger of performance or data starts another for so long [d].
        retrain_wait_s: How long a retraining waits for another of the same domain before it is refused [s].
        retrain_attempts: How often a retraining that failed or was killed is taken up again before it is given up.
        shadow_hours: How long a shadow of a retraining runs at least before it is judged [h].
        shadow_steps: Fewest forecast steps with an actual on which it is judged.
        canary_steps: Shares of the sites of a canary [%], with commas between.
        canary_minutes: Shortest duration of its steps [min].
        canary_requests: Fewest answers in each.
        report_keep_days: How long monitoring reports are kept [d].
        alert_urls: Where alerts go, with blanks between: addresses of Apprise (`mailto://`, `slack://`, ...), or
            `https://` for a webhook that takes JSON. Empty for the log alone.
        alert_reminder_h: After how long a state that lasts is told again [h].
    """

    schedule_domains: Annotated[tuple[str, ...], NoDecode] = ()
    schedule_timezone: str = "UTC"
    schedule_poll_s: float = Field(default=5.0, gt=0)
    monitor_cron: str = "7 * * * *"
    retrain_cron: str = "0 3 * * 1"
    retrain_cron_of: dict[str, str] = Field(default_factory=dict)
    retrain_recipe: str = ""
    retrain_test_days: float = Field(default=2.0, gt=0)
    retrain_largest_loss: float = Field(default=0.05, ge=0)
    retrain_release: ReleaseWay = "auto"
    retrain_cooldown_days: float = Field(default=3.0, ge=0)
    retrain_wait_s: float = Field(default=0.0, ge=0)
    retrain_attempts: int = Field(default=3, ge=1)
    shadow_hours: float = Field(default=24.0, ge=0)
    shadow_steps: int = Field(default=48, ge=1)
    canary_steps: str = "5,25,50,100"
    canary_minutes: float = Field(default=30.0, ge=0)
    canary_requests: int = Field(default=200, ge=0)
    report_keep_days: float = Field(default=400.0, gt=0)
    alert_urls: str = ""
    alert_reminder_h: float = Field(default=24.0, gt=0)

    @field_validator("schedule_domains", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def reports_dir(self) -> Path:
        """Folder of the monitoring reports."""
        return self.data_dir / "monitoring" / "reports"

    @property
    def realised_dir(self) -> Path:
        """Folder of the realised forecasts."""
        return self.data_dir / "monitoring" / "realised"

    @property
    def schedule_dir(self) -> Path:
        """Folder of what the schedule knows, and of requests to it."""
        return self.data_dir / "schedule"

    def retrain_cron_for(self, domain: str) -> str:
        """When a domain is retrained, empty for never."""
        return self.retrain_cron_of.get(domain, self.retrain_cron)
