"""JSON Web Tokens that somebody else signs: verified here, never made."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from features.errors import InvalidParameterError
from serving.request_context import Caller
from serving.security.errors import UnauthorizedError
from serving.security.scopes import ALL_SCOPES
from serving.security.settings import SecuritySettings

_LONGEST_TOKEN = 8192
_LONGEST_SUBJECT = 128
_KEPT_TOKENS = 4096
# Clocks of two machines differ by a little.
_LEEWAY_S = 10.0
_SMALLEST_RSA_BITS = 2048
_NEW_TOKEN = "Get a new token from who gave you this one."


class TokenReader:
    """Verifies tokens with one key and the one algorithm that goes with it.

    A verified token is kept by its hash until it ends, so that its signature is computed once. It cannot be revoked:
    let tokens end soon.

    Args:
        key: A secret, or a public key.
        algorithm: `HS256`, `RS256` or `ES256`; what the token itself says is never followed.
        issuer: What tokens must say in `iss`; empty for anything.
        audience: What tokens must say in `aud`; empty for tokens without one.
        requests_per_minute: Rate limit of each subject, 0 for none.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        key: Any,
        algorithm: str,
        *,
        issuer: str = "",
        audience: str = "",
        requests_per_minute: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.algorithm = algorithm
        self._key = key
        self._issuer = issuer or None
        self._audience = audience or None
        self._requests_per_minute = requests_per_minute
        self._clock = clock
        self._kept: dict[bytes, tuple[float, Caller]] = {}

    def read(self, token: str) -> Caller:
        """Who a token is of.

        Raises:
            UnauthorizedError: It is not one, has ended, or is not signed by whom we trust.
        """
        # Checked for size first, or hashing would be work that anybody can order.
        if len(token) > _LONGEST_TOKEN:
            raise UnauthorizedError("The token is too long", reason="malformed", remedy=_NEW_TOKEN)
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        kept = self._kept.get(digest)
        if kept is None:
            kept = self._verified(token)
            if len(self._kept) >= _KEPT_TOKENS:
                del self._kept[next(iter(self._kept))]
            self._kept[digest] = kept
        ends_s, caller = kept
        if ends_s <= self._clock():
            del self._kept[digest]
            raise _expired()
        return caller

    def _verified(self, token: str) -> tuple[float, Caller]:
        """When the token ends [s since 1970], and who it is of."""
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "sub"]},
            )
            ends_s = float(claims["exp"]) + _LEEWAY_S
        except jwt.ExpiredSignatureError as error:
            raise _expired() from error
        except jwt.MissingRequiredClaimError as error:
            fact = f"The token lacks the claim {error.claim}"
            raise UnauthorizedError(fact, reason="malformed", remedy=_NEW_TOKEN) from error
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError) as error:
            fact = "The token is not signed by whom this API trusts"
            raise UnauthorizedError(fact, reason="forged", remedy=_NEW_TOKEN) from error
        # Odd claims end in errors that PyJWT does not foresee: a number too large, a key that is no text.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            fact = "The token is none that this API accepts"
            raise UnauthorizedError(fact, reason="malformed", remedy=_NEW_TOKEN) from error
        subject = str(claims["sub"])
        if not 0 < len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
            raise UnauthorizedError("The token's subject is no name", reason="malformed", remedy=_NEW_TOKEN)
        # The prefix keeps a subject from passing for a key of the same name.
        name = f"token:{subject}"
        return ends_s, Caller(name=name, scopes=_scopes(claims), requests_per_minute=self._requests_per_minute)


def open_tokens(settings: SecuritySettings, *, requests_per_minute: int) -> TokenReader | None:
    """What verifies the tokens that the settings describe; None where they describe none.

    Raises:
        InvalidParameterError: The file holds no public key of a kind that is used.
    """
    key: Any = settings.jwt_secret.get_secret_value()
    algorithm = "HS256"
    if settings.jwt_public_key_file is not None:
        key, algorithm = _public_key(settings.jwt_public_key_file)
    if not key:
        return None
    return TokenReader(
        key,
        algorithm,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        requests_per_minute=requests_per_minute,
    )


def _public_key(path: Path) -> tuple[Any, str]:
    """The key of a file, and the algorithm that goes with its kind."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_public_key(path, str(error)) from error
    if isinstance(key, RSAPublicKey) and key.key_size >= _SMALLEST_RSA_BITS:
        return key, "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256"
    raise _no_public_key(path, type(key).__name__)


def _no_public_key(path: Path, found: str) -> InvalidParameterError:
    return InvalidParameterError(
        parameter="TOWNCAST_JWT_PUBLIC_KEY_FILE",
        provided=f"{path}: {found}",
        allowed="a PEM file of an RSA key of at least 2048 bits, or of a P-256 key",
        fact="The public key of the tokens cannot be used",
        remedy="Give the public key of who signs the tokens, as PEM: RSA of at least 2048 bits, or P-256.",
    )


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """What a token allows, of what there is to allow."""
    given = claims.get("scope", claims.get("scopes", ""))
    names = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    return ALL_SCOPES.intersection(name for name in names if isinstance(name, str))


def _expired() -> UnauthorizedError:
    return UnauthorizedError("The token has expired", reason="expired", remedy=_NEW_TOKEN)
