"""Half precision where it is served: chosen, refused where its parity does not hold, and told where there is none."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from features.card import GRAPH_FILE, HALF_GRAPH_FILE, HalfPrecision, ParityCertificate, load_card
from features.errors import ArtifactError
from features.feast_repository import FeatureRepository
from serving.artifacts import Artifact, open_artifact
from serving.precision import at_precision
from serving.runtimes.in_process import InProcessRuntime
from serving.torchserve.archive import build_archive


def certificate(largest_relative: float, *, windows: int = 8) -> ParityCertificate:
    return ParityCertificate(windows=windows, largest_relative=largest_relative, tolerance=5e-3, batch_hash="0")


@pytest.fixture
def halved(artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path) -> Artifact:
    """An artifact whose second graph, of wider intervals, stands for the one in half precision."""
    folder = Path(shutil.copytree(artifact.folder, tmp_path / "halved"))
    wider = make_artifact("traffic", "volume", width=500.0, sites=[])
    shutil.copy2(wider.graph, folder / HALF_GRAPH_FILE)
    replace(artifact.card, half_precision=HalfPrecision(nodes=3, parity=certificate(1e-3))).save(folder)
    return open_artifact(folder, version="3")


def test_the_graph_that_was_chosen_serves(halved: Artifact, repository: FeatureRepository, now_s: float) -> None:
    window = repository.online_window("R001", origin_s=int(now_s) // 3600 * 3600)

    async def width(artifact: Artifact) -> float:
        runtime = InProcessRuntime(artifact)
        forecast = await runtime.predict(window)
        await runtime.close()
        return float(np.ptp(forecast.value_BHQ[0, 0]))

    assert load_card(halved.folder) == halved.card
    half = at_precision(halved, "fp16")
    assert (half.precision, half.graph.name, half.parity.largest_relative) == ("fp16", HALF_GRAPH_FILE, 1e-3)
    assert (halved.precision, halved.graph.name, halved.parity.largest_relative) == ("fp32", GRAPH_FILE, 1e-7)
    assert at_precision(half, "fp32") == at_precision(halved, "fp32") == halved
    assert asyncio.run(width(half)) == 1000.0
    assert asyncio.run(width(halved)) == 100.0


def test_torchserve_gets_the_graph_that_was_chosen(halved: Artifact, tmp_path: Path) -> None:
    half = at_precision(halved, "fp16")
    with ZipFile(build_archive(half, tmp_path / "store")) as archive:
        assert archive.read(HALF_GRAPH_FILE) == half.graph.read_bytes()
        assert GRAPH_FILE not in archive.namelist()
        assert f'"graph": "{HALF_GRAPH_FILE}"' in archive.read("layout.json").decode()


@pytest.mark.parametrize(
    ("half", "message"),
    [
        (None, "did not try"),
        (HalfPrecision(nodes=3), "did not try"),
        (HalfPrecision(nodes=3, parity=certificate(0.02)), r"differs by 2\.0e-02, at most 5e-03 is allowed"),
        (HalfPrecision(nodes=3, parity=certificate(float("nan"))), "differs by nan"),
        (HalfPrecision(nodes=3, parity=certificate(0.0, windows=0)), "cannot be served in half precision"),
    ],
    ids=["not tried", "not measured", "too far", "no number", "no windows"],
)
def test_without_parity_it_is_refused(halved: Artifact, half: HalfPrecision | None, message: str) -> None:
    other = replace(halved, card=replace(halved.card, half_precision=half))
    with pytest.raises(ArtifactError, match=message) as caught:
        at_precision(other, "fp16")
    assert "TOWNCAST_PRECISION=fp32" in caught.value.remedy
    assert at_precision(other, "fp32").precision == "fp32"


def test_a_missing_or_changed_graph_is_refused(halved: Artifact) -> None:
    with halved.graph.with_name(HALF_GRAPH_FILE).open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ArtifactError, match="not the one"):
        open_artifact(halved.folder, version="3")
    (halved.folder / HALF_GRAPH_FILE).unlink()
    with pytest.raises(ArtifactError, match="no graph in half precision"):
        at_precision(halved, "fp16")


def test_a_model_without_heavy_weights_stays_and_that_is_said(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    trees = replace(artifact, card=replace(artifact.card, half_precision=HalfPrecision(nodes=0)))
    with caplog.at_level(logging.INFO):
        assert at_precision(trees, "fp16").precision == "fp32"
    assert "no heavy weights" in caplog.text
