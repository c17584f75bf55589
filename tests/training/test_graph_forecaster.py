"""A registered model run by its graph alone: what it refuses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from features.card import GRAPH_FILE, Card
from features.domains import DOMAINS
from features.errors import ArtifactError
from features.vocabulary import Site
from features.windows import panel_from_blocks
from training.export import export_graph
from training.forecaster import predict_set
from training.graph_forecaster import layout_differences, open_graph
from training.models.seasonal import SeasonalForecaster
from training.window_set import WindowSet

TRAFFIC = DOMAINS["traffic"]
LEVELS = (0.05, 0.5, 0.95)


@pytest.fixture(scope="module")
def windows() -> WindowSet:
    blocks = np.random.default_rng(0).uniform(0, 900, (3, TRAFFIC.history_steps, len(TRAFFIC.inputs)))
    blocks[2, ::5] = np.nan
    sites = [Site(name=name) for name in ("A", "B", "C")]
    panel = panel_from_blocks(TRAFFIC, sites, blocks.astype(np.float32), origin_s=1_700_000_000 // 3600 * 3600)
    return WindowSet(
        panel=panel,
        target=TRAFFIC.target,
        target_ST=panel.target_ST(),
        site_index_B=np.arange(3),
        origin_B=np.full(3, panel.first_origin),
    )


@pytest.fixture(scope="module")
def artifact(windows: WindowSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    parity = export_graph(SeasonalForecaster(TRAFFIC, levels=LEVELS), windows.windows(), folder)
    Card(
        model="traffic-seasonal",
        domain=TRAFFIC.name,
        family="seasonal",
        target=TRAFFIC.target.name,
        unit=TRAFFIC.target.unit,
        step_s=TRAFFIC.step_s,
        history_steps=TRAFFIC.history_steps,
        horizon_steps=TRAFFIC.horizon_steps,
        history_channels=TRAFFIC.history_channels,
        future_channels=TRAFFIC.future_channels,
        static_channels=TRAFFIC.static_channels,
        levels=LEVELS,
        sites=windows.panel.sites,
        input_range={},
        parity=parity,
    ).save(folder)
    return folder


def test_the_graph_says_what_the_forecaster_says_batch_by_batch(artifact: Path, windows: WindowSet) -> None:
    graph = open_graph(artifact)
    expected = predict_set(SeasonalForecaster(TRAFFIC, levels=LEVELS), windows)
    np.testing.assert_allclose(graph.predict_set(windows, batch_size=2), expected, rtol=1e-5)
    np.testing.assert_allclose(graph.median_of(windows), expected[:, :, 1], rtol=1e-5)
    assert 0 < graph.latency_ms(windows, repeats=3) < 1000


def test_a_missing_or_damaged_graph_is_refused(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes((artifact / "card.json").read_bytes())
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_graph(tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_graph(tmp_path)


def test_windows_of_another_layout_are_refused(artifact: Path, windows: WindowSet) -> None:
    whole = windows.windows()
    shorter = dataclasses.replace(whole, history_BLK=whole.history_BLK[:, 1:])
    with pytest.raises(ArtifactError, match="does not take these windows"):
        open_graph(artifact).predict(shorter)


@pytest.mark.parametrize(
    "change",
    [
        {"history_steps": 1008},
        {"future_channels": ("hour_of_day",)},
        {"static_channels": ()},
        {"unit": "veh/d"},
        {"target": "speed"},
        {"levels": (0.05, 0.95)},
    ],
)
def test_a_layout_that_differs_is_named(artifact: Path, change: dict[str, object]) -> None:
    card = open_graph(artifact).card
    assert layout_differences(card, TRAFFIC, TRAFFIC.target) == []
    other = dataclasses.replace(card, **change)  # type: ignore[arg-type]
    assert layout_differences(other, TRAFFIC, TRAFFIC.target) == list(change)
