"""The commands: something to see at once, and nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.reactor_twin.local_broker import LocalBroker

_TOWNCAST = Path(sys.executable).parent / "towncast"


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [_TOWNCAST, *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a script would hand on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"it ended without saying {text!r}: {process.communicate()}")


def _running_below(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if str(folder) in line]


def test_a_demonstration_needs_nothing_else_and_ends_clean(tmp_path: Path) -> None:
    twin = _start(tmp_path, "reactor", "--demo")
    _read_until(twin, "it is the first temperature")
    assert len(_running_below(tmp_path)) == 1, "its broker"
    twin.send_signal(signal.SIGINT)
    shown, told = twin.communicate()
    assert (twin.returncode, told) == (0, "")
    assert "predictions" in shown
    assert "deviation" in shown
    assert _running_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_twin_and_plant_find_each_other_in_any_order(tmp_path: Path) -> None:
    with LocalBroker(tmp_path / "nats") as broker:
        plant = _start(tmp_path, "reactor-plant", "--nats", broker.url, "--rate", "20", "--prefix", "town.reactor")
        _read_until(plant, "Waiting for a stream")
        twin = _start(tmp_path, "reactor", "--nats", broker.url, "--prefix", "town.reactor")
        _read_until(twin, "it is the first temperature")
        for process in (twin, plant):
            process.send_signal(signal.SIGTERM)
        assert "messages were sent" in plant.communicate()[0]
        assert "predictions" in twin.communicate()[0]
        assert (twin.returncode, plant.returncode) == (0, 0)


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("TOWNCAST_NATS_URL", "plant:secret@nowhere", "like nats://127.0.0.1:4222"),
        ("TOWNCAST_REACTOR_PREFIX", "plant.*", "enterprise.site.area.line.reactor"),
        ("TOWNCAST_REACTOR_ALERT_RAISE_K", "0.5", "must not exceed"),
        ("TOWNCAST_REACTOR_PARAMETERS", "{", "heat_transfer"),
        ("TOWNCAST_REACTOR_PARAMETERS", '{"volme": 0.1}', "volume"),
    ],
)
def test_a_setting_that_cannot_be_is_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, value)
    twin = _start(tmp_path, "reactor")
    shown, told = twin.communicate()
    assert twin.returncode == 2
    assert remedy in told
    assert "Traceback" not in told
    assert "secret" not in told + shown
