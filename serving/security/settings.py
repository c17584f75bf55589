"""The environment of security: who may ask, how much, how long. Read in `create_app` and commands, never at import."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from features.settings import StorageSettings

Choice = Literal["auto", "on", "off"]
_SHORTEST_SECRET = 32


class SecuritySettings(StorageSettings):
    """Settings of keys, tokens and limits, from variables named `TOWNCAST_*`.

    Attributes:
        security: Whether callers must say who they are; `auto`: unless the API listens on loopback alone.
        keys_url: Database of the API keys, as SQLAlchemy writes it; empty for SQLite in `data_dir`.
        jwt_secret: Secret of tokens that are signed with HS256, at least 32 characters; empty for none.
        jwt_public_key_file: Public key (PEM) of tokens that are signed with RS256 or ES256, by its kind;
            read when the API starts.
        jwt_issuer: What tokens must say in `iss`; empty for anything.
        jwt_audience: What tokens must say in `aud`; empty for tokens without one.
        requests_per_minute: Rate limit of callers that have none of their own, 0 for none. Left out: 1000 where
            callers say who they are, none where they do not.
        limits_redis_url: Redis that several workers count in; empty counts in each worker by itself.
        workers: Workers that share a limit, as long as Redis has not told how many there are.
        cors_origins: Origins whose pages may ask, with commas between, or `*`.
        audit_log: File of the audit log; left out: `audit.log` in `data_dir`.
        infer_body_limit_bytes: Largest body of `/v2/models/.../infer` [byte].
        readings_body_limit_bytes: Largest body of `/readings` [byte].
        body_timeout_s: Longest time for a request's body to come in [s].
        request_timeout_s: Longest time from a request to the end of its reply [s].
    """

    # A refused setting may be a secret.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    security: Choice = "auto"
    keys_url: SecretStr = SecretStr("")
    jwt_secret: SecretStr = SecretStr("")
    jwt_public_key_file: Path | None = None
    jwt_issuer: str = ""
    jwt_audience: str = ""
    requests_per_minute: int | None = Field(default=None, ge=0)
    limits_redis_url: Annotated[str, Field(pattern=r"^$|^(redis|rediss|unix)://", repr=False)] = ""
    workers: int = Field(default=1, ge=1)
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    audit_log: Path | None = None
    infer_body_limit_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    readings_body_limit_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    body_timeout_s: float = Field(default=10.0, gt=0)
    request_timeout_s: float = Field(default=30.0, gt=0)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_sound_signature(self) -> Self:
        secret = self.jwt_secret.get_secret_value()
        if secret and self.jwt_public_key_file is not None:
            # Two algorithms at once is how a public key gets taken for a secret.
            raise ValueError("set TOWNCAST_JWT_SECRET or TOWNCAST_JWT_PUBLIC_KEY_FILE, not both")
        if secret and len(secret) < _SHORTEST_SECRET:
            raise ValueError(f"TOWNCAST_JWT_SECRET needs at least {_SHORTEST_SECRET} characters")
        return self

    @property
    def keys_address(self) -> str:
        """The database of the API keys."""
        return self.keys_url.get_secret_value() or f"sqlite:///{self.keys_file}"

    @property
    def keys_file(self) -> Path:
        """File of the API keys, where `keys_url` names no other database."""
        return self.data_dir / "keys.db"

    @property
    def audit_file(self) -> Path:
        """File of the audit log."""
        return self.audit_log or self.data_dir / "audit.log"


def is_loopback(host: str) -> bool:
    """Whether an address that is listened on is reached from this machine alone; a name that is no address is not."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    # An IPv4 address may come in the clothes of IPv6.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
