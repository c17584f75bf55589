"""TorchServe's keys: read again when they change, replaced under load, and nobody gets in without one."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from features.vocabulary import Window
from serving.artifacts import Artifact
from serving.runtimes.base import Answer, ModelNotHostedError
from serving.runtimes.session import nothing
from serving.torchserve.keys import KEY_FILE, KeyFile
from serving.torchserve.runtime import TorchServeRuntime
from serving.torchserve.server import TorchServeServer, free_ports

# Long enough that replacing a key at half of it is never late on a busy machine, short enough to see one end.
LIFE_MIN = 0.1


@pytest.fixture(scope="module")
def server(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchServeServer]:
    folder = tmp_path_factory.mktemp("torchserve")
    with TorchServeServer([artifact], folder, ports=free_ports(), key_life_min=LIFE_MIN) as started:
        started.wait_ready()
        yield started


def window_of(artifact: Artifact, count: int = 1) -> Window:
    inputs = nothing(artifact.card, count)
    return Window(
        history_BLK=inputs["history"],
        future_BHK=inputs["future"],
        static_BS=inputs["static"],
        sites=("R001",) * count,
        origins=np.zeros(count, dtype=np.int64),
    )


def test_a_missing_or_forged_or_wrong_key_is_refused(server: TorchServeServer, artifact: Artifact) -> None:
    address = f"{server.url}/predictions/{artifact.name}/{artifact.version}"
    keys = KeyFile(server.key_file)
    forged = {"Authorization": "Bearer AAAAAAAA"}
    for headers in ({}, forged, keys.header("management"), keys.header("API")):
        reply = httpx.post(address, content=b"\x00" * 4, headers=headers, trust_env=False)
        assert (reply.status_code, reply.json()["type"]) == (400, "InvalidKeyException")
    management = f"http://127.0.0.1:{server.ports.management}"
    for path, headers in (
        (f"models/{artifact.name}", forged),
        (f"models/{artifact.name}", keys.header("inference")),
        ("token?type=inference", keys.header("management")),
        ("token?type=management", {}),
    ):
        reply = httpx.get(f"{management}/{path}", headers=headers, trust_env=False)
        assert reply.json()["type"] == "InvalidKeyException"


def test_its_folder_shows_the_keys_to_nobody_else(server: TorchServeServer) -> None:
    assert server.key_file.stat().st_mode & 0o777 == 0o600
    assert KeyFile(server.key_file).key("API") is not None


def token_of(server: TorchServeServer) -> str:
    key = KeyFile(server.key_file).key("inference")
    assert key is not None
    return key.token


def test_keys_are_replaced_under_load_and_at_half_of_their_life_without_a_failed_request(
    server: TorchServeServer, artifact: Artifact
) -> None:
    window, tokens = window_of(artifact), [token_of(server)]

    async def ask(runtime: TorchServeRuntime, until_s: float) -> int:
        number = 0
        while time.monotonic() < until_s:
            await runtime.answer(window)  # one that failed would raise
            number += 1
        return number

    async def story() -> list[int]:
        runtime = TorchServeRuntime(artifact, url=server.url, timeout_s=30.0, keys=server.key_file)
        until_s = time.monotonic() + 1.5 * LIFE_MIN * 60
        asking = [asyncio.ensure_future(ask(runtime, until_s)) for _ in range(4)]
        for _ in range(10):
            assert await asyncio.to_thread(server.rotate, "inference")
            tokens.append(token_of(server))
            await asyncio.sleep(0.05)
        numbers = await asyncio.gather(*asking)
        await runtime.close()
        return list(numbers)

    first = KeyFile(server.key_file).header("inference")
    assert sum(asyncio.run(story())) > 20
    assert len(set(tokens)) == 11
    # The thread has replaced the last one, too: by now it would have ended.
    assert token_of(server) not in tokens
    address = f"{server.url}/predictions/{artifact.name}/{artifact.version}"
    assert httpx.post(address, content=b"\x00", headers=first, trust_env=False).status_code == 400
    assert server.describe(artifact.name)["workers"]


def test_a_version_that_it_does_not_host_is_told_apart(server: TorchServeServer, artifact: Artifact) -> None:
    async def ask() -> None:
        other = replace(artifact, version="99")
        runtime = TorchServeRuntime(other, url=server.url, timeout_s=30.0, keys=server.key_file)
        with pytest.raises(ModelNotHostedError):
            await runtime.answer(window_of(artifact))
        with pytest.raises(ModelNotHostedError):
            await runtime.ready()
        await runtime.close()

    asyncio.run(ask())


def test_an_answer_says_what_its_run_took(server: TorchServeServer, artifact: Artifact) -> None:
    async def ask() -> Answer:
        runtime = TorchServeRuntime(artifact, url=server.url, timeout_s=30.0, keys=server.key_file)
        answer = await runtime.answer(window_of(artifact, 3))
        await runtime.close()
        return answer

    answer = asyncio.run(ask())
    assert (answer.runtime, answer.batch) == ("torchserve", 3)
    assert 0 < answer.inference_s < 30
    assert answer.queue_s > 0


def test_the_key_file_goes_with_the_server(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("{}")  # of one that was killed, with everybody's rights
    (tmp_path / KEY_FILE).chmod(0o644)
    with TorchServeServer([artifact], tmp_path, ports=free_ports()) as server:
        end = time.monotonic() + 60
        while KeyFile(server.key_file).key("API") is None and time.monotonic() < end:
            time.sleep(0.1)
        assert server.key_file.stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / KEY_FILE).exists()


def entry(token: str) -> dict[str, str]:
    return {"key": token, "expiration time": "2026-11-21T15:10:31.183872974Z"}


def written(path: Path, content: str) -> None:
    path.write_text(content)
    # File systems stamp in steps of some milliseconds.
    os.utime(path, ns=(0, time.monotonic_ns()))


def test_keys_are_read_again_when_they_change_and_kept_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    keys = KeyFile(path)
    assert keys.header("inference") == {}
    written(path, json.dumps({"inference": entry("first"), "API": {"key": "api"}}))
    assert keys.header("inference") == {"Authorization": "Bearer first"}
    key, api = keys.key("inference"), keys.key("API")
    assert key is not None
    assert api is not None
    assert (key.expires_s, api.expires_s) == (1795273831.183872, None)
    written(path, '{"inference": {"key": "sec')
    assert keys.header("inference") == {"Authorization": "Bearer first"}
    written(path, json.dumps({"inference": entry("second")}))
    assert keys.header("inference") == {"Authorization": "Bearer second"}
    assert keys.header("API") == {}
    path.unlink()
    assert keys.header("inference") == {}


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "", "a b", "ä"])
def test_a_key_that_is_no_word_is_not_sent(tmp_path: Path, token: str) -> None:
    written(tmp_path / KEY_FILE, json.dumps({"inference": entry(token)}))
    assert KeyFile(tmp_path / KEY_FILE).header("inference") == {}
