"""The graph once more, with its heavy weights in half precision: for a GPU, whose half precision is the faster one.

Only recurrent cells and large matrix products are converted, each between two casts. Their inputs are scaled; all that
is around them (hours, counts, physical units, bounds) does not fit eleven bits, and stays as it is, as do the graph's
own inputs and output. ONNX Runtime's converter is not used because it casts the inputs of the whole graph, in physical
units, to half precision and back. On the CPU, ONNX Runtime computes such nodes in single precision with the rounded
weights: so parity can be measured there, and speed cannot.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from features.card import GRAPH_FILE, HALF_GRAPH_FILE, HalfPrecision
from features.files import whole_file
from features.vocabulary import Window
from training.export import measure
from training.forecaster import Forecaster

# One rounding costs 2^-11, which is 5e-4, and the largest difference over a batch after some layers of them is a few
# times that. Ten times is far inside any interval; more means that values did not fit, and is refused.
HALF_TOLERANCE = 5e-3
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
# A product with fewer weights takes no longer in single precision: regressors and harmonics have some dozens.
_HEAVY_WEIGHTS = 4096
# Inputs of recurrent nodes that are not numbers to compute with: lengths of sequences.
_LENGTHS_INPUT = 4


def export_half(forecaster: Forecaster, sample: Window, folder: Path) -> HalfPrecision:
    """Write `model.fp16.onnx` beside the graph in `folder`, if there is something to convert and the parity holds.

    Args:
        forecaster: Fitted; the graph in `folder` is its own.
        sample: Windows to compare over.
        folder: Of the artifact.

    Returns:
        How many nodes were converted, and how closely the graph repeats the forecaster; a graph that does not repeat
        it within `HALF_TOLERANCE` is not written.

    Raises:
        StorageError: The folder cannot be written.
    """
    model = onnx.load(folder / GRAPH_FILE)
    nodes = convert(model)
    if nodes == 0:
        return HalfPrecision(nodes=0)
    path = folder / HALF_GRAPH_FILE
    with whole_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        parity = measure(forecaster, sample, temporary, tolerance=HALF_TOLERANCE)
    if not parity.largest_relative <= parity.tolerance:
        path.unlink()
    return HalfPrecision(nodes=nodes, parity=parity)


def convert(model: ModelProto) -> int:
    """Put the heavy nodes of a graph into half precision, in place; how many there are."""
    graph = model.graph
    weights = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT}
    nodes = list(graph.node)
    heavy = [node for node in nodes if _is_heavy(node, weights)]
    chosen = {id(node) for node in heavy}
    halves: dict[str, str] = {}
    del graph.node[:]
    for node in nodes:
        graph.node.extend(_between_casts(node, weights, halves, graph) if id(node) in chosen else [node])
    _drop_unused(graph, set(halves))
    return len(heavy)


def _is_heavy(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    if node.op_type in _RECURRENT:
        return True
    sizes = [int(np.prod(weights[name].dims)) for name in node.input if name in weights]
    return node.op_type in _PRODUCTS and max(sizes, default=0) >= _HEAVY_WEIGHTS


def _between_casts(
    node: NodeProto, weights: dict[str, TensorProto], halves: dict[str, str], graph: GraphProto
) -> list[NodeProto]:
    """A node in half precision, after casts of its inputs and before casts of its outputs."""
    before, after = [], []
    inner = NodeProto()
    inner.CopyFrom(node)
    for index, name in enumerate(node.input):
        if not name or (node.op_type in _RECURRENT and index == _LENGTHS_INPUT):
            continue
        if name in weights:
            inner.input[index] = _half_weight(weights[name], halves, graph)
        else:
            inner.input[index] = f"{node.output[0] or node.name}/half_input_{index}"
            before.append(helper.make_node("Cast", [name], [inner.input[index]], to=TensorProto.FLOAT16))
    for index, name in enumerate(node.output):
        if name:
            inner.output[index] = f"{name}/half"
            after.append(helper.make_node("Cast", [inner.output[index]], [name], to=TensorProto.FLOAT))
    return [*before, inner, *after]


def _half_weight(weight: TensorProto, halves: dict[str, str], graph: GraphProto) -> str:
    """Name of a weight in half precision; nodes that share one share the other."""
    if weight.name not in halves:
        halves[weight.name] = f"{weight.name}/half"
        # One that does not fit becomes infinite, and the parity will say so.
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(weight).astype(np.float16)
        graph.initializer.append(numpy_helper.from_array(values, halves[weight.name]))
    return halves[weight.name]


def _drop_unused(graph: GraphProto, names: set[str]) -> None:
    """Remove the weights that no node reads any more."""
    read = {name for node in graph.node for name in node.input}
    kept = [one for one in graph.initializer if one.name not in names or one.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
