"""API keys: how one looks, and the database that they are kept in.

A key is `tc_<id>_<secret>`. The secret is 256 random bits, and only its SHA-256 is kept. A slow password hash would add
nothing: it makes guessing dear, and nobody guesses 256 random bits; but it would be paid at every request.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from features.errors import InvalidParameterError, StorageError, UnknownNameError
from features.registry import nearest_names
from serving.security.scopes import SCOPES

_PREFIX = "tc_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Callers that are no keys, see `Caller`.
_TAKEN_NAMES = frozenset({"loopback", "public"})

_TABLES = sql.MetaData()
_KEYS = sql.Table(
    "towncast_api_keys",
    _TABLES,
    sql.Column("key_id", sql.String(32), primary_key=True),
    sql.Column("name", sql.String(64), nullable=False, index=True),
    sql.Column("digest", sql.String(64), nullable=False),
    sql.Column("scopes", sql.String(200), nullable=False),
    sql.Column("requests_per_minute", sql.Integer),
    sql.Column("created_s", sql.BigInteger, nullable=False),
    sql.Column("expires_s", sql.BigInteger),
    sql.Column("revoked_s", sql.BigInteger),
    sql.Column("last_used_s", sql.BigInteger),
)
# One row that every change of a key raises by one, so that a look at it says whether there is anything to read.
_REVISION = sql.Table(
    "towncast_api_key_revision",
    _TABLES,
    sql.Column("one", sql.Integer, primary_key=True),
    sql.Column("revision", sql.BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        key_id: The part of the key that is no secret.
        name: Who it was made for.
        digest: SHA-256 of the secret, in hexadecimal digits.
        scopes: What it may do.
        requests_per_minute: Its own rate limit, 0 for none; None for the API's.
        created_s: When it was made [s since 1970].
        expires_s: When it ends by itself, if it does [s since 1970].
        revoked_s: When it was revoked, if it was [s since 1970].
        last_used_s: When it was last used, as far as it was written down [s since 1970].
    """

    key_id: str
    name: str
    digest: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None
    created_s: int
    expires_s: int | None = None
    revoked_s: int | None = None
    last_used_s: int | None = None

    def state(self, now_s: float) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_s is not None:
            return "revoked"
        return "expired" if self.expires_s is not None and self.expires_s <= now_s else "active"


def split_key(text: str) -> tuple[str, str] | None:
    """Id and secret of a key; None where it has not the form of one."""
    key_id, _, secret = text[len(_PREFIX) :].partition("_")
    return (key_id, secret) if text.startswith(_PREFIX) and key_id and secret else None


