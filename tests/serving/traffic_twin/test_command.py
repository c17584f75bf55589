"""`towncast twin` on the command line: clear errors, and Ctrl-C leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from features.errors import TowncastError
from pipelines.cli import app

_TOWNCAST = Path(sys.executable).parent / "towncast"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No champion, no readings, and a free port."""
    monkeypatch.setenv("TOWNCAST_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("TOWNCAST_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    monkeypatch.setenv("TOWNCAST_TWIN_PORT", "0")


def refusal(*words: str) -> str:
    """The error that ends a command."""
    result = CliRunner().invoke(app, ["twin", *words])
    assert isinstance(result.exception, TowncastError), result.output
    return str(result.exception)


def write_controls(path: Path, edge_id: str) -> Path:
    rows = [{"control_id": "ramp_1", "edge_id": edge_id, "baseline_veh_per_hour": 600.0}]
    path.write_text(json.dumps({"controls": rows}))
    return path


def test_options_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    controls = write_controls(tmp_path / "controls.json", "E1")
    assert "needs --controls" in refusal("--engine", "sumo", "--sumo-cfg", "x.sumocfg")
    assert "towncast controls make" in refusal("--engine", "sumo", "--sumo-cfg", "x.sumocfg")
    assert "takes no .sumocfg" in refusal("--sumo-cfg", "x.sumocfg", "--model", "none")
    assert "controls cannot be read" in refusal("--controls", str(tmp_path / "absent.json"), "--model", "none")
    assert "no folder of a demand model" in refusal("--model", str(tmp_path / "absent"))
    assert "model card cannot be read" in refusal("--model", str(tmp_path))
    assert "The start is no moment" in refusal("--start", "soon", "--model", "none")
    assert "interval cannot be" in refusal("--interval", "0", "--model", "none")
    assert "speed cannot be" in refusal("--speed", "-1", "--model", "none")
    assert "no champion of towncast-demand" in refusal("--controls", str(controls))


def test_files_that_are_not_there_or_do_not_fit_are_told_when_the_engine_starts(tmp_path: Path) -> None:
    far = write_controls(tmp_path / "far.json", "E9")
    assert "Did you mean: E4" in refusal("--controls", str(far), "--model", "none")
    absent = str(tmp_path / "absent.sumocfg")
    message = refusal("--engine", "sumo", "--sumo-cfg", absent, "--controls", str(far), "--model", "none")
    assert "absent.sumocfg" in message


def test_an_error_is_one_line_and_status_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [_TOWNCAST, "twin", "--model", "none", "--port", port], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert "cannot listen" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def processes_of(session: int) -> Iterator[str]:
    """Command lines of all living processes of a session."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                yield (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_and_leaves_no_process_and_no_file(tmp_path: Path, number: signal.Signals) -> None:
    words = [_TOWNCAST, "twin", "--model", "none", "--speed", "60"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as twin:
        assert twin.stdout is not None
        told = ""
        while "WebSocket" not in told:
            line = twin.stdout.readline()
            assert line, twin.communicate()
            told += line
        assert "page http://127.0.0.1:" in told
        assert any("spawn_main" in command for command in processes_of(twin.pid))
        # As a terminal does: to the whole group.
        os.killpg(twin.pid, number)
        output, errors = twin.communicate(timeout=60)
    assert (twin.returncode, errors) == (0, "")
    assert "Stopped." in output
    until = time.monotonic() + 20
    while (left := list(processes_of(twin.pid))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    assert not list(tmp_path.iterdir())
