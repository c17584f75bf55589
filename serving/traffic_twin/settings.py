"""The environment of the traffic twin. Read in the command, never at import."""

from __future__ import annotations

from pydantic import Field

from serving.settings import ServingSettings


class TwinSettings(ServingSettings):
    """Settings of the traffic twin, from variables named `TOWNCAST_*`, beside those of serving.

    Attributes:
        twin_host: Address that the twin listens on.
        twin_port: Port that the twin listens on, for WebSocket and page alike.
        twin_interval_s: Length of a control interval [s].
        twin_speed: How many times real time it runs; 0 is as fast as it can.
        twin_outbox_messages: Most messages that may wait for a client before it is dropped.
        twin_inbox_bytes: Largest message that a client may send; what is in it is ignored [byte].
        twin_ping_s: Time between two pings of a client, and its time to answer [s].
    """

    twin_host: str = "127.0.0.1"
    twin_port: int = Field(default=8765, ge=0, le=65535)
    twin_interval_s: float = Field(default=60.0, gt=0, le=3600)
    twin_speed: float = Field(default=1.0, ge=0, le=1e6)
    twin_outbox_messages: int = Field(default=32, ge=1)
    twin_inbox_bytes: int = Field(default=1024, ge=1)
    twin_ping_s: float = Field(default=20.0, gt=0)
