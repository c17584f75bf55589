"""Which sites' histories were written to the online store since: asked often, so that it alone need not be read."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from features.errors import StorageError

if TYPE_CHECKING:
    from redis import Redis

_BUSY_S = 5.0
# Numbers begin with the time of the first write [ms since 1970]: those of a store that was made anew are higher, too.
_TELL = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  local now = redis.call('TIME')
  redis.call('SET', KEYS[1], string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)))
end
local number = redis.call('INCR', KEYS[1])
for _, site in ipairs(ARGV) do redis.call('ZADD', KEYS[2], number, site) end
return number
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer.

    Attributes:
        number: To be given at the next question.
        sites: Those that were written since; None where that is not known, so that all are to be read.
    """

    number: int
    sites: frozenset[str] | None


class OnlineNews(Protocol):
    """Numbers the writes to the online store of one domain."""

    def tell(self, sites: Iterable[str]) -> None:
        """Say that these sites were written; only once they were.

        Raises:
            StorageError: It cannot be written.
        """

    def since(self, number: int) -> Told:
        """Which sites were written since an earlier answer; a number below 0 knows of none.

        Raises:
            StorageError: It cannot be read.
        """


class SqliteNews:
    """In an SQLite file beside the online store; made at the first word.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, sites: Iterable[str]) -> None:
        """Say that these sites were written."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            (last,) = connection.execute("SELECT max(number) FROM news").fetchone()
            number = (last or time.time_ns() // 1_000_000) + 1
            connection.executemany(
                "INSERT INTO news VALUES (?, ?) ON CONFLICT (site) DO UPDATE SET number = excluded.number",
                [(site, number) for site in sites],
            )
            connection.execute("COMMIT")

    def since(self, number: int) -> Told:
        """Which sites were written since."""
        if not self._path.exists():
            return Told(number=0, sites=frozenset() if number == 0 else None)
        with self._open() as connection:
            rows = connection.execute("SELECT site, number FROM news WHERE number >= ?", [number]).fetchall()
        last = max((row[1] for row in rows), default=0)
        # Numbers that end below ours are another file's: this one was made anew.
        known = number >= 0 and last >= number
        return Told(number=last, sites=frozenset(site for site, at in rows if at > number) if known else None)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)) as connection:
                # After a loss of power all is read anew anyway.
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("CREATE TABLE IF NOT EXISTS news (site TEXT PRIMARY KEY, number INTEGER NOT NULL)")
                connection.execute("CREATE INDEX IF NOT EXISTS by_number ON news (number)")
                yield connection
        except sqlite3.Error as error:
            raise StorageError(
                "The news of the online store cannot be read or written",
                found=f"{self._path}: {error}",
                remedy="See whether the disk is full or another process hangs, then try again.",
            ) from error


class RedisNews:
    """In the Redis that holds the online store.

    Args:
        url: Where it is.
        domain: Name of the domain.
    """

    def __init__(self, url: str, domain: str) -> None:
        self._url = url
        self._counter, self._sites = f"towncast:news:{domain}:number", f"towncast:news:{domain}:sites"
        self._opened: Redis | None = None

    @property
    def _client(self) -> Redis:
        if self._opened is None:
            from redis import Redis

            self._opened = Redis.from_url(self._url, decode_responses=True, socket_timeout=_BUSY_S)
        return self._opened

    def tell(self, sites: Iterable[str]) -> None:
        """Say that these sites were written."""
        with redis_errors():
            self._client.eval(_TELL, 2, self._counter, self._sites, *sites)

    def since(self, number: int) -> Told:
        """Which sites were written since."""
        with redis_errors(), self._client.pipeline(transaction=True) as asked:
            asked.get(self._counter)
            asked.zrangebyscore(self._sites, f"({max(number, 0)}", "+inf")
            last, sites = asked.execute()
        latest = int(last or 0)
        return Told(number=latest, sites=frozenset(sites) if 0 <= number <= latest else None)


@contextlib.contextmanager
def redis_errors() -> Iterator[None]:
    """Turn what goes wrong with Redis into a `StorageError`.

    Raises:
        StorageError: Redis does not answer, or refuses.
    """
    import redis.exceptions

    try:
        yield
    except (redis.exceptions.RedisError, OSError) as error:
        raise StorageError(
            "The online store in Redis does not answer",
            found=str(error) or type(error).__name__,
            remedy="Start Redis, or correct TOWNCAST_ONLINE_STORE_URL.",
        ) from error
