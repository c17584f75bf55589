"""The circuit breaker, and the failover that asks runtimes through it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from features.errors import ArtifactError, RuntimeUnavailableError
from features.feast_repository import FeatureRepository
from features.vocabulary import Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import Answer, ModelNotHostedError, forecast_of
from serving.runtimes.breaker import BreakerRules, CircuitBreaker
from serving.runtimes.failover import FailoverRuntime

RULES = BreakerRules(slow_calls=3, retry_s=1.0, retry_most_s=8.0, check_s=10.0)


class Always(random.Random):
    """Draws the longest wait of those that may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.fixture
def window(repository: FeatureRepository, now_s: float) -> Window:
    return repository.online_window("R001", origin_s=int(now_s) // 3600 * 3600)


class Scripted:
    """A runtime that answers after some time, or fails, as it is told."""

    def __init__(self, artifact: Artifact, name: str, *, takes_s: float = 0.0) -> None:
        self.artifact, self.name, self.takes_s = artifact, name, takes_s
        self.error: RuntimeUnavailableError | None = None
        self.asked = self.looked = self.ended = 0

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        self.ended += 1
        card = self.artifact.card
        shape = (len(window), card.horizon_steps, len(card.levels))
        forecast = forecast_of(self.artifact, window, np.ones(shape, dtype=np.float32), levels=levels)
        return Answer(forecast=forecast, runtime=self.name)

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        return (await self.answer(window, levels=levels)).forecast

    async def ready(self) -> bool:
        self.looked += 1
        if isinstance(self.error, ModelNotHostedError):
            raise self.error
        return self.error is None

    async def close(self) -> None:
        pass


DOWN = RuntimeUnavailableError("It is down", remedy="Wait.")
NOT_HOSTED = ModelNotHostedError("It has not this version", remedy="Wait.")


def opened(clock: list[float]) -> CircuitBreaker:
    breaker = CircuitBreaker(RULES, clock=lambda: clock[0], rng=Always())
    assert (breaker.state, breaker.reason) == ("open", "starting")
    assert breaker.due_in_s <= 0
    breaker.begin_look()
    assert breaker.succeeded()
    return breaker


def test_an_error_opens_it_and_looks_become_rarer_until_one_goes_well() -> None:
    clock = [0.0]
    breaker = opened(clock)
    assert breaker.failed()
    assert (breaker.state, breaker.reason) == ("open", "error")
    # Calls that were under way fail later: of the same outage.
    assert not breaker.failed()
    waits = []
    for _ in range(6):
        waits.append(breaker.due_in_s)
        clock[0] += breaker.due_in_s
        breaker.begin_look()
        assert breaker.state == "half_open"
        assert breaker.due_in_s == float("inf")
        assert not breaker.failed()
    assert waits == [1, 2, 4, 8, 8, 8]
    breaker.begin_look()
    assert breaker.succeeded()
    assert (breaker.state, breaker.reason, breaker.due_in_s) == ("closed", "", 10)
    assert breaker.failed()
    assert breaker.due_in_s == 1


def test_looks_are_spread_between_half_and_all_of_the_wait() -> None:
    waits = []
    for seed in range(50):
        breaker = CircuitBreaker(RULES, clock=lambda: 0.0, rng=random.Random(seed))
        breaker.succeeded()
        breaker.failed()
        waits.append(breaker.due_in_s)
    assert 0.5 <= min(waits) < 0.6 < 0.9 < max(waits) <= 1.0


def test_slow_calls_in_a_row_open_it() -> None:
    breaker = opened([0.0])
    assert [breaker.was_slow(), breaker.was_slow()] == [False, False]
    breaker.succeeded()
    assert [breaker.was_slow() for _ in range(3)] == [False, False, True]
    assert (breaker.state, breaker.reason) == ("open", "slow")


def test_a_runtime_that_hangs_costs_a_request_its_patience_and_not_the_timeout(
    artifact: Artifact, window: Window
) -> None:
    hanging, other = Scripted(artifact, "hanging", takes_s=60.0), Scripted(artifact, "other")

    async def story() -> list[str]:
        failover = FailoverRuntime([hanging, other], patience_s=0.02, slow_calls=3, retry_s=60.0)
        await failover.ready()
        answers = [(await failover.answer(window)).runtime for _ in range(5)]
        assert failover.breakers()["hanging"].reason == "slow"
        assert failover.states() == {"hanging": False, "other": True}
        await failover.close()
        return answers

    assert asyncio.run(story()) == ["other"] * 5
    assert (hanging.asked, hanging.ended) == (3, 0)


def test_the_last_runtime_may_take_its_time(artifact: Artifact, window: Window) -> None:
    slow = Scripted(artifact, "slow", takes_s=0.1)

    async def story() -> str:
        failover = FailoverRuntime([slow], patience_s=0.01, slow_calls=1)
        await failover.ready()
        answer = await failover.answer(window)
        await failover.close()
        return answer.runtime

    assert asyncio.run(story()) == "slow"


def test_a_model_that_is_not_hosted_is_no_outage_and_is_looked_for_again(
    artifact: Artifact, window: Window, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    first, second = Scripted(artifact, "first"), Scripted(artifact, "second")
    first.error = NOT_HOSTED

    async def story() -> list[str]:
        failover = FailoverRuntime([first, second], retry_s=1.0, clock=lambda: clock[0])
        assert await failover.ready()
        answers = [(await failover.answer(window)).runtime for _ in range(3)]
        assert failover.breakers()["first"].reason == "not_hosted"
        first.error = None
        clock[0] = 2.0
        answers.append((await failover.answer(window)).runtime)
        await asyncio.sleep(0)
        answers.append((await failover.answer(window)).runtime)
        await failover.close()
        return answers

    with caplog.at_level(logging.INFO):
        assert asyncio.run(story()) == ["second"] * 4 + ["first"]
    assert first.asked == 1
    said = [record for record in caplog.records if "passed over" in record.message]
    assert [record.levelname for record in said] == ["INFO"]


def test_runtimes_are_looked_at_without_requests(artifact: Artifact, window: Window) -> None:
    first, second = Scripted(artifact, "first"), Scripted(artifact, "second")

    async def until(reached: Any) -> None:
        async with asyncio.timeout(10):
            while not reached():
                await asyncio.sleep(0.01)

    async def story() -> str:
        failover = FailoverRuntime([first, second], retry_s=0.05, retry_most_s=0.1, check_s=0.05)
        await failover.ready()
        first.error = DOWN
        await until(lambda: not failover.states()["first"])
        first.error = None
        await until(lambda: failover.states()["first"])
        answer = await failover.answer(window)
        await failover.close()
        looked = first.looked
        await asyncio.sleep(0.2)
        assert first.looked == looked  # nobody looks after the end
        return answer.runtime

    assert asyncio.run(story()) == "first"


def test_ready_does_not_wait_for_one_that_is_down_while_another_is_up(artifact: Artifact) -> None:
    first, second = Scripted(artifact, "first"), Scripted(artifact, "second")
    first.error = DOWN

    async def story() -> None:
        failover = FailoverRuntime([first, second], retry_s=60.0)
        assert await failover.ready()
        assert await failover.ready()
        await failover.close()

    asyncio.run(story())
    assert first.looked == 1


def test_an_artifact_that_cannot_be_loaded_is_told_to_whoever_starts(artifact: Artifact) -> None:
    class Broken(Scripted):
        async def ready(self) -> bool:
            raise ArtifactError("The graph is damaged", remedy="Train again.")

    async def story() -> None:
        failover = FailoverRuntime([Scripted(artifact, "first"), Broken(artifact, "second")])
        with pytest.raises(ArtifactError, match="damaged"):
            await failover.ready()
        await failover.close()

    asyncio.run(story())
