"""Who is admitted: by keys and by tokens, and what is told to who is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from features.errors import InvalidParameterError, StorageError
from serving.security.errors import ForbiddenError, UnauthorizedError
from serving.security.guard import Guard
from serving.security.key_ring import KeyRing
from serving.security.keys import KeyStore
from serving.security.scopes import ADMIN, ALL_SCOPES, PUBLIC, needed_scope
from serving.security.settings import SecuritySettings, is_loopback
from serving.security.tokens import TokenReader, open_tokens

SECRET = "a secret of the tests, 32 characters or more"
NOW_S = 1770368400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[KeyStore]:
    with closing(KeyStore(f"sqlite:///{tmp_path}/keys.db", clock=clock)) as opened:
        yield opened


@pytest.fixture
def guard_of(store: KeyStore, clock: Clock) -> Callable[..., Guard]:
    """Makes a guard of the keys that there are now."""

    def make(tokens: TokenReader | None = None) -> Guard:
        ring = KeyRing(store, requests_per_minute=1000, clock=clock)
        asyncio.run(ring._refresh())
        return Guard(ring, tokens, clock=clock)

    return make


def refusal(guard: Guard, *headers: tuple[bytes, bytes], scope: str = "predict") -> str:
    """Why a request is not admitted."""
    with pytest.raises(UnauthorizedError) as refused:
        guard.admit(headers, scope=scope)
    return refused.value.reason


def test_a_key_is_taken_from_either_header(store: KeyStore, guard_of: Callable[..., Guard]) -> None:
    _, key = store.add("shop", ["predict"], requests_per_minute=7)
    guard = guard_of()
    for header in ((b"x-api-key", key.encode()), (b"authorization", b"bearer  " + key.encode())):
        caller = guard.admit([(b"host", b"town"), header], scope="predict")
        assert (caller.name, caller.scopes, caller.requests_per_minute) == ("shop", {"predict"}, 7)
    _, usual = store.add("usual", ["predict"])
    assert guard_of().admit([(b"x-api-key", usual.encode())], scope="predict").requests_per_minute == 1000


def test_a_scope_that_is_lacking_is_forbidden_and_admin_has_all(
    store: KeyStore, guard_of: Callable[..., Guard]
) -> None:
    _, key = store.add("shop", ["predict"])
    _, admin = store.add("boss", [ADMIN])
    guard = guard_of()
    with pytest.raises(ForbiddenError, match="needs the scope data"):
        guard.admit([(b"x-api-key", key.encode())], scope="data")
    for scope in ALL_SCOPES:
        assert guard.admit([(b"x-api-key", admin.encode())], scope=scope).name == "boss"


def test_what_is_no_valid_key_is_refused_with_its_reason(
    store: KeyStore, guard_of: Callable[..., Guard], clock: Clock
) -> None:
    kept, key = store.add("shop", ["predict"], expires_s=int(NOW_S) + 60)
    gone, revoked = store.add("gone", ["predict"])
    store.revoke(gone.key_id)
    guard = guard_of()
    sent = {
        "missing": [],
        "malformed": [
            b"",
            b"tc_",
            b"tc__x",
            b"nothing",
            b"\xff\xfe\x00",
            b"tc_" + b"x" * 10000,
        ],
        "unknown": [
            b"tc_000000000000_" + b"x" * 43,
            key[:-1].encode() + b"!",
            key.encode() + b"x",
            f"tc_{kept.key_id}_{revoked[16:]}".encode(),
            f"tc_{kept.key_id}_{kept.digest}".encode(),
            f"tc_{gone.key_id}_wrong".encode(),
        ],
        "revoked": [revoked.encode()],
    }
    assert refusal(guard) == "missing"
    for reason, values in sent.items():
        for value in values:
            assert refusal(guard, (b"x-api-key", value)) == reason, value
    assert refusal(guard, (b"authorization", b"Basic " + key.encode())) == "malformed"
    assert refusal(guard, (b"x-api-key", key.encode()), (b"x-api-key", key.encode())) == "malformed"
    assert guard.admit([(b"x-api-key", key.encode())], scope="predict").name == "shop"
    clock.now_s += 60
    assert refusal(guard, (b"x-api-key", key.encode())) == "expired"


def test_without_keys_everybody_may_do_all(clock: Clock) -> None:
    guard = Guard(None, open_requests_per_minute=5)
    for scope in (*ALL_SCOPES, PUBLIC):
        caller = guard.admit([(b"x-api-key", b"nonsense")], scope=scope)
        assert (caller.name, caller.scopes, caller.requests_per_minute) == ("loopback", ALL_SCOPES, 5)


def test_a_ring_that_cannot_read_goes_on_as_it_was_and_forgets_no_revocation(
    store: KeyStore, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, _ = store.add("shop", ["predict"])
    gone, _ = store.add("gone", ["predict"])
    store.revoke(gone.key_id)
    ring = KeyRing(store, requests_per_minute=0, clock=clock)
    asyncio.run(ring._refresh())
    path, away = tmp_path / "keys.db", tmp_path / "away.db"
    damage: dict[str, Callable[[], object]] = {
        "gone": lambda: None,
        "no database": lambda: path.write_text("x" * 4096),
        "empty": lambda: path.write_bytes(b""),
    }
    for damaged in damage.values():
        path.rename(away)
        damaged()
        asyncio.run(ring._refresh())
        assert not ring.in_step
        for key_id, revoked in ((kept.key_id, False), (gone.key_id, True)):
            held = ring.find(key_id)
            assert held is not None
            assert (held.key.revoked_s is not None) is revoked
        away.replace(path)
        asyncio.run(ring._refresh())
        assert ring.in_step
    store.revoke(kept.key_id)
    asyncio.run(ring._refresh())
    held = ring.find(kept.key_id)
    assert held is not None
    assert held.key.revoked_s == int(NOW_S)
    # Once each time it begins and ends, not at every look.
    assert len(caplog.records) == 6


def test_keys_that_could_never_be_read_are_no_unknown_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_text("x" * 4096)
    ring = KeyRing(KeyStore(f"sqlite:///{tmp_path}/keys.db"), requests_per_minute=0)
    asyncio.run(ring._refresh())
    with pytest.raises(StorageError):
        Guard(ring).admit([(b"x-api-key", b"tc_000000000000_x")], scope="predict")


def test_the_last_use_is_written_down(store: KeyStore, clock: Clock) -> None:
    _, key = store.add("shop", ["predict"])
    ring = KeyRing(store, requests_per_minute=0, clock=clock)
    asyncio.run(ring._refresh())
    clock.now_s += 1
    Guard(ring, clock=clock).admit([(b"x-api-key", key.encode())], scope="predict")
    asyncio.run(ring._refresh())
    assert store.keys()[0].last_used_s is None
    clock.now_s += 60
    asyncio.run(ring._refresh())
    assert store.keys()[0].last_used_s == int(NOW_S) + 1


def token_of(claims: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256") -> str:
    usual = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "predict data dance"}
    given = {name: value for name, value in {**usual, **(claims or {})}.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm)


def by_token(guard: Guard, token: str, *, scope: str = "predict") -> Any:
    return guard.admit([(b"authorization", b"Bearer " + token.encode())], scope=scope)


@pytest.fixture
def with_tokens(guard_of: Callable[..., Guard]) -> Guard:
    return guard_of(TokenReader(SECRET, "HS256", issuer="town", audience="towncast", requests_per_minute=9))


SOUND = {"iss": "town", "aud": "towncast"}


def test_a_sound_token_is_admitted_with_the_scopes_that_there_are(with_tokens: Guard) -> None:
    for _ in range(2):
        caller = by_token(with_tokens, token_of(SOUND))
        assert (caller.name, caller.scopes, caller.requests_per_minute) == ("token:alice", {"predict", "data"}, 9)
    listed = token_of({**SOUND, "scope": None, "scopes": ["data", 5, {}]})
    assert by_token(with_tokens, listed, scope="data").scopes == {"data"}
    with pytest.raises(ForbiddenError):
        by_token(with_tokens, token_of(SOUND), scope="admin")
    with pytest.raises(ForbiddenError):
        by_token(with_tokens, token_of({**SOUND, "scope": {"predict": 1}}))


def test_a_key_is_still_a_key_where_tokens_are_accepted(store: KeyStore, guard_of: Callable[..., Guard]) -> None:
    _, key = store.add("shop", ["predict"])
    guard = guard_of(TokenReader(SECRET, "HS256", requests_per_minute=9))
    assert by_token(guard, key).name == "shop"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": 1770000000}, "expired"),
        ({"exp": None}, "malformed"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": 1e400}, "malformed"),
        ({"exp": 10**400}, "malformed"),
        ({"sub": None}, "malformed"),
        ({"sub": ""}, "malformed"),
        ({"sub": "a\nb"}, "malformed"),
        ({"sub": "x" * 200}, "malformed"),
        ({"iss": "elsewhere"}, "malformed"),
        ({"iss": None}, "malformed"),
        ({"aud": "elsewhere"}, "malformed"),
        ({"aud": None}, "malformed"),
        ({"nbf": 4000000000}, "malformed"),
    ],
)
def test_a_token_that_says_what_we_do_not_accept_is_refused(
    with_tokens: Guard, claims: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnauthorizedError) as refused:
        by_token(with_tokens, token_of(SOUND | claims))
    assert refused.value.reason == reason


def test_forged_tokens_are_refused(with_tokens: Guard) -> None:
    head, claims, signature = token_of(SOUND).split(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    more = base64.urlsafe_b64encode(b'{"sub":"alice","exp":4000000000,"scope":"admin"}').rstrip(b"=").decode()
    forged = [
        f"{unsigned}.{claims}.",
        f"{unsigned}.{claims}.{signature}",
        f"{head}.{more}.{signature}",
        f"{head}.{claims}.{signature[::-1]}",
        token_of(SOUND, key="another secret of at least 32 characters"),
        jwt.encode({"sub": "alice"}, SECRET * 2, algorithm="HS512"),
    ]
    for token in forged:
        with pytest.raises(UnauthorizedError):
            by_token(with_tokens, token)
    for token in ("", ".", "..", "a.b.c", "é.é.é", "x" * 9000, f"{head}.{claims}"):
        with pytest.raises(UnauthorizedError) as refused:
            by_token(with_tokens, token)
        assert refused.value.reason == "malformed"


def test_a_kept_token_ends_when_it_ends(guard_of: Callable[..., Guard]) -> None:
    later = Clock()
    later.now_s = time.time()
    guard = guard_of(TokenReader(SECRET, "HS256", requests_per_minute=0, clock=later))
    token = token_of()
    assert by_token(guard, token).name == "token:alice"
    later.now_s += 611
    with pytest.raises(UnauthorizedError) as refused:
        by_token(guard, token)
    assert refused.value.reason == "expired"


def test_no_more_tokens_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.security.tokens._KEPT_TOKENS", 3)
    reader = TokenReader(SECRET, "HS256", requests_per_minute=0)
    for number in range(10):
        assert reader.read(token_of({"sub": f"s{number}"})).name == f"token:s{number}"
    assert len(reader._kept) == 3


@pytest.mark.parametrize(("algorithm", "make"), [("RS256", "rsa"), ("ES256", "ec")])
def test_public_keys_verify_and_are_no_secrets(
    tmp_path: Path, guard_of: Callable[..., Guard], algorithm: str, make: str
) -> None:
    private: Any = rsa.generate_private_key(65537, 2048) if make == "rsa" else ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    path = tmp_path / "public.pem"
    path.write_bytes(public)
    settings = SecuritySettings(jwt_public_key_file=path)
    guard = guard_of(open_tokens(settings, requests_per_minute=0))
    assert by_token(guard, token_of(key=private, algorithm=algorithm)).name == "token:alice"
    # The confusion of RS256 and HS256: signed with the public key as if it were a secret.
    head, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": "alice", "exp": 4000000000, "scope": "admin"})
    )
    signature = base64.urlsafe_b64encode(hmac.digest(public, head + b"." + claims, hashlib.sha256)).rstrip(b"=")
    for token in ((head + b"." + claims + b"." + signature).decode(), token_of()):
        with pytest.raises(UnauthorizedError) as refused:
            by_token(guard, token, scope="admin")
        assert refused.value.reason == "forged"


def test_settings_that_are_not_safe_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(ValidationError, match="not both"):
        SecuritySettings(jwt_secret=SECRET, jwt_public_key_file=path)
    with pytest.raises(ValidationError, match="32 characters") as refused:
        SecuritySettings(jwt_secret="hidden-secret")
    assert "hidden-secret" not in str(refused.value)
    small: Any = rsa.generate_private_key(65537, 1024).public_key()
    pem = small.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for content in (b"no key", pem):
        path.write_bytes(content)
        with pytest.raises(InvalidParameterError, match="2048 bits"):
            open_tokens(SecuritySettings(jwt_public_key_file=path), requests_per_minute=0)
    assert open_tokens(SecuritySettings(), requests_per_minute=0) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("town.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/predict/traffic", "predict"),
        ("/predict/traffic/batch", "predict"),
        ("/v1/predict/traffic", "predict"),
        ("/predict/traffic/", "predict"),
        ("/v2", "predict"),
        ("/v2/models/towncast-traffic/versions/3/infer", "predict"),
        ("/v2/health/ready", PUBLIC),
        ("/health/live", PUBLIC),
        ("/data/pollution", "data"),
        ("/ws", "data"),
        ("/v1/ws", "data"),
        ("/readings", "readings"),
        ("/v1/readings/", "readings"),
        ("/simulate/state/123", "sessions"),
        ("/metrics", "metrics"),
        ("/docs", PUBLIC),
        ("/openapi.json", PUBLIC),
        ("/dashboard", PUBLIC),
        ("/dashboard/assets/page.js", PUBLIC),
        ("/monitoring", PUBLIC),
        ("/monitoring/", PUBLIC),
        ("/monitoring/water", "data"),
        ("/v1/monitoring/water/sites/a/b", "data"),
        ("/releases", ADMIN),
        ("/v1/releases", ADMIN),
        ("/", ADMIN),
        ("", ADMIN),
        ("/v1", ADMIN),
        ("//health/live", ADMIN),
        ("/healthy", ADMIN),
        ("/Health/live", ADMIN),
        ("/metrics/all", ADMIN),
        ("/openapi.json.bak", ADMIN),
        ("/v1/v1/predict/traffic", ADMIN),
        ("/dashboards", ADMIN),
    ],
)
def test_each_path_needs_what_the_table_says_and_any_other_needs_admin(path: str, scope: str) -> None:
    assert needed_scope(path) == scope
