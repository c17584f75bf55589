"""The exported graph says what the forecaster says, and one that does not is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from features.card import GRAPH_FILE
from features.domains import DOMAINS
from features.errors import ParityError, StorageError
from features.vocabulary import Domain, Site, Window
from features.windows import make_windows, panel_from_blocks
from training.export import TOLERANCE, certify, export_graph
from training.forecaster import Forecaster
from training.models.neural import RecurrentConfig, ResidualRecurrent
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT
from training.models.recurrent import RecurrentForecaster
from training.models.seasonal import SeasonalForecaster

TOWN = dataclasses.replace(DOMAINS["traffic"], history_steps=2 * 168 + 24, horizon_steps=12, horizons={"2h": 2})


def windows_with_holes(count: int, *, seed: int = 0, domain: Domain = TOWN) -> Window:
    """Windows of neighbouring roads: some values missing, one road without any reading, one without a neighbour."""
    rng = np.random.default_rng(seed)
    names = [f"R{number}" for number in range(count)]
    sites = [
        Site(
            name=name,
            timezone="US/Central",
            country="US",
            neighbours=tuple(other for other in names if other != name) if position else (),
            attributes={"lanes": 2.0} if position % 2 else {},
        )
        for position, name in enumerate(names)
    ]
    blocks = rng.uniform(0, 4000, (count, domain.history_steps, len(domain.inputs))).astype(np.float32)
    blocks[rng.random(blocks.shape) < 0.2] = np.nan
    if count > 2:
        blocks[2] = np.nan
    panel = panel_from_blocks(domain, sites, blocks, origin_s=1_710_223_200)
    return make_windows(panel, np.arange(count), np.full(count, panel.first_origin))


def unfitted_lstm() -> RecurrentForecaster:
    """A network with the weights and the scaling that chance gave it."""
    torch.manual_seed(3)
    sizes = RecurrentConfig(recent_steps=12, hidden=8, layers=2, hidden_second=8, head=8, members=2)
    forecaster = RecurrentForecaster(TOWN, sizes=sizes)
    network = ResidualRecurrent(TOWN, TOWN.target, forecaster.levels, sizes)
    for name in ("weather_mean", "weather_gain", "static_mean", "static_gain", "interval_offset"):
        getattr(network, name).uniform_(-0.5, 0.5)
    forecaster.network = network.eval()
    return forecaster


def run_graph(path: Path, windows: Window) -> np.ndarray:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
    (quantiles,) = session.run([GRAPH_OUTPUT], dict(zip(GRAPH_INPUTS, arrays, strict=True)))
    return quantiles


def exported_into(folder: Path, forecaster: Forecaster) -> tuple[Forecaster, Path]:
    certificate = export_graph(forecaster, windows_with_holes(9), folder)
    assert certificate.windows == 9
    assert 0 <= certificate.largest_relative <= certificate.tolerance == TOLERANCE
    assert len(certificate.batch_hash) == 16
    assert [path.name for path in folder.iterdir()] == [GRAPH_FILE]
    return forecaster, folder / GRAPH_FILE


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, Path]:
    return exported_into(tmp_path_factory.mktemp("lstm"), unfitted_lstm())


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Forecaster, Path]:
    return exported_into(tmp_path_factory.mktemp("seasonal"), SeasonalForecaster(TOWN))


@pytest.fixture(params=["lstm", "seasonal"])
def exported(request: pytest.FixtureRequest) -> tuple[Forecaster, Path]:
    made: tuple[Forecaster, Path] = request.getfixturevalue(request.param)
    return made


@pytest.mark.parametrize("count", [1, 7, 40])
def test_torch_and_onnx_agree_for_any_number_of_windows(exported: tuple[Forecaster, Path], count: int) -> None:
    forecaster, path = exported
    windows = windows_with_holes(count, seed=count)
    expected = forecaster.predict(windows).value_BHQ
    got = run_graph(path, windows)
    assert got.shape == expected.shape == (count, TOWN.horizon_steps, len(forecaster.levels))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=TOLERANCE * float(np.abs(expected).max()))
    assert np.isfinite(got).all()
    assert (np.diff(got, axis=2) >= 0).all()


def test_a_window_is_forecast_alike_alone_and_among_others(exported: tuple[Forecaster, Path]) -> None:
    _, path = exported
    windows = windows_with_holes(7)
    together = run_graph(path, windows)
    for row in range(7):
        one = slice(row, row + 1)
        alone = dataclasses.replace(
            windows,
            history_BLK=windows.history_BLK[one],
            future_BHK=windows.future_BHK[one],
            static_BS=windows.static_BS[one],
            sites=windows.sites[one],
            origins=windows.origins[one],
        )
        np.testing.assert_allclose(run_graph(path, alone)[0], together[row], rtol=1e-4, atol=0.1)


def test_the_certificate_names_the_batch(exported: tuple[Forecaster, Path]) -> None:
    forecaster, path = exported
    first, again, other = (certify(forecaster, windows_with_holes(3, seed=seed), path) for seed in (0, 0, 1))
    assert first == again
    assert first.batch_hash != other.batch_hash


def test_a_graph_that_was_tampered_with_is_refused(lstm: tuple[Forecaster, Path], tmp_path: Path) -> None:
    forecaster, path = lstm
    model = onnx.load(path)
    (bias,) = [one for one in model.graph.initializer if one.name.endswith("members.0.out.bias")]
    changed = numpy_helper.to_array(bias) + np.float32(0.01)
    bias.CopyFrom(numpy_helper.from_array(changed, bias.name))
    tampered = tmp_path / GRAPH_FILE
    onnx.save(model, tampered)
    with pytest.raises(ParityError, match="differs from the forecaster"):
        certify(forecaster, windows_with_holes(4), tampered)
    certify(forecaster, windows_with_holes(4), path)


class _SaysOtherwiseInPython(torch.nn.Module):
    """A graph that the exporter translates differently from how it runs."""

    def __init__(self, graph: torch.nn.Module, *, by: float) -> None:
        super().__init__()
        self.inner = graph
        self.by = by

    def forward(self, history: torch.Tensor, future: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        quantiles: torch.Tensor = self.inner(history, future, static)
        return quantiles if torch.compiler.is_exporting() else quantiles * self.by


@pytest.mark.parametrize("by", [1.01, float("nan")])
def test_without_parity_nothing_is_written(tmp_path: Path, by: float) -> None:
    forecaster = SeasonalForecaster(TOWN)
    honest = forecaster.graph()
    forecaster.graph = lambda: _SaysOtherwiseInPython(honest, by=by)  # type: ignore[method-assign]
    with pytest.raises(ParityError):
        export_graph(forecaster, windows_with_holes(4), tmp_path / "artifact")
    assert list((tmp_path / "artifact").iterdir()) == []


def test_a_graph_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        export_graph(SeasonalForecaster(TOWN), windows_with_holes(4), tmp_path / "taken")
