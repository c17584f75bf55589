"""The command line: help at once, errors that name the remedy, and a training that survives Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd

from features.domains import DOMAINS
from features.feast_repository import FeatureRepository
from features.store import ReadingStore

_TOWNCAST = Path(sys.executable).parent / "towncast"


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "COLUMNS": "200",
        "TOWNCAST_DATA_DIR": str(folder / "var"),
        "TOWNCAST_TRACKING_URI": f"sqlite:///{folder}/mlruns/mlflow.db",
    }


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_TOWNCAST, *words], cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )


def _write_counts(path: Path, *, weeks: int) -> None:
    rng = np.random.default_rng(1)
    moments = pd.date_range("2024-01-01", periods=weeks * 168, freq="h")
    level = 1500 + 900 * np.sin((moments.hour - 8) / 24 * 2 * np.pi) - 300 * (moments.dayofweek >= 5)
    wander = np.convolve(rng.normal(0, 0.1, len(moments) + 23), np.ones(24) / 5, mode="valid")
    frame = pd.DataFrame({"when": moments, "count": np.round(level * np.exp(wander))})
    frame.to_csv(path, index=False)


def test_help_of_every_command_teaches(tmp_path: Path) -> None:
    listing = _run(tmp_path, "--help")
    assert listing.returncode == 0
    for command in (
        "ingest",
        "train",
        "tune",
        "report",
        "promote",
        "rollback",
        "aliases",
        "materialise",
        "serve",
        "mlflow-ui",
        "domains",
        "simulate",
        "controls",
        "twin",
        "reactor",
    ):
        assert command in listing.stdout
        assert _run(tmp_path, command, "--help").returncode == 0
    assert not any(tmp_path.iterdir()), "asking for help made files"


def test_a_wrong_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = _run(tmp_path, "train", "trafic")
    assert done.returncode == 2
    assert "Did you mean: traffic?" in done.stderr
    assert "Traceback" not in done.stderr
    assert "quick" in _run(tmp_path, "train", "traffic", "--recipe", "quik").stderr


def test_a_folder_that_cannot_be_written_is_told_clearly(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where a folder is needed")
    done = _run(tmp_path, "train", "traffic")
    assert done.returncode == 2
    assert "A file stands where a folder is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_is_not_there_or_damaged_is_told_clearly(tmp_path: Path) -> None:
    missing = _run(tmp_path, "train", "traffic", "--data", "nowhere")
    assert missing.returncode == 2
    assert "nowhere" in missing.stderr
    (tmp_path / "Metro_Interstate_Traffic_Volume.csv").write_bytes(b"\x00\x01 not a table")
    damaged = _run(tmp_path, "train", "traffic", "--data", str(tmp_path))
    assert damaged.returncode == 2
    assert "Metro_Interstate_Traffic_Volume.csv" in damaged.stderr
    assert "Traceback" not in damaged.stderr


def test_a_training_that_is_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    _write_counts(tmp_path / "counts.csv", weeks=40)
    words = ("--site", "R7", "--timestamp", "when", "--tz", "Europe/Rome", "--map", "volume=count:veh/h")
    assert _run(tmp_path, "ingest", "traffic", str(tmp_path / "counts.csv"), *words).returncode == 0

    first = subprocess.Popen(
        [_TOWNCAST, "train", "traffic"],
        cwd=tmp_path,
        env=_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a script would hand on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list((tmp_path / "var" / "checkpoints").glob("*/last.ckpt")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, told = first.communicate()
    assert first.returncode == 130
    assert "Stopped" in told
    assert "Traceback" not in told
    registry = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    client = mlflow.MlflowClient(registry, registry)
    assert client.search_registered_models() == []

    second = _run(tmp_path, "train", "traffic")
    assert second.returncode == 0, second.stderr
    assert "going on from a checkpoint" in second.stdout
    assert "judged on simulated readings" not in second.stdout
    champion = client.get_model_version_by_alias("towncast-traffic", "champion")
    metrics = client.get_run(champion.run_id).data.metrics
    assert metrics["mean/skill"] > 0
    assert {"2h/mape", "24h/rmse", "24h/coverage_90"} <= set(metrics)
    assert not list((tmp_path / "var" / "checkpoints").glob("*"))

    new_road = ("--site", "R8", "--timestamp", "when", "--tz", "Europe/Rome", "--map", "volume=count:veh/h")
    pushed = _run(tmp_path, "ingest", "traffic", str(tmp_path / "counts.csv"), *new_road)
    assert "Pushed to the online store" in pushed.stdout, pushed.stderr
    store = ReadingStore(tmp_path / "var" / "readings", DOMAINS["traffic"])
    assert "R8" in FeatureRepository(tmp_path / "var" / "feast", store).online(["R7", "R8"])
    names = {item.path for item in client.list_artifacts(champion.run_id, "model")}
    assert {"model/model.onnx", "model/card.json", "model/MLmodel"} <= names
