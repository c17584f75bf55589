"""Files are written whole or not at all."""

import errno
import stat
from pathlib import Path

import pytest

from features.errors import StorageError
from features.files import make_folder, whole_file


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("half", encoding="utf-8")
        assert not path.exists()
        temporary.write_text("whole", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as temporary:
        temporary.write_text("half \ud800", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file.txt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file.txt", "deeper/file.txt"])
def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with (
        pytest.raises(StorageError, match="A file stands where a folder is needed"),
        whole_file(tmp_path / "taken" / name),
    ):
        pytest.fail("the block must not run")


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file.txt").mkdir()
    with (
        pytest.raises(StorageError, match="A folder stands where a file is needed"),
        whole_file(tmp_path / "file.txt") as temporary,
    ):
        temporary.write_text("x", encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old", encoding="utf-8")
    # Linux's device that is always full.
    with pytest.raises(StorageError, match="The disk is full") as caught, whole_file(path):
        Path("/dev/full").write_bytes(b"x")
    assert str(path) in str(caught.value)
    assert caught.value.remedy.startswith("Free some space")
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    ("number", "fact"),
    [
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.EDQUOT, "disk is full"),
    ],
)
def test_refusals_of_the_system_are_storage_errors(tmp_path: Path, number: int, fact: str) -> None:
    with pytest.raises(StorageError, match=fact), whole_file(tmp_path / "file.txt"):
        raise OSError(number, "refused")


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "file.txt"):
        (tmp_path / "nowhere").read_text(encoding="utf-8")


def test_make_folder(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b")
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="Move that file away"):
        make_folder(tmp_path / "taken")
