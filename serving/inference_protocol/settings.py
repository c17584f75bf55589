"""The environment of the Open Inference Protocol, from variables named `TOWNCAST_*`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class InferenceProtocolSettings(BaseSettings):
    """Limits of a request.

    Attributes:
        infer_batch_limit: Most windows in a request.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    infer_batch_limit: int = Field(default=32, ge=1, le=1024)
