"""The environment of serving: addresses, folders, limits. Read in `main` or `create_app`, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from features.settings import StorageSettings

Device = Literal["cpu", "cuda"]
RuntimeChoice = Literal["auto", "in_process", "torchserve"]


class ServingSettings(StorageSettings):
    """Settings of the API and its runtimes, from variables named `TOWNCAST_*`.

    Attributes:
        host: Address that the API listens on.
        port: Port that the API listens on.
        domains: Names of the domains that are served, with commas between; all are needed to be ready. By default
            every domain that has a champion is served, and one is enough.
        body_limit_bytes: Largest request body [byte].
        batch_body_limit_bytes: Largest body of a batch [byte].
        batch_limit: Most requests in a batch.
        runtime: `in_process` never asks TorchServe; `auto` asks it where `torchserve_url` is set.
        device: Where the graph runs; `cuda` without a CUDA device is an error.
        torchserve_url: Inference address of TorchServe, empty for none.
        torchserve_timeout_s: Longest wait for TorchServe before the next runtime answers [s].
        runtime_retry_s: Shortest time between two looks at a runtime that is down [s].
        window_refresh_s: Time between two reads of the online store [s].
        stale_after_h: Age of the last reading beyond which a forecast starts from it and says so [h].
        nearest_within_km: How far a site may be from the coordinates of a request [km].
        confidence: Probability of the interval in a reply.
        sessions_redis_url: Redis that keeps the sessions of simulations, such as `redis://localhost:6379/0`; empty
            keeps them in the memory of the process.
        session_ttl_s: How long a session lives after its last use [s].
        session_limit: Most sessions at once.
        session_history_limit: Newest steps that a session's history keeps; some 0.5 kB each.
        session_log_limit: Newest entries that a session's log keeps.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    domains: Annotated[tuple[str, ...], NoDecode] = ()
    body_limit_bytes: int = Field(default=65536, ge=1024)
    batch_body_limit_bytes: int = Field(default=1048576, ge=1024)
    batch_limit: int = Field(default=256, ge=1)
    runtime: RuntimeChoice = "auto"
    device: Device = "cpu"
    torchserve_url: str = ""
    torchserve_timeout_s: float = Field(default=2.0, gt=0)
    runtime_retry_s: float = Field(default=1.0, gt=0)
    window_refresh_s: float = Field(default=5.0, gt=0)
    stale_after_h: float = Field(default=6.0, ge=0)
    nearest_within_km: float = Field(default=50.0, gt=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    sessions_redis_url: Annotated[str, Field(pattern=r"^$|^(redis|rediss|unix)://")] = ""
    session_ttl_s: float = Field(default=3600.0, gt=0, le=31536000)
    session_limit: int = Field(default=1000, ge=1)
    session_history_limit: int = Field(default=1000, ge=1, le=100000)
    session_log_limit: int = Field(default=200, ge=1, le=100000)

    @field_validator("domains", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @property
    def artifacts_dir(self) -> Path:
        """Folder that fetched artifacts are kept in."""
        return self.data_dir / "artifacts"
