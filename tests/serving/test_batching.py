"""Micro-batches: what waits runs as one, a bad window spoils no other, and the event loop is not held."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from features.errors import ArtifactError, RuntimeUnavailableError
from features.feast_repository import FeatureRepository
from features.vocabulary import Window
from serving.artifacts import Artifact
from serving.runtimes.base import graph_inputs
from serving.runtimes.batching import BUCKETS, MOST_WINDOWS, Inputs, MicroBatches, Ran, bucket_of
from serving.runtimes.in_process import InProcessRuntime
from serving.runtimes.session import GraphSession, nothing, open_session


@pytest.fixture
def window(repository: FeatureRepository, now_s: float) -> Window:
    return repository.online_window("R001", origin_s=int(now_s) // 3600 * 3600)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(max_workers=1) as made:
        yield made


class Doubling:
    """A graph that doubles, refuses negative numbers, and waits for leave to run."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.leave = threading.Event()
        self.leave.set()

    def __call__(self, inputs: Inputs) -> Any:
        self.threads.add(threading.get_ident())
        assert self.leave.wait(10)
        self.sizes.append(len(inputs["history"]))
        if (inputs["history"] < 0).any():
            raise ValueError("a number is negative")
        return inputs["history"] * 2


def rows(*values: float) -> Inputs:
    return {"history": np.array(values, dtype=np.float32)[:, None]}


