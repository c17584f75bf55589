"""One limit over several workers, counted in Redis by shares: a request in a hundred asks Redis, and few wait for it.

Each worker takes a fiftieth of a caller's minute at a time, by one script that runs as a whole, and hands it out from
memory; the next share is fetched when half of the last is left. At the beginning of a minute a worker hands out one
share in advance, and enters it with its first fetch. So all workers together exceed a limit by at most one share each,
and where they are uneven some of a limit may be left in the shares of those that are asked less.

Where Redis does not answer, a worker hands out its part of what was left by itself (at a minute's beginning the limit
over the number of workers), and enters what was used when Redis is back. If Redis lost its counts, at most the rest of
that minute is counted anew. The clocks of the workers' machines should agree to
well within a minute.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serving.redis_address import unreadable_address
from serving.security.limits import ASK, MINUTE_S, NONE_LEFT

_LOG = logging.getLogger(__name__)
_SHARES = 50
# Longest wait of a request for a share, and time between two tries while Redis is away [s].
_TIMEOUT_S = 0.25
_RETRY_S = 1.0
_COUNTER, _WORKERS = "towncast:limit:", "towncast:limit-workers"
# Keys: the count of a caller's minute, and the workers that count. Arguments: requests wanted, requests already handed
# out, limit, name of the worker, now. Answers: requests given, the count, number of workers of the last two minutes.
_SCRIPT = """
local used = tonumber(redis.call('GET', KEYS[1]) or '0') + tonumber(ARGV[2])
local given = math.max(0, math.min(tonumber(ARGV[1]), tonumber(ARGV[3]) - used))
redis.call('SET', KEYS[1], string.format('%.0f', used + given), 'EX', 180)
redis.call('ZADD', KEYS[2], ARGV[5], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5] - 120)
redis.call('EXPIRE', KEYS[2], 300)
return {given, used + given, redis.call('ZCARD', KEYS[2])}
"""


class _Share:
    """What this worker may hand out of one caller's minute."""

    __slots__ = ("counted", "ended", "entered", "fetching", "granted", "limit", "used")

    def __init__(self, limit: int, advance: int) -> None:
        self.limit = limit
        self.used = 0
        # Handed out at most, the advance included; and how much of it Redis knows of.
        self.granted = advance
        self.entered = 0
        # All workers together, as Redis last said.
        self.counted = 0
        # Whether Redis said that there is no more.
        self.ended = False
        self.fetching: asyncio.Task[None] | None = None


class RedisLimits:
    """Counts in Redis for all workers, see the module. The constructor connects nothing.

    Args:
        url: Address, such as `redis://localhost:6379/0`.
        workers: How many workers there are, as long as Redis has not told.
        clock: Seconds since 1970.

    Raises:
        InvalidParameterError: The address cannot be one.
    """

    def __init__(self, url: str, *, workers: int = 1, clock: Callable[[], float] = time.time) -> None:
        self._workers = workers
        self._clock = clock
        self._worker = secrets.token_hex(8)
        self._minute = 0
        self._shares: dict[str, _Share] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._away_until_s = 0.0
        self.up = True
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                # A share whose answer was lost may have been given.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise unreadable_address("TOWNCAST_LIMITS_REDIS_URL", "limits'", error) from error

    def take(self, name: str, limit: int, now_s: float) -> int:
        """Count a request, see `Limits`; call it on the event loop."""
        minute = int(now_s) // MINUTE_S
        if minute != self._minute:
            self._minute, self._shares = minute, {}
        share = self._shares.get(name)
        if share is None or share.limit != limit:
            share = self._begin(name, limit, share)
        if share.used >= share.granted:
            self._fetch(name, share)
            if share.used >= share.granted:
                return NONE_LEFT if share.fetching is None else ASK
        share.used += 1
        left = share.granted - share.used
        if left <= share.limit // _SHARES // 2:
            self._fetch(name, share)
        return max(left, min(limit - share.used, limit - share.counted + left))

    async def ask(self, name: str) -> None:
        """Wait for the share that is being fetched."""
        share = self._shares.get(name)
        if share is not None and share.fetching is not None:
            # Shielded: others wait for the same one.
            await asyncio.shield(share.fetching)

    async def close(self) -> None:
        """Close the connections."""
        for fetching in self._fetching:
            fetching.cancel()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        await self._redis.aclose()

    def _begin(self, name: str, limit: int, before: _Share | None) -> _Share:
        share = self._shares[name] = _Share(limit, _share_of(limit))
        if before is not None:
            # Its limit was changed within the minute.
            share.used, share.entered, share.counted = before.used, before.entered, before.counted
            share.granted = min(limit, max(share.granted, before.entered))
        self._fetch(name, share)
        return share

    def _fetch(self, name: str, share: _Share) -> None:
        """Begin to fetch the next share, unless that is under way or would be in vain."""
        if share.fetching is not None or share.ended:
            return
        if self._clock() < self._away_until_s:
            self._hand_out_own_part(share)
            return
        share.fetching = asyncio.get_running_loop().create_task(self._fetched(name, share, self._minute))
        self._fetching.add(share.fetching)
        share.fetching.add_done_callback(self._fetching.discard)

    async def _fetched(self, name: str, share: _Share, minute: int) -> None:
        # The advance counts as handed out; so does what was used while Redis was away.
        owed = max(0, max(share.used, min(share.granted, _share_of(share.limit))) - share.entered)
        keys = (f"{_COUNTER}{minute}:{name}", _WORKERS)
        arguments = (_share_of(share.limit), owed, share.limit, self._worker, int(self._clock()))
        try:
            answer = await cast("Any", self._redis.eval(_SCRIPT, len(keys), *keys, *arguments))
            given, share.counted, workers = (int(part) for part in answer)
        except (RedisError, OSError, TimeoutError) as error:
            self._away(error)
            self._hand_out_own_part(share)
        else:
            self._back()
            self._workers = max(1, workers)
            share.entered += owed + given
            share.granted = share.entered
            share.ended = given == 0
        finally:
            share.fetching = None

    def _hand_out_own_part(self, share: _Share) -> None:
        """What was left when Redis was last heard of in this minute, divided by the workers."""
        part = math.ceil(max(0, share.limit - share.counted) / self._workers)
        share.granted = max(share.granted, share.entered + part)

    def _away(self, error: Exception) -> None:
        self._away_until_s = self._clock() + _RETRY_S
        if self.up:
            _LOG.warning("The Redis of the rate limits does not answer (%s): each worker counts its part", error)
            self.up = False

    def _back(self) -> None:
        if not self.up:
            _LOG.warning("The Redis of the rate limits answers again")
            self.up = True


def _share_of(limit: int) -> int:
    return max(1, limit // _SHARES)
