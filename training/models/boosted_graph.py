"""Boosters as an ONNX graph, and a whole boosted forecaster as one: features, trees, head."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import onnx
import onnx.checker
import onnx.compose
from onnx import ModelProto, NodeProto, TensorProto, helper

from features.vocabulary import Window
from training.models.boosted_features import BoostedFeatures
from training.models.boosted_head import BoostedHead
from training.models.onnx_graph import GRAPH_INPUTS, GRAPH_OUTPUT, OPSET, tensors_as_onnx, window_tensors

if TYPE_CHECKING:
    from xgboost import Booster

_TREES_DOMAIN, _TREES_OPSET = "ai.onnx.ml", 1
_ROWS, _BASE, _SIGHT, _MARGINS = "rows", "base_inputs", "sight", "margins"


def merged_graph(
    features: BoostedFeatures, boosters: dict[str, Booster], head: BoostedHead, sample: Window
) -> ModelProto:
    """One graph from windows to quantiles.

    Args:
        features: Windows to rows.
        boosters: By name, in the order that `head` wants.
        head: Outputs of the boosters to quantiles.
        sample: Windows to trace with, two at least.
    """
    import torch

    tensors = window_tensors(sample)
    with torch.no_grad():
        _, base, sight = features(*(tensor[:4] for tensor in tensors))
    margins = torch.zeros(*sight.shape, len(boosters))
    before = tensors_as_onnx(features, tensors, inputs=GRAPH_INPUTS, outputs=(_ROWS, _BASE, _SIGHT))
    after = tensors_as_onnx(head, (base, sight, margins), inputs=(_BASE, _SIGHT, _MARGINS), outputs=(GRAPH_OUTPUT,))
    columns = len(features.plain_names) + len(features.ahead_names)
    trees = _trees(boosters, columns=columns, steps=features.domain.horizon_steps)
    # Merging asks for the same versions everywhere, and for names that differ.
    for model in (before, trees, after):
        model.ir_version = before.ir_version
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(_TREES_DOMAIN, _TREES_OPSET)])
        del model.metadata_props[:]
    trees, after = (onnx.compose.add_prefix(model, prefix) for model, prefix in ((trees, "trees/"), (after, "head/")))
    joined = onnx.compose.merge_models(
        before, trees, io_map=[(_ROWS, f"trees/{_ROWS}")], outputs=[_BASE, _SIGHT, f"trees/{_MARGINS}"]
    )
    whole = onnx.compose.merge_models(
        joined,
        after,
        io_map=[(_BASE, f"head/{_BASE}"), (_SIGHT, f"head/{_SIGHT}"), (f"trees/{_MARGINS}", f"head/{_MARGINS}")],
    )
    _rename_output(whole, f"head/{GRAPH_OUTPUT}", GRAPH_OUTPUT)
    onnx.checker.check_model(whole)
    return whole


def _trees(boosters: dict[str, Booster], *, columns: int, steps: int) -> ModelProto:
    """Rows (B, H, F) to the boosters' outputs (B, H, M)."""
    shapes = {"flat": [-1, columns], "back": [-1, steps, len(boosters)]}
    nodes = [helper.make_node("Reshape", [_ROWS, "flat_shape"], ["flat"])]
    nodes += [_tree_node(booster, name, columns) for name, booster in boosters.items()]
    nodes += [
        helper.make_node("Concat", list(boosters), ["side_by_side"], axis=1),
        helper.make_node("Reshape", ["side_by_side", "back_shape"], [_MARGINS]),
    ]
    graph = helper.make_graph(
        nodes,
        "trees",
        [helper.make_tensor_value_info(_ROWS, TensorProto.FLOAT, ["windows", steps, columns])],
        [helper.make_tensor_value_info(_MARGINS, TensorProto.FLOAT, ["windows", steps, len(boosters)])],
        [helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(shape)], shape) for name, shape in shapes.items()],
    )
    return helper.make_model(graph)


def _tree_node(booster: Booster, name: str, columns: int) -> NodeProto:
    """One booster as a node from rows (N, F) to a column (N, 1)."""
    from onnxmltools.convert import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    logging.getLogger("onnxmltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The converter's own use of libraries.
        warnings.simplefilter("ignore")
        model = convert_xgboost(booster, initial_types=[("flat", FloatTensorType([None, columns]))], target_opset=15)
    (node,) = model.graph.node
    assert node.op_type == "TreeEnsembleRegressor", f"{name} became {node.op_type}"
    del node.input[:], node.output[:]
    node.input.append("flat")
    node.output.append(name)
    node.name = name
    return node


def _rename_output(model: ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = new
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new
    for output in model.graph.output:
        if output.name == old:
            output.name = new
