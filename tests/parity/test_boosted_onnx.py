"""Boosted trees as a graph: the same features to the last bit, whatever is known of the weather ahead."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest

from features.domains import DOMAINS
from features.readings import join_readings, make_readings
from features.vocabulary import Site, Window
from features.windows import build_panel
from training.export import TOLERANCE, export_graph
from training.families import Workplace, make_forecaster
from training.models.boosted import BoostedForecaster
from training.models.boosted_config import BoostedConfig, BoosterConfig, VariantConfig
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT
from training.recipes import RECIPES
from training.window_set import Splits, split_windows

POLLUTION = dataclasses.replace(DOMAINS["pollution"], history_steps=4 * 168)
DEEP = BoosterConfig(trees=30, max_depth=7, min_child_weight=1.0, reg_lambda=1.0, learning_rate=0.2)
CONFIG = BoostedConfig(plain=VariantConfig(ratio=DEEP, level=DEEP), ahead=VariantConfig(ratio=DEEP, level=DEEP))


def splits_of_pollution() -> Splits:
    """Two stations of made-up air whose values have as few decimals as measured ones."""
    rng = np.random.default_rng(1)
    moments = pd.date_range("2024-01-01", periods=16 * 168, freq="h", tz="UTC")
    parts = []
    for site in ("A", "B"):
        for quantity in POLLUTION.inputs:
            slow = np.cumsum(rng.normal(size=len(moments)))
            slow = (slow - slow.min()) / (slow.max() - slow.min())
            value = {
                "temperature": 40 * slow - 10,
                "dew_point": 30 * slow - 20,
                "pressure": 990 + 40 * slow,
                "rainfall": np.maximum(slow - 0.8, 0),
                "wind_speed": 6 * rng.random(len(moments)),
                "wind_direction": 22.5 * rng.integers(0, 16, len(moments)),
            }.get(quantity.name, 300 * slow * rng.uniform(0.7, 1.3, len(moments)))
            value = np.where(rng.random(len(moments)) < 0.05, np.nan, np.round(value, 1))
            parts.append(
                make_readings(site=site, quantity=quantity.name, valid_at=moments, value=value, source="sensor:test")
            )
    sites = [Site(name="A", timezone="US/Central", neighbours=("B",)), Site(name="B", timezone="Asia/Shanghai")]
    first_s, last_s = (int(moment.timestamp()) for moment in (moments[0], moments[-1]))
    return split_windows(
        build_panel(POLLUTION, sites, join_readings(parts), first_origin_s=first_s, last_origin_s=last_s)
    )


def windows_with_weather(splits: Splits, count: int) -> Window:
    """Windows whose weather ahead is known, unknown, known to the middle, or full of holes, in turn."""
    chosen = np.linspace(0, len(splits.test) - 1, count).astype(int)
    windows = splits.test.seen("observed").windows(chosen)
    future, ahead = windows.future_BHK.copy(), len(POLLUTION.known_ahead)
    future[1::4, :, -ahead:] = np.nan
    future[2::4, 20:, -ahead:] = np.nan
    holes = np.random.default_rng(count).random((*future.shape[:2], ahead)) < 0.5
    future[3::4, :, -ahead:][holes[3::4]] = np.nan
    return dataclasses.replace(windows, future_BHK=future)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return splits_of_pollution()


@pytest.fixture(scope="module")
def exported(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> tuple[BoostedForecaster, Path]:
    forecaster = BoostedForecaster(POLLUTION, config=CONFIG)
    forecaster.fit(splits, seed=0)
    folder = tmp_path_factory.mktemp("boosted")
    certificate = export_graph(forecaster, windows_with_weather(splits, 16), folder)
    assert certificate.largest_relative < TOLERANCE / 10
    (path,) = folder.iterdir()
    return forecaster, path


@pytest.mark.parametrize("count", [1, 7, 160])
def test_the_graph_agrees_whatever_is_known_of_the_weather(
    splits: Splits, exported: tuple[BoostedForecaster, Path], count: int
) -> None:
    forecaster, path = exported
    windows = windows_with_weather(splits, count)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
    (got,) = session.run([GRAPH_OUTPUT], dict(zip(GRAPH_INPUTS, arrays, strict=True)))
    expected = forecaster.predict(windows).value_BHQ
    # A row that goes down another branch would differ by per cents.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    assert (np.diff(got, axis=2) >= 0).all()
    assert got.min() >= forecaster.target.lower
    assert got.max() <= forecaster.target.upper


def test_the_graph_is_one_with_the_inputs_and_the_output_of_every_artifact(
    exported: tuple[BoostedForecaster, Path],
) -> None:
    _, path = exported
    model = onnx.load(path)
    assert [entry.name for entry in model.graph.input] == list(GRAPH_INPUTS)
    assert [entry.name for entry in model.graph.output] == [GRAPH_OUTPUT]
    assert sum(node.op_type == "TreeEnsembleRegressor" for node in model.graph.node) == 4
    # Free is the number of windows alone.
    assert [entry.type.tensor_type.shape.dim[0].dim_value for entry in model.graph.input] == [0, 0, 0]


def test_features_are_alike_to_the_last_bit(splits: Splits, exported: tuple[BoostedForecaster, Path]) -> None:
    forecaster, path = exported
    model = onnx.load(path)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("rows"))
    windows = windows_with_weather(splits, 400)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = (windows.history_BLK, windows.future_BHK, windows.static_BS)
    (got,) = session.run(["rows"], dict(zip(GRAPH_INPUTS, arrays, strict=True)))
    assert np.array_equal(got, forecaster.features(windows), equal_nan=True)


@pytest.mark.parametrize("name", list(RECIPES["pollution"]))
def test_no_recipe_can_make_an_artifact_of_fifty_megabytes(exported: tuple[BoostedForecaster, Path], name: str) -> None:
    _, path = exported
    model = onnx.load(path)
    trees = [node for node in model.graph.node if node.op_type == "TreeEnsembleRegressor"]
    nodes = sum(len(entry.ints) for node in trees for entry in node.attribute if entry.name == "nodes_nodeids")
    bytes_of_trees = sum(node.ByteSize() for node in trees)
    forecaster = make_forecaster(POLLUTION, RECIPES["pollution"][name], Workplace())
    assert isinstance(forecaster, BoostedForecaster)
    variants = forecaster.config.variants().values()
    boosters = [one for variant in variants for one in (variant.level, variant.ratio) if one is not None]
    most_nodes = sum(booster.trees * 2 ** (booster.max_depth + 1) for booster in boosters)
    assert most_nodes * bytes_of_trees / nodes + model.ByteSize() - bytes_of_trees < 50e6
