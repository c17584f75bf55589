"""TorchServe: a handler that takes windows as JSON and runs those of a batch as one."""

import json
from pathlib import Path

import numpy as np
from graph import INPUTS, open_session


class JsonHandler:
    """TorchServe makes it without arguments, and calls `initialize` and `handle`."""

    def initialize(self, context):
        """Load the graph beside this file."""
        self.session = open_session(str(Path(context.system_properties["model_dir"]) / "model.onnx"))

    def handle(self, data, context):
        """Answer the requests of a batch."""
        bodies = [row["body"] if isinstance(row["body"], dict) else json.loads(row["body"]) for row in data]
        feeds = {name: np.array([body[name] for body in bodies], dtype=np.float32) for name in INPUTS}
        quantiles = self.session.run(["quantiles"], feeds)[0]
        return [{"quantiles": one} for one in quantiles.tolist()]
