"""The environment of logs and traces. Read in `create_app` and in commands, never at import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LogLevel = Literal["debug", "info", "warning", "error"]


class ObservabilitySettings(BaseSettings):
    """Settings of logs and traces, from variables named `TOWNCAST_*`.

    Attributes:
        log_format: `json`, a line per entry, or `text`; `auto` is text on a terminal and JSON elsewhere.
        log_level: The least serious entries that are written.
        access_log: Whether an entry is written for each request.
        otlp_endpoint: Where traces go, over OTLP/HTTP, such as `http://localhost:4318`; empty for no traces.
        trace_ratio: Share of the requests that are traced (0 to 1), of those that no caller traces already.
        service_name: Name of this service in traces.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: LogLevel = "info"
    access_log: bool = False
    otlp_endpoint: Annotated[str, Field(pattern=r"^$|^https?://[^\s/]+\S*$")] = ""
    trace_ratio: float = Field(default=0.1, ge=0, le=1)
    service_name: str = Field(default="towncast", min_length=1)
