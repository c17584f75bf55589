"""The environment of readings that come in: brokers, limits. Read in `create_app`, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from features.settings import StorageSettings

_NAME = r"^[A-Za-z0-9_-]+$"


class InflowSettings(StorageSettings):
    """Settings of readings that come in, from variables named `TOWNCAST_*`.

    Attributes:
        readings_limit: Most readings in one `POST /readings`.
        readings_waiting_limit: Most readings of a domain that wait to be stored; more are refused for a while.
        inflow_new_sites: Whether a reading of an unknown site makes the site; it is refused otherwise.
        inflow_clock_tolerance_s: How far a sensor's clock may be ahead of ours [s].
        mqtt_url: MQTT broker, such as `mqtt://localhost:1883` or `mqtts://host:8883`; empty for none.
        mqtt_username: User there; empty for none.
        mqtt_password: Password there.
        mqtt_ca_file: Certificates to trust in place of the system's, for `mqtts`.
        mqtt_client_id: Names the session that the broker keeps for us while we are away.
        mqtt_session_h: How long it does [h].
        mqtt_topic: Beginning of the topics `<this>/<domain>/<site>/<quantity>`.
        nats_url: NATS server with JetStream, such as `nats://localhost:4222`, with user and password where it wants
            them; empty for none.
        nats_readings_stream: Name of the stream that is made where none keeps the subjects yet.
        nats_readings_durable: Name of the consumer.
        nats_readings_keep_h: How long a stream that is made keeps a message [h].
    """

    readings_limit: int = Field(default=10_000, ge=1)
    readings_waiting_limit: int = Field(default=100_000, ge=1)
    inflow_new_sites: bool = False
    inflow_clock_tolerance_s: float = Field(default=60.0, ge=0)
    mqtt_url: Annotated[str, Field(pattern=r"^$|^mqtts?://[^\s/]+$")] = ""
    mqtt_username: str = ""
    mqtt_password: str = ""
    mqtt_ca_file: Path | None = None
    mqtt_client_id: str = Field(default="towncast-readings", pattern=_NAME)
    mqtt_session_h: float = Field(default=168.0, gt=0, le=1_000_000)
    mqtt_topic: str = Field(default="towncast", pattern=r"^[^#+\s]+[^#+/\s]$")
    nats_url: Annotated[str, Field(pattern=r"^$|^(nats|tls|wss?)://\S+$")] = ""
    nats_readings_stream: str = Field(default="towncast-readings", pattern=_NAME)
    nats_readings_durable: str = Field(default="towncast-readings", pattern=_NAME)
    nats_readings_keep_h: float = Field(default=168.0, gt=0)

    @property
    def shown_nats_url(self) -> str:
        """`nats_url` without a user or password, for people and logs."""
        parts = urlsplit(self.nats_url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