def digest_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyStore:
    """The database of the keys. The constructor opens nothing; methods block, so call them off the event loop.

    Args:
        url: Address as SQLAlchemy writes it, such as `sqlite:///var/keys.db`.
        clock: Seconds since 1970.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._opened: sql.Engine | None = None
        self._url = url

    def add(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        expires_s: int | None = None,
        requests_per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Returns:
            What is kept of it, and the key itself, which nobody can tell again.

        Raises:
            InvalidParameterError: The name cannot be one, or an active key has it; a scope is not known.
            StorageError: The database cannot be written.
        """
        wanted = frozenset(scopes)
        _check_name(name)
        _check_scopes(wanted)
        with self._writing() as connection:
            active = [key for key in self._read(connection) if key.state(self._clock()) == "active"]
            if any(key.name == name for key in active):
                raise _bad_name(
                    name,
                    "a name that no active key has",
                    "Rotate that key, or revoke it first.",
                    fact="An active key has this name",
                )
            return self._insert(
                connection,
                ApiKey(
                    key_id=secrets.token_hex(6),
                    name=name,
                    digest="",
                    scopes=wanted,
                    requests_per_minute=requests_per_minute,
                    created_s=int(self._clock()),
                    expires_s=expires_s,
                ),
            )

    def keys(self) -> list[ApiKey]:
        """All keys, the oldest first; none where there is no database yet.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            return [] if connection is None else self._read(connection)

    def revision(self) -> int:
        """A number that every change raises; 0 where there is no database yet.

        Raises:
            StorageError: The database cannot be read.
        """
        with self._reading() as connection:
            return 0 if connection is None else connection.scalar(sql.select(_REVISION.c.revision)) or 0

    def revoke(self, key_id: str) -> ApiKey:
        """End a key at once.

        Raises:
            UnknownNameError: There is no such key.
            StorageError: The database cannot be written.
        """
        with self._writing() as connection:
            key = self._find(connection, key_id)
            if key.revoked_s is None:
                now_s = int(self._clock())
                key = replace(key, revoked_s=now_s)
                self._change(connection, key, revoked_s=now_s)
            return key

    def rotate(self, key_id: str, *, overlap_s: int = 0) -> tuple[ApiKey, str]:
        """Make a key like another one, which ends.

        Args:
            key_id: The old key.
            overlap_s: How long the old one still holds [s]; 0 revokes it at once.

        Returns:
            As `add`.

        Raises:
            UnknownNameError: There is no such key.
            InvalidParameterError: It has ended already.
            StorageError: The database cannot be written.
        """
        now_s = int(self._clock())
        with self._writing() as connection:
            old = self._find(connection, key_id)
            if old.state(now_s) != "active":
                remedy = "Make a new one with: towncast keys add."
                raise InvalidParameterError(
                    parameter="key_id",
                    provided=key_id,
                    allowed="an active key",
                    fact="The key has ended",
                    remedy=remedy,
                )
            if overlap_s > 0:
                ends_s = now_s + overlap_s
                self._change(connection, old, expires_s=ends_s if old.expires_s is None else min(old.expires_s, ends_s))
            else:
                self._change(connection, old, revoked_s=now_s)
            return self._insert(
                connection, replace(old, key_id=secrets.token_hex(6), created_s=now_s, last_used_s=None)
            )

    def note_uses(self, last_used_s: Mapping[str, int]) -> None:
        """Write down when keys were last used, by id.

        Raises:
            StorageError: The database cannot be written.
        """
        if not last_used_s:
            return
        changed = (
            sql.update(_KEYS)
            .where(_KEYS.c.key_id == sql.bindparam("used"))
            .where(sql.func.coalesce(_KEYS.c.last_used_s, 0) < sql.bindparam("at_s"))
            .values(last_used_s=sql.bindparam("at_s"))
        )
        with _store_errors(), self._engine().begin() as connection:
            connection.execute(changed, [{"used": key_id, "at_s": at_s} for key_id, at_s in last_used_s.items()])

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.dispose()
            self._opened = None

    def _engine(self) -> sql.Engine:
        if self._opened is None:
            arguments: dict[str, Any] = {}
            if self._url.startswith("sqlite"):
                arguments = {"poolclass": sql.NullPool, "connect_args": {"timeout": 5.0}}
            elif self._url.startswith("postgresql"):
                arguments = {"pool_pre_ping": True, "pool_size": 1, "connect_args": {"connect_timeout": 5}}
            try:
                self._opened = sql.create_engine(self._url, **arguments)
            except (ArgumentError, NoSuchModuleError, ImportError) as error:
                # Not the address itself: a password may be in it.
                raise InvalidParameterError(
                    parameter="TOWNCAST_KEYS_URL",
                    provided=type(error).__name__,
                    allowed="an address as SQLAlchemy writes it, whose driver is installed",
                    fact="The address of the keys cannot be used",
                    remedy="Set TOWNCAST_KEYS_URL like postgresql+psycopg://user:password@host/database.",
                ) from error
        return self._opened

    @property
    def _file(self) -> Path | None:
        """The file of a SQLite database."""
        database = self._engine().url.database
        return Path(database) if database and self._url.startswith("sqlite") else None

    @contextmanager
    def _reading(self) -> Iterator[sql.Connection | None]:
        """A connection, or None where there is nothing yet: reading makes no file and no table."""
        with _store_errors():
            if self._file is not None and not self._file.exists():
                yield None
                return
            with self._engine().connect() as connection:
                yield connection if sql.inspect(connection).has_table(_REVISION.name) else None

    @contextmanager
    def _writing(self) -> Iterator[sql.Connection]:
        """A connection to tables that are there, in a transaction that raises the revision."""
        with _store_errors():
            if self._file is not None and not self._file.exists():
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch(mode=0o600)
            with self._engine().begin() as connection:
                _TABLES.create_all(connection)
                raised = sql.update(_REVISION).values(revision=_REVISION.c.revision + 1)
                # It takes the write lock as well, so that two names cannot be checked at once.
                if connection.execute(raised).rowcount == 0:
                    connection.execute(sql.insert(_REVISION).values(one=1, revision=1))
                yield connection

    def _insert(self, connection: sql.Connection, key: ApiKey) -> tuple[ApiKey, str]:
        secret = secrets.token_urlsafe(32)
        made = replace(key, digest=digest_of(secret))
        row = {column.name: getattr(made, column.name) for column in _KEYS.columns}
        connection.execute(sql.insert(_KEYS).values({**row, "scopes": " ".join(sorted(made.scopes))}))
        return made, f"{_PREFIX}{made.key_id}_{secret}"

    def _find(self, connection: sql.Connection, key_id: str) -> ApiKey:
        known = {key.key_id: key for key in self._read(connection)}
        if key_id not in known:
            near = [key.key_id for key in known.values() if key.name == key_id] or nearest_names(key_id, list(known))
            raise UnknownNameError(kind="API key", name=key_id, nearest=near, known=list(known))
        return known[key_id]

    def _change(self, connection: sql.Connection, key: ApiKey, **values: int) -> None:
        connection.execute(sql.update(_KEYS).where(_KEYS.c.key_id == key.key_id).values(**values))

    def _read(self, connection: sql.Connection) -> list[ApiKey]:
        rows = connection.execute(sql.select(_KEYS).order_by(_KEYS.c.created_s, _KEYS.c.key_id)).mappings()
        return [ApiKey(**{**row, "scopes": frozenset(row["scopes"].split())}) for row in rows]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _TAKEN_NAMES:
        allowed = "1 to 64 letters, digits, dots, underscores and hyphens, beginning with a letter or digit"
        raise _bad_name(name, allowed, "Choose another name.")


def _bad_name(
    name: str, allowed: str, remedy: str, *, fact: str = "The key cannot have this name"
) -> InvalidParameterError:
    return InvalidParameterError(parameter="name", provided=name, allowed=allowed, fact=fact, remedy=remedy)


def _check_scopes(scopes: frozenset[str]) -> None:
    unknown = sorted(scopes - SCOPES.keys())
    if unknown or not scopes:
        provided = unknown[0] if unknown else ""
        raise InvalidParameterError(
            parameter="scope",
            provided=provided,
            allowed=list(SCOPES),
            fact="The key cannot have this scope",
            remedy=f"Scopes are: {', '.join(SCOPES)}.",
            nearest=nearest_names(provided, list(SCOPES)),
        )


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn what a database can do to us into a `StorageError`, without its address."""
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        found = str(getattr(error, "orig", error)).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, IntegrityError):
            found = "another command wrote at the same moment"
        raise StorageError(
            "The database of the API keys cannot be used", found=found, remedy="See TOWNCAST_KEYS_URL, and try again."
        ) from error
