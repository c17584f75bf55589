"""The environment of serving: addresses, folders, limits. Read in `main` or `create_app`, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from features.settings import StorageSettings

Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "fp16"]
RedisUrl = Annotated[str, Field(pattern=r"^$|^(redis|rediss|unix)://")]
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
        precision: Of the graphs' heavy weights: `fp16` takes the graph in half precision where the model has one, is an
            error where its parity does not hold, and changes nothing for models without heavy weights.
        onnx_threads: Threads within one run of a graph; more than one pays for large graphs on idle cores alone.
        torchserve_url: Inference address of TorchServe, empty for none.
        torchserve_timeout_s: Longest wait for an answer of TorchServe [s].
        torchserve_patience_s: How long a request waits for TorchServe before it asks the next runtime [s].
        torchserve_slow_calls: So many calls in a row that took longer, and TorchServe is passed over.
        torchserve_key_file: TorchServe's `key_file.json`; by default that of the one that `towncast serve` starts. No
            token is sent where there is no such file.
        runtime_retry_s: Time until the first look at a runtime that is down; it doubles with each look in vain [s].
        runtime_retry_most_s: Longest time between two looks at a runtime that is down [s].
        runtime_check_s: Time between two looks at an idle runtime that is up [s].
        window_refresh_s: Time between two reads of the online store [s].
        stale_after_h: Age of the last reading beyond which a forecast starts from it and says so [h].
        nearest_within_km: How far a site may be from the coordinates of a request [km].
        confidence: Probability of the interval in a reply.
        keep_forecasts_s: How long a forecast is kept while its window and its model stay the same [s]; 0 keeps none.
        forecast_ahead: Whether forecasts are made as soon as readings arrive, and not only when somebody asks.
        forecasts_redis_url: Redis through which workers share forecasts; empty where each makes its own.
        workers: Processes that answer.
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
    batch_limit: int = Field(default=1000, ge=1)
    runtime: RuntimeChoice = "auto"
    device: Device = "cpu"
    precision: Precision = "fp32"
    onnx_threads: int = Field(default=1, ge=1, le=256)
    torchserve_url: str = ""
    torchserve_timeout_s: float = Field(default=2.0, gt=0)
    torchserve_patience_s: float = Field(default=0.5, gt=0)
    torchserve_slow_calls: int = Field(default=5, ge=1)
    torchserve_key_file: Path | None = None
    runtime_retry_s: float = Field(default=1.0, gt=0)
    runtime_retry_most_s: float = Field(default=10.0, gt=0)
    runtime_check_s: float = Field(default=10.0, gt=0)
    window_refresh_s: float = Field(default=0.5, gt=0)
    stale_after_h: float = Field(default=6.0, ge=0)
    nearest_within_km: float = Field(default=50.0, gt=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    keep_forecasts_s: float = Field(default=300.0, ge=0)
    forecast_ahead: bool = True
    forecasts_redis_url: RedisUrl = ""
    workers: int = Field(default=1, ge=1, le=64)
    sessions_redis_url: RedisUrl = ""
    session_ttl_s: float = Field(default=3600.0, gt=0, le=31536000)
    session_limit: int = Field(default=1000, ge=1)
    session_history_limit: int = Field(default=1000, ge=1, le=100000)
    session_log_limit: int = Field(default=200, ge=1, le=100000)

    @field_validator("domains", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @property
    def torchserve_dir(self) -> Path:
        """Folder of the TorchServe that `towncast serve` starts."""
        return self.data_dir / "torchserve"

    @property
    def torchserve_keys(self) -> Path:
        """Where TorchServe's keys are, if it has any."""
        return self.torchserve_key_file or self.torchserve_dir / "key_file.json"

    @property
    def artifacts_dir(self) -> Path:
        """Folder that fetched artifacts are kept in."""
        return self.data_dir / "artifacts"
