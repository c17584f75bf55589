"""The archive (`.mar`) that TorchServe loads: our handler, a graph, and the layout of its input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from features.card import Card, check_files
from features.errors import ArtifactError
from features.files import make_folder, storage_errors
from serving.artifacts import Artifact
from serving.runtimes.base import static_width
from serving.runtimes.batching import BUCKETS
from serving.settings import Device

HANDLER = Path(__file__).with_name("handler.py")


def build_archive(artifact: Artifact, store: Path, *, device: Device = "cpu", threads: int = 1) -> Path:
    """Pack an artifact into `store/<registered name>.mar`, whole or not at all.

    Args:
        artifact: The model.
        store: TorchServe's model store; made if needed.
        device: Where the worker runs the graph.
        threads: Threads within one run of the graph.

    Returns:
        The archive.

    Raises:
        ArtifactError: The archiver is not installed, or refuses the artifact, or a file of the artifact has changed.
        StorageError: `store` cannot be written.
    """
    name = artifact.name
    check_files(artifact.folder, artifact.card)
    make_folder(store)
    with storage_errors(store), tempfile.TemporaryDirectory(dir=store, prefix=".archive-") as folder:
        layout = Path(folder) / "layout.json"
        facts = {**_layout(artifact.card), "device": device, "threads": threads, "buckets": BUCKETS}
        layout.write_text(json.dumps({**facts, "graph": artifact.graph.name}), encoding="utf-8")
        _archive(name, artifact, layout, Path(folder))
        archive = store / f"{name}.mar"
        os.replace(Path(folder) / archive.name, archive)
    return archive


def _layout(card: Card) -> dict[str, list[int]]:
    return {
        "history": [card.history_steps, len(card.history_channels)],
        "future": [card.horizon_steps, len(card.future_channels)],
        "static": [static_width(card)],
    }


def _archive(name: str, artifact: Artifact, layout: Path, folder: Path) -> None:
    """Run the archiver in a process of its own: it gathers files in the one temporary folder of its environment."""
    arguments = {
        "--model-name": name,
        "--version": artifact.version,
        "--handler": str(HANDLER),
        "--extra-files": f"{artifact.graph},{layout}",
        "--export-path": str(folder),
    }
    words = [word for pair in arguments.items() for word in pair]
    done = subprocess.run(
        [sys.executable, "-m", "model_archiver.model_packaging", *words],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ArtifactError(
            f"The archive of {name} with {artifact.graph.name} cannot be built",
            found=lines[-1] if lines else f"exit status {done.returncode}",
            remedy="Install towncast[torchserve], or serve with --no-torchserve.",
        )
