"""The graph as every peer runs it: one thread, no arena that spins; inputs are history, future and static."""

import os

import numpy as np
import onnxruntime

INPUTS = ("history", "future", "static")


def open_session(path=None):
    """A session of the graph that the environment names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path or os.environ["PEER_GRAPH"], options, providers=["CPUExecutionProvider"])


def run(session, history, future, static):
    """Quantiles of one window, shape (H, Q)."""
    window = {"history": history, "future": future, "static": static}
    feeds = {name: np.asarray(value, dtype=np.float32)[None] for name, value in window.items()}
    return session.run(["quantiles"], feeds)[0][0]
