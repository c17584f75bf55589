"""The graph in half precision: what is converted and what is not, its parity, and when it is kept."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from features.card import GRAPH_FILE, HALF_GRAPH_FILE
from features.vocabulary import Domain, Forecast, Window
from training.export import export_graph
from training.half_precision import HALF_TOLERANCE, convert, export_half
from training.models.seasonal import SeasonalForecaster
from training.window_set import WindowSet

HIDDEN, LEVELS = 64, 7


def recurrent_graph(windows: Window, *, gain: float, seed: int = 0) -> ModelProto:
    """An LSTM and a dense layer over scaled values, added to the last value in physical units."""
    rng = np.random.default_rng(seed)
    length, channels = windows.history_BLK.shape[1:]
    horizon = windows.future_BHK.shape[1]
    values = {
        "start": np.array([length - 24]),
        "end": np.array([length]),
        "steps": np.array([1]),
        "first_channel_end": np.array([length, 1]),
        "axes": np.array([1, 2]),
        "newest": np.array([length - 1, 0]),
        "zero_axis": np.array([0]),
        "zero": np.zeros((), dtype=np.float32),
        "scale": np.array(1e-3, dtype=np.float32),
        "gain": np.array(gain, dtype=np.float32),
        "shape": np.array([-1, horizon, LEVELS]),
        "W": rng.normal(0, 0.3, (1, 4 * HIDDEN, channels)).astype(np.float32),
        "R": rng.normal(0, 0.1, (1, 4 * HIDDEN, HIDDEN)).astype(np.float32),
        "B": rng.normal(0, 0.1, (1, 8 * HIDDEN)).astype(np.float32),
        "M": rng.normal(0, 0.2, (HIDDEN, 128)).astype(np.float32),
        "N": rng.normal(0, 0.2, (128, horizon * LEVELS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("IsNaN", ["history"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "history"], ["known"]),
        helper.make_node("Slice", ["known", "start", "end", "steps"], ["recent"]),
        helper.make_node("Mul", ["recent", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["by_time"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["by_time", "W", "R", "B"], ["", "state"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["state", "zero_axis"], ["encoded"]),
        helper.make_node("MatMul", ["encoded", "M"], ["dense"]),
        helper.make_node("MatMul", ["dense", "N"], ["out"]),
        helper.make_node("Mul", ["out", "gain"], ["residual"]),
        helper.make_node("Reshape", ["residual", "shape"], ["by_step"]),
        helper.make_node("Slice", ["known", "newest", "first_channel_end", "axes"], ["level"]),
        helper.make_node("Add", ["by_step", "level"], ["quantiles"]),
    ]
    shapes = {
        "history": [length, channels],
        "future": list(windows.future_BHK.shape[1:]),
        "static": [windows.static_BS.shape[1]],
    }
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("quantiles", TensorProto.FLOAT, ["B", horizon, LEVELS])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(model: ModelProto, windows: Window) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(
        None, {"history": windows.history_BLK, "future": windows.future_BHK, "static": windows.static_BS}
    )[0]
    return found


class SaysItsGraph(SeasonalForecaster):
    """A forecaster that is its graph."""

    def __init__(self, domain: Domain, model: ModelProto) -> None:
        super().__init__(domain)
        self.model = model

    def onnx_model(self, sample: Window) -> ModelProto:
        return self.model

    def predict(self, windows: Window) -> Forecast:
        said = super().predict(windows)
        return dataclasses.replace(said, value_BHQ=run(self.model, windows), levels=tuple(range(LEVELS)))


@pytest.fixture(scope="module")
def windows(held_out: WindowSet) -> Window:
    return held_out.windows(np.arange(32))


def test_the_heavy_weights_are_halved_and_the_forecast_stays(town: Domain, windows: Window, tmp_path: Path) -> None:
    forecaster = SaysItsGraph(town, recurrent_graph(windows, gain=300.0))
    export_graph(forecaster, windows, tmp_path)
    half = export_half(forecaster, windows, tmp_path)
    assert half.nodes == 3
    assert half.parity is not None
    # Not nothing, or nothing was rounded.
    assert 1e-6 < half.parity.largest_relative < half.parity.tolerance == HALF_TOLERANCE
    assert half.parity.windows == 32
    whole, halved = (tmp_path / name for name in (GRAPH_FILE, HALF_GRAPH_FILE))
    assert halved.stat().st_size < 0.6 * whole.stat().st_size


def test_only_heavy_nodes_are_converted_and_inputs_and_output_stay(windows: Window) -> None:
    model = recurrent_graph(windows, gain=1.0)
    before = [node.op_type for node in model.graph.node]
    assert convert(model) == 3
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node if node.op_type != "Cast"] == before
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    assert {name.removesuffix("/half") for name, kind in kinds.items() if kind == TensorProto.FLOAT16} == set("WRBMN")
    assert not {"W", "R", "B", "M", "N"} & set(kinds)
    assert kinds["scale"] == kinds["gain"] == TensorProto.FLOAT
    ends = [*model.graph.input, *model.graph.output]
    assert {end.type.tensor_type.elem_type for end in ends} == {TensorProto.FLOAT}


def test_a_value_that_does_not_fit_is_measured_and_the_graph_is_not_kept(
    town: Domain, windows: Window, tmp_path: Path
) -> None:
    model = recurrent_graph(windows, gain=1.0)
    (weights,) = [one for one in model.graph.initializer if one.name == "M"]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1e6), "M"))
    huge = SaysItsGraph(town, model)
    export_graph(huge, windows, tmp_path)
    half = export_half(huge, windows, tmp_path)
    assert half.nodes == 3
    assert half.parity is not None
    assert not half.parity.largest_relative <= half.parity.tolerance
    assert [path.name for path in tmp_path.iterdir()] == [GRAPH_FILE]


def test_a_graph_without_heavy_weights_has_nothing_to_convert(town: Domain, windows: Window, tmp_path: Path) -> None:
    forecaster = SeasonalForecaster(town)
    export_graph(forecaster, windows, tmp_path)
    half = export_half(forecaster, windows, tmp_path)
    assert (half.nodes, half.parity) == (0, None)
    assert [path.name for path in tmp_path.iterdir()] == [GRAPH_FILE]


def test_weights_that_two_nodes_share_are_halved_once_and_stay_for_others() -> None:
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("ReduceMax", ["w"], ["top"], keepdims=0),
        helper.make_node("Add", ["b", "top"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 64])] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "shared", *ends, [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)

    def said() -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, {"x": x})[0]
        return found

    before = said()
    assert convert(model) == 2
    assert sorted(one.name for one in model.graph.initializer) == ["w", "w/half"]
    np.testing.assert_allclose(said(), before, rtol=0.05, atol=0.5)
