"""Runtimes: the in-process one and its refusals, and the failover from one to the next and back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from features.errors import ArtifactError, DeviceError, InvalidParameterError, RuntimeUnavailableError
from features.feast_repository import FeatureRepository
from features.vocabulary import Forecast, Window
from serving.artifacts import Artifact
from serving.runtimes.base import Answer, forecast_of
from serving.runtimes.failover import FailoverRuntime
from serving.runtimes.in_process import InProcessRuntime


@pytest.fixture
def window(repository: FeatureRepository, now_s: float) -> Window:
    return repository.online_window("R001", origin_s=int(now_s) // 3600 * 3600)


class Stub:
    """A runtime that is up or down as it is told, and counts."""

    def __init__(self, artifact: Artifact, name: str, *, up: bool) -> None:
        self.artifact, self.name, self.up = artifact, name, up
        self.asked = self.looked = 0
        self.closed = False

    async def answer(self, window: Window, *, levels: Sequence[float] | None = None) -> Answer:
        self.asked += 1
        if not self.up:
            raise RuntimeUnavailableError("It is down", remedy="Wait.")
        card = self.artifact.card
        shape = (len(window), card.horizon_steps, len(card.levels))
        forecast = forecast_of(self.artifact, window, np.ones(shape, dtype=np.float32), levels=levels)
        return Answer(forecast=forecast, runtime=self.name)

    async def predict(self, window: Window, *, levels: Sequence[float] | None = None) -> Forecast:
        return (await self.answer(window, levels=levels)).forecast

    async def ready(self) -> bool:
        self.looked += 1
        return self.up

    async def close(self) -> None:
        self.closed = True


def test_in_process_gives_all_levels_or_those_asked_for(artifact: Artifact, window: Window) -> None:
    async def both() -> list[Forecast]:
        runtime = InProcessRuntime(artifact)
        found = [await runtime.predict(window), await runtime.predict(window, levels=(0.025, 0.975))]
        await runtime.close()
        return found

    whole, some = asyncio.run(both())
    assert whole.levels == artifact.card.levels
    assert some.levels == (0.025, 0.975)
    np.testing.assert_array_equal(some.value_BHQ, whole.value_BHQ[:, :, [0, 4]])
    assert (np.diff(whole.value_BHQ, axis=2) >= 0).all()
    assert whole.model == "traffic-lstm-v3"


def test_a_level_that_the_model_lacks_is_refused(artifact: Artifact, window: Window) -> None:
    with pytest.raises(InvalidParameterError, match="no such level"):
        asyncio.run(InProcessRuntime(artifact).predict(window, levels=(0.3,)))


def test_cuda_asked_for_and_missing_is_an_error(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="cuda was asked for and is not there") as raised:
        InProcessRuntime(artifact, device="cuda").load()
    assert "TOWNCAST_DEVICE=cpu" in raised.value.remedy


def test_a_provider_that_does_not_load_is_an_error_too(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    class FallenBack:
        def __init__(self, *arguments: object, **options: object) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBack)
    with pytest.raises(DeviceError, match="runs on CPUExecutionProvider"):
        InProcessRuntime(artifact, device="cuda").load()


def test_a_graph_that_is_not_what_its_card_says_is_refused(artifact: Artifact) -> None:
    other = replace(artifact, card=replace(artifact.card, horizon_steps=12))
    with pytest.raises(ArtifactError, match="not what its card says"):
        InProcessRuntime(other).load()


def test_a_window_of_another_layout_is_refused(artifact: Artifact, window: Window) -> None:
    short = replace(window, history_BLK=window.history_BLK[:, 1:])
    with pytest.raises(ArtifactError, match="The history of a window does not fit"):
        asyncio.run(InProcessRuntime(artifact).predict(short))


def test_a_forecast_that_is_not_finite_is_refused_and_crossed_levels_are_sorted(
    artifact: Artifact, window: Window
) -> None:
    values = np.ones((1, 24, 5), dtype=np.float32)
    values[0, 3] = [5, 4, 3, 2, 1]
    assert forecast_of(artifact, window, values).value_BHQ[0, 3].tolist() == [1, 2, 3, 4, 5]
    values[0, 3, 0] = np.nan
    with pytest.raises(ArtifactError, match="no usable forecast"):
        forecast_of(artifact, window, values)


def test_failover_prefers_the_first_falls_to_the_second_and_comes_back(artifact: Artifact, window: Window) -> None:
    clock = [0.0]
    first, second = Stub(artifact, "first", up=True), Stub(artifact, "second", up=True)

    async def story() -> list[str]:
        failover = FailoverRuntime([first, second], retry_s=1.0, clock=lambda: clock[0])
        assert await failover.ready()
        answered = [(await failover.answer(window)).runtime]
        first.up = False
        answered.extend([(await failover.answer(window)).runtime for _ in range(3)])
        assert failover.states() == {"first": False, "second": True}
        # Once it is known to be down nobody waits for it: one request has met it, the others passed it over.
        assert (first.asked, first.looked) == (2, 1)
        first.up = True
        clock[0] = 2.0
        answered.append((await failover.answer(window)).runtime)
        await asyncio.sleep(0)
        answered.append((await failover.answer(window)).runtime)
        await failover.close()
        return answered

    assert asyncio.run(story()) == ["first", "second", "second", "second", "second", "first"]
    assert first.closed
    assert second.closed


def test_failover_says_when_nobody_is_up(artifact: Artifact, window: Window) -> None:
    async def story() -> None:
        failover = FailoverRuntime([Stub(artifact, "only", up=False)])
        assert not await failover.ready()
        with pytest.raises(RuntimeUnavailableError, match="No runtime can answer"):
            await failover.predict(window)

    asyncio.run(story())
