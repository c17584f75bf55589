"""The environment of the reactor's twin: broker, names, thresholds. Read in `main`, never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from features.errors import InvalidParameterError

_SCHEMES = ("nats", "tls", "ws", "wss")
_NAME = r"^[A-Za-z0-9_-]+$"


class ReactorSettings(BaseSettings):
    """Settings of the reactor's twin, from variables named `TOWNCAST_*`.

    Attributes:
        nats_url: Where the broker is; a user and a password may stand in it.
        reactor_prefix: Beginning of all the reactor's subjects.
        reactor_stream: Name of the stream that is made where no stream keeps these subjects yet.
        reactor_durable: Name of the consumer, and of the twin's memory on the broker.
        reactor_start: Where a consumer that is made begins: with all that the stream holds, or with what is new.
        reactor_keep_h: How long a stream that is made keeps a message [h].
        reactor_duplicate_window_s: How long such a stream remembers the ids of messages [s].
        reactor_ack_wait_s: After which time the broker delivers again what was not acknowledged [s].
        reactor_parameters: Parameters of this reactor that are not the literature's, as a JSON object.
        reactor_correction_per_s: How fast the living model takes in the measured temperature [1/s]: the share of the
            difference that is taken in is 1 - exp(-rate x time since the last). 0 never.
        reactor_ideal_correction_per_s: The same for the ideal; anything but 0 hides faults that grow slower.
        reactor_resync_after_s: Time without a temperature after which both begin anew from the next [s].
        reactor_clock_tolerance_s: How far a sensor's clock may be ahead of the twin's [s].
        reactor_alert_raise_k: Size of the deviation that raises the alert [K].
        reactor_alert_clear_k: Size of the deviation below which it ends [K].
        reactor_alert_messages: Temperatures in a row that must exceed `reactor_alert_raise_k`.
        reactor_status_file: File that is renewed every second while the twin is alive; none by default.
    """

    model_config = SettingsConfigDict(env_prefix="TOWNCAST_", extra="ignore", frozen=True)

    nats_url: str = "nats://127.0.0.1:4222"
    reactor_prefix: str = "enterprise.site.area.line.reactor"
    reactor_stream: str = Field(default="reactor", pattern=_NAME)
    reactor_durable: str = Field(default="reactor-twin", pattern=_NAME)
    reactor_start: Literal["all", "new"] = "all"
    reactor_keep_h: float = Field(default=72.0, gt=0)
    reactor_duplicate_window_s: float = Field(default=120.0, gt=0)
    reactor_ack_wait_s: float = Field(default=5.0, gt=0)
    reactor_parameters: dict[str, float] = Field(default_factory=dict)
    reactor_correction_per_s: float = Field(default=0.1, ge=0)
    reactor_ideal_correction_per_s: float = Field(default=0.0, ge=0)
    reactor_resync_after_s: float = Field(default=600.0, gt=0)
    reactor_clock_tolerance_s: float = Field(default=60.0, ge=0)
    reactor_alert_raise_k: float = Field(default=2.0, gt=0)
    reactor_alert_clear_k: float = Field(default=1.0, gt=0)
    reactor_alert_messages: int = Field(default=5, ge=1)
    reactor_status_file: Path | None = None

    @field_validator("nats_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _SCHEMES or not parts.hostname or any(letter.isspace() for letter in value):
            raise ValueError("write the address of the broker like nats://127.0.0.1:4222")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.reactor_alert_clear_k > self.reactor_alert_raise_k:
            raise ValueError("reactor_alert_clear_k must not exceed reactor_alert_raise_k")
        return self

    @property
    def shown_url(self) -> str:
        """`nats_url` without a user or password, for people and logs."""
        parts = urlsplit(self.nats_url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def read_settings(*, nats_url: str | None = None, reactor_prefix: str | None = None) -> ReactorSettings:
    """The settings of the environment, but for those that are given.

    Raises:
        InvalidParameterError: One cannot be.
    """
    given: dict[str, Any] = {"nats_url": nats_url, "reactor_prefix": reactor_prefix}
    try:
        return ReactorSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        told = first["msg"].removeprefix("Value error, ")
        name = "_".join(map(str, ("TOWNCAST", *first["loc"]))).upper()
        raise InvalidParameterError(
            parameter=name,
            # An address may hold a password, and all settings together surely do.
            provided=first["input"] if isinstance(first["input"], int | float) else name,
            allowed=told,
            fact="A setting cannot be used",
            remedy=f"{told[:1].upper()}{told[1:]}; serving/reactor_twin/settings.py says what each means.",
        ) from error
    except SettingsError as error:
        raise InvalidParameterError(
            parameter="TOWNCAST_*",
            provided=str(error),
            allowed="JSON",
            fact="A setting is no JSON",
            remedy='Write TOWNCAST_REACTOR_PARAMETERS like {"heat_transfer": 800}.',
        ) from error