def test_the_calls_of_one_turn_run_as_one_on_the_loop_where_that_is_short(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()

    async def story() -> list[Ran]:
        batches = MicroBatches(graph, short=lambda: 32, executor=executor)
        return await asyncio.gather(*(batches.submit(rows(value), 1) for value in range(5)))

    found = asyncio.run(story())
    assert [float(ran.quantiles_BHQ[0, 0]) for ran in found] == [0, 2, 4, 6, 8]
    assert {ran.batch for ran in found} == {5}
    assert graph.sizes == [5]
    assert graph.threads == {threading.get_ident()}
    assert all(ran.queue_s >= 0 and ran.inference_s > 0 for ran in found)


def test_many_calls_of_a_fast_graph_stay_on_the_loop_in_short_batches(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()
    turns: list[int] = []

    async def story() -> list[Ran]:
        batches = MicroBatches(graph, short=lambda: 4, executor=executor)

        async def beside() -> None:
            while len(graph.sizes) < 3:
                turns.append(len(graph.sizes))
                await asyncio.sleep(0)

        found, _ = await asyncio.gather(
            asyncio.gather(*(batches.submit(rows(value), 1) for value in range(10))), beside()
        )
        return found

    found = asyncio.run(story())
    assert [float(ran.quantiles_BHQ[0, 0]) for ran in found] == [2.0 * value for value in range(10)]
    assert graph.sizes == [4, 4, 2]
    assert graph.threads == {threading.get_ident()}
    # Others had their turn between two batches.
    assert {0, 1, 2} <= set(turns)


def test_what_comes_while_a_batch_runs_is_the_next_one_of_32_at_most(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()
    graph.leave.clear()

    async def story() -> list[Ran]:
        batches = MicroBatches(graph, short=lambda: 0, executor=executor)
        first = asyncio.ensure_future(batches.submit(rows(7), 1))
        while not graph.threads:
            await asyncio.sleep(0.001)
        later = [asyncio.ensure_future(batches.submit(rows(value), 1)) for value in range(40)]
        await asyncio.sleep(0)
        graph.leave.set()
        return list(await asyncio.gather(first, *later))

    found = asyncio.run(story())
    assert graph.sizes == [1, MOST_WINDOWS, 8]
    assert [float(ran.quantiles_BHQ[0, 0]) for ran in found] == [14, *(2 * value for value in range(40))]
    assert graph.threads != {threading.get_ident()}
    assert found[1].queue_s > 0


def test_a_bad_window_fails_alone(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()

    async def story() -> list[Any]:
        batches = MicroBatches(graph, short=lambda: 0, executor=executor)
        calls = [rows(1), rows(2, -1), rows(3)]
        return await asyncio.gather(
            *(batches.submit(one, len(one["history"])) for one in calls), return_exceptions=True
        )

    first, bad, last = asyncio.run(story())
    assert isinstance(bad, ValueError)
    assert (float(first.quantiles_BHQ[0, 0]), float(last.quantiles_BHQ[0, 0])) == (2, 6)
    assert graph.sizes == [4, 1, 2, 1]


def test_a_caller_who_leaves_takes_nobody_along(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()
    graph.leave.clear()

    async def story() -> tuple[Ran, Ran]:
        batches = MicroBatches(graph, short=lambda: 0, executor=executor)
        running = [asyncio.ensure_future(batches.submit(rows(value), 1)) for value in (1, 2)]
        while not graph.threads:
            await asyncio.sleep(0.001)
        waiting = [asyncio.ensure_future(batches.submit(rows(value), 1)) for value in (3, 4)]
        await asyncio.sleep(0)
        running[0].cancel()
        waiting[0].cancel()
        await asyncio.sleep(0)
        graph.leave.set()
        outcome = await running[1], await waiting[1]
        # The queue is free for others afterwards.
        assert float((await batches.submit(rows(9), 1)).quantiles_BHQ[0, 0]) == 18
        return outcome

    second, fourth = asyncio.run(story())
    assert (float(second.quantiles_BHQ[0, 0]), float(fourth.quantiles_BHQ[0, 0])) == (4, 8)
    # Whoever left before the batch was put together is not run.
    assert graph.sizes == [2, 1, 1]


def test_a_queue_that_closes_answers_those_who_wait_and_nobody_else(executor: ThreadPoolExecutor) -> None:
    graph = Doubling()
    graph.leave.clear()

    async def story() -> None:
        batches = MicroBatches(graph, short=lambda: 0, executor=executor)
        calls = [asyncio.ensure_future(batches.submit(rows(value), 1)) for value in range(40)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batches.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeUnavailableError, match="closed"):
            await batches.submit(rows(1), 1)
        assert not closing.done()
        graph.leave.set()
        await closing
        assert all(call.done() and call.exception() is None for call in calls)

    asyncio.run(story())


def test_buckets() -> None:
    assert [bucket_of(windows) for windows in (1, 2, 3, 5, 16, 17, 32, 33)] == [1, 2, 4, 8, 16, 32, 32, 33]


def joined(window: Window, count: int) -> Window:
    """A window so many times, each with another last volume, and the third of every seven with a hole."""
    history = np.repeat(window.history_BLK, count, axis=0)
    history[:, -1, 0] = np.arange(count)
    history[2::7, -30:, 0] = np.nan
    return replace(
        window,
        history_BLK=history,
        future_BHK=np.repeat(window.future_BHK, count, axis=0),
        static_BS=np.repeat(window.static_BS, count, axis=0),
        sites=window.sites * count,
        origins=np.repeat(window.origins, count),
    )


def one_of(window: Window, index: int) -> Window:
    one = slice(index, index + 1)
    return replace(
        window,
        history_BLK=window.history_BLK[one],
        future_BHK=window.future_BHK[one],
        static_BS=window.static_BS[one],
        sites=window.sites[one],
        origins=window.origins[one],
    )


def test_a_window_is_forecast_alike_alone_in_a_batch_and_in_one_call(artifact: Artifact, window: Window) -> None:
    many = joined(window, 70)

    async def story() -> tuple[Any, list[Any], list[Any]]:
        runtime = InProcessRuntime(artifact)
        await runtime.ready()
        whole = await runtime.answer(many)
        alone = [await runtime.answer(one_of(many, index)) for index in range(3)]
        together = await asyncio.gather(*(runtime.answer(one_of(many, index)) for index in range(70)))
        await runtime.close()
        return whole, alone, list(together)

    whole, alone, together = asyncio.run(story())
    assert whole.forecast.value_BHQ.shape == (70, 24, 5)
    assert (whole.batch, {answer.batch for answer in alone}) == (MOST_WINDOWS, {1})
    # How large the batches are depends on how fast the graph is on this machine.
    assert all(1 < answer.batch <= MOST_WINDOWS for answer in together)
    for index, answer in enumerate(together):
        np.testing.assert_array_equal(answer.forecast.value_BHQ[0], whole.forecast.value_BHQ[index])
    np.testing.assert_array_equal(alone[2].forecast.value_BHQ, together[2].forecast.value_BHQ)
    assert whole.inference_s > 0


def test_a_window_that_the_graph_cannot_forecast_is_refused_alone(artifact: Artifact, window: Window) -> None:
    bad = replace(window, history_BLK=np.full_like(window.history_BLK, np.inf))

    async def story() -> list[Any]:
        runtime = InProcessRuntime(artifact)
        await runtime.ready()
        answers = await asyncio.gather(*map(runtime.answer, (window, bad, window)), return_exceptions=True)
        await runtime.close()
        return list(answers)

    first, refused, last = asyncio.run(story())
    assert isinstance(refused, ArtifactError)
    assert first.batch == last.batch == 3
    np.testing.assert_array_equal(first.forecast.value_BHQ, last.forecast.value_BHQ)


def test_a_slow_graph_does_not_hold_the_event_loop(
    artifact: Artifact, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = GraphSession.run

    def slow(session: GraphSession, inputs: Inputs) -> Any:
        time.sleep(0.05)
        return original(session, inputs)

    monkeypatch.setattr(GraphSession, "run", slow)

    async def story() -> int:
        runtime = InProcessRuntime(artifact)
        await runtime.ready()
        call, turns = asyncio.ensure_future(runtime.answer(window)), 0
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
        await runtime.close()
        return turns

    # Were it on the loop, the first turn would end with the run.
    assert asyncio.run(story()) > 3


def test_a_bound_run_filled_up_to_a_bucket_gives_the_same(artifact: Artifact, window: Window) -> None:
    opened = open_session(artifact)
    bound = GraphSession(opened._session, artifact.card, device="cpu", bound=True)
    for count in (1, 3, 32, 33):
        inputs = graph_inputs(artifact.card, joined(window, count))
        np.testing.assert_array_equal(bound.run(inputs), opened.run(inputs))


def test_every_bucket_is_warmed_when_a_graph_is_loaded(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., Any] = GraphSession.run
    sizes: list[int] = []

    def counted(session: GraphSession, inputs: Inputs) -> Any:
        sizes.append(len(inputs["history"]))
        return original(session, inputs)

    monkeypatch.setattr(GraphSession, "run", counted)
    InProcessRuntime(artifact).load()
    assert set(sizes) == set(BUCKETS)


def test_a_graph_that_fails_says_so_as_an_error_of_ours(artifact: Artifact) -> None:
    inputs = nothing(artifact.card, 2)
    with pytest.raises(ArtifactError, match="traffic-lstm failed"):
        open_session(artifact).run({**inputs, "history": inputs["history"][:, :, :1]})


def test_threads_are_those_that_were_set(artifact: Artifact) -> None:
    assert open_session(artifact, threads=2)._session.get_session_options().intra_op_num_threads == 2
    assert open_session(artifact)._session.get_session_options().intra_op_num_threads == 1
