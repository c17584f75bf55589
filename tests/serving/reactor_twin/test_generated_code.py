"""The generated code is what the `.proto` files give."""

import shutil
from pathlib import Path

import pytest

from serving.messages.generate import FOLDER, GenerationError, stale_files


def test_generated_code_is_that_of_the_proto_files() -> None:
    assert stale_files() == []


def test_a_changed_proto_file_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "serving" / "messages"
    shutil.copytree(FOLDER, folder)
    assert stale_files(folder) == []
    proto = folder / "sensor_data.proto"
    proto.write_text(proto.read_text().replace("string source = 7;", "string origin = 7;"))
    assert stale_files(folder) == ["sensor_data_pb2.py", "sensor_data_pb2.pyi"]


def test_a_broken_proto_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "serving" / "messages"
    folder.mkdir(parents=True)
    (folder / "broken.proto").write_text('syntax = "proto3"; message {')
    with pytest.raises(GenerationError, match="refuses a file"):
        stale_files(folder)
    assert "broken.proto" in capfd.readouterr().err
