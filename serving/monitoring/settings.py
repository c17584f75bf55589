"""The environment of monitoring: what is kept beside what came, and for how long it is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from features.settings import StorageSettings
from features.vocabulary import Domain


class MonitoringSettings(StorageSettings):
    """Settings of monitoring, from variables named `TOWNCAST_*`.

    Attributes:
        monitoring: Whether a running API joins forecasts with what came.
        join_every_s: Shortest time between two joins of a domain in a running API [s].
        compact_every_s: Shortest time between two merges of the realised forecasts into large files [s].
        actuals_patience_days: How long a forecast step waits for its actual before it is given up [d]; one that comes
            later still counts.
        keep_steps: Which steps ahead are kept: `named` for the first one and those that the domain's horizons name,
            `all`, or a list such as `[1, 24]`.
        realised_keep_days: How long realised forecasts are kept, 0 for ever [d].
        realised_figures_days: How many last days the figures for Prometheus are of [d].
    """

    monitoring: bool = True
    join_every_s: float = Field(default=60.0, gt=0)
    compact_every_s: float = Field(default=3600.0, gt=0)
    actuals_patience_days: float = Field(default=14.0, gt=0)
    keep_steps: Literal["named", "all"] | tuple[Annotated[int, Field(ge=1)], ...] = "named"
    realised_keep_days: float = Field(default=0.0, ge=0)
    realised_figures_days: float = Field(default=7.0, gt=0)

    @property
    def realised_dir(self) -> Path:
        """Folder of the realised forecasts."""
        return self.data_dir / "monitoring" / "realised"

    def steps_of(self, domain: Domain) -> tuple[int, ...]:
        """Steps ahead that are kept of a domain's forecasts, ascending."""
        if self.keep_steps == "all":
            return tuple(range(1, domain.horizon_steps + 1))
        if self.keep_steps == "named":
            return tuple(sorted({1, *(domain.horizons.values() or (domain.horizon_steps,))}))
        return tuple(sorted(set(self.keep_steps)))
