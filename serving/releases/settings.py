"""The environment of releases: how often the registry is asked, and how much is kept for comparisons."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ReleaseSettings(BaseSettings):
    """Settings of releases, from variables named `TOWNCAST_*`; read in `create_app`, never at import.

    Attributes:
        alias_refresh_s: Time between two looks at the registry's aliases [s].
        release_retry_s: Time until a version that could not be loaded is tried again [s].
        release_grace_s: How long a version that answers nobody any more is kept loaded at least [s].
        release_timeout_s: Longest wait for a challenger or a canary before the champion answers in its place [s].
        shadow_queue: Most comparisons that wait; more are dropped and counted.
        realised_pairs: Most pairs of forecasts that wait for their readings; the oldest are dropped.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    alias_refresh_s: float = Field(default=2.0, gt=0)
    release_retry_s: float = Field(default=5.0, gt=0)
    release_grace_s: float = Field(default=10.0, ge=0)
    release_timeout_s: float = Field(default=2.0, gt=0)
    shadow_queue: int = Field(default=128, ge=1)
    realised_pairs: int = Field(default=2000, ge=1)
