"""From a torch module to an ONNX graph with the inputs and the output that every artifact has."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence

import torch
from onnx import ModelProto
from torch import Tensor, nn

from features.vocabulary import Window

GRAPH_INPUTS = ("history", "future", "static")
GRAPH_OUTPUT = "quantiles"
OPSET = 20


def window_tensors(window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """A window's three parts, in the order of `GRAPH_INPUTS`."""
    history, future, static = (
        torch.from_numpy(part) for part in (window.history_BLK, window.future_BHK, window.static_BS)
    )
    return history, future, static


def as_onnx(module: nn.Module, sample: Window) -> ModelProto:
    """A module from window tensors to quantiles as an ONNX graph.

    The number of windows is free; the lengths of history and horizon are fixed.

    Args:
        module: Takes (B, L, K), (B, H, C), (B, S), gives (B, H, Q).
        sample: Windows to trace with, two at least.
    """
    return tensors_as_onnx(module, window_tensors(sample), inputs=GRAPH_INPUTS, outputs=(GRAPH_OUTPUT,))


def tensors_as_onnx(
    module: nn.Module, sample: Sequence[Tensor], *, inputs: Sequence[str], outputs: Sequence[str]
) -> ModelProto:
    """Any module as an ONNX graph whose first axis is free.

    Args:
        module: What is exported.
        sample: Its inputs; four rows of each are traced.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """
    batch = torch.export.Dim("windows", min=1)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # The exporter warns about its own internals.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            tuple(tensor[:4] for tensor in sample),
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in sample),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    return model
