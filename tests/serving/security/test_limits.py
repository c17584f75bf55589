"""Requests a minute: in one process, and over several workers that share a Redis."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from features.errors import InvalidParameterError
from serving.security.limits import ASK, NONE_LEFT, MemoryLimits, reset_s
from serving.security.shared_limits import RedisLimits

# The beginning of a minute.
NOW_S = 1770368400.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


def test_in_memory_a_minute_has_its_number_and_the_next_begins_anew() -> None:
    limits = MemoryLimits()
    assert [limits.take("shop", 3, NOW_S + second) for second in (0, 20, 59.9, 59.99)] == [2, 1, 0, NONE_LEFT]
    assert limits.take("other", 3, NOW_S + 59.99) == 2
    assert limits.take("shop", 3, NOW_S + 60) == 2
    assert reset_s(NOW_S) == reset_s(NOW_S + 59.9) == NOW_S + 60


def test_in_memory_nothing_is_kept_of_callers_of_earlier_minutes() -> None:
    limits = MemoryLimits()
    for number in range(1000):
        limits.take(str(number), 3, NOW_S)
    limits.take("shop", 3, NOW_S + 60)
    assert len(limits._used) == 1


async def taken(limits: RedisLimits, name: str, limit: int, now_s: float) -> int:
    """As the gateway takes one."""
    left = limits.take(name, limit, now_s)
    for _ in range(3):
        if left != ASK:
            break
        await limits.ask(name)
        left = limits.take(name, limit, now_s)
    return left


def with_workers(work: Callable[..., Any], url: str, *, number: int, **options: Any) -> Any:
    """Run `work` with so many limiters, as so many workers would have one each."""

    async def run() -> Any:
        workers = [RedisLimits(url, **options) for _ in range(number)]
        try:
            return await work(*workers)
        finally:
            for worker in workers:
                await worker.close()

    return asyncio.run(run())


@pytest.mark.parametrize(("limit", "share"), [(1000, 20), (100, 2), (5, 1), (1, 1)])
def test_one_worker_gives_what_there_is_and_counts_down(redis: Any, limit: int, share: int) -> None:
    async def work(limits: RedisLimits) -> list[int]:
        return [await taken(limits, "shop", limit, NOW_S) for _ in range(limit + share + 5)]

    left = with_workers(work, redis.url, number=1, clock=Clock())
    given = sum(one >= 0 for one in left)
    assert limit <= given <= limit + share
    assert left[:limit] == sorted(left[:limit], reverse=True)
    assert left[0] == limit - 1
    assert set(left[given:]) == {NONE_LEFT}


def test_two_workers_together_exceed_a_limit_by_no_more_than_a_share_each(redis: Any) -> None:
    async def work(*workers: RedisLimits) -> list[int]:
        async def ask(limits: RedisLimits) -> int:
            given = 0
            for _ in range(1500):
                given += await taken(limits, "shop", 1000, NOW_S) >= 0
                await asyncio.sleep(0)
            return given

        return list(await asyncio.gather(*map(ask, workers)))

    given = with_workers(work, redis.url, number=2, clock=Clock())
    # Neither more than the limit and the shares in advance, nor less than it without what lies in the other's share.
    assert 1000 - 40 <= sum(given) <= 1000 + 40
    assert min(given) > 100


def test_a_worker_that_comes_later_in_the_minute_finds_it_used_up(redis: Any) -> None:
    async def work(first: RedisLimits, second: RedisLimits) -> tuple[int, int]:
        given = []
        for limits in (first, second):
            given.append(sum([await taken(limits, "shop", 100, NOW_S) >= 0 for _ in range(200)]))
        return given[0], given[1]

    first, second = with_workers(work, redis.url, number=2, clock=Clock())
    assert 100 <= first <= 102
    assert second <= 2


def test_callers_and_minutes_are_counted_by_themselves(redis: Any) -> None:
    async def work(limits: RedisLimits) -> list[int]:
        return [
            await taken(limits, name, 5, now_s)
            for now_s in (NOW_S, NOW_S + 60)
            for name in ("one", "two")
            for _ in range(5)
        ]

    assert min(with_workers(work, redis.url, number=1, clock=Clock())) >= 0


def test_redis_is_asked_far_less_often_than_we_are(redis: Any) -> None:
    async def work(limits: RedisLimits) -> int:
        calls = 0
        plain = limits._redis.eval

        def counted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return plain(*arguments)

        limits._redis.eval = counted  # type: ignore[method-assign]
        for _ in range(1000):
            assert await taken(limits, "shop", 2000, NOW_S) >= 0
            await asyncio.sleep(0)
        return calls

    # A share is a fiftieth: 25 for half of the minute, and one at its beginning.
    assert with_workers(work, redis.url, number=1, clock=Clock()) <= 27


def test_without_redis_each_worker_gives_its_part_and_asks_again_when_it_is_back(redis: Any) -> None:
    async def work(first: RedisLimits, second: RedisLimits, clock: Clock) -> None:
        for limits in (first, second):
            assert await taken(limits, "shop", 1000, NOW_S) >= 0
            await limits.ask("shop")
        # A moment later both know that they are two.
        for limits in (first, second):
            for _ in range(30):
                assert await taken(limits, "shop", 1000, NOW_S) >= 0
            await limits.ask("shop")
        redis.kill()
        clock.now_s = now_s = NOW_S + 60
        given = []
        for limits in (first, second):
            began_s = time.perf_counter()
            given.append(sum([await taken(limits, "shop", 1000, now_s) >= 0 for _ in range(1200)]))
            assert time.perf_counter() - began_s < 5
            assert not limits.up
        assert given == [500, 500]
        redis.start()
        clock.now_s = now_s = NOW_S + 120
        assert await taken(first, "shop", 1000, now_s) >= 0
        await first.ask("shop")
        assert first.up

    clock = Clock()
    with_workers(lambda *workers: work(*workers, clock), redis.url, number=2, clock=clock)


def test_what_was_given_without_redis_is_entered_when_it_is_back(redis: Any) -> None:
    async def work(first: RedisLimits, second: RedisLimits, clock: Clock) -> int:
        redis.kill()
        given = sum([await taken(first, "shop", 1000, NOW_S) >= 0 for _ in range(700)])
        redis.start()
        clock.now_s += 2
        # The part of a worker that knows of no other is the whole: here it asks Redis for the first time.
        given += sum([await taken(first, "shop", 1000, NOW_S) >= 0 for _ in range(500)])
        given += sum([await taken(second, "shop", 1000, NOW_S) >= 0 for _ in range(500)])
        return given

    clock = Clock()
    given = with_workers(lambda *workers: work(*workers, clock), redis.url, number=2, clock=clock)
    assert 1000 <= given <= 1040


def test_a_redis_that_does_not_answer_keeps_nobody_waiting() -> None:
    """One that takes connections and says nothing is worse than one that is not there."""

    async def run(port: int) -> tuple[int, float]:
        limits = RedisLimits(f"redis://127.0.0.1:{port}/0", workers=4)
        now_s = NOW_S
        began_s = time.perf_counter()
        given = sum([await taken(limits, "shop", 40, now_s) >= 0 for _ in range(60)])
        took_s = time.perf_counter() - began_s
        await limits.close()
        return given, took_s

    with socket.create_server(("127.0.0.1", 0)) as silent:
        given, took_s = asyncio.run(run(silent.getsockname()[1]))
    assert given == 10
    assert took_s < 10


def test_an_address_that_cannot_be_one_is_told_without_its_password() -> None:
    with pytest.raises(InvalidParameterError, match="TOWNCAST_LIMITS_REDIS_URL") as refused:
        RedisLimits("redis://user:hidden@host:port/0")
    assert "hidden" not in str(refused.value)
