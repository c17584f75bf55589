"""The handler that TorchServe's workers run, without TorchServe: its archive's files in a folder, and a context."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from features.errors import ArtifactError
from serving.artifacts import Artifact
from serving.runtimes.batching import BUCKETS
from serving.runtimes.session import nothing, open_session
from serving.torchserve.archive import build_archive
from serving.torchserve.handler import WindowHandler


class Context:
    """What TorchServe hands to a handler."""

    def __init__(self, folder: Path, *, gpu_id: int | None = None) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": gpu_id}
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[str, str]] = {}

    def set_response_status(self, *, code: int, idx: int) -> None:
        self.statuses[idx] = code

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.headers.setdefault(idx, {})[key] = value


@pytest.fixture(scope="module")
def folder(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("worker")
    with ZipFile(build_archive(artifact, made / "store")) as archive:
        archive.extractall(made / "model")
    return made / "model"


@pytest.fixture
def handler(folder: Path) -> WindowHandler:
    made = WindowHandler()
    made.initialize(Context(folder))
    return made


def rows_of(artifact: Artifact, count: int) -> Any:
    inputs = nothing(artifact.card, count)
    inputs["history"] = np.arange(inputs["history"].size, dtype=np.float32).reshape(inputs["history"].shape) % 977
    return inputs, np.concatenate([inputs[name].reshape(count, -1) for name in ("history", "future", "static")], axis=1)


@pytest.mark.parametrize("bound_to", [None, ("cpu", 0)], ids=["plain", "bound"])
@pytest.mark.parametrize("count", [1, 3, 32, 70])
def test_its_numbers_are_those_of_the_graph(
    handler: WindowHandler, artifact: Artifact, folder: Path, count: int, bound_to: tuple[str, int] | None
) -> None:
    inputs, rows = rows_of(artifact, count)
    handler.bound_to = bound_to
    context = Context(folder)
    (answer,) = handler.handle([{"body": bytearray(rows.astype("<f4").tobytes())}], context)
    expected = open_session(artifact).run(inputs)
    np.testing.assert_array_equal(np.frombuffer(answer, dtype="<f4").reshape(expected.shape), expected)
    seconds, _, batch = context.headers[0]["X-Towncast-Run"].partition(";")
    assert float(seconds) > 0
    assert int(batch) == count


def test_a_bad_request_gets_its_own_answer(handler: WindowHandler, artifact: Artifact, folder: Path) -> None:
    _, rows = rows_of(artifact, 2)
    context = Context(folder)
    good = {"body": bytearray(rows.astype("<f4").tobytes())}
    answers = handler.handle([good, {"body": b"abc"}, {"data": {"text": "no"}}, {}, good], context)
    assert context.statuses == {1: 400, 2: 400, 3: 400}
    assert answers[0] == answers[4]
    assert answers[1].startswith(b"the body has 3 bytes")


def test_every_size_of_batch_is_warmed_before_the_first_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = WindowHandler._run

    def counted(self: WindowHandler, rows: Any) -> Any:
        sizes.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(WindowHandler, "_run", counted)
    WindowHandler().initialize(Context(folder))
    assert tuple(sizes) == BUCKETS


@pytest.mark.parametrize(
    ("gpu_id", "providers"), [(None, ["CUDAExecutionProvider"]), (0, ["CPUExecutionProvider"])], ids=["no GPU", "CPU"]
)
def test_cuda_asked_for_and_missing_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu_id: int | None, providers: list[str]
) -> None:
    layout = json.loads((folder / "layout.json").read_text())
    (tmp_path / "layout.json").write_text(json.dumps({**layout, "device": "cuda"}))
    monkeypatch.setattr("serving.torchserve.handler.onnxruntime.get_available_providers", lambda: providers)
    with pytest.raises(RuntimeError, match="cuda was asked for and is not there"):
        WindowHandler().initialize(Context(tmp_path, gpu_id=gpu_id))


def test_the_worker_s_gpu_is_the_one_that_runs_the_graph(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(path: str, options: Any, *, providers: Any) -> Any:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    layout = json.loads((folder / "layout.json").read_text())
    (tmp_path / "layout.json").write_text(json.dumps({**layout, "device": "cuda"}))
    monkeypatch.setattr(
        "serving.torchserve.handler.onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"]
    )
    monkeypatch.setattr("serving.torchserve.handler.onnxruntime.InferenceSession", refuse)
    with pytest.raises(RuntimeError, match="the session runs on"):
        WindowHandler().initialize(Context(tmp_path, gpu_id=3))
    assert asked == [[("CUDAExecutionProvider", {"device_id": "3"})]]


def test_an_artifact_that_changed_is_not_packed(artifact: Artifact, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(artifact.folder, tmp_path / "copied"))
    with (copied / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ArtifactError, match="not the one"):
        build_archive(replace(artifact, folder=copied), tmp_path / "store")
    assert not (tmp_path / "store").exists()
