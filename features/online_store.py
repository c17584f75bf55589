"""Feast's online store of one domain: whole histories in and out, by its own SQLite or Redis store."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from features.errors import InvalidParameterError, StorageError
from features.online_history import OnlineHistory
from features.online_news import OnlineNews, RedisNews, SqliteNews, redis_errors
from features.vocabulary import Domain

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

# Histories travel as bytes: Feast's way through Arrow turns a missing value inside a list into 0, and bytes are faster.
BLOB = np.dtype("<f4")
_UNTIL = "valid_until_s"


def online_store_config(url: str, *, folder: Path) -> dict[str, Any]:
    """What Feast wants to know of the online store: Redis at a URL, or SQLite in a folder where that is empty.

    Raises:
        InvalidParameterError: The URL is not one of Redis.
    """
    if not url:
        return {"type": "sqlite", "path": str(folder / "online.db")}
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise InvalidParameterError(
            parameter="TOWNCAST_ONLINE_STORE_URL",
            provided=f"{parts.scheme}://...",
            allowed="redis://HOST:PORT/NUMBER or rediss://...",
            fact="The address of the online store cannot be used",
            remedy="Write it like redis://localhost:6379/0, or leave it empty for SQLite.",
        )
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    number = parts.path.strip("/") or "0"
    options |= {"db": number, "socket_timeout": "5", "socket_connect_timeout": "2"} | options
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    for name, given in (("username", parts.username), ("password", parts.password)):
        if given:
            # In quotes, for Feast reads each value as JSON where it can.
            options[name] = f'"{unquote(given)}"'
    words = [f"{parts.hostname}:{parts.port or 6379}", *(f"{name}={value}" for name, value in options.items())]
    return {"type": "redis", "connection_string": ",".join(words)}


def open_news(url: str, domain: str, *, folder: Path) -> OnlineNews:
    """Where the writes to the online store of a domain are told."""
    return RedisNews(url, domain) if url else SqliteNews(folder / "news.db")


class OnlineStore:
    """Histories of one domain's sites in Feast's online store.

    Feast's provider is asked directly, not by way of its feature service and data frames: those cost ten times as much.

    Args:
        domain: Whose histories these are.
        store: Feast's.
        view: Name of the feature view.
    """

    def __init__(self, domain: Domain, store: FeatureStore, view: str) -> None:
        self.domain = domain
        self._store = store
        self._name = view

    @functools.cached_property
    def _view(self) -> FeatureView:
        return self._store.get_feature_view(self._name)

    @functools.cached_property
    def _provider(self) -> Any:
        from feast.infra.provider import get_provider

        return get_provider(self._store.config)

    def write(self, histories: Mapping[str, OnlineHistory], *, written_at: datetime) -> None:
        """Put histories in the place of the sites' earlier ones.

        Raises:
            StorageError: The store does not answer.
        """
        from feast.protos.feast.types.Value_pb2 import Value

        rows = [
            (
                _entity(site),
                {
                    **{name: Value(bytes_val=blob) for name, blob in blobs_of(self.domain, history).items()},
                    _UNTIL: Value(int64_val=history.valid_until_s),
                },
                written_at,
                written_at,
            )
            for site, history in histories.items()
        ]
        with self._errors():
            self._provider.online_write_batch(self._store.config, self._view, rows, None)

    def read(self, sites: Sequence[str]) -> dict[str, OnlineHistory]:
        """The histories of some sites; those that the store does not know are left out.

        Raises:
            StorageError: The store does not answer.
        """
        if not sites:
            return {}
        names = [*(quantity.name for quantity in self.domain.inputs), _UNTIL]
        with self._errors():
            rows = self._provider.online_read(self._store.config, self._view, [_entity(site) for site in sites], names)
        found = {}
        for site, (_, values) in zip(sites, rows, strict=True):
            if values and values[_UNTIL].WhichOneof("val") == "int64_val":
                found[site] = self._history(values)
        return found

    def _history(self, values: Mapping[str, Any]) -> OnlineHistory:
        steps = self.domain.history_steps + self.domain.horizon_steps
        value_TK = np.full((steps, len(self.domain.inputs)), np.nan, dtype=np.float32)
        for channel, quantity in enumerate(self.domain.inputs):
            array = np.frombuffer(values[quantity.name].bytes_val, dtype=BLOB)
            value_TK[: len(array), channel] = array
        return OnlineHistory(valid_until_s=int(values[_UNTIL].int64_val), value_TK=value_TK)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with redis_errors():
                yield
        except sqlite3.Error as error:
            raise StorageError(
                "The online store cannot be read or written",
                found=str(error),
                remedy="See whether the disk is full or another process hangs, then try again.",
            ) from error


def stored_steps(domain: Domain, quantity: str) -> int:
    """How much of a quantity the online store holds: its history, and what is known ahead of it."""
    return domain.history_steps + (domain.horizon_steps if quantity in domain.known_ahead else 0)


def blobs_of(domain: Domain, history: OnlineHistory) -> dict[str, bytes]:
    """A history as the online store holds it: the bytes of each input."""
    return {
        quantity.name: history.value_TK[: stored_steps(domain, quantity.name), channel].astype(BLOB).tobytes()
        for channel, quantity in enumerate(domain.inputs)
    }


def _entity(site: str) -> Any:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return EntityKey(join_keys=["site"], entity_values=[Value(string_val=site)])
