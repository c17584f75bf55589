"""Who asks, and whether they may."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from hmac import compare_digest

from serving.request_context import Caller
from serving.security.errors import ForbiddenError, UnauthorizedError
from serving.security.key_ring import KeyRing
from serving.security.keys import split_key
from serving.security.scopes import ADMIN, ALL_SCOPES, PUBLIC
from serving.security.tokens import TokenReader

_LONGEST_KEY = 256
_SEND_ONE = "Send X-API-Key: <key>, or Authorization: Bearer <key or token>."
_NEW_KEY = "Ask for a new one; keys are made with `towncast keys add`."
# Compared with where there is no such key, so that the time taken does not tell which ids there are.
_NO_DIGEST = bytes(32)


class Guard:
    """Finds out who asks by their key or token.

    Args:
        keys: The API keys; None lets everybody in, as `loopback` with all scopes.
        tokens: What verifies tokens; None where none are accepted.
        open_requests_per_minute: Rate limit of each address where nobody must say who they are, 0 for none.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        keys: KeyRing | None,
        tokens: TokenReader | None = None,
        *,
        open_requests_per_minute: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._anybody = Caller(name="loopback", scopes=ALL_SCOPES, requests_per_minute=open_requests_per_minute)

    @property
    def asks(self) -> bool:
        """Whether callers must say who they are."""
        return self._keys is not None

    def admit(self, headers: Iterable[tuple[bytes, bytes]], *, scope: str) -> Caller:
        """Who asks, if they may.

        Args:
            headers: The request's, with lower-case names.
            scope: What they need; `public` for nothing.

        Raises:
            UnauthorizedError: They do not say who they are, or it is not so.
            ForbiddenError: They may not do this.
            StorageError: The keys could not be read yet.
        """
        api_key = authorization = None
        for name, value in headers:
            if name == b"x-api-key":
                # A second one is not chosen from: what stands before us may have looked at the other.
                api_key = value if api_key is None else b""
            elif name == b"authorization":
                authorization = value if authorization is None else b""
        return self.admit_one(api_key, authorization, scope=scope)

    def admit_one(self, api_key: bytes | None, authorization: bytes | None, *, scope: str) -> Caller:
        """As `admit`, of the two headers that matter; the key goes first."""
        if self._keys is None or scope == PUBLIC:
            return self._anybody
        if api_key is not None:
            caller = self._by_key(_text(api_key))
        elif authorization is not None:
            kind, _, credentials = authorization.partition(b" ")
            if kind.lower() != b"bearer":
                raise UnauthorizedError("The credentials are no bearer token", reason="malformed", remedy=_SEND_ONE)
            caller = self.by_bearer(_text(credentials.strip()))
        else:
            raise UnauthorizedError("Nobody says who asks", reason="missing", remedy=_SEND_ONE)
        if scope not in caller.scopes and ADMIN not in caller.scopes:
            raise ForbiddenError(scope, caller=caller)
        return caller

    def by_bearer(self, credentials: str) -> Caller:
        """Who a key or token is of.

        Raises:
            UnauthorizedError: It is not valid.
            StorageError: The keys could not be read yet.
        """
        if self._tokens is None or split_key(credentials) is not None:
            return self._by_key(credentials)
        return self._tokens.read(credentials)

    def _by_key(self, text: str) -> Caller:
        assert self._keys is not None
        parts = split_key(text) if len(text) <= _LONGEST_KEY else None
        if parts is None:
            raise UnauthorizedError("This is no API key", reason="malformed", remedy=_SEND_ONE)
        key_id, secret = parts
        held = self._keys.find(key_id)
        same = compare_digest(hashlib.sha256(secret.encode()).digest(), _NO_DIGEST if held is None else held.digest)
        if held is None or not same:
            raise UnauthorizedError("The API key is not known", reason="unknown", remedy=_NEW_KEY)
        # Only who has the secret is told what became of the key.
        key, now_s = held.key, self._clock()
        if key.revoked_s is not None:
            raise UnauthorizedError("The API key was revoked", reason="revoked", remedy=_NEW_KEY)
        if key.expires_s is not None and key.expires_s <= now_s:
            raise UnauthorizedError("The API key has expired", reason="expired", remedy=_NEW_KEY)
        held.last_used_s = now_s
        return held.caller


def _text(value: bytes) -> str:
    # Whatever bytes come: what is no ASCII is no key.
    return value.decode("latin-1")
