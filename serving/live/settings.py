"""The environment of live updates: who may connect, and how much each may ask."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class LiveSettings(BaseSettings):
    """Settings of the WebSocket, from variables named `TOWNCAST_*`.

    Attributes:
        cors_origins: Origins of other sites whose pages may connect, such as `https://town.example`, with commas
            between; `*` for all. Pages of the API's own host always may, and so may programs, which send no origin.
        live_clients: Most clients at once.
        live_subscriptions: Most sites, over all channels, that one client may follow.
        live_message_bytes: Largest message of a client [byte].
        live_messages_per_s: Most messages of a client that are answered in a second; it is not read faster.
        live_send_timeout_s: A client that takes longer to take a message is dropped [s].
        live_lifetime_s: Longest life of a connection [s]. Who may connect is asked when it begins: a key that was
            revoked since ends with it. Clients connect again.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    live_clients: int = Field(default=1000, ge=1)
    live_subscriptions: int = Field(default=5000, ge=1)
    live_message_bytes: int = Field(default=65536, ge=256)
    live_messages_per_s: int = Field(default=20, ge=1)
    live_send_timeout_s: float = Field(default=15.0, gt=0)
    live_lifetime_s: float = Field(default=3600.0, gt=0)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
