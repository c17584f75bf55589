"""The parts of security put together as the settings say, and around an app."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from serving.security.audit import AuditLog
from serving.security.exchange import Deadlines
from serving.security.gateway import BodyLimits, Gateway
from serving.security.guard import Guard
from serving.security.key_ring import REFRESH_S, KeyRing
from serving.security.keys import KeyStore
from serving.security.limits import Limits, MemoryLimits
from serving.security.settings import SecuritySettings, is_loopback
from serving.security.shared_limits import RedisLimits
from serving.security.tokens import open_tokens

_REQUESTS_PER_MINUTE = 1000
_SHOWN_HEADERS = ["X-Request-Id", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"]
_TAKEN_HEADERS = ["Authorization", "Content-Type", "X-API-Key", "X-Request-Id"]


class Security:
    """Who may ask an app, how much, and what is written about it. The constructor opens nothing.

    Args:
        settings: The environment.
        host: Address that the app listens on.
        refresh_s: Time between two looks at the keys [s].

    Raises:
        InvalidParameterError: The public key of the tokens, or an address, cannot be used.
    """

    def __init__(self, settings: SecuritySettings, *, host: str, refresh_s: float = REFRESH_S) -> None:
        self.settings = settings
        self.on = settings.security == "on" or (settings.security == "auto" and not is_loopback(host))
        given = settings.requests_per_minute
        requests_per_minute = given if given is not None else _REQUESTS_PER_MINUTE if self.on else 0
        self.keys: KeyRing | None = None
        tokens = None
        if self.on:
            store = KeyStore(settings.keys_address)
            self.keys = KeyRing(store, requests_per_minute=requests_per_minute, refresh_s=refresh_s)
            tokens = open_tokens(settings, requests_per_minute=requests_per_minute)
        self.guard = Guard(self.keys, tokens, open_requests_per_minute=requests_per_minute)
        self.limits: Limits = (
            RedisLimits(settings.limits_redis_url, workers=settings.workers)
            if settings.limits_redis_url
            else MemoryLimits()
        )
        self.audit_log = AuditLog(settings.audit_file)

    def install(
        self,
        app: FastAPI,
        *,
        body_limit_bytes: int,
        batch_body_limit_bytes: int,
        count_refusal: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Put the gateway around an app; call it after all other middleware was added.

        Args:
            app: The app.
            body_limit_bytes: Largest body, where nothing else is said [byte].
            batch_body_limit_bytes: Largest body of a batch [byte].
            count_refusal: Called with the reason of each refusal.
        """
        settings = self.settings
        app.add_middleware(
            Gateway,
            guard=self.guard,
            limits=self.limits,
            body_limits=BodyLimits(
                usual=body_limit_bytes,
                batch=batch_body_limit_bytes,
                infer=settings.infer_body_limit_bytes,
                readings=settings.readings_body_limit_bytes,
            ),
            deadlines=Deadlines(body_s=settings.body_timeout_s, request_s=settings.request_timeout_s),
            loopback_only=settings.security == "auto" and not self.on,
            count_refusal=count_refusal,
        )
        if settings.cors_origins:
            # Outside of the gateway: a page must be able to read its refusals, and cannot say who it is beforehand.
            app.add_middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=_TAKEN_HEADERS,
                expose_headers=_SHOWN_HEADERS,
            )

    async def start(self) -> None:
        """Read the keys, and open the audit log."""
        self.audit_log.open()
        if self.keys is not None:
            await self.keys.start()

    async def close(self) -> None:
        """Write what is to be written, and close all."""
        if self.keys is not None:
            await self.keys.close()
        await self.limits.close()
        self.audit_log.close()

    def states(self) -> dict[str, bool]:
        """What security leans on and whether it answers; nothing of it keeps the app from answering."""
        states = {} if self.keys is None else {"keys": self.keys.in_step}
        return states | ({"limits": self.limits.up} if isinstance(self.limits, RedisLimits) else {})
