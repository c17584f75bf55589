"""The README's own commands, run as a newcomer would, in a copy of the project."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

_ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_READY = "http://127.0.0.1:8000/health/ready"


def _blocks() -> list[tuple[str, str]]:
    return [
        (kind, text) for kind, text in _FENCE.findall((_ROOT / "README.md").read_text()) if kind in {"bash", "json"}
    ]


def _write_metro_like(path: Path) -> None:
    """A file in the format of the published one, which a fresh machine does not have: 40 weeks of made-up traffic."""
    rng = np.random.default_rng(0)
    moments = pd.date_range("2016-01-04", periods=40 * 168, freq="h")
    shape = 3000 + 2000 * np.sin((moments.hour - 8) / 24 * 2 * np.pi) - 800 * (moments.dayofweek >= 5)
    frame = pd.DataFrame(
        {
            "holiday": "None",
            "temp": 285.0 + rng.normal(0, 5, len(moments)).round(2),
            "rain_1h": 0.0,
            "snow_1h": 0.0,
            "clouds_all": 40,
            "weather_main": "Clouds",
            "weather_description": "scattered clouds",
            "date_time": moments.strftime("%Y-%m-%d %H:%M:%S"),
            "traffic_volume": np.round(shape * rng.lognormal(0, 0.08, len(moments))).astype(int),
        }
    )
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project with the environment that `make test` installed, beside a data folder."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    folder = tmp_path / "towncast"
    for name in listed.stdout.splitlines():
        if (_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / name, folder / name)
    (folder / ".venv").symlink_to(_ROOT / ".venv")
    _write_metro_like(tmp_path / "shared" / "data" / "Metro_Interstate_Traffic_Volume.csv")
    yield folder
    subprocess.run(["pkill", "-f", str(tmp_path)], check=False)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOWNCAST_")}
    return kept | {"COLUMNS": "120"}


def _serve(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["make", "serve"], cwd=folder, env=_environment(), start_new_session=True)
    for _ in range(240):
        assert process.poll() is None, "make serve ended by itself"
        try:
            with urllib.request.urlopen(_READY, timeout=2) as answer:
                if answer.status == 200:
                    return process
        except OSError:
            time.sleep(0.5)
    raise AssertionError("make serve was not ready in two minutes")


def _same_shape(shown: object, got: object, where: str = "answer") -> None:
    """What the README shows and what came have the same keys and types, at every depth."""
    if isinstance(shown, dict):
        assert isinstance(got, dict), where
        assert sorted(shown) == sorted(got), where
        for key in shown:
            _same_shape(shown[key], got[key], f"{where}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list), where
        assert (len(shown) > 0) == (len(got) > 0), where
        for one, other in zip(shown[:1], got[:1], strict=True):
            _same_shape(one, other, f"{where}[0]")
    else:
        numbers = (int, float)
        assert type(shown) is type(got) or (isinstance(shown, numbers) and isinstance(got, numbers)), where


def test_the_readme_does_what_it_says(newcomer: Path) -> None:
    blocks = _blocks()
    assert [kind for kind, _ in blocks].count("bash") >= 4
    server, answer = None, ""
    try:
        for kind, text in blocks:
            if kind == "json":
                _same_shape(json.loads(text), json.loads(answer))
            elif text.strip() == "make serve":
                server = _serve(newcomer)
            elif "git clone" not in text and "make test" not in text and "mlflow-ui" not in text:
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", text],
                    cwd=newcomer,
                    env=_environment(),
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
                answer = done.stdout
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(timeout=60)
